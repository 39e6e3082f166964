"""Learned table: one free vector per cell of every level, VAR's `pos_1LC`."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from var_pe.encodings.base import ModelShape, TokenEncoding, register
from var_pe.encodings.machinery.codes import amplitude, sinusoidal_code, standard_deviation
from var_pe.encodings.machinery.coordinates import in_finest_cells
from var_pe.encodings.machinery.moments import MomentTable
from var_pe.pyramid import Positions, Pyramid
from var_pe.resampling.as_products import table_as_products
from var_pe.resampling.conventions import (
    Convention,
    check_moved,
    check_table,
    convention_of,
    interpolate_levels,
)
from var_pe.resampling.derived import DerivedCache
from var_pe.resampling.grid_bound import GridBound

INITS = ("trunc_normal", "xavier", "sinusoidal")


@register("learned", has_time=True)
class Learned(GridBound, TokenEncoding):
    """One row per token of the pyramid (Dosovitskiy et al. 2021; per level in VAR, Tian et al. 2024).

    The table keeps the grids it was made for in `grids_K2`. Other grids are an error, unless `set_pyramid`
    moves the table to them or `resample` lets it follow them. A level's codes come from the same level where
    both pyramids have as many, else from the level whose sides are nearest in logarithm.

    In clips a second table has a row for each moment, which is added (TimeSformer). It starts as the fixed
    code of moments with `init=sinusoidal`, else truncated-normal, and does not move to another length.

    Costs an addition to the tokens, and where it follows by `resample` while it is trained one resampling per
    forward; attention's kernels stay.

    Args:
        init: `trunc_normal` (standard deviation sqrt(1 / (3 C))), `xavier` (normal, with the fans of the
            whole (L, C) table) or `sinusoidal` (the fixed code, brought to sqrt(1 / (3 C)) root mean square
            about its mean: the control for a mixture). One standard deviation for all levels: fans of a
            single level would spread it elevenfold between 1x1 and 16x16.
        scale: the table is multiplied by it.
        trainable: false leaves the table as it starts: a random or sinusoidal code, depending on `init`.
        resample: name of a convention (`timm`, `torchvision`, `area` ...) under which other grids get the
            table resampled in the forward pass; the stored table stays as it is. None: they are an error.
    """

    what = "a learned table"

    def __init__(
        self,
        shape: ModelShape,
        *,
        init: str = "trunc_normal",
        scale: float = 1.0,
        trainable: bool = True,
        resample: str | None = None,
    ) -> None:
        super().__init__(shape, scale=scale)
        if init not in INITS:
            raise ValueError(f"learned: init is one of {', '.join(INITS)}, got {init!r}")
        if init == "sinusoidal" and shape.dim % 4:
            raise ValueError(
                f"learned(init=sinusoidal) needs a width that is a multiple of 4, got {shape.dim}"
            )

        self.init = init
        self.resample = None if resample is None else convention_of(resample, "resample")
        self.resampled = DerivedCache()
        table_LC = torch.zeros(shape.pyramid.num_tokens, shape.dim)
        self.table_LC = nn.Parameter(table_LC, requires_grad=trainable)
        self._made_for(shape.pyramid)
        self.moments: MomentTable | None = None
        if shape.times > 1:
            sinusoidal = init == "sinusoidal"
            self.moments = MomentTable(shape.times, shape.dim, trainable=trainable, sinusoidal=sinusoidal)

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        std = standard_deviation(self.dim)
        if self.init == "trunc_normal":
            nn.init.trunc_normal_(parameter, std=std, generator=generator)
        elif self.init == "xavier":
            nn.init.xavier_normal_(parameter, generator=generator)
        else:
            code_LC = sinusoidal_code(in_finest_cells(self.pyramid.positions()), self.dim, 10000.0)
            with torch.no_grad():
                parameter.copy_(code_LC * (std / amplitude(code_LC)))

    @torch.no_grad()
    def set_pyramid(self, pyramid: Pyramid, convention: str | Convention | None = None) -> None:
        if pyramid == self.pyramid:
            return

        convention = convention or self.resample
        if convention is None:
            raise ValueError(
                f"the learned table was made for the grids {self.pyramid}; "
                f"moving it to {pyramid} needs the name of a resampling convention"
            )

        check_table(self.table_LC, "the learned table")
        moved_LC = interpolate_levels(self.table_LC, self.pyramid, pyramid, convention)
        check_moved(moved_LC, "the learned table")

        self.table_LC = nn.Parameter(moved_LC.clone(), requires_grad=self.table_LC.requires_grad)
        self._made_for(pyramid)
        self.resampled.clear()

    def code_LC(self, positions: Positions) -> Tensor:
        if self.resample is not None and self.is_of_any_size():
            return table_as_products(self.table_LC, self.pyramid.finest, positions.grids[-1], self.resample)

        pyramid = Pyramid(positions.grids)
        table_LC = self.table_LC if pyramid == self.pyramid else self._following_LC(pyramid)

        # One level, or some, of the pyramid: their rows.
        spans = pyramid.spans
        rows = slice(spans[positions.levels.start].start, spans[positions.levels.stop - 1].stop)
        return table_LC[rows].float()

    def time_TC(self, positions: Positions) -> Tensor:
        assert self.moments is not None, "built for clips"
        return self.moments(positions)

    def _following_LC(self, pyramid: Pyramid) -> Tensor:
        """The table as it is resampled for the forward pass."""
        convention = self.resample
        if convention is None:
            raise ValueError(
                f"the learned table was made for the grids {self.pyramid}, asked for {pyramid}; the model's "
                f"set_pyramid or set_input_size with a resampling convention moves it, "
                f"learned(resample=timm) lets it follow"
            )

        return self.resampled(
            self.table_LC,
            pyramid,
            lambda: interpolate_levels(self.table_LC, self.pyramid, pyramid, convention),
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Learned":
        self.resampled.clear()  # the module moves: what lies on the old device need not be kept
        return super()._apply(fn, recurse)
