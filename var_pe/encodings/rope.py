"""Rotary encoding: attention sees how far apart two tokens sit, not where they sit."""

from math import pi
from typing import Any

import torch
from torch import Tensor

from var_pe.encodings.base import ModelShape, PositionEncoding, register
from var_pe.encodings.machinery.bands import Bands
from var_pe.encodings.machinery.coordinates import Coordinates, coarseness, in_proportion
from var_pe.encodings.machinery.turn import LAYOUTS, Angles, turn
from var_pe.pyramid import Positions, Pyramid
from var_pe.resampling.conventions import Convention
from var_pe.resampling.precision import full_precision

DIRECTIONS = ("axial", "spiral", "golden")
RAYS = 4  # if a line does not say


@register("rope", has_time=True)
class Rope(PositionEncoding[Any]):  # `rope_mixed` prepares angles for each layer
    """Turns the first half of each head's D / 2 channel pairs by y, the second half by x.

    RoFormer (Su et al. 2021) with the axial frequencies of RoPE-ViT (Heo et al. 2024): pair k of an axis
    turns by base^(-k / (D / 4)) radians per cell of the finest level, k = 0 .. D / 4 - 1; with `unit=image`
    2 pi times as much per unit of [-1, 1] (DINOv3). The inner product of a turned query and a turned key
    depends on the displacement only. Prefix tokens are not turned and so count as sitting at 0, 0: the
    picture's top left corner, with `unit=image` its centre.

    Costs one product per channel on queries and keys; attention keeps its flash kernels, as nothing is added
    to the scores. A KV cache holds turned keys, which later levels never move.

    Other `directions` than the axes: a pair turns by w (y sin a + x cos a), its own w along its own a, so
    that oblique displacements are told apart as axial ones are. Still a function of the displacement only.
    `spiral` (Spiral RoPE, Liu et al. 2026, arXiv 2602.03227, and its public code): frequency k, as above,
    turns the first half along a = pi / 2 - (k mod K / 2) pi / K and the second at right angles, K = `rays`
    in all; there, two frequencies in a row share a direction, here each takes the next. `golden` (golden
    gate RoPE, Xiong 2025, "On N-dimensional rotary positional embeddings", and public code after it): pair p
    of D / 2 turns by base^(-p / (D / 2)) along a = p pi / phi, phi = (1 + sqrt 5) / 2: no two agree, and
    every band of neighbouring frequencies has directions all around. There, p counts on from head to head;
    here all heads have the same directions.

    With `level_axis` a level is a further axis, so that position and level are one code (ours): a pair turns
    in addition by w' l, l = log2(n_finest / n) octaves of its token's level, and w' the lengths
    base^(-k / (D / 4)) in the opposite order, so that the pairs of each half that tell places least tell
    levels most. Scores then depend on displacement and octaves between the levels; the finest level, and a
    ViT, are as without.

    `unit=query` is phase alignment (Wu et al. 2025, arXiv 2511.19778, who change trained models so): in one
    call of attention all positions are counted in cells of the queries' level. A step of one cell of the
    level that asks then turns by the same angle at every level, where under `cells` a step at a coarse level
    may turn the fast pairs all the way around. Each level turns all keys that it meets, K (K + 1) / 2 turns
    of a level's keys in all instead of K, and a KV cache holds them unturned.

    `bands` and `remap` change how fast a pair turns for which level, and on grids larger than trained ones:
    see `Bands`. What differs by level has the price of `unit=query`. A trained model can be remapped without
    training, since there is nothing to learn (`sampling.remap`).

    In clips time is a further axis in the same way: a pair turns in addition by w' t, t = 0, 1, ... the
    token's moment, so that scores depend on displacement and time between the two (ours; others give time
    pairs of its own).

    Args:
        coordinates: `center`, `start`, `corner`, `index` or `learned`; see `Coordinates`.
        unit: `cells` of the finest level, `image`, or cells of the level that asks, `query`.
        base: above 1; wavelengths grow from 2 pi units by base^(4 / D) a pair, short of 2 pi base. 100 is
            what RoPE-ViT takes for cells and DINOv3 for the image: on a grid of 14 the two are nearly the
            same 0.9 .. 0.013 radians a cell. The 10000 of text and of VAR's successors leaves half of the
            pairs all but still on such grids.
        layout: pair p is the channels p and p + D / 2 (`half`, DINOv3), or 2 p and 2 p + 1 (`interleaved`,
            RoFormer). The same operator up to an order of channels; matters for weights from elsewhere.
        shift, jitter, rescale: DINOv3's augmentations of the coordinates, in training only.
        directions: `axial`, `spiral` or `golden`.
        rays: of `spiral`: directions over half a circle, even, at most D / 2; 2 are the axes.
        level_axis: turn by the logarithm of the level's size, too.
        learned_from: the map that `learned` coordinates start as: `center`, `start`, `corner` or `index`.
        learned_rate: what the learned numbers are multiplied by, above 0; see `Coordinates`.
        bands: pairs that turn for a level: `all`, or `resolved`, those that its own grid resolves.
        remap: on larger grids slow pairs turn more slowly: `none`, `parts`, or `levels`, by level.
        trained: with `remap`: rows and columns of the finest grid that was trained.
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
        directions: str = "axial",
        rays: int = RAYS,
        level_axis: bool = False,
        learned_from: str = "center",
        learned_rate: float = 1.0,
        bands: str = "all",
        remap: str | None = None,
        trained: tuple[int, ...] = (),
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

        if directions not in DIRECTIONS:
            raise ValueError(f"{self.name}: directions is one of {', '.join(DIRECTIONS)}, got {directions!r}")

        self.head_dim = shape.dim // shape.num_heads
        if directions != "spiral" and rays != RAYS:
            raise ValueError(f"{self.name}: rays go with directions=spiral, got {directions}")
        if directions == "spiral" and (rays % 2 or not 2 <= rays <= self.head_dim // 2):
            raise ValueError(f"{self.name}: rays is even, from 2 to {self.head_dim // 2} here, got {rays}")

        self.directions = directions
        self.rays = rays
        self.level_axis = level_axis
        self.unit = unit
        self.base = base
        self.layout = layout
        self.bands = Bands(
            self.name, bands=bands, remap=remap or "none", trained=trained, unit=unit, coordinates=coordinates
        )
        if self.bands.differ_by_level and (shift > 0 or jitter > 1 or rescale > 1):
            raise ValueError(
                f"{self.name}: shift, jitter and rescale are drawn once for all tokens, so they do not go "
                f"with bands=resolved or remap=levels, under which each level's queries have their own keys"
            )
        self.coordinates = Coordinates(
            self.name,
            coordinates,
            pyramid=shape.pyramid,
            unit=unit,
            shift=shift,
            jitter=jitter,
            rescale=rescale,
            learned_from=learned_from,
            learned_rate=learned_rate,
        )

    def set_pyramid(self, pyramid: Pyramid, convention: str | Convention | None = None) -> None:
        """Nothing moves; learned coordinates belong to each level."""
        self.coordinates.check_levels(pyramid.num_levels)

    def frequencies(self, device: torch.device | str) -> Tensor:
        """Radians per unit of the coordinates, float32 (D / 4,), fastest first."""
        count = self.head_dim // 4
        exponent_F = torch.arange(count, dtype=torch.float32, device=device) / count
        return self.fastest * self.base**-exponent_F

    @property
    def fastest(self) -> float:
        """Radians per unit of the coordinates, of the fastest pair."""
        return 2 * pi if self.unit == "image" else 1.0

    def waves(self, device: torch.device | str) -> Tensor:
        """What each pair turns by per unit along y and along x, float32 (2, P)."""
        count = self.head_dim // 4
        if self.directions == "axial":
            return torch.block_diag(*self.frequencies(device).expand(2, 1, count))
        if self.directions == "golden":
            pair_P = torch.arange(2 * count, dtype=torch.float32, device=device)
            length_P = self.fastest * self.base ** (-pair_P / (2 * count))
            angle_P = pair_P * (2 * pi / (1 + 5**0.5))
        else:
            length_P = self.frequencies(device).repeat(2)
            ray_F = torch.arange(count, dtype=torch.float32, device=device) % (self.rays // 2)
            # The first half begins with y, as it does where the axes are all.
            angle_F = pi / 2 - ray_F * pi / self.rays
            angle_P = torch.cat([angle_F, angle_F - pi / 2])

        return length_P * torch.stack([angle_P.sin(), angle_P.cos()])

    def octaves(self, positions: Positions) -> Tensor:
        """What each pair turns by for the token's level, float32 (L, P)."""
        octave_K = coarseness(in_proportion(positions.grids), positions.level_L.device)
        octave_L = octave_K[positions.level_L]
        return octave_L[:, None] * self._further_axis(positions.level_L.device)

    def _further_axis(self, device: torch.device) -> Tensor:
        """What each pair turns by per unit of a further axis, float32 (P,): in each half, most where least by
        places."""
        count = self.head_dim // 4
        slowest_first_F = self.base ** (torch.arange(1 - count, 1, device=device) / count)
        return slowest_first_F.repeat(2)

    @property
    def turns_keys_by_query(self) -> bool:
        return self.unit == "query" or self.bands.differ_by_level

    @property
    def one_size_because(self) -> str:
        return "rope(remap) compares the size with the trained one" if self.bands.remap != "none" else ""

    def prepare(self, positions: Positions) -> Any:
        """`Angles` (L, P) with P = D / 2."""
        yx_L2 = self.coordinates(positions)
        with full_precision(yx_L2):
            if self.bands.change_waves:
                wave_L2P = self.bands.limited(self.waves(yx_L2.device), positions)
                angle_LP = (yx_L2[:, :, None] * wave_L2P).sum(dim=1)
            elif self.directions == "axial":
                angle_LP = (yx_L2[:, :, None] * self.frequencies(yx_L2.device)).flatten(1)
            else:
                along_y, along_x = self.waves(yx_L2.device)
                angle_LP = yx_L2[:, :1] * along_y + yx_L2[:, 1:] * along_x
            if self.level_axis:
                angle_LP = angle_LP + self.octaves(positions)
            if positions.time_L is not None:
                angle_LP = angle_LP + positions.time_L[:, None] * self._further_axis(yx_L2.device)
            return Angles.of(angle_LP)

    def turned_by(self, context: Any, share: Tensor) -> Any:
        return Angles.of(context.angle * share)

    def rotate(self, x_BHLD: Tensor, context: Any, layer: int) -> Tensor:
        return turn(x_BHLD, context, self.layout)
