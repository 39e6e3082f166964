"""Notices numbers that are not finite, and keeps them out of the weights, on the device itself.

If the host looked at each step's loss before the update, it would have to wait for the device every time.
So the device decides: from the first loss or gradient on that is NaN or infinite, nothing is updated any
more. The host asks when it has to wait anyway, before it logs, validates or saves.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Guard:
    """Notes, on the training's own device, whether all its numbers were finite so far."""

    def __init__(self, device: torch.device) -> None:
        # 1 as long as they were, 0 from then on; a factor of what averages and codebooks are moved by
        self.updates = torch.ones((), device=device)
        # the opposite, as optimizers take it (`GuardedAdamW`)
        self.found_inf = torch.zeros((), device=device)
        # the first step that was not finite, and what was looked at there
        self._step = torch.full((), -1, device=device)
        self._names: tuple[str, ...] = ()
        self._values = torch.zeros(0, device=device)

    @torch.no_grad()
    def look(self, step: int, numbers: Mapping[str, Tensor]) -> None:
        """Takes note of a step before its update: loss and norms of gradients, by name, the same every step.

        They are those of all processes together, so that all note the same.
        """
        values = torch.stack(list(numbers.values()))
        if not self._names:
            self._names, self._values = tuple(numbers), torch.zeros_like(values)

        bad = values.isfinite().all().logical_not()
        first = bad & (self._step < 0)
        self._step.masked_fill_(first, step)
        self._values.copy_(torch.where(first, values, self._values))
        self.updates.masked_fill_(bad, 0.0)
        self.found_inf.masked_fill_(bad, 1.0)

    def check(self, kept: str) -> None:
        """Ends the training, on every process, if a number was not finite; waits for the device.

        Raises:
            FloatingPointError: naming the step, its values and what is `kept`.
        """
        if not self.found_inf.item():
            return

        named = zip(self._names, self._values.tolist(), strict=True)
        found = ", ".join(f"{name} is {value}" for name, value in named if not math.isfinite(value))
        raise FloatingPointError(
            f"step {int(self._step) + 1}: {found}; no weight has been updated since the step before, {kept}"
        )


@contextmanager
def undone_without(updates: Tensor, module: nn.Module) -> Iterator[None]:
    """Takes back what the block has changed in a module's parameters and buffers if `updates` is 0, not 1."""
    state = [*module.parameters(), *module.buffers()]
    before = [tensor.detach().clone() for tensor in state]
    yield
    with torch.no_grad():
        for tensor, old in zip(state, before, strict=True):
            tensor.copy_(torch.where(updates > 0, tensor, old))


class GuardedAdamW(torch.optim.AdamW):
    """torch's fused AdamW; it leaves weights, moments and counts of steps alone while `found_inf` is 1."""

    found_inf: Tensor
