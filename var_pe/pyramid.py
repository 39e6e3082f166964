"""Geometry: the grids that an image is cut into, and the centre of every token. Imports no other module."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated

import torch
from pydantic import AfterValidator
from torch import Tensor

Grid = tuple[int, int]
# of a map: (rows, columns), or (moments, rows, columns) of a clip's
Sides = tuple[int, ...]

# Largest number of tokens of an image. VAR has 9,451 at 1024 pixels; memory grows with the square.
MOST_TOKENS = 100_000


@dataclass(frozen=True)
class Positions:
    """The position of each token of some consecutive levels of a pyramid.

    `grids` and `levels` are plain Python values, so shapes never have to be read back from a device.
    """

    # row and column in the token's own grid, int64
    cell_L2: Tensor
    # its level, int64
    level_L: Tensor
    # its centre in [-1, 1] x [-1, 1], y first, float32
    yx_L2: Tensor
    # all grids of the pyramid
    grids: tuple[Grid, ...]
    # the levels whose tokens are here
    levels: range
    # of how many moments the tokens are, one moment's after another's: more than 1 in a clip alone
    times: int = 1
    # the token's moment, int64; None in a picture, and where it is not told
    time_L: Tensor | None = None
    # the level of the queries that meet these tokens as keys; None: each token asks for itself
    asking: int | None = None

    @property
    def num_tokens(self) -> int:
        return self.times * sum(h * w for h, w in self.grids_here)

    @property
    def grids_here(self) -> tuple[Grid, ...]:
        """The grids of the levels that are here."""
        return self.grids[self.levels.start : self.levels.stop]

    def only(self, first: int, stop: int) -> "Positions":
        """The positions of the tokens of levels `first` to `stop - 1`."""
        if not self.levels.start <= first < stop <= self.levels.stop:
            raise ValueError(f"levels {first}..{stop - 1} are not among the levels {self.levels} at hand")
        if self.times > 1:  # a clip is one level
            return self

        # The tokens here begin with those of the first level here.
        sizes = [h * w for h, w in self.grids]
        start = sum(sizes[self.levels.start : first])
        span = slice(start, start + sum(sizes[first:stop]))

        return replace(
            self,
            cell_L2=self.cell_L2[span],
            level_L=self.level_L[span],
            yx_L2=self.yx_L2[span],
            levels=range(first, stop),
        )

    def as_keys_of(self, level: int) -> "Positions":
        """The same positions, of keys that queries of this level meet."""
        return replace(self, asking=level)

    def over_time(self, times: int) -> "Positions":
        """Those of a clip, (t, y, x), if these are of one of its pictures, (y, x).

        Raises:
            ValueError: there are several levels, or several moments already.
        """
        if times == 1:
            return self
        if len(self.grids) > 1 or self.times > 1:
            raise ValueError(f"a clip is one level of pictures, got {len(self.grids)} levels")

        moment_T = torch.arange(times, device=self.level_L.device)
        return replace(
            self,
            cell_L2=self.cell_L2.repeat(times, 1),
            level_L=self.level_L.repeat(times),
            yx_L2=self.yx_L2.repeat(times, 1),
            times=times,
            time_L=moment_T.repeat_interleave(len(self.level_L)),
        )

    def at_moment(self) -> "Positions":
        """Those of one picture of a clip, without a time: the same at every moment."""
        return self._rows(slice(len(self.level_L) // self.times), times=1)

    def without_time(self) -> "Positions":
        """The same, where the moments are not told: their tokens are known by their places alone."""
        return replace(self, time_L=None)

    def at_place(self) -> "Positions":
        """Those of one place of a clip, its first, at all moments."""
        return self._rows(slice(None, None, len(self.level_L) // self.times), times=self.times)

    def _rows(self, rows: slice, times: int) -> "Positions":
        return replace(
            self,
            cell_L2=self.cell_L2[rows],
            level_L=self.level_L[rows],
            yx_L2=self.yx_L2[rows],
            times=times,
            time_L=None if self.time_L is None or times == 1 else self.time_L[rows],
        )

    def to(self, device: torch.device | str) -> "Positions":
        return replace(
            self,
            cell_L2=self.cell_L2.to(device),
            level_L=self.level_L.to(device),
            yx_L2=self.yx_L2.to(device),
            time_L=None if self.time_L is None else self.time_L.to(device),
        )


@dataclass(frozen=True)
class Pyramid:
    """Grids (rows, columns) from coarse to fine; a ViT's patch grid is a pyramid of one level.

    Raises:
        ValueError: there is no level, a side is not a positive integer, or one is larger than the last.
    """

    grids: tuple[Grid, ...]

    def __post_init__(self) -> None:
        grids = tuple(_grid(entry) for entry in self.grids)
        object.__setattr__(self, "grids", grids)
        if not grids:
            raise ValueError("a pyramid needs at least one level, got none")

        finest = grids[-1]
        for level, (h, w) in enumerate(grids):
            if h > finest[0] or w > finest[1]:
                raise ValueError(
                    f"level {level} of the pyramid is {h}x{w}, larger than the last, {finest[0]}x{finest[1]}"
                )

    @classmethod
    def of(cls, levels: "Pyramid | Sequence[int | Sequence[int]]") -> "Pyramid":
        """From levels as configs and saved models give them: sides, or pairs of rows and columns."""
        return levels if isinstance(levels, Pyramid) else cls(tuple(_grid(level) for level in levels))

    @classmethod
    def square(cls, *sides: int) -> "Pyramid":
        return cls(tuple((side, side) for side in sides))

    @property
    def num_levels(self) -> int:
        return len(self.grids)

    @property
    def finest(self) -> Grid:
        return self.grids[-1]

    @property
    def num_tokens(self) -> int:
        return sum(h * w for h, w in self.grids)

    @property
    def spans(self) -> tuple[slice, ...]:
        """Where each level's tokens lie in the row of all tokens, coarse to fine, row by row."""
        return _spans(self.grids)

    def for_size(self, height: int, width: int) -> "Pyramid":
        """The same levels for a finest grid of `height` x `width`: each side scaled, rounded, at least 1."""
        height, width = sides_of((height, width), "a finest grid")
        rows, columns = self.finest

        grids = []
        for h, w in self.grids:
            grids.append((max(1, round(h * height / rows)), max(1, round(w * width / columns))))
        return Pyramid.of(grids)

    def positions(self, device: torch.device | str = "cpu", times: int = 1) -> Positions:
        """The positions of all tokens, kept for later calls; `times` is how many moments a clip has."""
        exact = torch.empty(0, device=device).device  # "cuda" as "cuda:0"
        if torch.compiler.is_compiling():  # where sides may be symbols, which no call can be kept for
            cell_L2, level_L, yx_L2 = computed_positions(self.grids, exact)
        else:
            cell_L2, level_L, yx_L2 = positions_on(self.grids, exact)
        return Positions(cell_L2, level_L, yx_L2, self.grids, range(len(self.grids))).over_time(times)

    def __str__(self) -> str:
        return "-".join(str(h) if h == w else f"{h}x{w}" for h, w in self.grids)


def checked_levels(levels: list[int | list[int]]) -> list[int | list[int]]:
    """The levels of a config, unchanged, if attention can handle their pyramid.

    Raises:
        ValueError: they are not a pyramid, or it has more than `MOST_TOKENS` tokens.
    """
    tokens = Pyramid.of(levels).num_tokens
    if tokens > MOST_TOKENS:
        raise ValueError(f"{levels} are {tokens:,} tokens; attention takes at most {MOST_TOKENS:,}")
    return levels


# The type of levels in settings: an error names the setting.
Levels = Annotated[list[int | list[int]], AfterValidator(checked_levels)]


def sides_of(size: Sequence[object], what: str) -> Grid:
    """A height and a width as a pair; the error's sentence calls the argument `what`.

    Raises:
        ValueError: `size` is not two whole numbers of at least 1.
    """
    given = size if isinstance(size, list | tuple) else ()
    sides = [side for side in given if type(side) is int and side >= 1]
    if len(given) != 2 or len(sides) != 2:
        raise ValueError(f"{what} is two whole numbers of at least 1, rows and columns, got {size!r}")
    return sides[0], sides[1]


def _grid(entry: int | Sequence[int]) -> Grid:
    sides = tuple(entry) if isinstance(entry, list | tuple) else (entry, entry)
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise ValueError(
            f"a level of a pyramid is a positive side or two of them (rows, columns), got {entry!r}"
        )
    return sides[0], sides[1]


@lru_cache(maxsize=64)
def _spans(grids: tuple[Grid, ...]) -> tuple[slice, ...]:
    spans = []
    start = 0
    for h, w in grids:
        spans.append(slice(start, start + h * w))
        start += h * w
    return tuple(spans)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # later calls may train
def positions_on(grids: tuple[Grid, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """`computed_positions`, kept per device: copying to a device has to wait for it."""
    cell_L2, level_L, yx_L2 = computed_positions(grids, torch.device("cpu"))  # not every device has float64
    return cell_L2.to(device), level_L.to(device), yx_L2.to(device)


def computed_positions(grids: tuple[Grid, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Cells, levels and centres of `Positions`; nothing in it is copied to the device."""
    cells = []
    levels = []
    centres = []
    for level, (h, w) in enumerate(grids):
        row_h = torch.arange(h, device=device)
        column_w = torch.arange(w, device=device)
        row_l, column_l = (along.flatten() for along in torch.meshgrid(row_h, column_w, indexing="ij"))

        # float64 inside: the centre of 1x1 is exactly 0, 0
        y_l = (row_l.double() + 0.5) / h * 2 - 1
        x_l = (column_l.double() + 0.5) / w * 2 - 1

        cells.append(torch.stack([row_l, column_l], dim=-1))
        levels.append(torch.full((h * w,), level, device=device))
        centres.append(torch.stack([y_l, x_l], dim=-1).float())

    return torch.cat(cells), torch.cat(levels), torch.cat(centres)
