"""The costs of a training, read off its log and its model."""

import statistics
from collections.abc import Sequence

from torch import nn

from var_pe.training.log import LogEntry

BEFORE_A_SPIKE = 10  # number of earlier logged losses that each one is compared with


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


def steadiness(log: Sequence[LogEntry]) -> dict[str, float]:
    """How quietly a training went: spikes of its loss, and the norms of its gradients before clipping.

    A spike is a logged loss above the median of the ten before it by more than six times their median
    deviation from it and more than 5 %.
    """
    losses = [entry["loss"] for entry in log if "loss" in entry]
    spikes = 0
    for place in range(BEFORE_A_SPIKE, len(losses)):
        before = losses[place - BEFORE_A_SPIKE : place]
        middle = statistics.median(before)
        scatter = statistics.median(abs(loss - middle) for loss in before)
        spikes += losses[place] - middle > max(6 * scatter, 0.05 * abs(middle))

    found = {"loss_spikes": float(spikes)}
    norms = [entry["grad_norm"] for entry in log if "grad_norm" in entry]
    if norms:
        found |= {"grad_norm_median": statistics.median(norms), "grad_norm_largest": max(norms)}
    return found


def trainable(module: nn.Module) -> int:
    """The number of its trained parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
