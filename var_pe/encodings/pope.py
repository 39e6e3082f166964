"""Polar encoding: what a token is makes lengths, and where it is makes angles."""

from dataclasses import dataclass
from math import pi

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from var_pe.encodings.base import ModelShape, PositionEncoding, own, register
from var_pe.encodings.machinery.coordinates import Coordinates
from var_pe.pyramid import Positions, Pyramid
from var_pe.resampling.conventions import Convention
from var_pe.resampling.precision import full_precision


@dataclass(frozen=True)
class PolarAngles:
    """Angles of queries, (L, D), and what the keys' of each layer have more, (N, H, D)."""

    angle_LD: Tensor
    delta_NHD: Tensor


@register("pope")
class PoPE(PositionEncoding[PolarAngles]):
    """`score = sum over channels c of softplus(q_c) softplus(k_c) cos(w_c d_c + delta_c)`.

    PoPE (Gopalakrishnan et al. 2025, arXiv 2509.10534, and public code after it) on two axes: every channel
    is a number in the plane whose length follows from content and whose angle from position, so that the two
    cannot be confounded as in `rope`, where content turns, too. d is the displacement from query to key. The
    first D / 2 channels turn by y, the others by x, channel k of an axis by base^(-k / (D / 2)) per cell of
    the finest level (2 pi times as much per unit of [-1, 1] with `unit=image`). delta is learned per layer,
    head and channel, from 0; the paper clamps it to one turn, [-2 pi, 0], at whose end its gradient would
    stop. Scores depend on the displacement only. The lengths are made before the norm of `qk_norm`, which
    then scales them alike. Prefix tokens keep their signs and sit at angle 0.

    Costs twice the width of queries and keys, and of the KV cache, which holds turned keys; flash kernels
    stay, and values are filled up with zeros to that width for them.

    Args:
        coordinates, unit, base: as in `rope`.
    Raises:
        ValueError: a head's width is not even, or an option is out of its range.
    """

    blends = False  # heads twice as wide

    def __init__(
        self, shape: ModelShape, *, coordinates: str = "center", unit: str = "cells", base: float = 100.0
    ) -> None:
        super().__init__()
        if shape.dim % (2 * shape.num_heads):
            raise ValueError(f"pope needs dim / num_heads to be even, got {shape.dim} / {shape.num_heads}")
        if not 1 < base < float("inf"):
            raise ValueError(f"pope: base must be above 1 and finite, got {base}")

        if unit == "query":
            raise ValueError(
                "pope: unit is cells or image, got 'query': its keys are widened once for all levels"
            )

        self.head_dim = shape.dim // shape.num_heads
        self.base = base
        self.unit = unit
        self.coordinates = Coordinates(
            "pope", coordinates, pyramid=shape.pyramid, unit=unit, shift=0.0, jitter=1.0, rescale=1.0
        )
        self.delta_NHD = nn.Parameter(torch.zeros(shape.depth, shape.num_heads, self.head_dim))

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        nn.init.zeros_(parameter)

    def set_pyramid(self, pyramid: Pyramid, convention: str | Convention | None = None) -> None:
        """Nothing moves; learned coordinates belong to each level."""
        self.coordinates.check_levels(pyramid.num_levels)

    def prepare(self, positions: Positions) -> PolarAngles:
        yx_L2 = self.coordinates(positions)
        with full_precision(yx_L2):
            count = self.head_dim // 2
            exponent_F = torch.arange(count, dtype=torch.float32, device=yx_L2.device) / count
            wave_F = (2 * pi if self.unit == "image" else 1.0) * self.base**-exponent_F
            angle_LD = (yx_L2[:, :, None] * wave_F).flatten(1)
            return PolarAngles(angle_LD, self.delta_NHD.float())

    def at_layer(self, context: PolarAngles, layer: int) -> PolarAngles:
        return PolarAngles(context.angle_LD, context.delta_NHD[layer : layer + 1])

    def width_of(self, head_dim: int) -> int:
        return 2 * head_dim

    def remap(
        self, q_BHLD: Tensor, k_BHLD: Tensor, context: PolarAngles, layer: int
    ) -> tuple[Tensor, Tensor]:
        with full_precision(q_BHLD):
            angle_LD = context.angle_LD
            delta_H1D = context.delta_NHD[own(layer, len(context.delta_NHD))][:, None]
            return polar(q_BHLD, angle_LD), polar(k_BHLD, angle_LD + delta_H1D)


def polar(x_BHLD: Tensor, angle: Tensor) -> Tensor:
    """Channels as lengths at the given angles: (B, H, L, 2 D), cosines first; float32, rounded once."""
    length_BHLD = F.softplus(x_BHLD.to(torch.promote_types(x_BHLD.dtype, angle.dtype)))
    return torch.cat([length_BHLD * angle.cos(), length_BHLD * angle.sin()], dim=-1).to(x_BHLD.dtype)
