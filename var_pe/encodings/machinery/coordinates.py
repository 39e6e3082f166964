"""Coordinates in cells of the finest level: of centres, and of the points that rotary encodings turn by."""

from functools import lru_cache
from math import log, log2

import torch
from torch import Tensor, nn

from var_pe.pyramid import Grid, Positions, Pyramid
from var_pe.resampling.precision import full_precision

FIXED = ("center", "start", "corner", "index")
MAPS = (*FIXED, "learned")
UNITS = ("cells", "image", "query")
ONE_LEVEL = ((2, 2),)  # of any size


def in_finest_cells(positions: Positions) -> Tensor:
    """Centres in cells of the finest level, float32 (L, 2): from 0 to its height and to its width."""
    rows, columns = positions.grids[-1]
    y_L, x_L = ((positions.yx_L2 + 1) / 2).unbind(-1)
    return torch.stack([y_L * rows, x_L * columns], dim=-1)  # plain numbers: a tensor of them would be a copy


def in_proportion(grids: tuple[Grid, ...]) -> tuple[Grid, ...]:
    """Grids for which levels compare with the finest one as they do here, for what depends on that alone.

    For a single level, which has nothing to compare with, they are the same whatever its size. So a graph
    whose sides are symbols has a constant there.
    """
    return ONE_LEVEL if len(grids) == 1 else grids


@torch.compiler.assume_constant_result
def coarseness(grids: tuple[Grid, ...], device: torch.device) -> Tensor:
    """`coarseness_on`, which a compiled graph takes as a constant."""
    return coarseness_on(grids, device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # kept for later calls, which may train
def coarseness_on(grids: tuple[Grid, ...], device: torch.device) -> Tensor:
    """Octaves from each level to the finest, log2(n_finest / n), mean of both axes, float32 (K,).

    0 for the finest. Kept per device: a copy to another one waits for it.
    """
    h, w = grids[-1]
    octave_K = [log2(h * w / (rows * columns)) / 2 for rows, columns in grids]
    return torch.tensor(octave_K, dtype=torch.float32, device=device)


class Coordinates(nn.Module):
    """`scale * i + offset` for cell i of m, per axis and level, in cells of a finest level of n (float32).

    | map       | scale             | offset    | points that agree                                        |
    | --------- | ----------------- | --------- | -------------------------------------------------------- |
    | `center`  | n / m             | n / m / 2 | a coarse token and the mean of the fine ones it covers   |
    | `start`   | n / m             | 0         | the tokens' top left corners (HART; rounded in Infinity) |
    | `corner`  | (n - 1) / (m - 1) | 0         | the first tokens, and the last tokens (STAR, Switti)     |
    | `index`   | 1                 | 0         | tokens of equal row and column, whatever their level     |
    | `learned` | trained           | trained   | starts as `learned_from`, for its number of levels alone |

    Adam moves a number by about the learning rate a step, whatever its gradient: `learned_rate` is what the
    trained logarithms of scales and offsets (in cells) are multiplied by, so that offsets of coarse levels,
    whose maps are many cells apart, can be reached.

    VAR's own resizing aligns centres; no published generator does. On the finest level neighbours are one
    cell apart under every map. `unit=image` puts [0, n] at [-1, 1], as DINOv3 does: distances then shrink
    where a grid grows (interpolation), while `cells` keeps them (extrapolation). `unit=query` counts in cells
    of the query's level: keys are divided by the stride n / m of the queries that meet them, as the queries
    are by their own. On a single grid that is `cells`.

    In training, one draw per call for all tokens, in DINOv3's order: + uniform(-shift, shift) per axis, in
    the unit at hand; times exp(uniform(-log jitter, log jitter)) per axis; times the same of `rescale` for
    both axes. A shift moves tokens against prefix tokens only, which sit at 0, 0.

    Raises:
        ValueError: an option is not known or out of its range (`encoding` is named in the sentence).
    """

    def __init__(
        self,
        encoding: str,
        kind: str,
        *,
        pyramid: Pyramid,
        unit: str,
        shift: float,
        jitter: float,
        rescale: float,
        learned_from: str = "center",
        learned_rate: float = 1.0,
    ) -> None:
        super().__init__()
        if kind not in MAPS:
            raise ValueError(f"{encoding}: coordinates is one of {', '.join(MAPS)}, got {kind!r}")
        if unit not in UNITS:
            raise ValueError(f"{encoding}: unit is one of {', '.join(UNITS)}, got {unit!r}")
        if kind == "index" and unit == "image":
            raise ValueError(
                f"{encoding}: coordinates=index counts cells of each level, so it does not go with unit=image"
            )
        if kind == "index" and unit == "query":
            raise ValueError(
                f"{encoding}: coordinates=index counts cells of each level, so it does not go with unit=query"
            )
        if unit == "query" and (shift > 0 or jitter > 1 or rescale > 1):
            raise ValueError(
                f"{encoding}: shift, jitter and rescale are drawn once for all tokens, so they do not go "
                f"with unit=query, under which the queries of each level have their own keys"
            )
        if not 0 <= shift < float("inf"):
            raise ValueError(f"{encoding}: shift must be at least 0 and finite, got {shift}")
        for name, factor in (("jitter", jitter), ("rescale", rescale)):
            if not 1 <= factor < float("inf"):
                raise ValueError(f"{encoding}: {name} is a factor of at least 1, finite, got {factor}")

        if learned_from not in FIXED:
            raise ValueError(f"{encoding}: learned_from is one of {', '.join(FIXED)}, got {learned_from!r}")
        if not 0 < learned_rate < float("inf"):
            raise ValueError(f"{encoding}: learned_rate must be above 0 and finite, got {learned_rate}")
        if kind != "learned" and (learned_from, learned_rate) != ("center", 1.0):
            raise ValueError(
                f"{encoding}: learned_from and learned_rate go with coordinates=learned, got {kind!r}"
            )

        self.encoding = encoding
        self.kind = kind
        self.learned_from = learned_from
        self.learned_rate = learned_rate
        self.unit = unit
        self.shift = shift
        self.jitter = jitter
        self.rescale = rescale
        if kind == "learned":
            # both against `learned_from`, in units of `learned_rate`
            self.log_scale_K2 = nn.Parameter(torch.zeros(pyramid.num_levels, 2))
            self.offset_K2 = nn.Parameter(torch.zeros(pyramid.num_levels, 2))

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        nn.init.zeros_(parameter)

    def forward(self, positions: Positions) -> Tensor:
        """Float32 (L, 2), y first."""
        device = positions.cell_L2.device
        with full_precision(positions.cell_L2):
            scale_K2, offset_K2 = self.maps(positions.grids, device)
            yx_L2 = positions.cell_L2 * scale_K2[positions.level_L] + offset_K2[positions.level_L]

            if self.unit == "image":
                rows, columns = positions.grids[-1]
                yx_L2 = 2 * torch.stack([yx_L2[:, 0] / rows, yx_L2[:, 1] / columns], dim=-1) - 1
            elif self.unit == "query":
                yx_L2 = yx_L2 / strides(positions)

            augmented = self.shift > 0 or self.jitter > 1 or self.rescale > 1
            return self._augment(yx_L2) if self.training and augmented else yx_L2

    def check_levels(self, number: int) -> None:
        """Whether learned coordinates, which belong to each level, serve a pyramid of `number` levels.

        Raises:
            ValueError: there are more levels or fewer than were learned.
        """
        if self.kind == "learned" and number != len(self.offset_K2):
            raise ValueError(
                f"{self.encoding}(coordinates=learned) has {len(self.offset_K2)} levels, asked for "
                f"{number}; coordinates=center also serves levels that were not trained"
            )

    def maps(self, grids: tuple[Grid, ...], device: torch.device) -> tuple[Tensor, Tensor]:
        """Scales and offsets, float32 (K, 2) each."""
        if self.kind != "learned":
            return _level_maps(self.kind, in_proportion(grids), device)

        self.check_levels(len(grids))
        scale_K2, offset_K2 = _level_maps(self.learned_from, in_proportion(grids), device)
        log_scale_K2 = self.learned_rate * self.log_scale_K2.float()
        return scale_K2 * log_scale_K2.exp(), offset_K2 + self.learned_rate * self.offset_K2.float()

    def _augment(self, yx_L2: Tensor) -> Tensor:
        # In DINOv3's order, from the one stream of random numbers that dropout draws from too.
        shift_2 = _within(self.shift, 2, yx_L2.device)
        jitter_2 = _within(log(self.jitter), 2, yx_L2.device)
        rescale_1 = _within(log(self.rescale), 1, yx_L2.device)
        return (yx_L2 + shift_2) * (jitter_2 + rescale_1).exp()


@torch.no_grad()
def learned_maps(encoding: nn.Module, pyramid: Pyramid) -> dict[str, float]:
    """The scales and offsets that an encoding has learned, in cells of the finest level, by names for a log.

    Empty for an encoding that learns none; of several parts that do, those of the first.
    """
    for part in encoding.modules():
        if isinstance(part, Coordinates) and part.kind == "learned":
            scale_K2, offset_K2 = part.maps(pyramid.grids, part.offset_K2.device)
            return {
                f"level_{level}/{name}_{axis}": value
                for name, numbers_K2 in (("scale", scale_K2), ("offset", offset_K2))
                for level, of_level in enumerate(numbers_K2.tolist())
                for axis, value in zip("yx", of_level, strict=True)
            }
    return {}


def strides(positions: Positions) -> Tensor:
    """Sides of a cell of the level that asks, in cells of the finest, float32: (L, 2), or (2) for all."""
    stride_K2, _ = _level_maps("center", in_proportion(positions.grids), positions.level_L.device)
    return stride_K2[positions.level_L if positions.asking is None else positions.asking]


def _within(limit: float, count: int, device: torch.device) -> Tensor:
    """Uniform numbers in [-limit, limit)."""
    return (2 * torch.rand(count, device=device) - 1) * limit


@torch.compiler.assume_constant_result
def _level_maps(kind: str, grids: tuple[Grid, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """`level_maps`, which a compiled graph takes as a constant."""
    return level_maps(kind, grids, device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # kept for later calls, which may train
def level_maps(kind: str, grids: tuple[Grid, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Scales and offsets, float32 (K, 2) each. Kept per device: a copy to another one waits for it."""
    maps_K22 = [
        [_scale_and_offset(kind, side, finest) for side, finest in zip(grid, grids[-1], strict=True)]
        for grid in grids
    ]
    scale_K2, offset_K2 = torch.tensor(maps_K22, dtype=torch.float32, device=device).unbind(-1)
    return scale_K2, offset_K2


def _scale_and_offset(kind: str, side: int, finest: int) -> tuple[float, float]:
    ratio = finest / side
    if kind == "center":
        return ratio, ratio / 2
    if kind == "start":
        return ratio, 0.0
    if kind == "corner":
        return (finest - 1) / max(1, side - 1), 0.0  # an only cell is the first one
    return 1.0, 0.0
