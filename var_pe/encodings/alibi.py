"""Linear biases in two dimensions: the farther a token, the lower its score."""

from dataclasses import dataclass

import torch
from torch import Tensor

from var_pe.encodings.base import ModelShape, register
from var_pe.encodings.machinery.level_term import LevelPairs, LevelTerm
from var_pe.encodings.machinery.scores import ScoreEncoding, displacement
from var_pe.pyramid import Positions, Pyramid
from var_pe.resampling.conventions import Convention


@dataclass(frozen=True)
class Distances:
    """How far each key is from each query, and the terms of their levels."""

    # (Lq, Lk), in cells of the finest level
    distance_QK: Tensor
    pairs: LevelPairs | None


@register("alibi", has_time=True)
class ALiBi(ScoreEncoding[Distances]):
    """`score += level_term[head, query level, key level] - slope[head] * distance`, slope = 2^(-8 head / H).

    ALiBi (Press et al. 2022) with the Euclidean distance between centres in cells of the finest level, as in
    CROMA (Fuller et al. 2023); within and across levels alike, so that a coarse token is as far as its
    middle. The slopes are fixed, head = 1 .. H; the original takes them for H a power of two, we for any H.
    The distance's part is in (-infinity, 0], 0 for a token itself, and symmetric: it tells no left from
    right. The level term (`LevelTerm`, shared by all layers), there if the pyramid has more than one level,
    is all that is learned. Follows any pyramid; a finer grid has larger distances.

    In clips the distance is that of (t, y, x), a moment as far as a cell. It tells no before from after.

    Cost: a bias loses the flash kernel; it is computed once a forward, not once a layer.
    """

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.num_heads = shape.num_heads
        self.level_term = LevelTerm(shape.pyramid, shape.num_heads)

    def set_pyramid(self, pyramid: Pyramid, convention: str | Convention | None = None) -> None:
        """Distances follow by themselves; the levels' terms go with their levels."""
        self.level_term.set_pyramid(pyramid)

    def geometry(self, query: Positions, key: Positions) -> Distances:
        distance_QK = displacement(query, key).norm(dim=-1)
        if query.time_L is not None and key.time_L is not None:
            moments_QK = query.time_L[:, None] - key.time_L
            distance_QK = torch.hypot(distance_QK, moments_QK.float())
        return Distances(distance_QK, self.level_term.pairs(query, key))

    def scores(self, geometry: Distances, layer: int) -> Tensor:
        head_H = torch.arange(1, self.num_heads + 1, device=geometry.distance_QK.device)
        slope_H = 2.0 ** (-8 * head_H / self.num_heads)
        bias_HQK = -slope_H[:, None, None] * geometry.distance_QK
        return self.level_term.add_to(bias_HQK, geometry.pairs, layer)
