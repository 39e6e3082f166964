"""How a map is divided into parts that attend among themselves: windows, equal places of patches, blocks.

Letters beside the package's: `P` parts of a map; a divided tensor has (B P) in place of B, images first, and
`l` tokens of a part in place of L.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from var_pe.pyramid import Grid, Positions, Sides


@torch.compiler.assume_constant_result
def kept(make: Callable[..., Tensor], division: "Division", device: torch.device) -> Tensor:
    """What follows from a division alone, for later calls; to a compiled graph a constant."""
    return _kept(make, division, device)


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # kept for later calls, which may train
def _kept(make: Callable[..., Tensor], division: "Division", device: torch.device) -> Tensor:
    return make(division).to(device)


@dataclass(frozen=True)
class Division:
    """All of a map as one part; members cut it into several."""

    # the map
    grid: Sides

    @property
    def sizes(self) -> tuple[int, int, int]:
        """How many parts there are, and the queries and keys of each."""
        tokens = prod(self.grid)
        return 1, tokens, tokens

    def cut(self, x_BHLD: Tensor) -> Tensor:
        """The tokens of each part, (B P, H, l, D)."""
        return x_BHLD

    def joined(self, y_BlC: Tensor) -> Tensor:
        """The tokens of the map in their order, (B, L, C), from those of the parts, (B P, l, C)."""
        return y_BlC

    def visible(self, device: torch.device) -> Tensor | None:
        """True (P, 1, l, l) where a token of a part may look; None where all see all."""
        return None


# axes of a map by einops' letters: of its windows, and of the cells inside one
AXES = {2: ("y x", "h w"), 3: ("s y x", "t h w")}


@dataclass(frozen=True)
class Windows(Division):
    """Windows side by side, which `shift` moves down and right by so many cells (Swin, Liu et al. 2021).

    What a shift leaves over at one border is one window with what lies at the opposite one, and neither sees
    the other. A map that is not a whole number of windows is filled up below and at the right by cells that
    nothing else sees. (Swin's code has windows see them, which gives other outputs on such maps.)

    In a clip windows have three sides, and all of this holds along time, too (Video Swin, Liu et al. 2022).
    """

    window: Sides
    shift: Sides

    @property
    def counts(self) -> Sides:
        """How many windows there are along each side."""
        return tuple(-(-side // length) for side, length in zip(self.grid, self.window, strict=True))

    @property
    def filled(self) -> Sides:
        """The sides of the map in whole windows."""
        return tuple(count * length for count, length in zip(self.counts, self.window, strict=True))

    @property
    def sizes(self) -> tuple[int, int, int]:
        return prod(self.counts), prod(self.window), prod(self.window)

    def cut(self, x_BHLD: Tensor) -> Tensor:
        x_BHgD = x_BHLD.unflatten(2, self.grid)
        beyond = [0, 0]  # F.pad begins with the last axis
        for side, filled in zip(reversed(self.grid), reversed(self.filled), strict=True):
            beyond += [0, filled - side]
        x_BHgD = F.pad(x_BHgD, beyond)

        if any(self.shift):
            axes = tuple(range(2, 2 + len(self.grid)))
            x_BHgD = x_BHgD.roll(tuple(-cells for cells in self.shift), dims=axes)
        windows, cells = AXES[len(self.grid)]
        return rearrange(x_BHgD, f"B H {self._map} D -> (B {windows}) H ({cells}) D", **self._lengths)

    def joined(self, y_BlC: Tensor) -> Tensor:
        windows, cells = AXES[len(self.grid)]
        counts = dict(zip(windows.split(), self.counts, strict=True))
        pattern = f"(B {windows}) ({cells}) C -> B {self._map} C"
        y_BgC = rearrange(y_BlC, pattern, **counts, **self._lengths)

        if any(self.shift):
            y_BgC = y_BgC.roll(self.shift, dims=tuple(range(1, 1 + len(self.grid))))
        on_map = tuple(slice(side) for side in self.grid)
        return y_BgC[(slice(None), *on_map)].flatten(1, -2)

    def visible(self, device: torch.device) -> Tensor | None:
        if self.filled == self.grid and not any(self.shift):
            return None
        return kept(_windows_visible, self, device)

    @property
    def _map(self) -> str:
        """The map's axes in einops' letters, each of windows and cells: `(y h) (x w)`."""
        windows, cells = AXES[len(self.grid)]
        return " ".join(f"({one} {cell})" for one, cell in zip(windows.split(), cells.split(), strict=True))

    @property
    def _lengths(self) -> dict[str, int]:
        """How many cells a window has along each axis."""
        return dict(zip(AXES[len(self.grid)][1].split(), self.window, strict=True))


@dataclass(frozen=True)
class PlacesOfPatches(Division):
    """The map in patches of `patch` x `patch` cells: cells at equal places of their patches are one part."""

    patch: int

    @property
    def sizes(self) -> tuple[int, int, int]:
        tokens = self.grid[0] * self.grid[1] // self.patch**2
        return self.patch**2, tokens, tokens

    def cut(self, x_BHLD: Tensor) -> Tensor:
        return rearrange(
            x_BHLD.unflatten(2, self.grid),
            "B H (y p) (x q) D -> (B p q) H (y x) D",
            p=self.patch,
            q=self.patch,
        )

    def joined(self, y_BlC: Tensor) -> Tensor:
        return rearrange(
            y_BlC,
            "(B p q) (y x) C -> B (y p x q) C",
            p=self.patch,
            q=self.patch,
            y=self.grid[0] // self.patch,
        )


@dataclass(frozen=True)
class Neighbourhoods(Division):
    """Queries in blocks of `side` x `side` cells, keys in the same blocks with a border of `radius` cells.

    A query sees the keys that are at most `radius` rows and columns away and lie on the map, so that all
    blocks together are full attention under one mask, at a cost that grows with the tokens.
    """

    radius: int

    @property
    def side(self) -> int:
        """Of a block: with the border twice that, at most, so that few scores are worked out in vain."""
        return min(max(self.grid), 2 * self.radius)

    @property
    def blocks(self) -> Grid:
        """Rows and columns of blocks."""
        return -(-self.grid[0] // self.side), -(-self.grid[1] // self.side)

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.blocks[0] * self.blocks[1], self.side**2, (self.side + 2 * self.radius) ** 2

    def cut(self, x_BHLD: Tensor) -> Tensor:
        """The blocks of queries."""
        x_BHhwD = self._filled(x_BHLD, border=0)
        return rearrange(
            x_BHhwD, "B H (y h) (x w) D -> (B y x) H (h w) D", y=self.blocks[0], x=self.blocks[1]
        )

    def cut_with_border(self, x_BHLD: Tensor) -> Tensor:
        """The blocks with their borders, of keys and values."""
        wide = self.side + 2 * self.radius
        x_BHyxDhw = self._filled(x_BHLD, self.radius).unfold(2, wide, self.side).unfold(3, wide, self.side)
        return rearrange(x_BHyxDhw, "B H y x D h w -> (B y x) H (h w) D")

    def joined(self, y_BlC: Tensor) -> Tensor:
        y_BhwC = rearrange(
            y_BlC, "(B y x) (h w) C -> B (y h) (x w) C", y=self.blocks[0], x=self.blocks[1], h=self.side
        )
        return y_BhwC[:, : self.grid[0], : self.grid[1]].flatten(1, 2)

    def visible(self, device: torch.device) -> Tensor | None:
        """Also for queries beside the map, whose results are dropped: each sees at least itself."""
        return kept(_neighbourhoods_visible, self, device)

    def positions(self, device: torch.device) -> tuple[Positions, Positions]:
        """Those of one block's queries and keys, in cells of the map: all blocks have equal displacements."""
        cells_L2 = kept(_cells_with_border, self, device)
        rows, columns = self.grid
        y_L, x_L = cells_L2.unbind(1)
        yx_L2 = torch.stack([(2 * y_L + 1) / rows - 1, (2 * x_L + 1) / columns - 1], dim=1)
        grids = ((rows, columns),)
        key = Positions(cells_L2, torch.zeros_like(y_L), yx_L2, grids, range(1))

        inside_Q = kept(_queries_among_keys, self, device)
        query = Positions(cells_L2[inside_Q], key.level_L[inside_Q], yx_L2[inside_Q], grids, range(1))
        return query, key

    def _filled(self, x_BHLD: Tensor, border: int) -> Tensor:
        """The map in whole blocks, with a border of zeros around them."""
        (rows, columns), side = self.blocks, self.side
        below = rows * side - self.grid[0] + border
        beside = columns * side - self.grid[1] + border
        return F.pad(x_BHLD.unflatten(2, self.grid), (0, 0, border, beside, border, below))


def _windows_visible(windows: Windows) -> Tensor:
    """(P, 1, l, l): two cells see each other if they were neighbours before the shift, and on the map."""
    # Along each side, what a shift has wrapped around lies last; what was filled up is a kind by itself.
    kind = torch.zeros((), dtype=torch.long, device="cpu")
    for filled, side, shift in zip(windows.filled, windows.grid, windows.shift, strict=True):
        place_L = torch.arange(filled, device="cpu")
        before_L = (place_L + shift) % filled
        along_L = torch.where(before_L < side, (place_L >= filled - shift).long(), 2)
        kind = 3 * kind[..., None] + along_L

    # Windows of the kinds as they lie after the shift
    unshifted = replace(windows, grid=windows.filled, shift=(0,) * len(windows.grid))
    kind_Pl = unshifted.cut(kind.flatten()[None, None, :, None])[:, 0, :, 0]
    return (kind_Pl[:, :, None] == kind_Pl[:, None, :])[:, None]


def _cells_with_border(blocks: Neighbourhoods) -> Tensor:
    """Row and column of a block's keys, (K, 2), counted from the corner of its border."""
    along_w = torch.arange(blocks.side + 2 * blocks.radius, device="cpu")
    return torch.cartesian_prod(along_w, along_w)


def _queries_among_keys(blocks: Neighbourhoods) -> Tensor:
    """Which of a block's keys are its queries, too, (Q,)."""
    inside_K = ((_cells_with_border(blocks) - blocks.radius) // blocks.side == 0).all(1)
    return inside_K.nonzero()[:, 0]


def _neighbourhoods_visible(blocks: Neighbourhoods) -> Tensor:
    """(P, 1, Q, K)."""
    cells_K2 = _cells_with_border(blocks)
    inside_Q = _queries_among_keys(blocks)
    near_QK = (cells_K2[inside_Q][:, None] - cells_K2).abs().amax(-1) <= blocks.radius
    itself_QK = inside_Q[:, None] == torch.arange(len(cells_K2), device="cpu")

    rows, columns = blocks.blocks
    corner_P2 = torch.cartesian_prod(torch.arange(rows, device="cpu"), torch.arange(columns, device="cpu"))
    on_map_PK2 = cells_K2 + corner_P2[:, None] * blocks.side - blocks.radius
    inside_PK = ((on_map_PK2 >= 0) & (on_map_PK2 < torch.tensor(blocks.grid, device="cpu"))).all(-1)
    return ((near_QK & inside_PK[:, None]) | itself_QK)[:, None]
