"""Which pairs of rotary codes turn for which level, and how much slower on grids larger than trained."""

from math import pi

import torch
from torch import Tensor

from var_pe.encodings.machinery.coordinates import strides
from var_pe.pyramid import Positions

BANDS = ("all", "resolved")
REMAPS = ("none", "parts", "levels")


class Bands:
    """The share of its speed at which a pair turns along an axis, for the level that asks.

    `bands=resolved`: a level uses only the pairs that its own grid resolves, those that turn by at most pi
    from one of its cells to the next; the others stand still for its queries and for the keys they meet.

    `remap` is for grids larger than the `trained` one, s = max(1, n / n_trained) times as large along an
    axis. A pair of wavelength l (in cells of the finest level) turns at the share 1 - r (1 - 1 / s), where

        r = log(l / 2 t) / log(n_trained / 2 t), from 0 to 1; 1 if 2 t >= n_trained.

    Waves as long as the trained grid are stretched with it (interpolation), so that no query meets a phase
    that was not trained; the shortest that a grid of stride t can hold keep their speed (extrapolation). With
    `parts` t is 1 for all levels: NTK-by-parts (YaRN, Peng et al. 2023, arXiv 2309.00071, section 3.2) with a
    ramp over logarithms, from half a turn a cell to one turn over the trained grid. With `levels` t is the
    stride of the level that asks: coarse levels, which lay a picture out, see all waves stretched, and fine
    ones keep those that detail rests on. This follows what summaries say of stage-aware remapping (arXiv
    2605.10045); the formula is ours, as the article's own could not be found.

    Raises:
        ValueError: an option is not known, or two do not go together (`encoding` is named in the sentence).
    """

    def __init__(self, encoding: str, *, bands: str, remap: str, trained: tuple[int, ...], unit: str) -> None:
        if bands not in BANDS:
            raise ValueError(f"{encoding}: bands is one of {', '.join(BANDS)}, got {bands!r}")
        if remap not in REMAPS:
            raise ValueError(f"{encoding}: remap is one of {', '.join(REMAPS)}, got {remap!r}")
        if (bands, remap) != ("all", "none") and unit != "cells":
            raise ValueError(
                f"{encoding}: bands and remap are of waves in cells of the finest level, "
                f"so they do not go with unit={unit}"
            )
        if (remap == "none") != (not trained):
            raise ValueError(
                f"{encoding}: remap=parts or levels goes with trained=(rows, columns), the finest grid that "
                f"was trained, got remap={remap} and trained={trained}"
            )
        if trained and (len(trained) != 2 or min(trained) < 1):
            raise ValueError(f"{encoding}: trained is (rows, columns), both at least 1, got {trained}")

        self.bands = bands
        self.remap = remap
        self.trained = trained

    @property
    def change_waves(self) -> bool:
        return self.bands != "all" or self.remap != "none"

    @property
    def differ_by_level(self) -> bool:
        """Whether the same key turns in another way for the queries of another level."""
        return self.bands == "resolved" or self.remap == "levels"

    def limited(self, wave_2P: Tensor, positions: Positions) -> Tensor:
        """What each pair turns by per cell along y and along x, float32 (L, 2, P), or (1, 2, P) for all."""
        stride_L2 = strides(positions).expand(1 if positions.asking is not None else -1, 2)
        wave_L2P = wave_2P[None]
        if self.remap != "none":
            own_L2 = stride_L2 if self.remap == "levels" else torch.ones_like(stride_L2[:1])
            wave_L2P = wave_L2P * self.share(wave_2P, own_L2, positions)
        if self.bands == "resolved":
            turns_L2P = wave_2P.abs() * stride_L2[:, :, None]
            wave_L2P = wave_L2P * (turns_L2P <= pi).all(dim=1, keepdim=True)
        return wave_L2P

    def share(self, wave_2P: Tensor, stride_L2: Tensor, positions: Positions) -> Tensor:
        """How fast a pair turns under `remap`, 1 being as in training: float32 (L, 2, P)."""
        wavelength_P = 2 * pi / torch.linalg.vector_norm(wave_2P, dim=0)
        axes = zip(positions.grids[-1], self.trained, stride_L2.unbind(dim=1), strict=True)
        return torch.stack([_share(wavelength_P, *axis) for axis in axes], dim=1)


def _share(wavelength_P: Tensor, side: int, trained: int, stride_L: Tensor) -> Tensor:
    """Along one axis, float32 (L, P)."""
    # Octaves from the shortest wave of the level's grid to this one, and to the trained grid.
    octave_LP = (wavelength_P / (2 * stride_L[:, None])).log2()
    all_L1 = (trained / (2 * stride_L[:, None])).log2()
    ramp_LP = torch.where(all_L1 > 0, octave_LP / all_L1.clamp(min=1e-9), 1.0).clamp(0, 1)
    return 1 - ramp_LP * (1 - 1 / max(1.0, side / trained))
