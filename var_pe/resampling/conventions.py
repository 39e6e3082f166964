"""Moves tables of position codes from one grid to another, as each public library does it, by name."""

import math
from dataclasses import dataclass
from operator import index

import torch
import torch.nn.functional as F
from torch import Tensor

from var_pe.pyramid import Grid, Pyramid
from var_pe.resampling.precision import full_precision

MODES = ("bilinear", "bicubic", "area")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # fewer bits have no arithmetic


@dataclass(frozen=True)
class Convention:
    """How `torch.nn.functional.interpolate` is asked to resample.

    Raises:
        ValueError: the mode is not known, or the options do not go together.
    """

    mode: str
    align_corners: bool = False
    # More than a matter of quality: torch's kernel with it takes the cubic coefficient -0.5, the one without
    # it -0.75, so that bicubic results differ even where a table grows.
    antialias: bool = False
    # With one, torch gets the scale (new + offset) / old per axis, which shifts every sample; with 0 it gets
    # the size.
    offset: float = 0.0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"resampling: mode is one of {', '.join(MODES)}, got {self.mode!r}")
        if self.mode == "area" and (self.align_corners or self.antialias or self.offset):
            raise ValueError("resampling: mode area takes no align_corners, antialias or offset")
        if not 0 <= self.offset < 1:
            raise ValueError(f"resampling: offset lies in [0, 1), got {self.offset}")
        if self.offset and self.align_corners:
            raise ValueError("resampling: align_corners goes by the size and takes no offset")


CONVENTIONS = {
    "timm": Convention("bicubic", antialias=True),  # resample_abs_pos_embed, NaFlex
    "torchvision": Convention("bicubic", align_corners=True),  # interpolate_embeddings
    "big_vision": Convention("bilinear", align_corners=True),  # resample_posemb: scipy's zoom of order 1
    "flexivit": Convention("bilinear", antialias=True),  # big_vision's FlexiViT and NaFlex
    "dinov2": Convention("bicubic", offset=0.1),  # DINO and DINOv2 without registers
    "dinov2_reg": Convention("bicubic", antialias=True),  # DINOv2 with registers
    "swin": Convention("bicubic"),  # Swin, DeiT, rope-vit
    "area": Convention("area"),  # FlexVAR's pyramid
}

# taken where none is asked for
DEFAULT_CONVENTION = "timm"


def convention_of(convention: str | Convention, setting: str = "a resampling convention") -> Convention:
    """The convention of that name; one given in full is taken as it is.

    Raises:
        ValueError: there is none of that name; `setting` is what the sentence calls it.
    """
    if isinstance(convention, Convention):
        return convention
    if convention not in tuple(CONVENTIONS):
        raise ValueError(f"{setting} is one of {', '.join(CONVENTIONS)}, got {convention!r}")
    return CONVENTIONS[convention]


def resample_table(
    table_LC: Tensor,
    old: Grid,
    new: Grid,
    convention: str | Convention = DEFAULT_CONVENTION,
    prefix: int = 0,
    name: str = "table",
) -> Tensor:
    """The table of grid `old` (rows, columns) as a table of grid `new`, in its own dtype.

    The first `prefix` rows (class token, registers) belong to no cell and come back untouched. Equal grids
    give back the very table. Checks the values, which waits for the device: where tables are loaded or
    moved; a forward pass calls `interpolate_table`.

    Raises:
        ValueError: `table_LC` (called `name` in the sentence) has not one row a cell, is not finite before
            or after, or an argument is not what it must be.
    """
    how = convention_of(convention, f"{name}: the resampling convention")
    old = _grid(old, f"{name}: its grid")
    new = _grid(new, f"{name}: the grid that it moves to")
    if type(prefix) is not int or prefix < 0:
        raise ValueError(f"{name}: prefix is a whole number of rows of at least 0, got {prefix!r}")
    check_table(table_LC, name)
    if len(table_LC) != prefix + old[0] * old[1]:
        raise ValueError(
            f"{name} has {len(table_LC)} rows, {prefix} prefix tokens and a grid of {old[0]}x{old[1]} "
            f"need {prefix + old[0] * old[1]}"
        )

    moved_LC = interpolate_table(table_LC, old, new, how, prefix)
    check_moved(moved_LC, name)
    return moved_LC


def _grid(grid: Grid, what: str) -> Grid:
    try:
        rows, columns = map(index, grid)
    except (TypeError, ValueError):
        rows = columns = 0
    if rows < 1 or columns < 1:
        raise ValueError(f"{what} must be two whole numbers (rows, columns) of at least 1, got {grid!r}")
    return rows, columns


def check_table(table_LC: Tensor, name: str) -> None:
    """Whether a table can be resampled; waits for the device. One on the meta device has no values to check.

    Raises:
        ValueError: it is not a table of floating-point numbers, or one of them is NaN or infinite.
    """
    if table_LC.dim() != 2 or 0 in table_LC.shape or table_LC.dtype not in DTYPES:
        raise ValueError(
            f"{name} must be rows of floating-point codes, got {tuple(table_LC.shape)} {table_LC.dtype} "
            f"(at least a number a row, of 16 bits or more)"
        )
    if not table_LC.is_meta and not table_LC.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinite values and cannot be resampled")


def check_moved(moved: Tensor, name: str) -> None:
    """Whether a table survived its resampling; waits for the device. On the meta device there is no value.

    Raises:
        ValueError: a finite table went beyond its type: cubic curves overshoot its largest values.
    """
    if not moved.is_meta and not moved.isfinite().all():
        raise ValueError(f"{name} goes beyond {moved.dtype} when it is resampled; float32 holds more")


def interpolate_table(
    table_LC: Tensor, old: Grid, new: Grid, convention: str | Convention = DEFAULT_CONVENTION, prefix: int = 0
) -> Tensor:
    """`resample_table` without its checks: no host synchronisation, gradients reach the table."""
    if old == new:
        return table_LC

    how = convention_of(convention)
    new = (index(new[0]), index(new[1]))  # plain integers: a compiled graph belongs to one size
    scale = None
    if how.offset:
        scale = tuple((n + how.offset) / o for n, o in zip(new, old, strict=True))

    # As a picture; in float32 at least, since the antialiasing kernel has no half on CPUs.
    fine = torch.promote_types(table_LC.dtype, torch.float32)
    table_1Chw = table_LC[prefix:].to(fine).unflatten(0, old)[None].permute(0, 3, 1, 2)

    with full_precision(table_LC):
        moved_1Chw = F.interpolate(
            table_1Chw,
            size=None if scale else new,
            scale_factor=scale,
            mode=how.mode,
            align_corners=None if how.mode == "area" else how.align_corners,
            antialias=how.antialias,
        )

        moved_LC = moved_1Chw.permute(0, 2, 3, 1).flatten(0, 2).to(table_LC.dtype)
        return torch.cat([table_LC[:prefix], moved_LC]) if prefix else moved_LC


def source_levels(old: Pyramid, new: Pyramid) -> tuple[int, ...]:
    """Which level of `old` each level of `new` takes its codes from.

    Level by level where both have as many; else the trained level whose sides are nearest in logarithm, the
    finer one of two that are as near.
    """
    if old.num_levels == new.num_levels:
        return tuple(range(old.num_levels))

    def distance(level: int, grid: Grid) -> float:
        return sum(math.log(n / o) ** 2 for n, o in zip(grid, old.grids[level], strict=True))

    # `min` keeps the first of equals.
    finest_first = tuple(reversed(range(old.num_levels)))
    return tuple(min(finest_first, key=lambda level: distance(level, grid)) for grid in new.grids)


def interpolate_levels(table_LC: Tensor, old: Pyramid, new: Pyramid, convention: str | Convention) -> Tensor:
    """The table of a pyramid as one of another, each level resampled from its level of `source_levels`."""
    levels = []
    for source, grid in zip(source_levels(old, new), new.grids, strict=True):
        level_lC = table_LC[old.spans[source]]
        levels.append(interpolate_table(level_lC, old.grids[source], grid, convention))
    return torch.cat(levels)
