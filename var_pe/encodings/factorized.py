"""Factorised table: one free vector per row plus one per column, so that h + w vectors serve h * w cells.

Of a clip also one per moment.
"""

import torch
from torch import Tensor, nn

from var_pe.encodings.base import ModelShape, TokenEncoding, register
from var_pe.encodings.machinery.codes import standard_deviation
from var_pe.encodings.machinery.moments import MomentTable
from var_pe.pyramid import Positions
from var_pe.resampling.precision import full_precision


@register("factorized", has_time=True)
class Factorized(TokenEncoding):
    """`rows[y] + columns[x]` (NaViT, Dehghani et al. 2023, section 3.4, fractional and additive).

    The tables have one entry a row and a column of the finest grid that they are made for, entry i standing
    for the centre of cell i. A token takes its value where its own centre lies, by linear interpolation along
    each axis between the two nearest entries; before the first entry and beyond the last it takes theirs.
    So the finest level reads the entries themselves, a coarse token what lies in the middle of the cells it
    covers, and any other pyramid (size, aspect, level count) other points of the same tables.

    Each table starts truncated-normal with deviation sqrt(1 / (6 C)): on the finest level their sum has
    `learned`'s sqrt(1 / (3 C)), less between entries. In clips a third table, as large as that sum, has an
    entry for each moment, for clips of that length alone. Costs an addition to the tokens; attention's
    kernels stay.

    Args:
        scale: the code is multiplied by it.
    """

    keeps_grids = True

    def __init__(self, shape: ModelShape, *, scale: float = 1.0) -> None:
        super().__init__(shape, scale=scale)
        rows, columns = shape.pyramid.finest
        self.rows_hC = nn.Parameter(torch.zeros(rows, shape.dim))
        self.columns_wC = nn.Parameter(torch.zeros(columns, shape.dim))
        self.moments = MomentTable(shape.times, shape.dim) if shape.times > 1 else None

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        std = standard_deviation(parameter.shape[1]) / 2**0.5
        nn.init.trunc_normal_(parameter, std=std, generator=generator)

    def code_LC(self, positions: Positions) -> Tensor:
        y_L, x_L = positions.yx_L2.unbind(-1)
        with full_precision(y_L):
            return _read(self.rows_hC.float(), y_L) + _read(self.columns_wC.float(), x_L)

    def time_TC(self, positions: Positions) -> Tensor:
        assert self.moments is not None, "built for clips"
        return self.moments(positions)


def _read(table_nC: Tensor, centre_L: Tensor) -> Tensor:
    """The table's values at points in [-1, 1], linear between the centres of its cells."""
    last = len(table_nC) - 1
    entry_L = ((centre_L + 1) / 2 * len(table_nC) - 0.5).clamp(0, last)
    below_L = entry_L.floor().long()
    above_L = (below_L + 1).clamp(max=last)

    share_L1 = (entry_L - below_L)[:, None]
    return torch.lerp(table_nC[below_L], table_nC[above_L], share_L1)
