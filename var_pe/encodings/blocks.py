"""Places by blocks: a code for the block that a cell lies in, plus a code for where in the block it lies."""

from collections.abc import Callable
from functools import lru_cache
from typing import Self, cast

import torch
from torch import Tensor

from var_pe.encodings.base import BuildPart, ModelShape, PositionEncoding, TokenEncoding, register
from var_pe.encodings.mixed import Mixed
from var_pe.pyramid import Grid, Positions, Pyramid
from var_pe.resampling.conventions import Convention
from var_pe.settings.line import Member, check_options

SIZE = 8  # cells along a block's side, if a line does not say


@register("blocks")
class Blocks(TokenEncoding):
    """`(of_blocks[block of the cell] + inside[cell in its block]) / sqrt(2)`; `blocks(learned, size=8)`.

    For long sequences: each level of h x w cells is cut into blocks of `size` x `size`, from its first cell
    on, those at its end perhaps cut off. A token encoding is built twice: for the pyramid of the blocks,
    ceil(h / size) x ceil(w / size) a level, and for one grid of `size` x `size` cells that all blocks of all
    levels share. A learned table of the 9,451 tokens of VAR's 1,024 pixels has then 168 + 64 rows. Divided by
    sqrt(2), the sum is as large as either. (Codes of a block and inside it are how tables for texts are
    stretched to longer ones, Su 2020; in two dimensions it is ours.)

    Another pyramid has other blocks, between which the first of the two codes moves as it would between
    cells; the second stays. Costs an addition to the tokens; attention's kernels stay.

    Args:
        part: the encoding of both codes, one that is added to tokens; a `sinusoidal` in brackets has scale 1.
        size: cells along a block's side, at least 2.
        scale: the code is multiplied by it.
    Raises:
        ValueError: there is not one part, it is not added to tokens, or the size is below 2.
    """

    @classmethod
    def from_line(cls, member: Member, shape: ModelShape, build_part: BuildPart) -> Self:
        check_options(member.name, member.options, cls.__init__)
        if len(member.parts) != 1:
            raise ValueError(f"blocks takes one encoding, as in blocks(learned), got {len(member.parts)}")

        options = dict(member.options)
        size = cast(int, options.pop("size", SIZE))
        if size < 2:
            raise ValueError(f"blocks: size must be at least 2 cells, got {size}")
        of_blocks = build_part(member.parts[0], lambda pyramid: blocks_of(pyramid, size))
        inside = build_part(member.parts[0], lambda pyramid: Pyramid.square(size))
        make: Callable[..., Self] = cls  # with options whose types have been looked at
        return make(shape, of_blocks, inside, size=size, **options)

    def __init__(
        self,
        shape: ModelShape,
        of_blocks: PositionEncoding,
        inside: PositionEncoding,
        *,
        size: int = SIZE,
        scale: float = 1.0,
    ) -> None:
        super().__init__(shape, scale=scale)
        if not isinstance(of_blocks, TokenEncoding) or not isinstance(inside, TokenEncoding):
            raise ValueError("blocks takes an encoding that is added to tokens; join others with +")
        if isinstance(of_blocks, Mixed) and of_blocks.gate:
            raise ValueError("blocks: a mixture with gate=true depends on the token and cannot be a part")
        self.size = size
        self.of_blocks = of_blocks
        self.inside = inside

    def set_pyramid(self, pyramid: Pyramid, convention: str | Convention | None = None) -> None:
        """The blocks' code moves to the new blocks; the code inside a block stays."""
        self.of_blocks.set_pyramid(blocks_of(pyramid, self.size), convention)

    @property
    def one_size_because(self) -> str:
        return "which block a cell lies in is worked out for one grid, and a constant in it"

    def code_LC(self, positions: Positions) -> Tensor:
        device = positions.cell_L2.device
        block_L, inside_L = cells_in_blocks(positions.grids, self.size, device)
        blocks = blocks_of(Pyramid(positions.grids), self.size)
        first, stop = positions.levels.start, positions.levels.stop
        spans = Pyramid(positions.grids).spans
        here = slice(spans[first].start, spans[stop - 1].stop)

        of_blocks_MC = self.of_blocks.prepare(blocks.positions(device).only(first, stop))
        inside_SC = self.inside.prepare(Pyramid.square(self.size).positions(device))
        of_block_LC = of_blocks_MC[block_L[here] - blocks.spans[first].start]
        return (of_block_LC + inside_SC[inside_L[here]]) * 0.5**0.5


def blocks_of(pyramid: Pyramid, size: int) -> Pyramid:
    """The grids of the blocks of each level."""
    return Pyramid(tuple((-(-h // size), -(-w // size)) for h, w in pyramid.grids))


@torch.compiler.assume_constant_result
def cells_in_blocks(grids: tuple[Grid, ...], size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """`cells_in_blocks_on`, which a compiled graph takes as a constant."""
    return cells_in_blocks_on(grids, size, device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # kept for later calls, which may train
def cells_in_blocks_on(grids: tuple[Grid, ...], size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of each token of a pyramid the index of its block among all blocks, and of its cell among a block's.

    int64 (L,) both, row by row. Kept per device: a copy to another one waits for it.
    """
    pyramid = Pyramid(grids)
    blocks = blocks_of(pyramid, size)
    positions = pyramid.positions()
    row_L, column_L = positions.cell_L2.unbind(-1)

    start_K = torch.tensor([span.start for span in blocks.spans])
    columns_K = torch.tensor([w for _, w in blocks.grids])
    level_L = positions.level_L
    block_L = start_K[level_L] + row_L // size * columns_K[level_L] + column_L // size
    inside_L = row_L % size * size + column_L % size
    return block_L.to(device), inside_L.to(device)
