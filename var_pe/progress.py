"""Progress of long work: a bar on a terminal; elsewhere, now and then a line of text."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType

import torch
from tqdm import tqdm

from var_pe.processes import peak_memory, say

SECONDS_BETWEEN_LINES = 30.0


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
        self.last_line = self.began

    def add(self, number: int = 1) -> None:
        number *= self.processes
        self.count += number
        if self.bar is not None:
            self.bar.update(number)
        elif self.shown and time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            rate = self.count / (self.last_line - self.began)
            left = (self.total - self.count) / rate / 60
            done = f"{self.what}: {self.count} of {self.total} {self.unit}s"
            say(f"{done}, {rate:.4g}/s, {left:.1f} minutes left", sys.stderr)

    def __enter__(self) -> "Counter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.close()


class StepProgress:
    """Counts steps; `rates` gives images per second since its last call, the time left and peak memory."""

    def __init__(self, steps: range, batch: int, *, shown: bool) -> None:
        self.steps, self.batch, self.shown = steps, batch, shown
        self.bar = None
        if shown and sys.stderr.isatty():
            self.bar = tqdm(total=steps.stop, initial=steps.start, unit="step")

        self.count = self.counted = steps.start
        self.since = self.began = time.monotonic()

    def advance(self) -> None:
        self.count += 1
        if self.bar is not None:
            self.bar.update()

    def rates(self, device: torch.device) -> dict[str, float]:
        now = time.monotonic()
        per_second = (self.count - self.counted) / max(now - self.since, 1e-9)
        self.since, self.counted = now, self.count
        return {
            "images_per_second": per_second * self.batch,
            "minutes_left": (self.steps.stop - self.count) / max(per_second, 1e-9) / 60,
            "peak_memory_gb": peak_memory(device) / 1e9,
        }

    def say(self, entry: Mapping[str, float]) -> None:
        """Prints one line with the values of a step; values per level stay in the log file."""
        if not self.shown:
            return

        values = []
        for name, value in entry.items():
            if name != "step" and "/level_" not in name:
                values.append(f"{name} {value:.4g}")
        line = "  ".join([f"step {entry['step']}/{self.steps.stop}", *values])

        if self.bar is not None:
            self.bar.write(line, file=sys.stderr)
        else:
            say(line, sys.stderr)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
