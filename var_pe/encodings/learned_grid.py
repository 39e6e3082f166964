"""One learned table for all levels, resampled to each: FlexVAR's positions."""

from dataclasses import replace

from var_pe.encodings.base import ModelShape, register
from var_pe.encodings.learned import Learned
from var_pe.pyramid import Grid, Pyramid
from var_pe.resampling.conventions import Convention


@register("learned_grid")
class LearnedGrid(Learned):
    """A table of one grid, resampled to every level of any pyramid (FlexVAR, Jiao et al. 2025).

    Other sizes, aspects and level counts need no other table. With `area`, FlexVAR's own way, a level at
    least as coarse as the table gets the mean over what each token covers: a random start is thus fainter
    on coarse levels (a 1x1 level of a 16x16 table by 16), a smooth one is not. A level of the table's own
    grid reads its rows themselves.

    Costs an addition to the tokens and, while it is trained, one resampling per level and forward (later the
    results are kept); attention's kernels stay.

    Args:
        grid: (rows, columns) of the table, or one side, 1 to 1024; none takes the pyramid's finest grid.
        resample: a convention of `resampling.conventions.CONVENTIONS`: `area`, `timm`, `torchvision`, ...
        init, scale: as in `learned`; `init=sinusoidal` counts in cells of the table (FlexVAR's start).
    Raises:
        ValueError: an option is not known or out of its range.
    """

    keeps_grids = True

    def __init__(
        self,
        shape: ModelShape,
        *,
        grid: int | Grid | None = None,
        resample: str = "area",
        init: str = "trunc_normal",
        scale: float = 1.0,
    ) -> None:
        if grid is None:
            grid = shape.pyramid.finest
        else:
            sides = grid if isinstance(grid, tuple) else (grid, grid)
            if len(sides) != 2 or not all(type(side) is int and 1 <= side <= 1024 for side in sides):
                raise ValueError(f"learned_grid: grid is one side or two from 1 to 1024, got {grid!r}")

        own = replace(shape, pyramid=Pyramid.of([grid]))
        super().__init__(own, init=init, scale=scale, resample=resample)

    def set_pyramid(self, pyramid: Pyramid, convention: str | Convention | None = None) -> None:
        """Moves nothing: the table keeps its grid, and every pyramid reads it under `resample`."""
