"""Which pairs of rotary codes turn for which level, and how much slower on grids larger than trained."""

from math import log2, pi
from typing import Literal, get_args

import torch
from torch import Tensor

from var_pe.encodings.machinery.coordinates import strides
from var_pe.pyramid import Grid, Positions
from var_pe.settings.line import Member, parse

Remap = Literal["none", "parts", "levels"]
BANDS = ("all", "resolved")
REMAPS = get_args(Remap)


class Bands:
    """The share of its speed at which a pair turns along an axis, for the level that asks.

    `bands=resolved`: a level uses only the pairs that its own grid resolves, those that turn by at most pi
    from one of its cells to the next, along each axis. The others stand still for its queries and for the
    keys they meet. On the finest level, and so in a ViT, no pair turns by more.

    `remap` is for grids larger than the `trained` one, s = max(1, n / n_trained) times as large along an
    axis. A pair of wavelength l (in cells of the finest level) turns at the share 1 - r (1 - 1 / s), where

        r = log(t l / 2) / log(n_trained / 2), from 0 to 1; 1 if n_trained is at most 2.

    Waves as long as the trained grid are stretched with it (interpolation), so that no query meets a phase
    that was not trained; those of two cells, the shortest that a grid can hold, would keep their speed
    (extrapolation). With `parts` t is 1 for all levels: NTK-by-parts (YaRN, Peng et al. 2023, arXiv
    2309.00071, section 3.2), here with a ramp over logarithms. With `levels` t is the stride n / m of the
    level that asks: the coarser a level, the shorter are the waves that it sees stretched, so that a layout
    grows with the grid, while the finest level sees what it sees under `parts`. This follows what summaries
    say of stage-aware remapping (arXiv 2605.10045); the formula is ours, as the article's own could not be
    found. The shortest wave of `rope` is 2 pi cells long: trained on sides of 6 cells and less, both ways
    stretch every wave, as `unit=image` does. In a hierarchy each stage compares its own map with `trained`.

    Raises:
        ValueError: an option is not known, or two do not go together (`encoding` is named in the sentence).
    """

    def __init__(
        self,
        encoding: str,
        *,
        bands: str,
        remap: str,
        trained: tuple[int, ...],
        unit: str,
        coordinates: str,
    ) -> None:
        if bands not in BANDS:
            raise ValueError(f"{encoding}: bands is one of {', '.join(BANDS)}, got {bands!r}")
        if remap not in REMAPS:
            raise ValueError(f"{encoding}: remap is one of {', '.join(REMAPS)}, got {remap!r}")
        if (bands, remap) != ("all", "none"):
            for option, value, wrong in (
                ("unit", unit, unit != "cells"),
                ("coordinates", coordinates, coordinates == "index"),
            ):
                if wrong:
                    raise ValueError(
                        f"{encoding}: bands and remap are of waves in cells of the finest level, "
                        f"so they do not go with {option}={value}"
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
    larger = max(1.0, side / trained)
    if trained <= 2:
        return torch.full_like(stride_L[:, None] * wavelength_P, 1 / larger)

    # Octaves above a wave of two cells, over those of a wave as long as the trained grid
    octave_LP = (stride_L[:, None] * wavelength_P / 2).log2()
    ramp_LP = (octave_LP / log2(trained / 2)).clamp(0, 1)
    return 1 - ramp_LP * (1 - 1 / larger)


def remapped(line: str, how: Remap, trained: Grid) -> str:
    """A trained model's line with `rope(remap=how)`: its weights are read under it as they are.

    Raises:
        ValueError: nothing in the line can be remapped.
    """
    members = parse(line)
    if not any(map(_can_be_remapped, members)):
        raise ValueError(
            f"remap={how} slows waves of rope in cells of the finest level down; {line} has none, or says "
            f"itself how they are remapped"
        )
    return " + ".join(_remapped(one, how, trained) if _can_be_remapped(one) else one.text for one in members)


def can_be_remapped(line: str) -> bool:
    return any(map(_can_be_remapped, parse(line)))


def _can_be_remapped(member: Member) -> bool:
    given = member.options
    in_cells = given.get("unit", "cells") == "cells" and given.get("coordinates") != "index"
    return member.name == "rope" and in_cells and not {"remap", "trained"} & set(given)


def _remapped(member: Member, how: Remap, trained: Grid) -> str:
    # as the line has them, without the name and its brackets
    options = [member.text.removeprefix("rope")[1:-1]] if member.options else []
    return f"rope({', '.join([*options, f'remap={how}', f'trained={tuple(trained)}'])})"
