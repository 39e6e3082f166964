"""What another size does to tables: which are resampled, which only read, and what a round trip loses."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor

from var_pe.diagnosis.measures import (
    PlacedEncoding,
    asked_grids,
    bias,
    code,
    has_position_axis,
    name_of,
    turned,
)
from var_pe.encodings import PositionEncoding, TokenEncoding
from var_pe.pyramid import Grid, Positions, Pyramid
from var_pe.resampling.conventions import Convention, interpolate_levels

# How a kept table is read whose member names no convention: between the two nearest entries of each axis.
LINEAR = Convention("bilinear")


def moved(here: PlacedEncoding, pyramid: Pyramid, convention: str) -> PlacedEncoding:
    """The same encoding at other grids, what has a table resampled.

    Raises:
        ValueError: it cannot follow.
    """
    encoding = deepcopy(here.encoding)
    encoding.set_pyramid(pyramid, convention)
    there = PlacedEncoding(encoding, pyramid, here.dim, here.num_heads)

    # A member may refuse in any of its hooks.
    for measure in (code, turned, bias):
        measure(there)
    return there


def with_tables(placed: PlacedEncoding, *, kept: bool) -> list[tuple[PositionEncoding, Pyramid]]:
    """The members that read their tables at every size, or those whose tables move to it.

    Beside each the grids that it is asked for.
    """
    found = []
    for name, part in placed.encoding.named_modules():
        asked = asked_grids(placed.encoding, name, placed.pyramid)
        if (
            asked is not None
            and isinstance(part, PositionEncoding)
            and part.keeps_grids is kept
            and any(has_position_axis(own_name) for own_name, _ in part.named_parameters(recurse=False))
        ):
            found.append((part, asked))
    return found


def own_convention(part: PositionEncoding) -> Convention:
    """The convention by which a member reads a table that it keeps at its grid."""
    return cast(Convention | None, getattr(part, "resample", None)) or LINEAR


@torch.no_grad()
def round_trip(here: PlacedEncoding, there: PlacedEncoding, convention: str) -> float | None:
    """The relative change of what is added to tokens after the way there and back.

    A kept table does not move; in its place stands what is read of it there, read in turn by its own
    convention: as if the model had been made there.
    """
    before_LC = code(here)
    if before_LC is None or not before_LC.norm():
        return None

    back = moved(there, here.pyramid, convention)
    at_there = [pyramid for _, pyramid in with_tables(there, kept=True)]
    for (part, _), pyramid in zip(with_tables(back, kept=True), at_there, strict=True):
        if isinstance(part, TokenEncoding):
            finest = Pyramid((pyramid.finest,))
            table_LC = part.code_LC(finest.positions())
            part.code_LC = partial(_read, table_LC, finest, own_convention(part))  # type: ignore[method-assign]

    after_LC = code(back)
    assert after_LC is not None, "an encoding keeps its hooks where it moves"
    return float((after_LC - before_LC).norm() / before_LC.norm())


def _read(table_LC: Tensor, made_for: Pyramid, convention: Convention, positions: Positions) -> Tensor:
    return interpolate_levels(table_LC, made_for, Pyramid(positions.grids), convention)


@dataclass(frozen=True)
class MovedTable:
    """A table of scores that was resampled."""

    # whose it is
    member: str
    # the grids of its entries here and there
    here: Grid
    there: Grid
    # its relative change after the way there and back
    change: float


@torch.no_grad()
def score_tables(here: PlacedEncoding, there: PlacedEncoding, convention: str) -> Iterator[MovedTable]:
    """What is resampled and not added to tokens: tables of scores by displacement."""
    back = moved(there, here.pyramid, convention)
    for name, part in here.encoding.named_modules():
        if not isinstance(part, PositionEncoding) or isinstance(part, TokenEncoding):
            continue
        for own_name, before in part.named_parameters(recurse=False):
            if not has_position_axis(own_name):
                continue
            after = back.encoding.get_submodule(name).get_parameter(own_name)
            moved_there = there.encoding.get_submodule(name).get_parameter(own_name)
            change = float((after - before).norm() / before.norm().clamp(min=1e-12))
            yield MovedTable(name_of(part), _grid_of(before), _grid_of(moved_there), change)


def _grid_of(table: Tensor) -> Grid:
    return table.shape[-2], table.shape[-1]
