"""The blocks of a transformer one after another, with stochastic depth and activation checkpointing."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from var_pe.models.layers import LevelCache


class BlockContext(Protocol):
    """What blocks are told of places in one forward pass, such as a `PositionContext`."""

    def at(self, layer: int) -> object:
        """The part of the context that block `layer` is given."""

    def refine(self, x_BLC: Tensor, layer: int) -> Tensor:
        """Applies what the encoding does to the tokens after block `layer`."""


class Blocks(nn.ModuleList):
    """Blocks, and after each one what the encoding does between them.

    A block is called with tokens, positions, layer, factors of stochastic depth (or None) and what else this
    is called with. `drop_path` is the probability that the last block's branches are skipped; it grows
    linearly from `first_drop`. diffusers' `enable_gradient_checkpointing` has a block's activations
    recomputed in the backward pass, by the same random numbers.
    """

    _gradient_checkpointing_func: Callable[..., Tensor]

    def __init__(self, blocks: Iterable[nn.Module], drop_path: float, first_drop: float = 0.0) -> None:
        super().__init__(blocks)
        self.drop_path = drop_path
        self.first_drop = first_drop
        self.gradient_checkpointing = False
        self.call = plainly
        # a block whose output is kept, and those outputs
        self.watched: int | None = None
        self.seen: list[Tensor] = []

    @contextmanager
    def watching(self, layer: int) -> Iterator[list[Tensor]]:
        """Within it, what block `layer` gives is appended to the list, once a pass."""
        self.watched, self.seen = layer, []
        try:
            yield self.seen
        finally:
            self.watched, self.seen = None, []

    @contextmanager
    def called_by(self, call: Callable[..., Tensor]) -> Iterator[None]:
        """Within it, a block is called by `call(block, ...)`, such as a compiled function."""
        before = self.call
        self.call = call
        try:
            yield
        finally:
            self.call = before

    def forward(
        self,
        x_BLC: Tensor,
        position_context: BlockContext,
        *given: object,
        cache: LevelCache | None = None,
    ) -> Tensor:
        """With a `cache`, a block is also called with its own part of it."""
        recomputed = self.gradient_checkpointing and torch.is_grad_enabled()
        if recomputed:
            position_context.at(0)  # what all layers share must not belong to the part of one

        for layer in range(len(self)):
            of_layer = given if cache is None else (*given, cache.layers[layer])
            if recomputed:
                x_BLC = self._gradient_checkpointing_func(
                    self._one, x_BLC, position_context, layer, *of_layer
                )
            else:
                x_BLC = self._one(x_BLC, position_context, layer, *of_layer)
            if layer == self.watched:
                self.seen.append(x_BLC)
        return x_BLC

    def _one(self, x_BLC: Tensor, position_context: BlockContext, layer: int, *given: object) -> Tensor:
        gains_2B11 = None
        if self.training and self.drop_path:
            growth = (self.drop_path - self.first_drop) * layer / max(1, len(self) - 1)
            gains_2B11 = branch_gains(x_BLC, self.first_drop + growth)

        x_BLC = self.call(self[layer], x_BLC, position_context.at(layer), layer, gains_2B11, *given)
        return position_context.refine(x_BLC, layer)


def plainly(block: nn.Module, *given: object) -> Tensor:
    """A block's output, computed as it is written."""
    x_BLC: Tensor = block(*given)
    return x_BLC


def branch_gains(x_BLC: Tensor, drop: float) -> Tensor:
    """Stochastic depth (Huang et al. 2016): a factor for each image on a block's two branches, (2, B, 1, 1).

    It is 0 with probability `drop`, else 1 / (1 - drop). Drawn before the block and given to it: a compiled
    block would be compiled anew for every probability.
    """
    gains_2B11 = torch.ones(2, len(x_BLC), 1, 1, device=x_BLC.device)
    if drop:
        for gain_B11 in gains_2B11:
            gain_B11.bernoulli_(1 - drop).div_(1 - drop)
    return gains_2B11
