"""What a training cost, read off its log and its model."""

import statistics
from collections.abc import Sequence

from torch import nn

from var_pe.training.log import LogEntry


def costs(log: Sequence[LogEntry], batch: int, step: int | None = None) -> dict[str, float]:
    """Validation loss, seconds per step and peak memory (GB), as far as a log has them.

    The loss is that of the finished weights, which are those after `step` steps; None: the last ones.
    """
    found = {}
    validated = [entry for entry in log if "validation/loss" in entry]
    losses = [entry["validation/loss"] for entry in validated if step in (None, entry["step"])]
    if losses:
        found["validation/loss"] = losses[-1]

    # The median, which pauses for validation and saving do not move; the first entry is a cold step's.
    timed = [entry for entry in log if "images_per_second" in entry]
    rates = [entry["images_per_second"] for entry in timed[1:]]
    if rates:
        found["seconds_per_step"] = batch / statistics.median(rates)

    if timed:
        found["peak_memory_gb"] = max(entry["peak_memory_gb"] for entry in timed)
    return found


def minutes_of_training(log: Sequence[LogEntry], batch: int) -> float:
    """What the steps of a training took, without validations and checkpoints."""
    seconds, before = 0.0, 0.0
    for entry in log:
        if "images_per_second" in entry:
            seconds += (entry["step"] - before) * batch / entry["images_per_second"]
            before = entry["step"]
    return seconds / 60


def trainable(module: nn.Module) -> int:
    """The number of its trained parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
