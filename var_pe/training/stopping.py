"""How a training is stopped: the signals, which may come to any process, and the exit that follows.

While a training runs, a signal is a request: all processes agree on it, save and leave together. At any other
time there is nothing to save, and a signal ends the process at once, as it ends any other program.
"""

import ctypes
import itertools
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
from accelerate import Accelerator

from var_pe.processes import Exchange, Processes

# A service manager, a queue or `kill` stops by SIGTERM, Ctrl-C by SIGINT, a closed terminal by SIGHUP.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

# Seconds in which a further SIGINT is the same Ctrl-C: it may come from the terminal and from the launcher.
SAME_CTRL_C = 3.0


class Interrupted(SystemExit):
    """A training was asked to stop and has saved, so it can be resumed; the exit code is the signal's."""

    def __init__(self, signum: int, sentence: str) -> None:
        super().__init__(128 + signum)
        self.signum = signum
        self.sentence = sentence

    @classmethod
    def after(cls, signum: int, step: int, steps: int) -> "Interrupted":
        if not step:
            return cls(signum, f"stopped before the first of {steps} steps")
        return cls(signum, f"stopped and saved after step {step} of {steps}; run the same command to go on")


class AskedToStop(Exception):
    """Work that changes no weights is broken off, because a process was asked to stop."""


class StopRequest:
    """The handler of all signals while a training runs; a later Ctrl-C ends the process at once."""

    def __init__(self, exchange: Exchange | None = None) -> None:
        # between the processes; None: there is only one, or they wait for each other
        self.exchange = exchange
        # the first signal that came to this process; 0: none came
        self.signum = 0
        # the signal that all processes know of
        self.agreed_on = 0
        # whether a signal raises AskedToStop here and now
        self.breaks = False
        # whether a signal ends the process at once, because nothing was done since the last save
        self.ends = False
        self.came = 0.0

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        again = self.signum and time.monotonic() - self.came > SAME_CTRL_C
        if self.ends or (signum == signal.SIGINT and again):
            end_by(signum)

        if not self.signum:
            self.signum, self.came = signum, time.monotonic()
            # Not print: the signal may have come in the middle of another one.
            write_to_stderr(b"finishing the step, then saving\n")
        if self.breaks:
            self.breaks = False
            raise AskedToStop

    def agreed(self, accelerator: Accelerator) -> bool:
        """Whether any process was asked to stop, the same on every process; gathers one number.

        A signal that comes while numbers are gathered counts from the next call on.
        """
        signum = self.signum
        if accelerator.num_processes > 1:
            signum = int(accelerator.gather(torch.tensor([signum], device=accelerator.device)).max())
        self.agreed_on = signum
        return signum > 0

    def agreed_by_now(self, accelerator: Accelerator) -> bool:
        """`agreed`, but no process waits for another: a signal counts from the next call on.

        It must not follow work that a signal may have broken off, which goes on where the training stops.
        """
        if self.exchange is None:
            return self.agreed(accelerator)
        if not self.agreed_on:
            self.agreed_on = self.exchange.largest(self.signum)
        return self.agreed_on > 0

    @contextmanager
    def breaking_off(self) -> Iterator[None]:
        """A signal breaks the block off; it may exchange nothing with other processes and change no weights.

        Raises:
            AskedToStop: a signal came, or had come before.
        """
        self.breaks = True
        try:
            if self.signum:
                raise AskedToStop
            yield
        finally:
            self.breaks = False


@contextmanager
def stop_signals(exchange: Exchange | None = None) -> Iterator[StopRequest]:
    """Turns signals into a request while the block runs; by an exchange, processes agree without waiting.

    Raises:
        Interrupted: an exchange with the other processes failed after a signal, as they have ended already.
    """
    request = StopRequest(exchange)
    before = {number: signal.signal(number, request) for number in SIGNALS if not is_ignored(number)}
    try:
        yield request
    except RuntimeError as error:
        if not request.signum:
            raise
        request.agreed_on = request.signum
        raise Interrupted(request.signum, f"stopped without saving: {error}") from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if request.signum and not request.agreed_on:
            end_by(request.signum)  # It came after the processes' last question, when all was saved.


def leave(signum: int) -> None:
    """Lets this process, which has saved and is ending, ignore the signal that stopped it.

    It may come again: the launcher passes signals on, and sends one to all processes when one has ended.
    """
    request = StopRequest()
    request.signum, request.came = signum, time.monotonic()
    for number in SIGNALS:
        signal.signal(number, request)


def is_ignored(number: signal.Signals) -> bool:
    """Whether a signal does not concern this training: SIGHUP under nohup, which no torchrun passes on.

    Shells ignore Ctrl-C for commands in the background, but these may be stopped by `kill -INT` all the same.
    """
    ignored = signal.getsignal(number) is signal.SIG_IGN
    return ignored and number == signal.SIGHUP and "TORCHELASTIC_RUN_ID" not in os.environ


def held_out_batches(length: int, size: int, accelerator: Accelerator) -> Iterator[range]:
    """This process's batches of held-out images, at most `size` each; every process goes through its own.

    Raises:
        AskedToStop: a training is going on and was asked to stop; raised on every process at the same batch.
    """
    processes, request = Processes.of(accelerator), signal.getsignal(signal.SIGTERM)
    mine = processes.batches(length, size)
    for _ in range(math.ceil(length / (size * processes.world))):
        if isinstance(request, StopRequest) and request.agreed(accelerator):
            raise AskedToStop
        yield from itertools.islice(mine, 1)


def end_by(signum: int) -> None:
    """Ends this process by a signal, as if nothing had handled it."""
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)


def write_to_stderr(text: bytes) -> None:
    """Writes at once and never fails: the reader of a pipe may be gone, stopped by the same Ctrl-C."""
    try:
        os.write(sys.stderr.fileno(), text)
    except (OSError, ValueError):  # a closed pipe or terminal; no file at all
        return


# ------------------------------------------------------------------------------- processes of a training


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Signals wait while the block starts data workers, which must not be hit before they know what to do."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def follow_training(worker: int) -> None:
    """Makes a data worker ignore signals, and end when the training process says so or has ended.

    The training process itself handles a signal to the process group: to finish a step it needs its workers.
    """
    parent = multiprocessing.parent_process()
    training = os.getppid() if parent is None or parent.pid is None else parent.pid
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    end_with_parent(signal.SIGKILL)
    if sys.platform == "linux" and has_ended(training):
        os._exit(1)  # It ended while this process began, which takes seconds unless it is a copy.
    if hasattr(signal, "sigwaitinfo"):  # Not on macOS, where a worker simply ignores the signals
        threading.Thread(target=_wait_for_signal_of, args=(training,), daemon=True).start()


def _wait_for_signal_of(training: int) -> None:
    while True:
        came = signal.sigwaitinfo(SIGNALS)
        if came.si_pid == training and came.si_signo == signal.SIGTERM:
            os._exit(0)


def has_ended(process: int) -> bool:
    """Whether a process of Linux is gone or a zombie, which ended but was not waited for yet."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state in ("Z", "X")


def end_with_parent(signum: int) -> None:
    """Lets the system send `signum` to this process when its parent ends (Linux alone can)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signum)  # PR_SET_PDEATHSIG, see prctl(2)
