"""Directed attention: within its level a head sees one side of a token only, and the near better."""

from dataclasses import dataclass, replace
from math import cos, pi, sin

import torch
from torch import Tensor

from var_pe.encodings.base import ModelShape, own, register
from var_pe.encodings.machinery.level_term import LevelPairs, LevelTerm
from var_pe.encodings.machinery.scores import ScoreEncoding, displacement
from var_pe.pyramid import Positions, Pyramid
from var_pe.resampling.conventions import Convention

# Degrees that a head sees, and the directions that heads take in turn, in degrees from right to down
DIRECTIONS = {
    180: (0, 90, 180, 270),
    90: (0, 90, 180, 270, 45, 135, 225, 315),
    45: (22.5, 67.5, 112.5, 157.5, 202.5, 247.5, 292.5, 337.5),
}


@dataclass(frozen=True)
class Views:
    """How far and where each key is from each query, and the terms of their levels."""

    # (Lq, Lk, 2) from query to key, in cells of the finest level
    towards_QK2: Tensor
    # True (Lq, Lk) where both are of one level
    same_QK: Tensor
    # the global slope times each layer's factor
    factor_N: Tensor
    pairs: LevelPairs | None


@register("lookhere")
class LookHere(ScoreEncoding[Views]):
    """`score += level_term - slope * distance`, but -infinity outside a head's field of view.

    LookHere (Fuller et al. 2024, arXiv 2405.13985; public code). A directed head sees of its own level the
    keys within fov / 2 degrees of its direction, borders included, and the token itself. A third of the heads
    (rounded down), the last ones, see all around. Distances are Euclidean, in cells of the finest level.
    Slopes: directed head j has 2^-(1 + j // number of directions); undirected head j of U has 2^(-8 (j + 1) /
    U); all times `slope`, and times a factor of the layer that falls from 1.5 in the first to 0.5 in the
    last. With 12 heads and fov 90 these are the paper's. Nothing is learned but the level term (`LevelTerm`,
    shared by all layers).

    Other levels, which the paper does not have, are seen in all directions, by distance: a coarse token's
    middle lies to no side of what it covers. Within a level, scores depend on the displacement alone, and no
    larger grid shows a head what it has not seen: an angle. Follows any pyramid.

    Cost: a bias loses the flash kernel, and hidden scores are computed all the same; computed in each layer.

    Args:
        fov: degrees, 180 (four directions), 90 or 45 (eight).
        slope: the global slope, at least 0.
    Raises:
        ValueError: `fov` is another number, or the slope is below 0 or not finite.
    """

    per_layer = True

    blends = False  # there is no half of a key that is hidden

    def __init__(self, shape: ModelShape, *, fov: int = 90, slope: float = 1.0) -> None:
        super().__init__()
        if fov not in DIRECTIONS:
            raise ValueError(f"lookhere: fov is one of 180, 90, 45, got {fov}")
        if not 0 <= slope < float("inf"):
            raise ValueError(f"lookhere: slope must be at least 0 and finite, got {slope}")

        self.fov = fov
        self.slope = slope
        self.depth = shape.depth
        self.undirected = shape.num_heads // 3
        self.directed = shape.num_heads - self.undirected
        self.level_term = LevelTerm(shape.pyramid, shape.num_heads)

    def set_pyramid(self, pyramid: Pyramid, convention: str | Convention | None = None) -> None:
        """Views and distances follow by themselves; the levels' terms go with their levels."""
        self.level_term.set_pyramid(pyramid)

    def geometry(self, query: Positions, key: Positions) -> Views:
        towards_QK2 = -displacement(query, key)
        same_QK = query.level_L[:, None] == key.level_L
        factor_N = self.slope * torch.linspace(1.5, 0.5, self.depth, device=towards_QK2.device)
        return Views(towards_QK2, same_QK, factor_N, self.level_term.pairs(query, key))

    def geometry_at(self, geometry: Views, layer: int) -> Views:
        return replace(geometry, factor_N=geometry.factor_N[layer : layer + 1])

    def scores(self, geometry: Views, layer: int) -> Tensor:
        dy_QK, dx_QK = geometry.towards_QK2.unbind(-1)
        distance_QK = geometry.towards_QK2.norm(dim=-1)
        factor = geometry.factor_N[own(layer, len(geometry.factor_N))]

        bias = []
        for head, slope in enumerate(self.slopes()):
            bias_QK = -factor * slope * distance_QK
            if head < self.directed:
                # The cosine of the angle to the head's direction, times the distance
                angle = self.direction(head) * pi / 180
                ahead_QK = dy_QK * sin(angle) + dx_QK * cos(angle)
                least_QK = (cos(self.fov * pi / 360) - 1e-4) * distance_QK
                bias_QK = bias_QK.masked_fill(geometry.same_QK & (ahead_QK < least_QK), float("-inf"))
            bias.append(bias_QK)

        return self.level_term.add_to(torch.stack(bias), geometry.pairs, layer)

    def direction(self, head: int) -> float:
        """Degrees from right to down."""
        return DIRECTIONS[self.fov][head % len(DIRECTIONS[self.fov])]

    def slopes(self) -> list[float]:
        """Of every head, before the global slope and the layer's factor."""
        directed = [2.0 ** -(1 + head // len(DIRECTIONS[self.fov])) for head in range(self.directed)]
        undirected = [2.0 ** (-8 * (head + 1) / self.undirected) for head in range(self.undirected)]
        return directed + undirected
