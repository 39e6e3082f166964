"""How a training is stopped: the signals, which may come to any process, and the exit that follows."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from accelerate import Accelerator


class Interrupted(SystemExit):
    """A training was asked to stop and has saved, so it can be resumed; the exit code is the signal's."""

    def __init__(self, signum: int, sentence: str) -> None:
        super().__init__(128 + signum)
        self.sentence = sentence


class StopRequest:
    """Whether SIGTERM or SIGINT has come to any process; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.signum = 0

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if self.signum == signal.SIGINT and signum == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.signum:
            print("finishing the step, then saving", file=sys.stderr, flush=True)
        self.signum = signum

    def agreed(self, accelerator: Accelerator) -> bool:
        """Whether any process was asked to stop, the same on every process; gathers one number."""
        if accelerator.num_processes > 1:
            signums = accelerator.gather(torch.tensor([self.signum], device=accelerator.device))
            self.signum = int(signums.max())
        return self.signum > 0


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Turns SIGTERM and SIGINT into a request while the block runs."""
    request = StopRequest()
    before = {number: signal.signal(number, request) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
