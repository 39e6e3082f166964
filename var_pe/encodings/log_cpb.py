"""Continuous position bias: a small network turns displacements into scores, so that it follows any size."""

from dataclasses import dataclass, replace
from functools import lru_cache
from math import log2

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from var_pe.encodings.base import ModelShape, own, register
from var_pe.encodings.machinery.scores import (
    ScoreEncoding,
    by_levels,
    displacement,
    look_up,
    one_hot,
    unit_displacement,
)
from var_pe.pyramid import Grid, Positions, Pyramid
from var_pe.resampling.conventions import Convention


@dataclass(frozen=True)
class NetworkInputs:
    """What the networks see, and where their answers are looked up for each query and key."""

    # displacements over the largest ones, (1, Lq, Lk, 2)
    grid_1QK2: Tensor
    # levels of queries and of keys, one-hot, (L, K)
    query_QK: Tensor
    key_QK: Tensor
    # the networks' coordinates of all whole displacements, and of all pairs of levels
    cell_yx2: Tensor
    level_KK2: Tensor
    # the networks that answer; `levels` is None where there is a single level
    cells: "NetworkWeights"
    levels: "NetworkWeights | None"


@register("log_cpb")
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
        self.cells = Networks(networks, hidden, shape.num_heads)
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
            grid_1QK2=unit_displacement(displacement(query, key), grids[-1])[None],
            query_QK=one_hot(query.level_L, len(grids)),
            key_QK=one_hot(key.level_L, len(grids)),
            cell_yx2=log_coordinates(grids[-1], self.trained_2),
            level_KK2=_level_coordinates(grids, query.yx_L2.device),
            cells=self.cells.weights(),
            levels=None if self.levels is None else self.levels.weights(),
        )

    def geometry_at(self, geometry: NetworkInputs, layer: int) -> NetworkInputs:
        levels = geometry.levels
        return replace(
            geometry,
            cells=geometry.cells.at(layer),
            levels=None if levels is None else levels.at(layer),
        )

    def scores(self, geometry: NetworkInputs, layer: int) -> Tensor:
        # Swin v2's bound of 16, moved so that a network's zero stays zero.
        table_Hyx = 16 * geometry.cells.answers(geometry.cell_yx2, layer).sigmoid() - 8
        bias_HQK = look_up(table_Hyx, geometry.grid_1QK2)
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

    def at(self, layer: int) -> "NetworkWeights":
        """Those of one layer's network."""
        here = slice(layer, layer + 1)
        return NetworkWeights(self.weight1[here], self.bias1[here], self.weight2[here])

    def answers(self, coordinates: Tensor, layer: int) -> Tensor:
        place = own(layer, len(self.weight1))
        weight1 = self.weight1[place].float()
        bias1 = self.bias1[place].float()
        weight2 = self.weight2[place].float()
        hidden = F.linear(coordinates, weight1, bias1).relu()
        return F.linear(hidden, weight2).movedim(-1, 0)


class Networks(nn.Module):
    """N networks of two layers with a ReLU between them: two coordinates (..., 2) to heads first, (H, ...).

    Weights start normal with deviation 0.02, as all of Swin v2's layers do.
    """

    def __init__(self, networks: int, hidden: int, num_heads: int) -> None:
        super().__init__()
        self.weight1 = nn.Parameter(torch.zeros(networks, hidden, 2))
        self.bias1 = nn.Parameter(torch.zeros(networks, hidden))
        self.weight2 = nn.Parameter(torch.zeros(networks, num_heads, hidden))

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        if name == "bias1":
            nn.init.zeros_(parameter)
        else:
            nn.init.trunc_normal_(parameter, std=0.02, generator=generator)

    def weights(self) -> NetworkWeights:
        return NetworkWeights(self.weight1, self.bias1, self.weight2)


def log_coordinates(grid: Grid, trained_2: Tensor) -> Tensor:
    """Swin v2's coordinates of all whole displacements on `grid`, (2h - 1, 2w - 1, 2); `trained_2` is n."""
    device = trained_2.device
    axes = [torch.arange(1 - side, side, device=device, dtype=torch.float32) for side in grid]
    delta_yx2 = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)

    # c(d) of `LogCPB`: logarithmic, so that larger displacements are not far outside what was trained.
    eighths_yx2 = 8 * delta_yx2 / (trained_2 - 1).clamp(min=1)
    return eighths_yx2.sign() * (1 + eighths_yx2.abs()).log2() / log2(8)


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
