"""`interpolate_table` as two products with matrices that follow from the new sides by formula.

A program of torch.export serves every size only if nothing in it was computed from one. torch's resampling is
a kernel that ONNX has in parts, and whose antialiased form takes no size that is a symbol.
"""

import torch
from torch import Tensor

from var_pe.pyramid import Grid
from var_pe.resampling.conventions import DEFAULT_CONVENTION, Convention, convention_of
from var_pe.resampling.precision import full_precision

# Cubic coefficients of torch's kernels (Keys 1981), without and with antialiasing
CUBIC, CUBIC_ANTIALIASED = -0.75, -0.5


def table_as_products(
    table_LC: Tensor, old: Grid, new: Grid, convention: str | Convention = DEFAULT_CONVENTION
) -> Tensor:
    """`interpolate_table` up to rounding; the sides of `new` may be symbols of a program, of 2 or more.

    But for what no named convention asks for, an offset with mode bilinear or with antialiasing: there torch
    leaves an axis alone whose side stays, and this moves it.
    """
    how = convention_of(convention)
    new_2 = torch.stack([_count(side, table_LC.device) for side in new])
    same = (new_2 == torch.tensor(old, device=table_LC.device)).all()

    with full_precision(table_LC):
        table_hwC = table_LC.to(torch.promote_types(table_LC.dtype, torch.float32)).unflatten(0, old)
        rows_nh, columns_mw = (
            # A table of its own grid stays as it is, whatever the convention would make of it.
            torch.where(same, _identity(n, o, table_LC.device), _weights(n, o, how, table_LC.device))
            for n, o in zip(new, old, strict=True)
        )
        moved_nwC = torch.einsum("nh,hwC->nwC", rows_nh.to(table_hwC.dtype), table_hwC)
        moved_nmC = torch.einsum("mw,nwC->nmC", columns_mw.to(table_hwC.dtype), moved_nwC)
        return moved_nmC.flatten(0, 1).to(table_LC.dtype)


def _count(side: int, device: torch.device) -> Tensor:
    """A side, which may be a symbol, as a number on the device."""
    return torch.arange(side, device=device)[-1] + 1


def _identity(new: int, old: int, device: torch.device) -> Tensor:
    return (torch.arange(new, device=device)[:, None] == torch.arange(old, device=device)).float()


def _weights(new: int, old: int, how: Convention, device: torch.device) -> Tensor:
    """How much each of `new` cells of an axis takes of each of `old` ones, (new, old)."""
    if how.mode == "area":
        return _means(new, old, device)

    # Where the new cells' centres lie, in old cells from the first one's centre
    i_n = torch.arange(new, device=device, dtype=torch.float32)
    count = _count(new, device).float()
    if how.align_corners:
        centre_n = i_n * ((old - 1) / (count - 1))
    else:
        centre_n = (i_n + 0.5) * (old / (count + how.offset)) - 0.5

    if how.antialias:
        # The kernel is as wide as a new cell where that is larger; what lies outside the table is left out.
        width = torch.clamp(old / count, min=1)
        away_no = (torch.arange(old, device=device) - centre_n[:, None]) / width
        weight_no = _cubic(away_no, CUBIC_ANTIALIASED) if how.mode == "bicubic" else _hat(away_no)
        return weight_no / weight_no.sum(1, keepdim=True)

    # The nearest two or four cells, those outside the table being its border's
    weight_no = torch.zeros(new, old, device=device)
    below_n = centre_n.floor()
    for step in (-1, 0, 1, 2):
        cell_n = below_n + step
        away_n = cell_n - centre_n
        weight_n = _cubic(away_n, CUBIC) if how.mode == "bicubic" else _hat(away_n)
        is_it_no = cell_n.clamp(0, old - 1)[:, None] == torch.arange(old, device=device)
        weight_no = weight_no + weight_n[:, None] * is_it_no
    return weight_no


def _means(new: int, old: int, device: torch.device) -> Tensor:
    """The mean over the old cells that a new one touches, each as much as the others (adaptive pooling)."""
    i_n = torch.arange(new, device=device)
    count = _count(new, device)
    first_n = (i_n * old).div(count, rounding_mode="floor")
    stop_n = ((i_n + 1) * old + count - 1).div(count, rounding_mode="floor")

    o = torch.arange(old, device=device)
    touched_no = ((o >= first_n[:, None]) & (o < stop_n[:, None])).float()
    return touched_no / touched_no.sum(1, keepdim=True)


def _hat(away: Tensor) -> Tensor:
    return torch.clamp(1 - away.abs(), min=0)


def _cubic(away: Tensor, a: float) -> Tensor:
    """Keys's kernel, of which a is the slope at 1."""
    x = away.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
