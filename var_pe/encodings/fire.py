"""A learned function of the displacement, stretched to the size at hand, as scores."""

from dataclasses import dataclass, replace
from math import log

import torch
from torch import Tensor, nn

from var_pe.encodings.base import ModelShape, own, register
from var_pe.encodings.log_cpb import Networks, NetworkWeights
from var_pe.encodings.machinery.level_term import LevelPairs, LevelTerm
from var_pe.encodings.machinery.scores import ScoreEncoding, look_up, piled, places_in_tables
from var_pe.pyramid import Positions, Pyramid, Sides
from var_pe.resampling.conventions import Convention


@dataclass(frozen=True)
class Scales:
    """The logarithms of c and R: of all layers, or of one."""

    log_scale_N: Tensor
    log_reach_scale_N: Tensor

    def at(self, layer: int) -> "Scales":
        here = slice(layer, layer + 1)
        return Scales(self.log_scale_N[here], self.log_reach_scale_N[here])

    def of(self, layer: int) -> tuple[Tensor, Tensor]:
        """c and R of one layer."""
        place = own(layer, len(self.log_scale_N))
        return self.log_scale_N[place].float().exp(), self.log_reach_scale_N[place].float().exp()


@dataclass(frozen=True)
class Stretched:
    """Where each query and key read the table, what it is computed from, and the terms of their levels."""

    # where displacements are in the table, (1, Lq, Lk, 2)
    grid_1QK2: Tensor
    # of the finest level, (h, w), or of the clip, (T, h, w)
    sides: Sides
    cells: NetworkWeights
    # of places, and of moments where there is a third side
    scales: tuple["Scales", ...]
    pairs: LevelPairs | None


@register("fire", has_time=True)
class FIRE(ScoreEncoding[Stretched]):
    """`score += MLP(u(dy), u(dx)) + level_term[head, query level, key level]`, per head.

    FIRE (Li et al. 2024, arXiv 2310.04418) on two axes: u(d) = sign(d) psi(|d|) / psi(max(R, n - 1)) with
    psi(t) = log(1 + c t), d the query's centre minus the key's in cells of the finest level and n that
    level's side at hand; c > 0 and R > 0 are learned. A larger grid is so mapped onto the same range
    (interpolation), a smaller one than R is not stretched. The original divides by psi of the query's own
    place, as far as a causal query sees; here every query sees all of the picture, and both signs are told
    apart, which one axis of a text need not. The network answers for whole displacements; fractions, as
    between levels, are read bilinearly. The level term (`LevelTerm`) is there if there are several levels.

    c starts at 0.1 and R at the longest side; the network as Swin v2's layers (`Networks`). Follows any
    pyramid; nothing moves but the levels' terms.

    In clips the network sees u(dt), too, with a c and an R of time, which start at 0.1 and at the number of
    moments: MLP(u(dt), u(dy), u(dx)). Between tokens of one moment that is what it says of a picture. It
    follows clips of any length, a longer one stretched onto the same range.

    Cost: a bias loses the flash kernel; one small network and one look-up a layer, unless `shared`.

    Args:
        hidden: width of the network; 32 in the paper.
        shared: one function for all layers instead of one each.
    Raises:
        ValueError: `hidden` is below 1 or above 65536.
    """

    def __init__(self, shape: ModelShape, *, hidden: int = 32, shared: bool = False) -> None:
        super().__init__()
        if not 1 <= hidden <= 65536:
            raise ValueError(f"fire: hidden is a whole number from 1 to 65536, got {hidden}")

        self.per_layer = not shared
        functions = 1 if shared else shape.depth
        self.longest = max(shape.pyramid.finest)
        self.times = shape.times
        self.cells = Networks(functions, hidden, shape.num_heads, time=shape.times > 1)
        self.log_scale_N = nn.Parameter(torch.zeros(functions))  # of c
        self.log_reach_scale_N = nn.Parameter(torch.zeros(functions))  # of R
        in_time = shape.times > 1
        self.log_time_scale_N = nn.Parameter(torch.zeros(functions)) if in_time else None
        self.log_time_reach_scale_N = nn.Parameter(torch.zeros(functions)) if in_time else None
        self.level_term = LevelTerm(shape.pyramid, shape.num_heads, functions)

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        if name in ("log_scale_N", "log_time_scale_N"):
            nn.init.constant_(parameter, log(0.1))
        else:
            nn.init.constant_(parameter, log(self.longest if name == "log_reach_scale_N" else self.times))

    def set_pyramid(self, pyramid: Pyramid, convention: str | Convention | None = None) -> None:
        """Displacements are stretched to any size by themselves; the levels' terms go with their levels."""
        self.level_term.set_pyramid(pyramid, like=self.cells.weight2)

    def geometry(self, query: Positions, key: Positions) -> Stretched:
        sides: Sides = query.grids[-1]
        scales: tuple[Scales, ...] = (Scales(self.log_scale_N, self.log_reach_scale_N),)
        if query.time_L is not None and key.time_L is not None:
            assert self.log_time_scale_N is not None, "built for clips"
            assert self.log_time_reach_scale_N is not None, "built for clips"
            sides = (query.times, *sides)
            scales = (*scales, Scales(self.log_time_scale_N, self.log_time_reach_scale_N))

        return Stretched(
            places_in_tables(query, key),
            sides,
            self.cells.weights(),
            scales,
            self.level_term.pairs(query, key),
        )

    def geometry_at(self, geometry: Stretched, layer: int) -> Stretched:
        return replace(
            geometry,
            cells=geometry.cells.at(layer),
            scales=tuple(one.at(layer) for one in geometry.scales),
            pairs=None if geometry.pairs is None else geometry.pairs.at(layer),
        )

    def scores(self, geometry: Stretched, layer: int) -> Tensor:
        of_places, *of_moments = (one.of(layer) for one in geometry.scales)

        # The network's coordinates along each axis, of all whole displacements
        along = []
        for side, (c, reach) in zip(geometry.sides, (*of_moments, of_places, of_places), strict=True):
            delta = torch.arange(1 - side, side, device=c.device, dtype=torch.float32)
            farthest = (c * reach.clamp(min=side - 1)).log1p()
            along.append(delta.sign() * (c * delta.abs()).log1p() / farthest)

        u = torch.stack(torch.meshgrid(*along, indexing="ij"), dim=-1)  # (2h - 1, 2w - 1, 2), or (.., 3)
        bias_HQK = look_up(piled(geometry.cells.answers(u, layer)), geometry.grid_1QK2)
        return self.level_term.add_to(bias_HQK, geometry.pairs, layer)
