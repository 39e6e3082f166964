"""The study's page: one HTML file with its style, charts, pictures and data inside."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from var_pe.comparison.excess import excess_by_place, floor_of
from var_pe.comparison.report import Report, sample_rows
from var_pe.comparison.results import Results, grids_of
from var_pe.comparison.verdicts import Column, primary_column, ranking
from var_pe.pages.charts import COLOURS
from var_pe.pages.html import render
from var_pe.pages.numbers import plain, rounded
from var_pe.settings.files import dump

LINE_COLOURS = COLOURS[:-1]  # black is not seen on black; the dashes go on where colours end
DASHES: tuple[list[int], ...] = ([], [8, 4], [2, 3], [10, 3, 2, 3])
SHOWN_AT_FIRST = 6  # arms whose curves are drawn before anybody chooses
FAINTEST = 0.06  # strength of the least value in a heat map
HEAT_CELLS = 6000  # rectangles of heat maps at most


class Lines(TypedDict):
    """A chart's curves: arm, seed, steps, values."""

    arm: int
    seed: int
    steps: list[int]
    values: list[float]


@dataclass(frozen=True)
class Interval:
    """An arm in the picture of the ranking; places in percent of its width."""

    name: str
    # as a config writes its encoding
    line: str
    middle: float
    low: float
    high: float
    said: str


@dataclass(frozen=True)
class HeatCell:
    """A token in a heat map: its place in units of the map, its strength in [0, 1] and what it says."""

    x: float
    y: float
    width: float
    height: float
    strength: float
    falls: bool
    said: str


@dataclass(frozen=True)
class HeatMap:
    """The levels of an arm side by side."""

    name: str
    width: float
    cells: list[HeatCell]
    # its least and largest value
    said: str


def as_html(results: Results, report: Report) -> str:
    """The page."""
    rows = sample_rows(results)
    absolute, against = heat_maps(results)
    return render(
        "comparison.html.j2",
        title=report.title,
        intro="",
        report=report,
        intervals=intervals(results),
        floor=floor_place(results),
        floor_name=(floor_of(results) or ("",))[0],
        column=primary_column(results).label if ranking(results) else "",
        samples=[(title, f"data:image/png;base64,{picture}") for title, picture, _ in rows],
        classes=rows[0][2] if rows else [],
        charts=charts(results),
        data=json.dumps(chart_data(results), separators=(",", ":")).replace("<", "\\u003c"),
        heat_maps=absolute,
        difference_maps=against,
        excess_maps=excess_maps(results),
        settings=dump(results["config"], width=100),
        study=dump(results["study"], width=100),
        versions=results["versions"],
        written=results["times"]["written"],
        command=results["command"],
    )


# ------------------------------------------------------------------------------------------- the ranking


def intervals(results: Results) -> list[Interval]:
    """Means with their intervals, drawn on one line of numbers."""
    column, ranked = _column(results), ranking(results)
    if column is None or not ranked:
        return []
    low, high = _range(results)
    found = []
    for one in ranked:
        half = one.half_width or 0.0
        said = plain(one.mean * column.factor)
        if one.half_width is not None:
            said = rounded(one.mean * column.factor, half * column.factor)
        found.append(
            Interval(
                one.arm["name"],
                one.arm["encoding"],
                _share(one.mean, low, high),
                _share(one.mean - half, low, high),
                _share(one.mean + half, low, high),
                said,
            )
        )
    return found


def floor_place(results: Results) -> float | None:
    """Where the floor lies on that line; None if it is not known."""
    floor = floor_of(results)
    if floor is None or not ranking(results):
        return None
    return _share(floor[1], *_range(results))


def _column(results: Results) -> Column | None:
    return primary_column(results) if any(cell["values"] for cell in results["cells"]) else None


def _range(results: Results) -> tuple[float, float]:
    ends = []
    for one in ranking(results):
        half = one.half_width or 0.0
        ends += [one.mean - half, one.mean + half]
    floor = floor_of(results)
    ends += [] if floor is None else [floor[1]]
    margin = 0.05 * (max(ends) - min(ends)) or 0.05 * abs(ends[0]) or 1.0
    return min(ends) - margin, max(ends) + margin


def _share(value: float, low: float, high: float) -> float:
    return round(100 * (value - low) / (high - low), 2)


# --------------------------------------------------------------------------------------------- curves


def charts(results: Results) -> list[tuple[str, list[tuple[str, str]]]]:
    """Groups of charts: a title, then each chart's quantity and title."""
    keys = {key for cell in results["cells"] for key in cell["curves"]}
    names = level_names(results)
    groups = [
        (
            "Loss",
            [
                ("validation/loss", "validation loss (nats per token)"),
                ("loss", "training loss (nats per token)"),
            ],
        ),
        (
            "Validation loss by level",
            [(f"validation/loss/level_{level}", f"level {name}") for level, name in enumerate(names)],
        ),
        (
            "Trainings",
            [
                ("grad_norm", "gradient norm before clipping"),
                ("validation/share_in_sinusoid", "share of the code in the sinusoid's span"),
            ],
        ),
    ]
    found = [(title, [chart for chart in group if chart[0] in keys]) for title, group in groups]
    return [(title, group) for title, group in found if group]


def level_names(results: Results) -> list[str]:
    """The levels' grids; their numbers, where arms have different ones."""
    all_grids = [grids_of(results, arm) for arm in results["arms"]]
    longest = max(all_grids, key=len)
    if all(grids == longest for grids in all_grids):
        return [f"{rows}x{columns}" for rows, columns in longest]
    return [str(level + 1) for level in range(len(longest))]


def chart_data(results: Results) -> dict[str, object]:
    """What the page's script draws."""
    names = [arm["name"] for arm in results["arms"]]
    ranked = [one.arm["name"] for one in ranking(results)]
    order = ranked + [name for name in names if name not in ranked]
    wanted = {key for _, group in charts(results) for key, _ in group}

    lines: dict[str, list[Lines]] = {key: [] for key in wanted}
    for cell in results["cells"]:
        for key, curve in cell["curves"].items():
            if key in wanted:
                values = [float(f"{value:.5g}") for value in curve["values"]]
                arm = names.index(cell["arm"])
                lines[key].append(
                    {"arm": arm, "seed": cell["seed"], "steps": curve["steps"], "values": values}
                )

    looks = []
    for number, name in enumerate(names):
        looks.append(
            {
                "name": name,
                "colour": LINE_COLOURS[number % len(LINE_COLOURS)],
                "dash": DASHES[number // len(LINE_COLOURS) % len(DASHES)],
                "shown": order.index(name) < SHOWN_AT_FIRST,
                "seconds": _seconds_per_step(results, name),
            }
        )
    return {"arms": looks, "lines": lines}


def _seconds_per_step(results: Results, arm: str) -> float | None:
    """The median of an arm's step times."""
    times = results["times"]["cells"]
    keys = [cell["key"] for cell in results["cells"] if cell["arm"] == arm and cell["key"] in times]
    seconds = sorted(times[key]["seconds_per_step"] for key in keys if "seconds_per_step" in times[key])
    return seconds[len(seconds) // 2] if seconds else None


# ------------------------------------------------------------------------------------------- heat maps


def heat_maps(results: Results) -> tuple[list[HeatMap], list[HeatMap]]:
    """Nats of every token: of each arm, and of each against the one that it is compared with."""
    rows = {arm["name"]: places_by_seed(results, arm["name"]) for arm in results["arms"]}
    means = {name: _mean(list(own.values())) for name, own in rows.items() if own}
    if not means:
        return [], []

    # The best arms first, as many as the page holds.
    tokens = max(map(len, means.values()))
    ranked = [one.arm for one in ranking(results) if one.arm["name"] in means]
    shown = ranked[: max(1, HEAT_CELLS // (2 * tokens))]
    values = [value for arm in shown for value in means[arm["name"]]]
    absolute = [
        _map(grids_of(results, arm), arm["name"], means[arm["name"]], min(values), max(values))
        for arm in shown
    ]

    differences = []
    for arm in shown:
        # Seed by seed, as differences are everywhere: what a seed does to both must cancel.
        mine, theirs = rows[arm["name"]], rows.get(arm["compared_with"], {})
        own = [
            [one - other for one, other in zip(mine[seed], theirs[seed], strict=True)]
            for seed in sorted(mine.keys() & theirs.keys())
            if len(mine[seed]) == len(theirs[seed])
        ]
        if arm["compared_with"] != arm["name"] and own:
            differences.append((arm, f"{arm['name']} minus {arm['compared_with']}", _mean(own)))
    most = max((abs(value) for *_, row in differences for value in row), default=1.0) or 1.0
    return absolute, [_map(grids_of(results, arm), name, row, 0.0, most) for arm, name, row in differences]


def places_by_seed(results: Results, arm: str) -> dict[int, list[float]]:
    """The nats of every token under an arm, of each of its finished cells."""
    mine = [cell for cell in results["cells"] if cell["arm"] == arm and cell["nats_by_place"]]
    return {cell["seed"]: cell["nats_by_place"] for cell in mine}


def _mean(rows: Sequence[Sequence[float]]) -> list[float]:
    """Token by token."""
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def excess_maps(results: Results) -> list[HeatMap]:
    """Where arms need more nats than the tokens hold, the best arms first; empty where that is not known."""
    means = []
    for one in ranking(results):
        rows = excess_by_place(results, one.arm)
        if rows:
            means.append((one.arm, _mean(rows)))
    tokens = max((len(row) for _, row in means), default=1)
    shown = means[: max(1, HEAT_CELLS // (2 * tokens))]
    most = max((abs(value) for _, row in shown for value in row), default=1.0) or 1.0
    return [_map(grids_of(results, arm), arm["name"], row, 0.0, most) for arm, row in shown]


def _map(grids: Sequence[Sequence[int]], name: str, values: list[float], low: float, high: float) -> HeatMap:
    """The levels side by side, each as tall as the others."""
    side, span = 100.0, (high - low) or 1.0
    cells = []
    left, place = 0.0, 0
    for rows, columns in grids:
        width = side * columns / max(rows, 1)
        for row in range(rows):
            for column in range(columns):
                value = values[place]
                cells.append(
                    HeatCell(
                        x=round(left + column * width / columns, 2),
                        y=round(row * side / rows, 2),
                        width=round(width / columns, 2),
                        height=round(side / rows, 2),
                        strength=round(FAINTEST + (1 - FAINTEST) * abs(value - low) / span, 3),
                        falls=value < 0,
                        said=f"{rows}x{columns}, row {row + 1}, column {column + 1}: {plain(value)} nats",
                    )
                )
                place += 1
        left += width + 12
    said = f"{plain(min(values))} to {plain(max(values))} nats"
    return HeatMap(name, round(left - 12, 2), cells, said)
