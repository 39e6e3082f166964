"""Several encodings at once, each on its own hooks: what `+` makes in a config line."""

import copy
from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from var_pe.encodings.base import PositionEncoding
from var_pe.pyramid import Positions, Pyramid
from var_pe.resampling.conventions import Convention


class Composed(PositionEncoding[list[object]]):
    """Applies every part's hook in turn; biases add up."""

    def __init__(self, parts: list[PositionEncoding]) -> None:
        super().__init__()
        if any(part.width_of(8) != 8 for part in parts):
            turning = sum(part.uses("remap") or part.uses("rotate") for part in parts)
            if turning > 1:
                raise ValueError(
                    "an encoding that widens queries and keys cannot be joined with another one that "
                    "turns them"
                )
            if any(part.uses("products") for part in parts):
                raise ValueError(
                    "an encoding that widens queries and keys cannot be joined with one that compares them "
                    "with vectors of a head's own width"
                )
        self.parts = nn.ModuleList(parts)

    def each(self) -> list[PositionEncoding[object]]:
        return cast("list[PositionEncoding[object]]", list(self.parts))  # quoted: torch.compile reads it

    def prepare(self, positions: Positions) -> list[object]:
        return [part.prepare(positions) for part in self.each()]

    @property
    def turns_keys_by_query(self) -> bool:
        return any(part.turns_keys_by_query for part in self.each())

    def embed(self, x_BLC: Tensor, context: list[object]) -> Tensor:
        for part, own in zip(self.each(), context, strict=True):
            x_BLC = part.embed(x_BLC, own)
        return x_BLC

    def remap(
        self, q_BHLD: Tensor, k_BHLD: Tensor, context: list[object], layer: int
    ) -> tuple[Tensor, Tensor]:
        for part, own in zip(self.each(), context, strict=True):
            q_BHLD, k_BHLD = part.remap(q_BHLD, k_BHLD, own, layer)
        return q_BHLD, k_BHLD

    def width_of(self, head_dim: int) -> int:
        for part in self.each():
            head_dim = part.width_of(head_dim)
        return head_dim

    def turned_by(self, context: list[object], share: Tensor) -> list[object]:
        return [part.turned_by(own, share) for part, own in zip(self.each(), context, strict=True)]

    def rotate(self, x_BHLD: Tensor, context: list[object], layer: int) -> Tensor:
        for part, own in zip(self.each(), context, strict=True):
            x_BHLD = part.rotate(x_BHLD, own, layer)
        return x_BHLD

    def relate(self, query: list[object], key: list[object]) -> None:
        for part, own_query, own_key in zip(self.each(), query, key, strict=True):
            part.relate(own_query, own_key)

    def bias(self, query: list[object], key: list[object], layer: int) -> Tensor | None:
        total: Tensor | None = None
        for part, own_query, own_key in zip(self.each(), query, key, strict=True):
            bias_HQK = part.bias(own_query, own_key, layer)
            if bias_HQK is not None:
                total = bias_HQK if total is None else total + bias_HQK
        return total

    def products(
        self, q_BHQD: Tensor, k_BHKD: Tensor, query: list[object], key: list[object], layer: int
    ) -> Tensor | None:
        total: Tensor | None = None
        for part, own_query, own_key in zip(self.each(), query, key, strict=True):
            products_BHQK = part.products(q_BHQD, k_BHKD, own_query, own_key, layer)
            if products_BHQK is not None:
                total = products_BHQK if total is None else total + products_BHQK
        return total

    def values(
        self, weights_BHQK: Tensor, query: list[object], key: list[object], layer: int
    ) -> Tensor | None:
        total: Tensor | None = None
        for part, own_query, own_key in zip(self.each(), query, key, strict=True):
            values_BHQD = part.values(weights_BHQK, own_query, own_key, layer)
            if values_BHQD is not None:
                total = values_BHQD if total is None else total + values_BHQD
        return total

    def at_layer(self, context: list[object], layer: int) -> list[object]:
        return [part.at_layer(own, layer) for part, own in zip(self.each(), context, strict=True)]

    def refine(self, x_BLC: Tensor, context: list[object], layer: int) -> Tensor:
        for part, own in zip(self.each(), context, strict=True):
            x_BLC = part.refine(x_BLC, own, layer)
        return x_BLC

    def set_pyramid(self, pyramid: Pyramid, convention: str | Convention | None = None) -> None:
        move_all(self.each(), pyramid, convention)

    def uses(self, hook: str) -> bool:
        return any(part.uses(hook) for part in self.each())


def move_all(
    parts: Sequence[PositionEncoding], pyramid: Pyramid, convention: str | Convention | None
) -> None:
    """Every part to other grids, or none: what one refuses is found on copies."""
    for trial in copy.deepcopy(tuple(parts)):
        trial.set_pyramid(pyramid, convention)
    for part in parts:
        part.set_pyramid(pyramid, convention)
