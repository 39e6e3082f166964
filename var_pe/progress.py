"""What a person sees of long work: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from types import TracebackType

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30.0


class Counter:
    """Counts towards `total` of something, as a context manager; `shown` is for the main process."""

    def __init__(self, total: int, what: str, unit: str = "image", *, shown: bool = True) -> None:
        self.total, self.what, self.unit, self.shown = total, what, unit, shown
        self.bar = tqdm(total=total, desc=what, unit=unit) if shown and sys.stderr.isatty() else None
        self.count, self.began = 0, time.monotonic()
        self.said = self.began

    def add(self, number: int = 1) -> None:
        self.count += number
        if self.bar is not None:
            self.bar.update(number)
        elif self.shown and time.monotonic() - self.said > SECONDS_BETWEEN_LINES:
            self.said = time.monotonic()
            rate = self.count / (self.said - self.began)
            left = (self.total - self.count) / rate / 60
            done = f"{self.what}: {self.count} of {self.total} {self.unit}s"
            print(f"{done}, {rate:.4g}/s, {left:.1f} minutes left", file=sys.stderr, flush=True)

    def __enter__(self) -> "Counter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.close()
