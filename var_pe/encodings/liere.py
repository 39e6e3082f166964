"""Rotations of several channels at once by learned generators: LieRE, and STRING where they commute."""

from dataclasses import dataclass, replace
from math import gcd

import torch
from torch import Tensor, nn

from var_pe.encodings.base import ModelShape, own, register
from var_pe.encodings.machinery.orthogonal import apply_blocks, exponential, skew
from var_pe.encodings.machinery.turn import Angles, turn
from var_pe.encodings.rope import Rope
from var_pe.pyramid import Positions
from var_pe.resampling.precision import full_precision


@dataclass(frozen=True)
class Turns:
    """What turns the heads of each layer: rotations (H, L, G, b, b), or planes (H, 1, G, b, b) and angles."""

    blocks: tuple[Tensor, ...]
    angles: tuple[Angles, ...] = ()

    def at(self, layer: int) -> "Turns":
        """Those of one layer alone."""
        here = slice(layer, layer + 1)
        return replace(self, blocks=self.blocks[here], angles=self.angles[here])


@register("liere")
class LieRE(Rope):
    """Each b channels in a row are turned by exp(y A + x B), with learned skew-symmetric A and B.

    LieRE (Ostmeier et al. 2025, arXiv 2406.10322; public code), (y, x) the coordinates, A and B apart for
    each layer and head. Lengths stay; along one axis the product of a turned query and a turned key depends
    on the displacement alone, over both only as far as A and B commute: places may count, too.

    With `commuting`, they do: A = P D_y P^T and B = P D_x P^T with a learned rotation P of b channels and
    pairs that turn by learned frequencies, STRING (Schenck et al. 2025, arXiv 2502.02562). Scores then depend
    on the displacement alone. P is the exponential of a skew-symmetric matrix (their Cayley transform gives
    the same set but for half turns); the last product with P is left out, as it cancels in scores between
    tokens that are turned (in those with prefix tokens, which are not, P^T stays).

    All starts as `rope(layout=interleaved)`, the first half of the channels turned by y and the second by x,
    P = 1; the paper starts from random generators. Prefix tokens are not turned.

    Costs 2 b D numbers a head and layer, half of which count (b D and D with `commuting`), and L D b for the
    rotations of a forward (L D for the angles), products of b x b per token and head, and exponentials of L
    matrices of b x b per block. Flash kernels stay, and a KV cache holds turned keys,
    but not with `unit=query`.

    Args:
        block: b, a divisor of the heads' width D, even; none takes the largest of 8, 4 and 2. The paper has
            8 and D.
        commuting: STRING.
        coordinates, unit, base: as in `rope`; base is that of the start.
    Raises:
        ValueError: the block does not divide a head's width, or an option is out of its range.
    """

    # products of several channels have no half; where they commute, prefix tokens do not have the planes
    blends = False
    name = "liere"

    def __init__(
        self,
        shape: ModelShape,
        *,
        block: int | None = None,
        commuting: bool = False,
        coordinates: str = "center",
        unit: str = "cells",
        base: float = 100.0,
    ) -> None:
        super().__init__(shape, coordinates=coordinates, unit=unit, base=base, layout="interleaved")
        self.block = gcd(8, self.head_dim) if block is None else block
        if type(self.block) is not int or self.block < 2 or self.block % 2 or self.head_dim % self.block:
            raise ValueError(
                f"liere: block is an even divisor of the heads' width {self.head_dim}, got {block!r}"
            )

        self.commuting = commuting
        heads = (shape.depth, shape.num_heads)
        blocks = (self.head_dim // self.block, self.block, self.block)
        if commuting:
            self.plane_NHGbb = nn.Parameter(torch.zeros(*heads, *blocks))
            self.frequency_2NHP = nn.Parameter(torch.zeros(2, *heads, self.head_dim // 2))
        else:
            self.generator_2NHGbb = nn.Parameter(torch.zeros(2, *heads, *blocks))

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        parameter.zero_()
        if name == "plane_NHGbb":
            return

        # The wave of each pair of channels; a generator has it below the diagonal.
        wave_2P = self.start_waves()
        if name == "frequency_2NHP":
            parameter.copy_(wave_2P[:, None, None].expand_as(parameter))
        else:
            pairs = self.block // 2
            wave_2Gp = wave_2P.unflatten(1, (-1, pairs))
            for pair in range(pairs):
                parameter[..., 2 * pair + 1, 2 * pair] = wave_2Gp[:, None, None, :, pair]

    @property
    def one_size_because(self) -> str:
        if self.commuting:
            return "traced for every size, its products with planes refuse a batch of one image"
        return "the longest side says how often matrices are squared, which a program has counted once"

    def start_waves(self) -> Tensor:
        """What `rope` turns each pair of interleaved channels by per unit along y and along x, (2, P)."""
        length_F = self.frequencies("cpu")
        zero_F = torch.zeros_like(length_F)
        return torch.stack([torch.cat([length_F, zero_F]), torch.cat([zero_F, length_F])])

    def prepare(self, positions: Positions) -> Turns:
        yx_L2 = self.coordinates(positions)
        with full_precision(yx_L2):
            y_L, x_L = yx_L2.unbind(1)
            if self.commuting:
                plane_NHGbb = exponential(skew(self.plane_NHGbb.float()))
                along_y, along_x = self.frequency_2NHP.float()[..., None, :]
                angle_NHLP = y_L[:, None] * along_y + x_L[:, None] * along_x
                angles = tuple(Angles.of(angle_HLP) for angle_HLP in angle_NHLP.unbind())
                return Turns(plane_NHGbb.mT[:, :, None].unbind(), angles)

            # Twice as far, one more squaring: 4 radians a cell are still turned exactly.
            longest = max(positions.grids[-1])
            squarings = 6 + sum(longest > 16 * 2**octave for octave in range(8))
            rotations = []
            for of_y, of_x in zip(*skew(self.generator_2NHGbb.float()), strict=True):
                by_y = y_L[:, None, None, None] * of_y[:, None]
                by_x = x_L[:, None, None, None] * of_x[:, None]
                rotations.append(exponential(by_y + by_x, squarings))
            return Turns(tuple(rotations))

    def at_layer(self, context: Turns, layer: int) -> Turns:
        return context.at(layer)

    def rotate(self, x_BHLD: Tensor, context: Turns, layer: int) -> Tensor:
        place = own(layer, len(context.blocks))
        x_BHLD = apply_blocks(x_BHLD, context.blocks[place])
        return turn(x_BHLD, context.angles[place], self.layout) if context.angles else x_BHLD
