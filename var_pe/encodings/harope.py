"""Rotary encoding in planes that every head learns: queries are mapped before the turn, keys inversely."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from var_pe.encodings.base import ModelShape, own, register
from var_pe.encodings.machinery.orthogonal import exponential, skew
from var_pe.encodings.machinery.turn import Angles, turn
from var_pe.encodings.rope import RAYS, Rope
from var_pe.pyramid import Positions
from var_pe.resampling.precision import full_precision


@dataclass(frozen=True)
class MappedAngles:
    """Angles for all layers, and the maps of queries and of keys for each, (N, H, D, D)."""

    angles: Angles
    of_queries: Tensor
    of_keys: Tensor


@register("harope")
class HARoPE(Rope):
    """Queries become M q and keys M^-T k before `rope` turns both, with a learned M per layer and head.

    HARoPE (Li et al. 2025, arXiv 2510.10489, and its public code). The score (M q)^T R(displacement) M^-T k
    depends on the displacement as `rope`'s does, but each head chooses the planes that are turned and how
    channels of content share them; between tokens at the same place it is q . k, whatever M.
    M = U diag(s) V^T with U and V exponentials of skew-symmetric matrices and s = exp(log_scale) (softplus
    in the code), so that it can always be undone. All start at zero: M = 1 and this is `rope`. With normed
    queries and keys (`qk_norm`), the norm comes after M, before the turn: between tokens at one place the
    score is then that of the normed vectors. Prefix tokens are neither mapped nor turned.

    Costs 2 D^2 + D numbers a head and layer (D^2 + D of which count), their exponentials once a forward (in
    drawing once a level), and two products of D x D per token and head; flash kernels stay, and a KV cache
    holds mapped, turned keys, but not with `unit=query`.

    Args:
        coordinates, unit, base, layout, directions, rays, level_axis: as in `rope`.
    """

    name = "harope"

    def __init__(
        self,
        shape: ModelShape,
        *,
        coordinates: str = "center",
        unit: str = "cells",
        base: float = 100.0,
        layout: str = "half",
        directions: str = "axial",
        rays: int = RAYS,
        level_axis: bool = False,
    ) -> None:
        super().__init__(
            shape,
            coordinates=coordinates,
            unit=unit,
            base=base,
            layout=layout,
            directions=directions,
            rays=rays,
            level_axis=level_axis,
        )
        square = (shape.depth, shape.num_heads, self.head_dim, self.head_dim)
        self.left_NHDD = nn.Parameter(torch.zeros(square))
        self.right_NHDD = nn.Parameter(torch.zeros(square))
        self.log_scale_NHD = nn.Parameter(torch.zeros(square[:3]))

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        nn.init.zeros_(parameter)

    def prepare(self, positions: Positions) -> MappedAngles:
        angles: Angles = super().prepare(positions)
        with full_precision(positions.yx_L2):
            left_NHDD = exponential(skew(self.left_NHDD.float()))
            right_NHDD = exponential(skew(self.right_NHDD.float())).mT
            scale_NHD1 = self.log_scale_NHD.float().exp()[..., None]

            # M = U s V^T, and M^-T = U (1 / s) V^T
            return MappedAngles(
                angles, left_NHDD @ (scale_NHD1 * right_NHDD), left_NHDD @ (right_NHDD / scale_NHD1)
            )

    def turned_by(self, context: MappedAngles, share: Tensor) -> MappedAngles:
        return replace(context, angles=Angles.of(context.angles.angle * share))

    def at_layer(self, context: MappedAngles, layer: int) -> MappedAngles:
        here = slice(layer, layer + 1)
        return MappedAngles(context.angles, context.of_queries[here], context.of_keys[here])

    def remap(
        self, q_BHLD: Tensor, k_BHLD: Tensor, context: MappedAngles, layer: int
    ) -> tuple[Tensor, Tensor]:
        place = own(layer, len(context.of_queries))
        map_q = context.of_queries[place].mT.to(q_BHLD.dtype)
        map_k = context.of_keys[place].mT.to(k_BHLD.dtype)
        return q_BHLD @ map_q, k_BHLD @ map_k

    def rotate(self, x_BHLD: Tensor, context: MappedAngles, layer: int) -> Tensor:
        return turn(x_BHLD, context.angles, self.layout)
