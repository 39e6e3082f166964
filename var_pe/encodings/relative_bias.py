"""Relative position bias: a learned number per head for every displacement between two tokens."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from var_pe.encodings.base import register
from var_pe.encodings.scores import (
    ScoreEncoding,
    by_levels,
    displacement,
    look_up,
    one_hot,
    unit_displacement,
)
from var_pe.pyramid import Positions, Pyramid


@dataclass(frozen=True)
class Where:
    """Displacements over the largest ones, (1, Lq, Lk, 2), and one-hot levels (L, K)."""

    grid_1QK2: Tensor
    query_QK: Tensor
    key_QK: Tensor


@register("relative_bias")
class RelativeBias(ScoreEncoding):
    """`score += table[head, dy + h - 1, dx + w - 1] + level_term[head, query level, key level]`.

    The table of Swin (Liu et al. 2021): (2h - 1)(2w - 1) numbers a head for a grid of h x w, normal with
    deviation 0.02 at the start. (dy, dx) is the query's centre minus the key's in cells of the finest level,
    within a level and across levels alike; where it is a fraction, as between levels, the table is read
    bilinearly. The level term, 0 at the start, is there if the pyramid has more than one level.

    Cost: a bias loses the flash kernel and is looked up anew in every layer, unless `shared`.

    Args:
        shared: one table for all layers instead of one each.
        spatial_scale: every head (of every layer) also learns a factor on its displacements, from 1;
            what then lies beyond the table has its border's value.
    Raises:
        ValueError: asked for another pyramid than it was made for.
    """

    grids_K2: Tensor

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        depth: int,
        pyramid: Pyramid,
        shared: bool = False,
        spatial_scale: bool = False,
    ) -> None:
        super().__init__()
        self.pyramid, self.per_layer = pyramid, not shared
        (h, w), tables, levels = pyramid.finest, 1 if shared else depth, pyramid.num_levels
        self.table_NHyx = nn.Parameter(torch.zeros(tables, num_heads, 2 * h - 1, 2 * w - 1))
        self.level_term_NHKK = (
            nn.Parameter(torch.zeros(tables, num_heads, levels, levels)) if levels > 1 else None
        )
        self.log_scale_NH = nn.Parameter(torch.zeros(tables, num_heads)) if spatial_scale else None
        self.register_buffer("grids_K2", torch.tensor(pyramid.grids, dtype=torch.int64))

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        if name == "table_NHyx":
            nn.init.trunc_normal_(parameter, std=0.02, generator=generator)
        else:
            nn.init.zeros_(parameter)

    def where(self, query: Positions, key: Positions) -> Where:
        if query.grids != self.pyramid.grids:
            raise ValueError(
                f"the relative_bias table was made for the grids {self.pyramid}, asked for "
                f"{Pyramid(query.grids)}; choose an encoding that follows the size (log_cpb, alibi)"
            )
        grid_QK2 = unit_displacement(displacement(query, key), query.grids[-1])
        levels = len(query.grids)
        return Where(grid_QK2[None], one_hot(query.level_L, levels), one_hot(key.level_L, levels))

    def scores(self, where: Where, layer: int) -> Tensor:
        grid_GQK2 = where.grid_1QK2
        if self.log_scale_NH is not None:
            grid_GQK2 = grid_GQK2 * self.log_scale_NH[layer].float().exp()[:, None, None, None]
        bias_HQK = look_up(self.table_NHyx[layer].float(), grid_GQK2)
        if self.level_term_NHKK is None:
            return bias_HQK
        return bias_HQK + by_levels(self.level_term_NHKK[layer].float(), where.query_QK, where.key_QK)
