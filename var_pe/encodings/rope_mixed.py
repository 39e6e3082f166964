"""Mixed rotary encoding: every channel pair of every head learns the direction it turns along."""

from math import pi

import torch
from torch import Tensor, nn

from var_pe.encodings.base import ModelShape, own, register
from var_pe.encodings.machinery.turn import Angles, turn
from var_pe.encodings.rope import Rope
from var_pe.pyramid import Positions
from var_pe.resampling.precision import full_precision


@register("rope_mixed")
class RopeMixed(Rope):
    """Pair p turns by `f_y * y + f_x * x` with learned (f_y, f_x) per layer and head (Heo et al. 2024).

    They start, as in RoPE-ViT, with lengths base^(-k / (D / 4)) (2 pi times that with `unit=image`) along
    one random direction per layer and head for the first D / 4 pairs, and at right angles to it for the
    rest. Diagonal displacements thus differ from axial ones.

    With `polar` a pair's length and angle are learned apart, f = exp(log_length) (sin angle, cos angle), and
    the angles start uniform in [0, 2 pi), one for each pair: Compass-RoPE (ICML 2026), whose authors find
    that directions learned as (f_y, f_x) crowd along the axes. Its mixing of the angles by a discrete Fourier
    transform is left out: the published abstract does not define it.

    Coordinates, augmentations, layout and prefix tokens as in `rope`. Flash kernels stay; angles, cosines
    and sines take N H L D / 2 floats each, as every layer and head has its own (22 MB for 680 tokens, 16
    layers and 16 heads of 64).

    Args:
        base: as in `rope`; 10 is RoPE-ViT's choice for learned frequencies.
        polar: learn lengths and angles apart.
    """

    name = "rope_mixed"

    def __init__(
        self,
        shape: ModelShape,
        *,
        coordinates: str = "center",
        unit: str = "cells",
        base: float = 10.0,
        layout: str = "half",
        shift: float = 0.0,
        jitter: float = 1.0,
        rescale: float = 1.0,
        polar: bool = False,
    ) -> None:
        super().__init__(
            shape,
            coordinates=coordinates,
            unit=unit,
            base=base,
            layout=layout,
            shift=shift,
            jitter=jitter,
            rescale=rescale,
        )
        pairs = self.head_dim // 2
        self.polar = polar
        if polar:
            self.log_length_NHP = nn.Parameter(torch.zeros(shape.depth, shape.num_heads, pairs))
            self.angle_NHP = nn.Parameter(torch.zeros(shape.depth, shape.num_heads, pairs))
        else:
            self.frequency_2NHP = nn.Parameter(torch.zeros(2, shape.depth, shape.num_heads, pairs))

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        length_P = self.frequencies("cpu").repeat(2)
        if name == "log_length_NHP":
            parameter.copy_(length_P.log().expand_as(parameter))
        elif name == "angle_NHP":
            parameter.copy_(2 * pi * torch.rand(parameter.shape, generator=generator))
        else:
            # One direction for the first half of the pairs, the one at right angles to it for the second.
            angle_NH1 = 2 * pi * torch.rand(*parameter.shape[1:3], 1, generator=generator)
            angle_NH2 = torch.cat([angle_NH1, angle_NH1 + pi / 2], dim=-1)
            angle_NHP = angle_NH2.repeat_interleave(self.head_dim // 4, dim=-1)
            parameter.copy_(length_P * torch.stack([angle_NHP.sin(), angle_NHP.cos()]))

    def learned_waves(self) -> tuple[Tensor, Tensor]:
        """What each pair turns by per unit along y and along x, float32 (N, H, P) each."""
        if not self.polar:
            along_y, along_x = self.frequency_2NHP.float()
            return along_y, along_x

        length_NHP = self.log_length_NHP.float().exp()
        angle_NHP = self.angle_NHP.float()
        return length_NHP * angle_NHP.sin(), length_NHP * angle_NHP.cos()

    def prepare(self, positions: Positions) -> list[Angles]:
        """`Angles` (H, L, P) for each layer."""
        yx_L2 = self.coordinates(positions)
        with full_precision(yx_L2):
            y_L1, x_L1 = yx_L2.split(1, dim=1)
            along_y, along_x = self.learned_waves()
            angle_NHLP = y_L1 * along_y[..., None, :] + x_L1 * along_x[..., None, :]
            return [Angles.of(angle_HLP) for angle_HLP in angle_NHLP.unbind()]

    def turned_by(self, context: list[Angles], share: Tensor) -> list[Angles]:
        return [Angles.of(of_layer.angle * share) for of_layer in context]

    def at_layer(self, context: list[Angles], layer: int) -> list[Angles]:
        return [context[layer]]

    def rotate(self, x_BHLD: Tensor, context: list[Angles], layer: int) -> Tensor:
        return turn(x_BHLD, context[own(layer, len(context))], self.layout)
