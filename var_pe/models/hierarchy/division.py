"""How a map is divided into parts that attend among themselves: windows, equal places of patches, blocks.

Letters beside the package's: `P` parts of a map; a divided tensor has (B P) in place of B, images first, and
`l` tokens of a part in place of L.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from var_pe.pyramid import Grid, Positions


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
    grid: Grid

    @property
    def sizes(self) -> tuple[int, int, int]:
        """How many parts there are, and the queries and keys of each."""
        tokens = self.grid[0] * self.grid[1]
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


@dataclass(frozen=True)
class Windows(Division):
    """Windows side by side, which `shift` moves down and right by so many cells (Swin, Liu et al. 2021).

    What a shift leaves over at one border is one window with what lies at the opposite one, and neither sees
    the other. A map that is not a whole number of windows is filled up below and at the right by cells that
    nothing else sees. (Swin's code has windows see them, which gives other outputs on such maps.)
    """

    window: Grid
    shift: Grid = (0, 0)

    @property
    def filled(self) -> Grid:
        """The sides of the map in whole windows."""
        (rows, columns), (height, width) = self.grid, self.window
        return -(-rows // height) * height, -(-columns // width) * width

    @property
    def sizes(self) -> tuple[int, int, int]:
        (rows, columns), (height, width) = self.filled, self.window
        return rows // height * (columns // width), height * width, height * width

    def cut(self, x_BHLD: Tensor) -> Tensor:
        (rows, columns), (height, width) = self.filled, self.window
        x_BHhwD = x_BHLD.unflatten(2, self.grid)
        x_BHhwD = F.pad(x_BHhwD, (0, 0, 0, columns - self.grid[1], 0, rows - self.grid[0]))
        if any(self.shift):
            x_BHhwD = x_BHhwD.roll((-self.shift[0], -self.shift[1]), dims=(2, 3))
        return rearrange(x_BHhwD, "B H (y h) (x w) D -> (B y x) H (h w) D", h=height, w=width)

    def joined(self, y_BlC: Tensor) -> Tensor:
        (rows, columns), (height, width) = self.filled, self.window
        y_BhwC = rearrange(
            y_BlC,
            "(B y x) (h w) C -> B (y h) (x w) C",
            y=rows // height,
            x=columns // width,
            h=height,
        )
        if any(self.shift):
            y_BhwC = y_BhwC.roll(self.shift, dims=(1, 2))
        return y_BhwC[:, : self.grid[0], : self.grid[1]].flatten(1, 2)

    def visible(self, device: torch.device) -> Tensor | None:
        if self.filled == self.grid and not any(self.shift):
            return None
        return kept(_windows_visible, self, device)


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
        key = Positions(cells_L2, torch.zeros_like(y_L), yx_L2, (self.grid,), range(1))

        inside_Q = kept(_queries_among_keys, self, device)
        query = Positions(cells_L2[inside_Q], key.level_L[inside_Q], yx_L2[inside_Q], (self.grid,), range(1))
        return query, key

    def _filled(self, x_BHLD: Tensor, border: int) -> Tensor:
        """The map in whole blocks, with a border of zeros around them."""
        (rows, columns), side = self.blocks, self.side
        below = rows * side - self.grid[0] + border
        beside = columns * side - self.grid[1] + border
        return F.pad(x_BHLD.unflatten(2, self.grid), (0, 0, border, beside, border, below))


def _windows_visible(windows: Windows) -> Tensor:
    """(P, 1, l, l): two cells see each other if they were neighbours before the shift, and on the map."""
    # What a shift has wrapped around lies last; what was filled up is a kind by itself.
    kinds = []
    for filled, side, shift in zip(windows.filled, windows.grid, windows.shift, strict=True):
        place_L = torch.arange(filled, device="cpu")
        before_L = (place_L + shift) % filled
        kinds.append(torch.where(before_L < side, (place_L >= filled - shift).long(), 2))
    kind_hw = 3 * kinds[0][:, None] + kinds[1]

    (height, width) = windows.window
    kind_Pl = rearrange(kind_hw, "(y h) (x w) -> (y x) (h w)", h=height, w=width)
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
