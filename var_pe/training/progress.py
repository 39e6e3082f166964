"""What a person sees of a long run: a bar on a terminal, plain lines elsewhere."""

import contextlib
import ctypes
import gc
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm


class Progress:
    """Counts steps; `rates` gives images per second, time left and peak memory since the last call."""

    def __init__(self, steps: range, batch: int, *, shown: bool) -> None:
        self.steps, self.batch, self.shown = steps, batch, shown
        self.bar = (
            tqdm(total=steps.stop, initial=steps.start, unit="step")
            if shown and sys.stderr.isatty()
            else None
        )
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

    def say(self, entry: dict[str, Any]) -> None:
        """One line, on the screen's own rhythm; values per level stay in the log file."""
        if not self.shown:
            return
        named = {name: value for name, value in entry.items() if name != "step" and "/level_" not in name}
        line = f"step {entry['step']}/{self.steps.stop}  " + "  ".join(
            f"{n} {v:.4g}" for n, v in named.items()
        )
        if self.bar is not None:
            self.bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that this process has held since `reset_peak_memory`, on the GPU if it uses one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak_memory(device: torch.device) -> bool:
    """Lets `peak_memory` start again from what is held now; False where it cannot (Linux and CUDA can).

    What an earlier training in this process left behind is given back first, as far as it can be.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc keeps what was freed: 160 MB after a small training
    try:
        Path("/proc/self/clear_refs").write_text("5")  # 5: the resident set's high-water mark, see proc(5)
    except OSError:
        return False
    return True
