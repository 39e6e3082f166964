"""The processes of a run: how they share the work, what they exchange, how much memory each uses."""

import contextlib
import ctypes
import errno
import gc
import os
import resource
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among those of a run. `Processes()` is a single process and needs no launcher.

    Without an accelerator, `rank` and `world` still determine this process's share, but nothing is exchanged.
    """

    rank: int = 0
    world: int = 1
    accelerator: Accelerator | None = None

    @classmethod
    def of(cls, accelerator: Accelerator) -> "Processes":
        return cls(accelerator.process_index, accelerator.num_processes, accelerator)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        return torch.device("cpu") if self.accelerator is None else self.accelerator.device

    def share(self, length: int) -> range:
        """This process's contiguous part of `length` things; parts are in the order of ranks."""
        return range(length * self.rank // self.world, length * (self.rank + 1) // self.world)

    def batches(self, length: int, size: int) -> Iterator[range]:
        """This process's batches: every `world`-th range of at most `size` of the numbers below `length`."""
        for start in range(self.rank * size, length, self.world * size):
            yield range(start, min(start + size, length))

    def gather(self, parts: list[T]) -> list[T]:
        """The lists of all processes as one, in the order of ranks."""
        exchanged = self.world > 1 and self.accelerator is not None
        return gather_object(parts) if exchanged else parts

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of the tensors of all processes, on every process."""
        return tensor if self.accelerator is None else self.accelerator.reduce(tensor, "sum")

    def wait(self) -> None:
        """Returns when every process has called it."""
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()

    def say(self, sentence: str) -> None:
        """Prints on the main process."""
        if self.is_main:
            say(sentence, sys.stdout)

    def on_main(self, action: Callable[[], None]) -> None:
        """Runs `action` on the main process; every process waits for it, and raises an error if it failed."""
        failure: Exception | None = None
        if self.is_main:
            try:
                action()
            except Exception as error:
                failure = error

        sentence = [None if failure is None else str(failure)]
        if self.world > 1 and self.accelerator is not None:
            broadcast_object_list(sentence)

        if failure is not None:
            raise failure
        if sentence[0] is not None:
            raise ValueError(sentence[0])


class Exchange:
    """An exchange of numbers that no process waits for; it says what was the case one call before.

    It has a group of its own among the processors, so that it waits neither for a GPU nor for gradients.
    """

    def __init__(self) -> None:
        group = torch.distributed.new_group(backend="gloo")
        assert isinstance(group, torch.distributed.ProcessGroup), "every process belongs to it"
        self._group = group
        self._largest = torch.zeros(1, dtype=torch.int64)
        self._work: torch.distributed.Work | None = None

    def largest(self, number: int) -> int:
        """Hands a number to the others; returns the largest of those of the call before, at first 0."""
        self._wait()
        before = int(self._largest)
        self._largest = torch.tensor([number])
        self._work = torch.distributed.all_reduce(
            self._largest, torch.distributed.ReduceOp.MAX, self._group, async_op=True
        )
        return before

    def _wait(self) -> None:
        if self._work is not None:
            self._work.wait()

    def close(self) -> None:
        """Waits for what is under way, and ends the group."""
        self._wait()
        torch.distributed.destroy_process_group(self._group)


@contextlib.contextmanager
def exchange(accelerator: Accelerator) -> Iterator[Exchange | None]:
    """An exchange between the processes of a run; None if there is only one."""
    if accelerator.num_processes == 1:
        yield None
        return

    between = Exchange()
    yield between
    between.close()


class SumOverProcesses(torch.autograd.Function):
    """The sum over processes, and of the gradients that all of them have of it."""

    @staticmethod
    def forward(ctx: object, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        total = grads[0].clone()
        dist.all_reduce(total)
        return total


def mean_over_processes(tensor: Tensor) -> Tensor:
    """The mean of the tensors of all processes of a training, each of which gets its part of the gradient."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return tensor
    total: Tensor = SumOverProcesses.apply(tensor)
    return total / dist.get_world_size()


def say(sentence: str, file: TextIO) -> None:
    """Prints a line; if nobody is there to read it any more, this and what follows is lost, but no work is.

    Ctrl-C in `train.py | tee log` ends `tee` at once; a closed terminal takes no text, nor does a full disk.
    """
    try:
        print(sentence, file=file, flush=True)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO, errno.ENOSPC):
            raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, file.fileno())
        os.close(nowhere)


def finish_work(device: torch.device) -> None:
    """Returns when a GPU has done all that it was told to do; a processor always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has held since `reset_peak_memory`, on the GPU if it uses one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)

    # In `getrusage` a process's peak begins with that of the program that started it.
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak_memory(device: torch.device) -> bool:
    """Restarts `peak_memory` from what is held now; False if the system cannot (Linux and CUDA can).

    Memory that an earlier training in this process left behind is released first, as far as possible.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True

    # glibc keeps what was freed: 160 MB after a small training.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)

    # 5 resets the resident set's high-water mark, see proc(5).
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True
