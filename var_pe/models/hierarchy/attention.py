"""Attention on a map, by kinds: in parts of it, in neighbourhoods, through a kernel's features."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from var_pe.encodings import PositionEncoding
from var_pe.models.attention import Part, PositionContext
from var_pe.models.hierarchy.division import Division, Neighbourhoods, PlacesOfPatches, Windows
from var_pe.models.hierarchy.lines import AttentionShape, Local, Mobile, Windowed
from var_pe.models.layers import AttentionHeads
from var_pe.pyramid import Positions, Pyramid, Sides
from var_pe.resampling.precision import full_precision

# Least sum of a query's weights in linear attention, whose features may all round to 0 (the authors add it)
LEAST_WEIGHT = 1e-6


@dataclass(frozen=True)
class Call:
    """One way in which the blocks of a stage attend: in which parts, and what is known there of places."""

    division: Division
    positions: PositionContext


@dataclass(frozen=True)
class MapContext:
    """What the blocks of a stage are given in one forward pass."""

    grid: Sides
    # the encoding of tokens, which acts on the map between blocks
    on_map: PositionContext
    # which blocks take in turn: windows as they lie, then shifted ones
    calls: tuple[Call, ...] = ()

    def at(self, layer: int) -> "MapContext":
        if not self.calls:
            return self
        call = self.calls[layer % len(self.calls)]
        return replace(self, calls=(replace(call, positions=call.positions.at(layer)),))

    def refine(self, x_BLC: Tensor, layer: int) -> Tensor:
        return self.on_map.refine(x_BLC, layer)


def divisions_of(shape: AttentionShape, grid: Sides) -> tuple[Division, ...]:
    """The divisions of a map of `grid` that the blocks of a stage take in turn."""
    if isinstance(shape, Mobile):
        return (PlacesOfPatches(grid, shape.patch),)
    if isinstance(shape, Local):
        return (Neighbourhoods(grid, shape.radius),)
    if not isinstance(shape, Windowed) or shape.attention_grid(grid) == grid:
        return (Division(grid),)

    # Along a side that one window covers there is nothing to shift.
    window = shape.attention_grid(grid)
    sides = zip(grid, window, strict=True)
    shift = tuple(length // 2 if length < side else 0 for side, length in sides)
    as_they_lie = Windows(grid, window, (0,) * len(grid))
    if not shape.shift or not any(shift):
        return (as_they_lie,)
    return as_they_lie, Windows(grid, window, shift)


def pyramid_of(grid: Sides) -> Pyramid:
    """The one level of a map, of a clip's of one of its moments."""
    rows, columns = grid[-2:]
    return Pyramid(((rows, columns),))


def positions_on(grid: Sides, device: torch.device, time_positions: bool = True) -> Positions:
    """Those of the tokens of a map, or of a part of one; where told (`time_positions`) with their moments."""
    positions = pyramid_of(grid).positions(device, *grid[:-2])
    return positions if time_positions else positions.without_time()


def calls_of(
    shape: AttentionShape,
    encoding: PositionEncoding,
    grid: Sides,
    images: int,
    device: torch.device,
    time_positions: bool = True,
) -> tuple[Call, ...]:
    """How the blocks of a stage attend on a map of `grid`, for so many images or clips."""
    context = encoding.prepare(positions_on(shape.attention_grid(grid), device, time_positions))

    calls = []
    for division in divisions_of(shape, grid):
        visible = division.visible(device)
        if visible is not None:
            visible = visible.repeat(images, 1, 1, 1)

        # Neighbourhoods turn queries and keys by their places on the map, and ask for scores block by block.
        parts: tuple[Part, ...] = ()
        if isinstance(division, Neighbourhoods):
            query, key = division.positions(device)
            of_block = (encoding.prepare(query), encoding.prepare(key))
            parts = (Part(query.cell_L2.shape[0], key.cell_L2.shape[0], *of_block, visible),)
        calls.append(Call(division, PositionContext(encoding, context, context, visible, parts=parts)))
    return tuple(calls)


class DividedAttention(AttentionHeads):
    """Multi-head attention among the tokens of each part of a map; that of one part is the usual one."""

    def forward(self, x_BLC: Tensor, context: MapContext, layer: int) -> Tensor:
        (call,) = context.calls
        q_BHlD, k_BHlD, v_BHlD = (call.division.cut(x_BHLD) for x_BHLD in self.projected(x_BLC))
        q_BHlD, k_BHlD, v_BHlD = self.placed(q_BHlD, k_BHlD, v_BHlD, call.positions, layer)
        y_BlHD = self.attended(q_BHlD, k_BHlD, v_BHlD, call.positions, layer)
        return self.proj(call.division.joined(y_BlHD.flatten(2)))


class LocalAttention(AttentionHeads):
    """Multi-head attention of every token to the square of cells around it.

    The neighbourhoods of Image Transformer (Parmar et al. 2018) and of SASA (Ramachandran et al. 2019); cells
    beyond the border are not seen. Equals attention on the whole map under that mask.
    """

    def forward(self, x_BLC: Tensor, context: MapContext, layer: int) -> Tensor:
        (call,) = context.calls
        assert isinstance(call.division, Neighbourhoods), "the division of a local stage"
        q_BHLD, k_BHLD, v_BHLD = self.projected(x_BLC)
        q_BHLD, k_BHLD, v_BHLD = self.placed(q_BHLD, k_BHLD, v_BHLD, call.positions, layer)

        q_BHlD = call.division.cut(q_BHLD)
        k_BHkD = call.division.cut_with_border(k_BHLD)
        v_BHkD = call.division.cut_with_border(v_BHLD)
        y_BlHD = self.attended(q_BHlD, k_BHkD, v_BHkD, call.positions, layer)
        return self.proj(call.division.joined(y_BlHD.flatten(2)))


class LinearAttention(AttentionHeads):
    """`y_q = f(q) . (sum_k f(k) v_k) / f(q) . (sum_k f(k))` with f = elu + 1 (Katharopoulos et al. 2020).

    No score is worked out, so the cost grows with the tokens and not with their square, and an encoding that
    adds to scores, or changes queries and keys before the features, has nothing to act on. A rotation turns
    f(q) and f(k) of the numerator alone, whose sum it would not keep positive (RoFormer, Su et al. 2021,
    equation 19). There is no softmax, and so no temperature: `qk_norm` does not apply.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__(dim, num_heads, qk_norm=False, dropout=dropout)

    @staticmethod
    def check(encoding: PositionEncoding, line: str) -> None:
        """Refuses an encoding that linear attention cannot follow.

        Raises:
            ValueError: it can't.
        """
        acts = [hook for hook in ("remap", "bias", "products", "values") if encoding.uses(hook)]
        if acts:
            raise ValueError(
                f"linear attention works out no scores, on which {line} acts ({', '.join(acts)}): take an "
                f"encoding of tokens or one that turns queries and keys, such as sinusoidal, peg or rope"
            )

    def forward(self, x_BLC: Tensor, context: MapContext, layer: int) -> Tensor:
        (call,) = context.calls
        q_BHLD, k_BHLD, v_BHLD = self.projected(x_BLC)
        dtype = v_BHLD.dtype
        with full_precision(x_BLC):  # sums over all tokens
            q_BHLD, k_BHLD = F.elu(q_BHLD.float()) + 1, F.elu(k_BHLD.float()) + 1
            weight_BHL1 = (q_BHLD @ k_BHLD.sum(2)[..., None]).clamp(min=LEAST_WEIGHT)

            q_BHLD = call.positions.rotate(q_BHLD, layer)
            k_BHLD = call.positions.rotate(k_BHLD, layer)
            y_BHLD = q_BHLD @ (k_BHLD.transpose(2, 3) @ v_BHLD.float()) / weight_BHL1

        y_BLC = y_BHLD.to(dtype).transpose(1, 2).flatten(2)
        return self.proj(F.dropout(y_BLC, self.dropout, self.training))
