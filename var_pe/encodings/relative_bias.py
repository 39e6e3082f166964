"""Relative position bias: a learned number per head for every displacement between two tokens."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from var_pe.encodings.base import register
from var_pe.encodings.cache import Remembered
from var_pe.encodings.learned import other_grids
from var_pe.encodings.resample import Convention, check_table, convention_of, interpolate_table, source_levels
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
    """Tables of the grids asked for, displacements over the largest (1, Lq, Lk, 2), one-hot levels (L, K)."""

    table_NHyx: Tensor
    term_NHKK: Tensor | None
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

    The table keeps the grids it was made for in `grids_K2`. Other grids are an error, unless `set_pyramid`
    moves the table to them or `resample` lets it follow them. It is then stretched to the new displacements,
    as Swin's loader does (`swin`: bicubic), which keeps its middle: no displacement. A level takes its term
    from the same level where both pyramids have as many, else from the one whose sides are nearest.

    Cost: a bias loses the flash kernel and is looked up anew in every layer, unless `shared`.

    Args:
        shared: one table for all layers instead of one each.
        spatial_scale: every head (of every layer) also learns a factor on its displacements, from 1;
            what then lies beyond the table has its border's value.
        resample: name of a convention (`swin`, `timm`, ...) under which other grids get the table resampled
            in the forward pass; the stored table stays as it is. None: they are an error.
    Raises:
        ValueError: asked for other grids, or to move to them, and no convention says how.
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
        resample: str | None = None,
    ) -> None:
        super().__init__()
        self.pyramid, self.per_layer = pyramid, not shared
        self.resample = None if resample is None else convention_of(resample)
        self.resampled = Remembered()
        (h, w), tables, levels = pyramid.finest, 1 if shared else depth, pyramid.num_levels
        self.table_NHyx = nn.Parameter(torch.zeros(tables, num_heads, 2 * h - 1, 2 * w - 1))
        self.term_NHKK = nn.Parameter(torch.zeros(tables, num_heads, levels, levels)) if levels > 1 else None
        self.log_scale_NH = nn.Parameter(torch.zeros(tables, num_heads)) if spatial_scale else None
        self.register_buffer("grids_K2", torch.tensor(pyramid.grids, dtype=torch.int64))

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        if name == "table_NHyx":
            nn.init.trunc_normal_(parameter, std=0.02, generator=generator)
        else:
            nn.init.zeros_(parameter)

    @torch.no_grad()
    def set_pyramid(self, pyramid: Pyramid, convention: str | Convention | None = None) -> None:
        if pyramid == self.pyramid:
            return
        convention = convention or self.resample
        if convention is None:
            raise ValueError(
                f"the relative_bias table was made for the grids {self.pyramid}; "
                f"moving it to {pyramid} needs the name of a resampling convention"
            )
        check_table(self.table_NHyx.flatten(1), "the relative_bias table")
        moved = {
            "table_NHyx": stretched(self.table_NHyx, self.pyramid, pyramid, convention),
            "term_NHKK": self._new_term(pyramid),
        }
        learns = self.table_NHyx.requires_grad
        for name, value in moved.items():
            setattr(self, name, None if value is None else nn.Parameter(value.clone(), requires_grad=learns))
        self.grids_K2 = torch.tensor(pyramid.grids, device=self.grids_K2.device)
        self.pyramid = pyramid
        self.resampled.clear()

    def check_grids(self) -> None:
        if error := other_grids("a relative_bias table", self.grids_K2, self.pyramid):
            raise ValueError(error)

    def where(self, query: Positions, key: Positions) -> Where:
        pyramid, levels = Pyramid(query.grids), len(query.grids)
        grid_QK2 = unit_displacement(displacement(query, key), query.grids[-1])
        hot = (one_hot(asked.level_L, levels) for asked in (query, key))
        return Where(self._table_for(pyramid), self._term_for(pyramid), grid_QK2[None], *hot)

    def scores(self, where: Where, layer: int) -> Tensor:
        grid_GQK2 = where.grid_1QK2
        if self.log_scale_NH is not None:
            grid_GQK2 = grid_GQK2 * self.log_scale_NH[layer].float().exp()[:, None, None, None]
        bias_HQK = look_up(where.table_NHyx[layer].float(), grid_GQK2)
        if where.term_NHKK is None:
            return bias_HQK
        return bias_HQK + by_levels(where.term_NHKK[layer].float(), where.query_QK, where.key_QK)

    def _table_for(self, pyramid: Pyramid) -> Tensor:
        convention, table_NHyx = self.resample, self.table_NHyx
        if pyramid == self.pyramid:
            return table_NHyx
        if convention is None:
            raise ValueError(
                f"the relative_bias table was made for the grids {self.pyramid}, asked for {pyramid}; the "
                f"model's set_pyramid or set_input_size with a resampling convention moves it, "
                f"relative_bias(resample=swin) lets it follow"
            )
        return self.resampled(
            table_NHyx, pyramid, lambda: stretched(table_NHyx, self.pyramid, pyramid, convention)
        )

    def _term_for(self, pyramid: Pyramid) -> Tensor | None:
        if self.term_NHKK is None or pyramid == self.pyramid:
            return self.term_NHKK
        source = list(source_levels(self.pyramid, pyramid))
        return self.term_NHKK[:, :, source][:, :, :, source]

    def _new_term(self, pyramid: Pyramid) -> Tensor | None:
        if pyramid.num_levels == 1:
            return None
        if self.term_NHKK is None:
            levels = pyramid.num_levels
            return self.table_NHyx.new_zeros(*self.table_NHyx.shape[:2], levels, levels)
        return self._term_for(pyramid)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "RelativeBias":
        self.resampled.clear()  # as in `learned`
        return super()._apply(fn, recurse)


def stretched(table_NHyx: Tensor, old: Pyramid, new: Pyramid, convention: str | Convention) -> Tensor:
    """Tables of the displacements on `old`'s finest grid as tables of those on `new`'s."""
    for axis, (side, wanted) in enumerate(zip(old.finest, new.finest, strict=True)):
        if wanted == 1:  # no displacement is left; align_corners would take the largest
            table_NHyx = table_NHyx.narrow(2 + axis, side - 1, 1)
    old_size = (table_NHyx.shape[2], table_NHyx.shape[3])
    new_size = (2 * new.finest[0] - 1, 2 * new.finest[1] - 1)
    rows_LC = table_NHyx.flatten(2).flatten(0, 1).T
    moved_LC = interpolate_table(rows_LC, old_size, new_size, convention)
    return moved_LC.T.unflatten(1, new_size).unflatten(0, table_NHyx.shape[:2])
