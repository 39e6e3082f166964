"""What encodings that add to scores share: displacements between tokens, worked out once a forward."""

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from var_pe.encodings.base import PositionEncoding
from var_pe.encodings.machinery.coordinates import in_finest_cells
from var_pe.pyramid import Grid, Positions, Sides
from var_pe.resampling.precision import full_precision

Result = TypeVar("Result")
# The type of a member's `geometry` of queries and keys
Geometry = TypeVar("Geometry")


class ScoreQuery(Generic[Geometry]):
    """The positions of one forward pass, and what has been worked out for them as queries."""

    def __init__(self, positions: Positions) -> None:
        self.positions = positions
        # by the first level of the keys and the one after their last
        self.geometries: dict[tuple[int, int], Geometry] = {}
        self.scores: dict[tuple[int, int], Tensor] = {}


class PairEncoding(PositionEncoding[ScoreQuery[Geometry]]):
    """An encoding that has to know where queries and keys are: works it out once a forward, in float32."""

    def prepare(self, positions: Positions) -> ScoreQuery[Geometry]:
        return ScoreQuery(positions)

    def relate(self, query: ScoreQuery[Geometry], key: ScoreQuery[Geometry]) -> None:
        with full_precision(query.positions.yx_L2):
            self.geometry_of(query, key)

    def geometry_of(self, query: ScoreQuery[Geometry], key: ScoreQuery[Geometry]) -> Geometry:
        """`geometry`, once for these keys."""
        return _once(query.geometries, key.positions, lambda: self.geometry(query.positions, key.positions))

    def at_layer(self, context: ScoreQuery[Geometry], layer: int) -> ScoreQuery[Geometry]:
        alone: ScoreQuery[Geometry] = ScoreQuery(context.positions)
        for levels, geometry in context.geometries.items():
            alone.geometries[levels] = self.geometry_at(geometry, layer)
        return alone

    def geometry(self, query: Positions, key: Positions) -> Geometry:
        """What scores need to know of where queries and keys are."""
        raise NotImplementedError

    def geometry_at(self, geometry: Geometry, layer: int) -> Geometry:
        """`geometry` with this layer's own of what there is for each layer (see `at_layer`)."""
        return geometry


class ScoreEncoding(PairEncoding[Geometry]):
    """An encoding that adds `scores(geometry(queries, keys), layer)` to attention's scores.

    Everything that does not depend on the layer is computed once a forward: `geometry`, and the scores
    themselves unless `per_layer`. All of it is float32. Any bias costs the flash kernel: the kernels that
    take one read H Lq Lk numbers a layer, in a training of many tokens only those of pairs that may see each
    other.
    """

    per_layer = False

    def relate(self, query: ScoreQuery[Geometry], key: ScoreQuery[Geometry]) -> None:
        with full_precision(query.positions.yx_L2):
            geometry = self.geometry_of(query, key)
            if not self.per_layer:
                _once(query.scores, key.positions, lambda: self.scores(geometry, 0))

    def bias(self, query: ScoreQuery[Geometry], key: ScoreQuery[Geometry], layer: int) -> Tensor:
        self.relate(query, key)
        levels = _levels(key.positions)
        if not self.per_layer:
            return query.scores[levels]
        with full_precision(query.positions.yx_L2):
            return self.scores(query.geometries[levels], layer)

    def at_layer(self, context: ScoreQuery[Geometry], layer: int) -> ScoreQuery[Geometry]:
        return super().at_layer(context, layer) if self.per_layer else context

    def scores(self, geometry: Geometry, layer: int) -> Tensor:
        """(H, Lq, Lk), or (1, Lq, Lk) where all heads get the same."""
        raise NotImplementedError


class ProductEncoding(PairEncoding[Geometry]):
    """An encoding that adds `answers(queries, keys, geometry, layer)` to attention's scores.

    What is added depends on content, so it is worked out for each image, layer and pair, in float32: B H Lq
    Lk numbers, in a training of many tokens those of one call at a time. It costs the flash kernel.
    """

    def products(
        self,
        q_BHQD: Tensor,
        k_BHKD: Tensor,
        query: ScoreQuery[Geometry],
        key: ScoreQuery[Geometry],
        layer: int,
    ) -> Tensor:
        with full_precision(q_BHQD):
            return self.answers(q_BHQD.float(), k_BHKD.float(), self.geometry_of(query, key), layer)

    def answers(self, q_BHQD: Tensor, k_BHKD: Tensor, geometry: Geometry, layer: int) -> Tensor:
        """(B, H, Lq, Lk)."""
        raise NotImplementedError


def _once(known: dict[tuple[int, int], Result], key: Positions, make: Callable[[], Result]) -> Result:
    """`make()` at the first call with these keys' levels, its result at later ones."""
    levels = _levels(key)
    if levels not in known:
        known[levels] = make()
    return known[levels]


def _levels(positions: Positions) -> tuple[int, int]:
    return positions.levels.start, positions.levels.stop


def displacement(query: Positions, key: Positions) -> Tensor:
    """Centre of query minus centre of key in cells of the finest level, float32 (Lq, Lk, 2), y first.

    Whole numbers within the finest level, fractions elsewhere; at most the finest level's sides minus 1.
    """
    return in_finest_cells(query)[:, None] - in_finest_cells(key)


def look_up(table_Hyx: Tensor, grid_GQK2: Tensor) -> Tensor:
    """Tables (H, 2h - 1, 2w - 1) of displacements, read bilinearly: (H, Lq, Lk).

    `grid_GQK2` holds displacements over (h - 1, w - 1), in [-1, 1]; beyond lies the border's value. There is
    one for all heads (G = 1) or one each. Plain indexing would be as exact, but its gradient on CPUs takes
    a hundred times as long.
    """
    # Batch and channels of grid_sample are one and all heads, or all heads and one.
    one_for_all = len(grid_GQK2) == 1
    table_GHyx = table_Hyx[None] if one_for_all else table_Hyx[:, None]

    # Its corners are the table's, its coordinates x first.
    read_GHQK = F.grid_sample(table_GHyx, grid_GQK2.flip(-1), padding_mode="border", align_corners=True)
    return read_GHQK[0] if one_for_all else read_GHQK[:, 0]


def unit_displacement(displacement_QK2: Tensor, finest: Grid) -> Tensor:
    """Displacements over the largest ones on a grid of `finest` cells: in [-1, 1], 0 along a side of 1."""
    rows, columns = finest  # plain numbers: a tensor of them would be copied to the device
    dy_QK, dx_QK = displacement_QK2.unbind(-1)
    return torch.stack([dy_QK / max(1, rows - 1), dx_QK / max(1, columns - 1)], dim=-1)


def whole_displacements(sides: Sides, device: torch.device) -> Tensor:
    """All displacements between cells of a map of these sides, float32 (2h - 1, 2w - 1, 2), or (.., 3)."""
    axes = [torch.arange(1 - side, side, device=device, dtype=torch.float32) for side in sides]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def places_in_tables(query: Positions, key: Positions) -> Tensor:
    """Where `look_up` finds displacements in tables of whole ones, `piled` in a clip: (1, Lq, Lk, 2)."""
    rows, columns = query.grids[-1]
    displacement_QK2 = displacement(query, key)
    if query.time_L is None or key.time_L is None:
        return unit_displacement(displacement_QK2, (rows, columns))[None]

    # A moment is as far down the pile as a table has rows.
    dy_QK, dx_QK = displacement_QK2.unbind(-1)
    down_QK = dy_QK + (2 * rows - 1) * (query.time_L[:, None] - key.time_L)
    farthest = rows - 1 + (2 * rows - 1) * (query.times - 1)
    return torch.stack([down_QK / max(1, farthest), dx_QK / max(1, columns - 1)], dim=-1)[None]


def piled(table: Tensor) -> Tensor:
    """Tables of displacements as `look_up` takes them: those of a clip, (H, t, y, x), pile up along y.

    A clip is one level, so all its displacements are whole, and what is read of one dt has nothing of the
    next. Read with three axes, torch's kernel for CPUs takes six times as long.
    """
    return table.flatten(1, -2)


def by_levels(term_HKK: Tensor, query_QK: Tensor, key_QK: Tensor) -> Tensor:
    """A number per (query level, key level, head) as scores (H, Lq, Lk); levels are one-hot rows.

    Products with one-hot rows instead of indexing: the gradient is a product as well.
    """
    return query_QK @ term_HKK @ key_QK.T


def one_hot(level_L: Tensor, num_levels: int) -> Tensor:
    """float32 (L, K); unlike torch's, asks nothing of the device."""
    return (level_L[:, None] == torch.arange(num_levels, device=level_L.device)).float()
