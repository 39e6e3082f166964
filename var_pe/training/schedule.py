"""The schedules of learning rate and moving average, and when something begins, as pure functions."""

import math
from typing import Literal

Schedule = Literal["cosine", "linear", "constant"]


def learning_rate(
    step: int,
    *,
    peak: float,
    steps: int,
    warmup: int,
    schedule: Schedule,
    final_ratio: float,
) -> float:
    """Rises from peak / 200 over `warmup` steps (VAR), then falls to `final_ratio * peak` at the last step.

    `constant` does not fall.
    """
    if step < warmup:
        return peak * (0.005 + 0.995 * step / warmup)

    done = min(1.0, (step - warmup) / max(1, steps - 1 - warmup))
    if schedule == "constant":
        return peak
    if schedule == "linear":  # VAR's `lin0`: hold for a twentieth of the run, then straight down
        return peak * (1 - (1 - final_ratio) * max(0.0, done - 0.05) / 0.95)
    return peak * (final_ratio + (1 - final_ratio) * (1 + math.cos(math.pi * done)) / 2)


def ema_decay(step: int, longest: float) -> float:
    """The decay of the average, small at first: min(longest, (1 + step) / (10 + step)), as in TensorFlow."""
    return min(longest, (1 + step) / (10 + step))


def first_after(share: float, steps: int) -> int:
    """The first of so many steps after a share of them has been done: at the latest the last one."""
    return min(round(share * steps), steps - 1)
