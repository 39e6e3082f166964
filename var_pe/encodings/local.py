"""Local attention: within its level a token sees its surroundings only."""

from dataclasses import dataclass

import torch
from torch import Tensor

from var_pe.encodings.base import ModelShape, register
from var_pe.encodings.machinery.level_term import LevelPairs, LevelTerm
from var_pe.encodings.machinery.scores import ScoreEncoding
from var_pe.pyramid import Positions, Pyramid
from var_pe.resampling.conventions import Convention


@dataclass(frozen=True)
class Neighbourhoods:
    """Which keys each query does not see, and the terms of their levels."""

    # True (Lq, Lk) where a key of the query's own level is too far
    hidden_QK: Tensor
    pairs: LevelPairs | None


@register("local")
class Local(ScoreEncoding[Neighbourhoods]):
    """`score += level_term[head, query level, key level]`, but -infinity beyond `radius` in the own level.

    Sparse attention by position (as the neighbourhoods of Image Transformer, Parmar et al. 2018), with a
    round neighbourhood: the distance is Euclidean, between centres, in cells of the tokens' own level. Other
    levels are fully visible as far as the model shows them, and so are prefix tokens; a token always sees
    itself, so no row is empty. How much it looks to which level is learned (`LevelTerm`, shared by all
    layers), where there are several. Positions show through the border alone, so it is usually joined with
    another encoding: `sinusoidal + local(radius=2)`. Follows any pyramid.

    Cost: a bias loses the flash kernel, and hidden scores are computed all the same: nothing is saved.

    Args:
        radius: cells, at least 1 (the four next ones); 1.5 adds the diagonal ones.
    Raises:
        ValueError: the radius is below 1.
    """

    blends = False  # there is no half of a key that is hidden

    def __init__(self, shape: ModelShape, *, radius: float = 3.0) -> None:
        super().__init__()
        if not radius >= 1:
            raise ValueError(f"local: radius must be at least 1 cell, got {radius}")
        self.radius = radius
        self.level_term = LevelTerm(shape.pyramid, shape.num_heads)

    def set_pyramid(self, pyramid: Pyramid, convention: str | Convention | None = None) -> None:
        """The radius stays as many cells; the levels' terms go with their levels."""
        self.level_term.set_pyramid(pyramid)

    def geometry(self, query: Positions, key: Positions) -> Neighbourhoods:
        distance2_QK = (query.cell_L2[:, None] - key.cell_L2).square().sum(-1)
        hidden_QK = (query.level_L[:, None] == key.level_L) & (distance2_QK > self.radius**2)
        return Neighbourhoods(hidden_QK, self.level_term.pairs(query, key))

    def scores(self, geometry: Neighbourhoods, layer: int) -> Tensor:
        hidden_QK = geometry.hidden_QK
        bias_QK = torch.zeros(hidden_QK.shape, device=hidden_QK.device)
        bias_1QK = bias_QK.masked_fill(hidden_QK, float("-inf"))[None]
        return self.level_term.add_to(bias_1QK, geometry.pairs, layer)
