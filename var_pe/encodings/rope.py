"""Axial rotary encoding: attention sees how far apart two tokens sit, not where they sit."""

from math import pi
from typing import Any

import torch
from torch import Tensor

from var_pe.encodings.base import ModelShape, PositionEncoding, register
from var_pe.encodings.machinery.coordinates import Coordinates
from var_pe.encodings.machinery.turn import LAYOUTS, Angles, turn
from var_pe.pyramid import Positions, Pyramid
from var_pe.resampling.conventions import Convention
from var_pe.resampling.precision import full_precision


@register("rope")
class Rope(PositionEncoding[Any]):  # `rope_mixed` prepares angles for each layer
    """Turns the first half of each head's D / 2 channel pairs by y, the second half by x.

    RoFormer (Su et al. 2021) with the axial frequencies of RoPE-ViT (Heo et al. 2024): pair k of an axis
    turns by base^(-k / (D / 4)) radians per cell of the finest level, k = 0 .. D / 4 - 1; with `unit=image`
    2 pi times as much per unit of [-1, 1] (DINOv3). The inner product of a turned query and a turned key
    depends on the displacement only. Prefix tokens are not turned and so count as sitting at 0, 0: the
    picture's top left corner, with `unit=image` its centre.

    Costs one product per channel on queries and keys; attention keeps its flash kernels, as nothing is added
    to the scores. A KV cache holds turned keys, which later levels never move.

    Args:
        coordinates: `center`, `start`, `corner`, `index` or `learned`; see `Coordinates`.
        unit: `cells` of the finest level, or `image`.
        base: above 1; wavelengths grow from 2 pi units by base^(4 / D) a pair, short of 2 pi base. 100 is
            what RoPE-ViT takes for cells and DINOv3 for the image: on a grid of 14 the two are nearly the
            same 0.9 .. 0.013 radians a cell. The 10000 of text and of VAR's successors leaves half of the
            pairs all but still on such grids.
        layout: pair p is the channels p and p + D / 2 (`half`, DINOv3), or 2 p and 2 p + 1 (`interleaved`,
            RoFormer). The same operator up to an order of channels; matters for weights from elsewhere.
        shift, jitter, rescale: DINOv3's augmentations of the coordinates, in training only.
    Raises:
        ValueError: a head's width is not a multiple of 4, or an option is out of its range.
    """

    name = "rope"

    def __init__(
        self,
        shape: ModelShape,
        *,
        coordinates: str = "center",
        unit: str = "cells",
        base: float = 100.0,
        layout: str = "half",
        shift: float = 0.0,
        jitter: float = 1.0,
        rescale: float = 1.0,
    ) -> None:
        super().__init__()
        if shape.dim % (4 * shape.num_heads):
            raise ValueError(
                f"{self.name} needs dim / num_heads to be a multiple of 4, "
                f"got {shape.dim} / {shape.num_heads}"
            )
        if not 1 < base < float("inf"):
            raise ValueError(f"{self.name}: base must be above 1 and finite, got {base}")
        if layout not in LAYOUTS:
            raise ValueError(f"{self.name}: layout is one of {', '.join(LAYOUTS)}, got {layout!r}")

        self.head_dim = shape.dim // shape.num_heads
        self.unit = unit
        self.base = base
        self.layout = layout
        self.coordinates = Coordinates(
            self.name,
            coordinates,
            pyramid=shape.pyramid,
            unit=unit,
            shift=shift,
            jitter=jitter,
            rescale=rescale,
        )

    def set_pyramid(self, pyramid: Pyramid, convention: str | Convention | None = None) -> None:
        """Nothing moves; learned coordinates belong to each level."""
        self.coordinates.check_levels(pyramid.num_levels)

    def frequencies(self, device: torch.device | str) -> Tensor:
        """Radians per unit of the coordinates, float32 (D / 4,), fastest first."""
        count = self.head_dim // 4
        exponent_F = torch.arange(count, dtype=torch.float32, device=device) / count
        fastest = 2 * pi if self.unit == "image" else 1.0
        return fastest * self.base**-exponent_F

    def prepare(self, positions: Positions) -> Any:
        """`Angles` (L, P) with P = D / 2."""
        yx_L2 = self.coordinates(positions)
        with full_precision(yx_L2):
            return Angles.of((yx_L2[:, :, None] * self.frequencies(yx_L2.device)).flatten(1))

    def rotate(self, x_BHLD: Tensor, context: Any, layer: int) -> Tensor:
        return turn(x_BHLD, context, self.layout)
