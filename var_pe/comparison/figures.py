"""Charts of a study as pictures, for pages that run no script."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from var_pe.comparison.excess import floor_of
from var_pe.comparison.page import HeatMap, heat_maps
from var_pe.comparison.results import Results
from var_pe.comparison.verdicts import LOSS, Ranked, primary_column, ranking
from var_pe.pages.charts import COLOURS

CURVES = len(COLOURS)  # arms whose curves are drawn: one colour each
MAPS = 5  # heat maps: the best arm's, then those against it


def charts_of(results: Results) -> Figure:
    """The ranking with its intervals, and the validation loss of the best arms over the steps."""
    ranked = ranking(results)
    height = max(3.2, 0.6 + 0.24 * len(ranked))
    figure = Figure(figsize=(11, height), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.2])
    draw_ranking(left, results, ranked)
    draw_curves(right, results, [one.arm["name"] for one in ranked[:CURVES]])
    return figure


def draw_ranking(axes: Axes, results: Results, ranked: Sequence[Ranked]) -> None:
    """Means with Student's intervals, the best at the top."""
    column = primary_column(results)
    for place, one in enumerate(ranked):
        half = (one.half_width or 0.0) * column.factor
        axes.errorbar(
            one.mean * column.factor, place, xerr=half, fmt="o", color=COLOURS[0], markersize=4, capsize=2
        )
    floor = floor_of(results)
    if floor is not None:
        axes.axvline(floor[1] * column.factor, color=COLOURS[1], linestyle=":", label=floor[0])
        axes.legend(fontsize=8)
    axes.set_yticks(range(len(ranked)), [one.arm["name"] for one in ranked], fontsize=8)
    axes.set_ylim(len(ranked) - 0.4, -0.6)
    axes.set_xlabel(column.label, fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", alpha=0.3)


def draw_curves(axes: Axes, results: Results, names: Sequence[str]) -> None:
    """Seeds as thin lines, the mean at the steps that all have as a thick one."""
    ends = []
    for number, name in enumerate(names):
        colour = COLOURS[number % len(COLOURS)]
        curves = [
            cell["curves"][LOSS.key]
            for cell in results["cells"]
            if cell["arm"] == name and LOSS.key in cell["curves"]
        ]
        if not curves:
            continue
        for curve in curves:
            ends += curve["values"][len(curve["values"]) // 3 :]
            axes.plot(
                curve["steps"],
                curve["values"],
                color=colour,
                linewidth=0.5,
                alpha=0.5,
                marker=dot(curve["steps"]),
            )

        shared = sorted(set.intersection(*(set(curve["steps"]) for curve in curves)))
        by_step = [dict(zip(curve["steps"], curve["values"], strict=True)) for curve in curves]
        means = [sum(values[step] for values in by_step) / len(by_step) for step in shared]
        axes.plot(shared, means, color=colour, linewidth=1.8, label=name, marker=dot(shared))

    # The first steps are left out: their high losses would flatten all other curves into one line.
    if ends:
        room = 0.1 * (max(ends) - min(ends)) or 0.1
        axes.set_ylim(min(ends) - room, max(ends) + 3 * room)
        axes.legend(fontsize=7)
    axes.set_xlabel("optimizer steps", fontsize=8)
    axes.set_ylabel(LOSS.label, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)


def dot(steps: Sequence[int]) -> str:
    """The marker of a curve: a line through one point is no line, so one validation is a dot."""
    return "o" if len(steps) == 1 else ""


def places_of(results: Results) -> Figure | None:
    """Heat maps of the best arm, and of others against the arm that they are compared with."""
    absolute, against = heat_maps(results)
    maps = [*absolute[:1], *against[: MAPS - 1]]
    if not maps:
        return None
    wide = max(each.width for each in maps) / 100
    figure = Figure(figsize=(min(11.0, 1.4 * wide + 1), 1.7 * len(maps)), dpi=110, layout="constrained")
    for axes, each in zip(figure.subplots(len(maps), 1, squeeze=False).flat, maps, strict=True):
        draw_map(axes, each)
    return figure


def draw_map(axes: Axes, each: HeatMap) -> None:
    """The levels side by side; stronger is more, in the second colour where it is less than nothing."""
    for cell in each.cells:
        colour = COLOURS[0] if cell.falls else COLOURS[1]
        axes.add_patch(
            Rectangle(
                (cell.x, cell.y), cell.width, cell.height,
                facecolor=colour, alpha=cell.strength, edgecolor="none",
            )
        )  # fmt: skip
    axes.set_xlim(0, each.width)
    axes.set_ylim(100, 0)
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_anchor("W")
    axes.set_title(f"{each.name}: {each.said}", fontsize=8, loc="left")
