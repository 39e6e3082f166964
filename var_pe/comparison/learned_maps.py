"""Where the learned coordinates of rotary encodings end: nearer to the centre, the start or the corner map?

Maps put cell i of a level at `scale * i + offset`, in cells of the finest level (encodings/machinery/
coordinates.py).
"""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from var_pe.comparison.results import CellEntry, Results
from var_pe.comparison.table import Table
from var_pe.comparison.wording import over_seeds
from var_pe.pages.numbers import plain
from var_pe.settings.line import parse

PREFIX = "validation/coordinates/"
LATE = 0.75  # of the steps: what changes after them has not arrived

# For each level scale and offset along y, then along x
Map = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Ended:
    """Where one training's coordinates ended, in cells of the finest level."""

    seed: int
    map: Map
    # by the name of the fixed map
    distances: dict[str, float]
    # from the map that they started as
    moved: float
    # of that, since `LATE` of the steps; None where no validation was near it
    moved_late: float | None

    @property
    def nearest(self) -> str:
        return min(self.distances, key=lambda name: self.distances[name])


def ended(results: Results, arm: str, fixed: Mapping[str, Map]) -> list[Ended]:
    """Each finished training of an arm that learns coordinates; none of an arm that does not."""
    grids = results["shared"]["grids"]
    (line,) = [one["encoding"] for one in results["arms"] if one["name"] == arm]
    start = fixed[started_as(line)]
    found = []
    for cell in results["cells"]:
        if cell["arm"] != arm:
            continue
        own = map_of(cell, len(grids))
        if own is None:
            continue
        late = map_of(cell, len(grids), share=LATE)
        found.append(
            Ended(
                cell["seed"],
                own,
                {name: distance(own, each, grids) for name, each in fixed.items()},
                distance(own, start, grids),
                None if late is None else distance(own, late, grids),
            )
        )
    return found


def started_as(line: str) -> str:
    """The map that the coordinates of an encoding's line start as."""
    for member in parse(line):
        if member.options.get("coordinates") == "learned":
            return str(member.options.get("learned_from", "center"))
    return "center"


def map_of(cell: CellEntry, levels: int, share: float = 1.0) -> Map | None:
    """The map that a cell has learned, at the end or after a share of the steps; None if it learns none."""
    names = [
        [f"{PREFIX}level_{level}/{name}_{axis}" for axis in "yx" for name in ("scale", "offset")]
        for level in range(levels)
    ]
    if share == 1.0:
        values = cell["values"]
        return [[values[name] for name in row] for row in names] if names[0][0] in values else None

    curves = cell["curves"]
    if names[0][0] not in curves:
        return None
    steps = curves[names[0][0]]["steps"]
    place = max((at for at, step in enumerate(steps) if step <= share * steps[-1]), default=None)
    return None if place is None else [[curves[name]["values"][place] for name in row] for row in names]


def distance(one: Map, other: Map, grids: Sequence[Sequence[int]]) -> float:
    """Root mean square over levels, cells and axes, in cells of the finest level.

    It is taken after the shift of all levels together that brings the two nearest: scores depend on
    displacements, so such a shift changes nothing.
    """
    squares = 0.0
    for axis in (0, 1):
        by_level = []
        for grid, mine, theirs in zip(grids, one, other, strict=True):
            scale, offset = (mine[2 * axis + place] - theirs[2 * axis + place] for place in (0, 1))
            by_level.append([scale * cell + offset for cell in range(grid[axis])])
        shift = statistics.fmean(statistics.fmean(cells) for cells in by_level)
        squares += statistics.fmean(
            statistics.fmean((cell - shift) ** 2 for cell in cells) for cells in by_level
        )
    return math.sqrt(squares / 2)


# ------------------------------------------------------------------------------------------- as tables


def learned_maps_sentences(results: Results) -> list[str]:
    """Which fixed map every arm's coordinates end at; nothing where none are learned."""
    by_arm = _ended_by_arm(results)
    if not by_arm:
        return []
    said = [f"of {name}, {nearest_words(found)}" for name, found in by_arm.items()]
    return [f"The fixed map nearest to where learned coordinates end: {'; '.join(said)}."]


def nearest_words(found: Sequence[Ended]) -> str:
    """`center in 3 of 5, corner in 2 of 5`."""
    nearest = Counter(one.nearest for one in found).most_common()
    return ", ".join(f"{kind} in {count} of {len(found)}" for kind, count in nearest)


def learned_maps_tables(results: Results) -> list[Table]:
    """Where learned coordinates ended, and the scales and offsets that they are; none if none are learned."""
    by_arm, fixed = _ended_by_arm(results), results["shared"].get("maps", {})
    if not by_arm:
        return []
    return [ends_table(results, by_arm, list(fixed)), levels_table(results, by_arm, fixed)]


def _ended_by_arm(results: Results) -> dict[str, list[Ended]]:
    fixed = results["shared"].get("maps", {})
    by_arm = {arm["name"]: ended(results, arm["name"], fixed) for arm in results["arms"]} if fixed else {}
    return {name: found for name, found in by_arm.items() if found}


def ends_table(results: Results, by_arm: Mapping[str, Sequence[Ended]], fixed: Sequence[str]) -> Table:
    """How far from every fixed map, and which is the nearest."""
    rows = []
    for name, found in by_arm.items():
        distances = [over_seeds([one.distances[kind] for one in found]) for kind in fixed]
        late = [one.moved_late for one in found if one.moved_late is not None]
        moved = over_seeds([one.moved for one in found])
        rows.append([name, *distances, moved, over_seeds(late), nearest_words(found)])

    notes = [
        "Root mean square distances in cells of the finest level, over levels, their cells and both axes, "
        "after the best shift of all levels together, which changes no score; mean and standard deviation "
        "over seeds.",
        f"Moved: from the map that they started as, and since {LATE:.0%} of the steps: what still moves has "
        "not arrived. All blocks share one map. The loss of fixed maps stands in the ranking where they are "
        "arms.",
    ]
    header = ["", *(f"to {kind}" for kind in fixed), "moved", "moved late", "nearest"]
    return Table("Where learned coordinates end", header, rows, notes, results["command"])


def levels_table(results: Results, by_arm: Mapping[str, Sequence[Ended]], fixed: Mapping[str, Map]) -> Table:
    """The numbers themselves, beside those of the fixed maps."""
    sides = [f"{rows}x{columns}" for rows, columns in results["shared"]["grids"]]
    rows = []
    for name, found in by_arm.items():
        for level, grid in enumerate(sides):
            ways = [over_seeds([one.map[level][way] for one in found]) for way in range(4)]
            rows.append([f"{name}, {grid}", *ways])
    for kind, numbers in fixed.items():
        rows += [[f"{kind}, {grid}", *map(plain, own)] for grid, own in zip(sides, numbers, strict=True)]

    notes = ["Cell i of a level lies at scale * i + offset, in cells of the finest level."]
    header = ["", "scale along y", "offset along y", "scale along x", "offset along x"]
    return Table("Learned coordinates by level", header, rows, notes, results["command"])
