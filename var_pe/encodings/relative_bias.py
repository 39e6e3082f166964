"""Relative position bias: a learned number per head for every displacement between two tokens."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from var_pe.encodings.base import ModelShape, own, register
from var_pe.encodings.machinery.level_term import LevelPairs, LevelTerm
from var_pe.encodings.machinery.moments import MomentPairs, MomentTerm
from var_pe.encodings.machinery.scores import ScoreEncoding, displacement, look_up, unit_displacement
from var_pe.pyramid import Grid, Positions, Pyramid
from var_pe.resampling.as_products import table_as_products
from var_pe.resampling.conventions import (
    Convention,
    check_moved,
    check_table,
    convention_of,
    interpolate_table,
)
from var_pe.resampling.derived import DerivedCache
from var_pe.resampling.grid_bound import GridBound


@dataclass(frozen=True)
class TableCells:
    """The tables of the grids asked for, and where each query and key read them."""

    table_NHyx: Tensor
    # displacements over the largest ones, (1, Lq, Lk, 2)
    grid_1QK2: Tensor
    pairs: LevelPairs | None
    log_scale_NH: Tensor | None
    # of clips
    moments: MomentPairs | None


@register("relative_bias", has_time=True)
class RelativeBias(GridBound, ScoreEncoding[TableCells]):
    """`score += table[head, dy + h - 1, dx + w - 1] + level_term[head, query level, key level]`.

    The table of Swin (Liu et al. 2021): (2h - 1)(2w - 1) numbers a head for a grid of h x w, normal with
    deviation 0.02 at the start. (dy, dx) is the query's centre minus the key's in cells of the finest level,
    within a level and across levels alike; where it is a fraction, as between levels, the table is read
    bilinearly. The level term (`LevelTerm`) is there if the pyramid has more than one level.

    The table keeps the grids it was made for in `grids_K2`. Other grids are an error, unless `set_pyramid`
    moves the table to them or `resample` lets it follow them. It is then stretched to the new displacements,
    as Swin's loader does (`swin`: bicubic), which keeps its middle: no displacement.

    In clips of T moments `time_term[head, dt + T - 1]` is added, 2 T - 1 numbers a head, which do not move to
    another length. (Video Swin, Liu et al. 2022, has one table of dt, dy, dx; a sum cannot tie them.)

    Cost: a bias loses the flash kernel and is looked up anew in every layer, unless `shared`.

    Args:
        shared: one table for all layers instead of one each.
        spatial_scale: every head (of every layer) also learns a factor on its displacements, from 1;
            what then lies beyond the table has its border's value.
        resample: name of a convention (`swin`, `timm`, ...) under which other grids get the table resampled
            in the forward pass; the stored table stays as it is. None: they are an error.
    Raises:
        ValueError: other grids are used, or the table is to move to them, without a convention.
    """

    what = "a relative_bias table"

    def __init__(
        self,
        shape: ModelShape,
        *,
        shared: bool = False,
        spatial_scale: bool = False,
        resample: str | None = None,
    ) -> None:
        super().__init__()
        self.per_layer = not shared
        self._made_for(shape.pyramid)
        self.resample = None if resample is None else convention_of(resample, "resample")
        self.resampled = DerivedCache()

        h, w = shape.pyramid.finest
        heads = shape.num_heads
        tables = 1 if shared else shape.depth
        self.table_NHyx = nn.Parameter(torch.zeros(tables, heads, 2 * h - 1, 2 * w - 1))
        self.level_term = LevelTerm(shape.pyramid, heads, tables)
        self.log_scale_NH = nn.Parameter(torch.zeros(tables, heads)) if spatial_scale else None
        self.time_term = MomentTerm(shape.times, heads, tables) if shape.times > 1 else None

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
        table_NHyx = stretched(self.table_NHyx, self.pyramid, pyramid, convention).clone()
        check_moved(table_NHyx, "the relative_bias table")

        self.table_NHyx = nn.Parameter(table_NHyx, requires_grad=self.table_NHyx.requires_grad)
        self.level_term.set_pyramid(pyramid, like=self.table_NHyx)
        self._made_for(pyramid)
        self.resampled.clear()

    def geometry(self, query: Positions, key: Positions) -> TableCells:
        grid_QK2 = unit_displacement(displacement(query, key), query.grids[-1])
        table_NHyx = self._table_for(Pyramid(query.grids))
        pairs = self.level_term.pairs(query, key)
        moments = None if self.time_term is None else self.time_term.pairs(query, key)
        return TableCells(table_NHyx, grid_QK2[None], pairs, self.log_scale_NH, moments)

    def geometry_at(self, geometry: TableCells, layer: int) -> TableCells:
        log_scale_NH = geometry.log_scale_NH
        return replace(
            geometry,
            table_NHyx=geometry.table_NHyx[layer : layer + 1],
            pairs=None if geometry.pairs is None else geometry.pairs.at(layer),
            log_scale_NH=None if log_scale_NH is None else log_scale_NH[layer : layer + 1],
            moments=None if geometry.moments is None else geometry.moments.at(layer),
        )

    def scores(self, geometry: TableCells, layer: int) -> Tensor:
        grid_GQK2 = geometry.grid_1QK2
        place = own(layer, len(geometry.table_NHyx))
        if geometry.log_scale_NH is not None:
            grid_GQK2 = grid_GQK2 * geometry.log_scale_NH[place].float().exp()[:, None, None, None]

        bias_HQK = look_up(geometry.table_NHyx[place].float(), grid_GQK2)
        if geometry.moments is not None:
            bias_HQK = bias_HQK + geometry.moments.scores(layer)
        return self.level_term.add_to(bias_HQK, geometry.pairs, layer)

    def _table_for(self, pyramid: Pyramid) -> Tensor:
        table_NHyx = self.table_NHyx
        if self.resample is not None and self.is_of_any_size():
            return stretched(table_NHyx, self.pyramid, pyramid, self.resample, by=table_as_products)
        if pyramid == self.pyramid:
            return table_NHyx

        convention = self.resample
        if convention is None:
            raise ValueError(
                f"the relative_bias table was made for the grids {self.pyramid}, asked for {pyramid}; the "
                f"model's set_pyramid or set_input_size with a resampling convention moves it, "
                f"relative_bias(resample=swin) lets it follow"
            )

        return self.resampled(
            table_NHyx, pyramid, lambda: stretched(table_NHyx, self.pyramid, pyramid, convention)
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "RelativeBias":
        self.resampled.clear()  # as in `learned`
        return super()._apply(fn, recurse)


def stretched(
    table_NHyx: Tensor,
    old: Pyramid,
    new: Pyramid,
    convention: str | Convention,
    by: Callable[[Tensor, Grid, Grid, str | Convention], Tensor] = interpolate_table,
) -> Tensor:
    """Tables of the displacements on `old`'s finest grid as tables of those on `new`'s, resampled `by`."""
    for axis, (side, wanted) in enumerate(zip(old.finest, new.finest, strict=True)):
        if wanted == 1:  # no displacement is left; align_corners would take the largest
            table_NHyx = table_NHyx.narrow(2 + axis, side - 1, 1)

    # Every head of every layer is one channel of a picture of displacements.
    old_size = (table_NHyx.shape[2], table_NHyx.shape[3])
    new_size = (2 * new.finest[0] - 1, 2 * new.finest[1] - 1)
    rows_LC = table_NHyx.flatten(2).flatten(0, 1).T
    moved_LC = by(rows_LC, old_size, new_size, convention)
    return moved_LC.T.unflatten(1, new_size).unflatten(0, table_NHyx.shape[:2])
