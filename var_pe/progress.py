"""Progress of long work: a bar on a terminal; elsewhere, now and then a line of text."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType

import torch
from tqdm import tqdm

from var_pe.processes import finish_work, peak_memory, say

SECONDS_BETWEEN_LINES = 30.0
SECONDS_BEFORE_FIRST_LINE = 5.0  # sooner, so that nobody wonders what goes on

# Steps after which a training says what the rest will take; the first one warms up and is not counted.
FIRST_STEPS = 6

# A unit, its seconds, and those from which the next unit is taken
UNITS_OF_TIME = (("ms", 1e-3, 0.1), ("s", 1.0, 120.0), ("min", 60.0, 7200.0), ("h", 3600.0, 172800.0))


def duration(seconds: float) -> str:
    """In the unit that people would take: `45.2 ms`, `0.81 s`, `4.2 min`, `3.1 h`, `2.5 days`."""
    for unit, length, most in UNITS_OF_TIME:
        if seconds < most:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds / 86400:.3g} days"


def size(number: float) -> str:
    """A number of bytes in decimal units: `12.3 MB`."""
    for unit, length in (("kB", 1e3), ("MB", 1e6)):
        if number < 1000 * length:
            return f"{number / length:.3g} {unit}"
    return f"{number / 1e9:.3g} GB"


def number_of(count: int, what: str = "picture", plural: str | None = None) -> str:
    """`1 picture`, `2 pictures`, `3 classes`."""
    return f"{count} {what}" if count == 1 else f"{count} {plural or what + 's'}"


class Counter:
    """Counts towards `total`, as a context manager; only the main process should have `shown`.

    If `processes` work on equal shares, what the main process adds counts once for each of them.
    """

    def __init__(
        self, total: int, what: str, unit: str = "image", *, shown: bool = True, processes: int = 1
    ) -> None:
        self.total, self.what, self.unit = total, what, unit
        self.shown, self.processes = shown, processes
        self.bar = tqdm(total=total, desc=what, unit=unit) if shown and sys.stderr.isatty() else None
        self.count, self.began = 0, time.monotonic()
        self.next_line = self.began + SECONDS_BEFORE_FIRST_LINE

    def add(self, number: int = 1) -> None:
        number *= self.processes
        self.count += number
        if self.bar is not None:
            self.bar.update(number)
        elif self.shown and (now := time.monotonic()) > self.next_line:
            self.next_line = now + SECONDS_BETWEEN_LINES
            rate = self.count / (now - self.began)
            left = (self.total - self.count) / rate / 60
            done = f"{self.what}: {self.count} of {number_of(self.total, self.unit)}"
            say(f"{done}, {rate:.4g}/s, {left:.1f} minutes left", sys.stderr)

    def __enter__(self) -> "Counter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.close()


class StepProgress:
    """Counts steps; `rates` gives images per second since its last call, the time left and peak memory."""

    def __init__(self, steps: range, batch: int, device: torch.device, *, shown: bool) -> None:
        self.steps = steps
        self.batch = batch
        self.device = device
        self.shown = shown
        self.bar = None
        if shown and sys.stderr.isatty():
            self.bar = tqdm(total=steps.stop, initial=steps.start, unit="step")

        self.count = self.counted = steps.start
        self.since = self.warm_since = time.monotonic()

    def advance(self) -> None:
        self.count += 1
        if self.count == self.steps.start + 1:
            finish_work(self.device)  # which runs behind; time is measured when it has caught up
            self.warm_since = time.monotonic()
        if self.bar is not None:
            self.bar.update()

    @property
    def measured_first_steps(self) -> bool:
        """Whether the last step is the one after which the rest is estimated, and there is a rest."""
        estimated_after = self.steps.start + FIRST_STEPS
        return self.count == estimated_after and self.count < self.steps.stop

    def say_rest(self, checkpoint_bytes: int, checkpoints: int) -> None:
        """Prints what the remaining steps will take, the memory so far, and the disk of a checkpoint."""
        finish_work(self.device)
        remaining = self.steps.stop - self.count
        of_step = (time.monotonic() - self.warm_since) / (FIRST_STEPS - 1)
        rest = duration(remaining * of_step)
        self.print(
            f"the remaining {number_of(remaining, 'step')} of {duration(of_step)} take about {rest}, without "
            f"validation; "
            f"{size(peak_memory(self.device))} of memory so far; "
            f"a checkpoint takes {size(checkpoint_bytes)} of disk, {checkpoints} are kept"
        )

    def rates(self) -> dict[str, float]:
        now = time.monotonic()
        per_second = (self.count - self.counted) / max(now - self.since, 1e-9)
        self.since, self.counted = now, self.count
        return {
            "images_per_second": per_second * self.batch,
            "minutes_left": (self.steps.stop - self.count) / max(per_second, 1e-9) / 60,
            "peak_memory_gb": peak_memory(self.device) / 1e9,
        }

    def say(self, entry: Mapping[str, float]) -> None:
        """Prints one line with the values of a step; values per level stay in the log file."""
        values = []
        for name, value in entry.items():
            if name != "step" and "/level_" not in name:
                values.append(f"{name} {value:.4g}")
        self.print("  ".join([f"step {entry['step']}/{self.steps.stop}", *values]))

    def print(self, line: str) -> None:
        """A line on the screen, above the bar if there is one."""
        if not self.shown:
            return
        if self.bar is not None:
            self.bar.write(line, file=sys.stderr)
        else:
            say(line, sys.stderr)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
