"""A stage: from the map before to its own, positions, and blocks."""

import copy
from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn

from var_pe.encodings import PositionEncoding, build_encoding
from var_pe.models.attention import PositionContext
from var_pe.models.blocks import Blocks
from var_pe.models.hierarchy.attention import LinearAttention, MapContext, calls_of, positions_on, pyramid_of
from var_pe.models.hierarchy.blocks import EPSILON, ConvolutionBlock, MapBlock, Merging
from var_pe.models.hierarchy.lines import AttentionShape, Convolution, Linear, StageShape
from var_pe.models.layers import BlockSettings, as_map, as_tokens
from var_pe.pyramid import Sides
from var_pe.resampling.precision import full_precision


@dataclass(frozen=True)
class StageLayout:
    """What a stage is made for."""

    shape: StageShape
    # width of the map before; None where that is the stage's own
    width_before: int | None
    # the stage's map
    grid: Sides
    # the map that it was first built for (see `build_encoding`)
    kept_grid: Sides
    # probabilities that the branches of the first and of the last block are skipped
    drops: tuple[float, float]
    # whether encodings say when a token of a clip is
    time_positions: bool = True


class Stage(nn.Module):
    """Blocks on one map.

    What an encoding adds to tokens, or does to them between blocks, belongs to the whole map; what it does in
    attention belongs to the part that a token sees, such as a window (`AttentionShape.attention_grid`).

    Raises:
        ValueError: the encoding cannot be built for the stage, or linear attention cannot follow it.
    """

    def __init__(self, layout: StageLayout, settings: BlockSettings) -> None:
        super().__init__()
        self.shape = shape = layout.shape
        self.time_positions = layout.time_positions
        self.merging: Merging | None = None
        if layout.width_before is not None:
            norms_first = not isinstance(shape, AttentionShape) or shape.norm == "pre"
            self.merging = Merging(layout.width_before, shape.dim, shape.stride, norms_first)

        self.map_position_encoding: PositionEncoding | None = None
        self.position_encoding: PositionEncoding | None = None
        blocks: list[nn.Module]
        if isinstance(shape, AttentionShape):
            known = slice(None) if layout.time_positions else slice(-2, None)  # of the sides
            grid, kept_grid = layout.grid[known], layout.kept_grid[known]
            self.map_position_encoding = _built(shape, grid, kept_grid, "on tokens")
            part, kept_part = shape.attention_grid(grid), shape.attention_grid(kept_grid)
            self.position_encoding = _built(shape, part, kept_part, "in attention")
            if isinstance(shape, Linear):
                LinearAttention.check(self.position_encoding, shape.encoding)
            blocks = [MapBlock(shape, settings) for _ in range(shape.blocks)]
        else:
            assert isinstance(shape, Convolution), "the one kind without attention"
            blocks = [ConvolutionBlock(shape, settings) for _ in range(shape.blocks)]
        first, last = layout.drops
        self.blocks = Blocks(blocks, last, first)

    @property
    def encodings(self) -> dict[str, PositionEncoding]:
        """By their names here."""
        both = {
            "map_position_encoding": self.map_position_encoding,
            "position_encoding": self.position_encoding,
        }
        return {name: encoding for name, encoding in both.items() if encoding is not None}

    def moved(self, shape: StageShape, grid: Sides, resample: str | None) -> dict[str, PositionEncoding]:
        """Copies of the encodings for a map of `grid` and parts as `shape` has them; nothing here changes.

        Raises:
            ValueError: a table has to move and no `resample` says how.
        """
        copies = {name: copy.deepcopy(encoding) for name, encoding in self.encodings.items()}
        if isinstance(shape, AttentionShape):
            copies["map_position_encoding"].set_pyramid(pyramid_of(grid), resample)
            copies["position_encoding"].set_pyramid(pyramid_of(shape.attention_grid(grid)), resample)
        return copies

    def forward(self, x_BLC: Tensor, grid: Sides) -> tuple[Tensor, Sides]:
        """From the map before, whose sides are `grid`; gives the tokens of this stage's map and its sides."""
        if self.merging is not None:
            x_BLC = self.merging(x_BLC, grid)
            *times, rows, columns = grid
            grid = (*times, rows // self.shape.stride, columns // self.shape.stride)
        x_BLC = x_BLC.to(next(self.parameters()).dtype)  # under autocast the sum of all branches is float32
        return self.on_map(x_BLC, grid), grid

    def on_map(self, x_BLC: Tensor, grid: Sides) -> Tensor:
        if not isinstance(self.shape, AttentionShape):
            return self.blocks(x_BLC, MapContext(grid, _NOWHERE))

        of_tokens, in_attention = self.map_position_encoding, self.position_encoding
        assert of_tokens is not None, "a stage with attention has it"
        assert in_attention is not None, "and this one, too"
        context = of_tokens.prepare(positions_on(grid, x_BLC.device, self.time_positions))
        if of_tokens.uses("embed"):  # in float32, or neighbours would coincide
            dtype = x_BLC.dtype
            with full_precision(x_BLC):
                x_BLC = of_tokens.embed(x_BLC.float(), context).to(dtype)

        clips, device = x_BLC.shape[0], x_BLC.device
        calls = calls_of(self.shape, in_attention, grid, clips, device, self.time_positions)
        return self.blocks(x_BLC, MapContext(grid, PositionContext(of_tokens, context, context), calls))


# for stages without attention, in which no encoding acts
_NOWHERE = PositionContext(PositionEncoding(), None, None)


def _built(
    shape: AttentionShape, grid: Sides, kept_grid: Sides, acting: Literal["on tokens", "in attention"]
) -> PositionEncoding:
    return build_encoding(
        shape.encoding,
        dim=shape.dim,
        num_heads=shape.heads,
        depth=shape.blocks,
        pyramid=pyramid_of(grid),
        times=prod(grid[:-2]),
        kept_grids=pyramid_of(kept_grid).grids,
        acting=acting,
    )


class MobileStage(Stage):
    """MobileViT's block (Mehta & Rastegari 2022, figure 1b), its transformer as wide as its map.

    A 3x3 and a 1x1 convolution, attention among equal places of patches, a 1x1 convolution, and a 3x3 one
    over what came in beside what came out. Norms are over an image's channels and cells (`GroupNorm`), not
    over the batch, and GELU stands for SiLU.
    """

    def __init__(self, layout: StageLayout, settings: BlockSettings) -> None:
        super().__init__(layout, settings)
        dim = layout.shape.dim
        self.local = nn.Sequential(*_convolution(dim, dim, 3), nn.Conv2d(dim, dim, 1))
        self.norm = nn.LayerNorm(dim, eps=EPSILON)
        self.back = nn.Sequential(*_convolution(dim, dim, 1))
        self.fusion = nn.Sequential(*_convolution(2 * dim, dim, 3))

    def on_map(self, x_BLC: Tensor, grid: Sides) -> Tensor:
        x_BChw = as_map(x_BLC, grid)
        y_BLC = as_tokens(self.local(x_BChw)).to(x_BLC.dtype)
        y_BLC = self.norm(super().on_map(y_BLC, grid))
        y_BChw = self.back(as_map(y_BLC, grid))
        return as_tokens(self.fusion(torch.cat([x_BChw, y_BChw.to(x_BLC.dtype)], dim=1)))


def _convolution(before: int, dim: int, side: int) -> list[nn.Module]:
    return [nn.Conv2d(before, dim, side, padding=side // 2), nn.GroupNorm(1, dim), nn.GELU()]
