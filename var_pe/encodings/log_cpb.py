"""Continuous position bias: a small network turns displacements into scores, so that it follows any size."""

from dataclasses import dataclass, replace
from functools import lru_cache
from math import log2

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from var_pe.encodings.base import ModelShape, own, register
from var_pe.encodings.machinery.coordinates import in_proportion
from var_pe.encodings.machinery.scores import (
    ScoreEncoding,
    by_levels,
    look_up,
    one_hot,
    piled,
    places_in_tables,
    whole_displacements,
)
from var_pe.pyramid import Grid, Positions, Pyramid, Sides
from var_pe.resampling.conventions import Convention


@dataclass(frozen=True)
class NetworkInputs:
    """What the networks see, and where their answers are looked up for each query and key."""

    # where displacements are in the tables of answers, (1, Lq, Lk, 2)
    grid_1QK2: Tensor
    # levels of queries and of keys, one-hot, (L, K)
    query_QK: Tensor
    key_QK: Tensor
    # the networks' coordinates of all whole displacements, and of all pairs of levels
    # (of a clip, whose displacements are in time, too, `cell_tyx3`)
    cell_yx2: Tensor
    level_KK2: Tensor
    # the networks that answer; `levels` is None where there is a single level
    cells: "NetworkWeights"
    levels: "NetworkWeights | None"


@register("log_cpb", has_time=True)
class LogCPB(ScoreEncoding[NetworkInputs]):
    """`score += 16 sigmoid(MLP(c(dy), c(dx))) - 8 + MLP'(query level, key level)`, per head.

    Swin v2's continuous position bias (Liu et al. 2022, section 3.3), with c(d) = sign(d) log2(1 + |8 d /
    (n - 1)|) / log2(8), d the query's centre minus the key's in cells of the finest level, n that level's
    side where the model was built (Swin's `pretrained_window_size`); n = 1 counts as 2. Ours lies in (-8, 8)
    instead of (0, 16): the same to softmax, and prefix tokens, which get 0, are not at a disadvantage. The
    network answers for whole displacements; fractions, as between levels, are read bilinearly. MLP' sees
    log2(n_finest / n_level) / 3 of both levels and is there if the model was built for more than one.

    It follows any pyramid (of one level, if it was built for one): displacements keep their meaning in
    cells, and larger ones are extrapolated.

    In clips the network sees c(dt), too, with the number of moments for n: MLP(c(dt), c(dy), c(dx)). Between
    tokens of one moment that is what it says of a picture. It follows clips of any length.

    Cost: a bias loses the flash kernel; one small network and one look-up a layer, unless `shared`.

    Args:
        hidden: width of the network; 512 in the paper.
        shared: one network for all layers instead of one each.
    Raises:
        ValueError: `hidden` is below 1 or above 65536; built for one level, it is asked for several.
    """

    trained_2: Tensor

    def __init__(self, shape: ModelShape, *, hidden: int = 512, shared: bool = False) -> None:
        super().__init__()
        if not 1 <= hidden <= 65536:
            raise ValueError(f"log_cpb: hidden is a whole number from 1 to 65536, got {hidden}")

        self.per_layer = not shared
        networks = 1 if shared else shape.depth
        several = shape.pyramid.num_levels > 1
        self.times = shape.times
        self.cells = Networks(networks, hidden, shape.num_heads, time=shape.times > 1)
        self.levels = Networks(networks, 16, shape.num_heads) if several else None
        self.register_buffer("trained_2", torch.tensor(shape.pyramid.finest, dtype=torch.int64))

    def set_pyramid(self, pyramid: Pyramid, convention: str | Convention | None = None) -> None:
        """Nothing moves, and displacements keep their meaning in cells of the finest level."""
        if (pyramid.num_levels > 1) != (self.levels is not None):
            raise ValueError(f"log_cpb keeps to one level or to several, asked to move to {pyramid}")

    def geometry(self, query: Positions, key: Positions) -> NetworkInputs:
        grids = query.grids
        if self.levels is None and len(grids) > 1:
            raise ValueError(f"log_cpb was made for one level, asked for {Pyramid(grids)}")

        return NetworkInputs(
            grid_1QK2=places_in_tables(query, key),
            query_QK=one_hot(query.level_L, len(grids)),
            key_QK=one_hot(key.level_L, len(grids)),
            cell_yx2=self._cells_of(query, key),
            level_KK2=_level_coordinates(in_proportion(grids), query.yx_L2.device),
            cells=self.cells.weights(),
            levels=None if self.levels is None else self.levels.weights(),
        )

    def _cells_of(self, query: Positions, key: Positions) -> Tensor:
        finest = query.grids[-1]
        if query.time_L is None or key.time_L is None:
            return log_coordinates(finest, self.trained_2)

        trained_3 = F.pad(self.trained_2, (1, 0), value=self.times)
        return log_coordinates((query.times, *finest), trained_3)

    def geometry_at(self, geometry: NetworkInputs, layer: int) -> NetworkInputs:
        levels = geometry.levels
        return replace(
            geometry,
            cells=geometry.cells.at(layer),
            levels=None if levels is None else levels.at(layer),
        )

    def scores(self, geometry: NetworkInputs, layer: int) -> Tensor:
        # Swin v2's bound of 16, moved so that a network's zero stays zero.
        table = 16 * geometry.cells.answers(geometry.cell_yx2, layer).sigmoid() - 8
        bias_HQK = look_up(piled(table), geometry.grid_1QK2)
        if geometry.levels is None:
            return bias_HQK

        term_HKK = geometry.levels.answers(geometry.level_KK2, layer)
        return bias_HQK + by_levels(term_HKK, geometry.query_QK, geometry.key_QK)


@dataclass(frozen=True)
class NetworkWeights:
    """The weights of `Networks`, in their order: of all layers, or of one."""

    weight1: Tensor
    bias1: Tensor
    weight2: Tensor
    # of a clip's networks, for displacements in time
    time1: Tensor | None = None

    def at(self, layer: int) -> "NetworkWeights":
        """Those of one layer's network."""
        here = slice(layer, layer + 1)
        time1 = None if self.time1 is None else self.time1[here]
        return NetworkWeights(self.weight1[here], self.bias1[here], self.weight2[here], time1)

    def answers(self, coordinates: Tensor, layer: int) -> Tensor:
        """To coordinates (..., 2) of y and x, or (..., 3) of t, y and x: heads first, (H, ...)."""
        place = own(layer, len(self.weight1))
        weight1 = self.weight1[place].float()
        bias1 = self.bias1[place].float()
        weight2 = self.weight2[place].float()
        if coordinates.shape[-1] == 3:
            assert self.time1 is not None, "built for clips"
            weight1 = torch.cat([self.time1[place].float(), weight1], dim=1)

        hidden = F.linear(coordinates, weight1, bias1).relu()
        return F.linear(hidden, weight2).movedim(-1, 0)


class Networks(nn.Module):
    """N networks of two layers with a ReLU between them: two coordinates (..., 2) to heads first, (H, ...).

    Weights start normal with deviation 0.02, as all of Swin v2's layers do. With `time` a third coordinate,
    of a clip, may come first; where it is 0, or left out, it does nothing.
    """

    def __init__(self, networks: int, hidden: int, num_heads: int, *, time: bool = False) -> None:
        super().__init__()
        self.weight1 = nn.Parameter(torch.zeros(networks, hidden, 2))
        self.bias1 = nn.Parameter(torch.zeros(networks, hidden))
        self.weight2 = nn.Parameter(torch.zeros(networks, num_heads, hidden))
        self.time1 = nn.Parameter(torch.zeros(networks, hidden, 1)) if time else None

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        if name == "bias1":
            nn.init.zeros_(parameter)
        else:
            nn.init.trunc_normal_(parameter, std=0.02, generator=generator)

    def weights(self) -> NetworkWeights:
        return NetworkWeights(self.weight1, self.bias1, self.weight2, self.time1)


def log_coordinates(sides: Sides, trained: Tensor) -> Tensor:
    """Swin v2's coordinates of all whole displacements on a map of these sides, (2h - 1, 2w - 1, 2).

    Of a clip's three sides (2T - 1, 2h - 1, 2w - 1, 3). `trained` is n of each side.
    """
    # c(d) of `LogCPB`: logarithmic, so that larger displacements are not far outside what was trained.
    eighths = 8 * whole_displacements(sides, trained.device) / (trained - 1).clamp(min=1)
    return eighths.sign() * (1 + eighths.abs()).log2() / log2(8)


@torch.compiler.assume_constant_result
def _level_coordinates(grids: tuple[Grid, ...], device: torch.device) -> Tensor:
    """`level_coordinates`, which a compiled graph takes as a constant."""
    return level_coordinates(grids, device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # kept for later calls, which may train
def level_coordinates(grids: tuple[Grid, ...], device: torch.device) -> Tensor:
    """log2(n_finest / n_level) / 3 of query and key level, mean of both axes, (K, K, 2): 0 for the finest.

    Kept per device: a copy to another one waits for it.
    """
    h, w = grids[-1]
    coarse_K = torch.tensor([log2(h * w / (rows * columns)) / 2 / log2(8) for rows, columns in grids])
    query_KK = coarse_K[:, None].expand(len(grids), len(grids))
    key_KK = coarse_K.expand(len(grids), len(grids))
    return torch.stack([query_KK, key_KK], dim=-1).to(device)
