"""What models look at as one page: a line for each model, pictures under headings, notes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from var_pe.files import write_text
from var_pe.pages.charts import COLOURS, png
from var_pe.pages.html import embedded, render

SHOWN = 8  # layers and heads that have a map each: the first so many


@dataclass(frozen=True)
class Explained:
    """All that a person reads and sees."""

    title: str
    # a line for each model
    lines: list[str]
    # by heading
    pictures: dict[str, Figure]
    notes: list[str]


def by_layer(values: Mapping[str, Tensor], unit: str, even: Mapping[str, float] | None = None) -> Figure:
    """Numbers (N, H) of each model: heads as dots, their mean as a line; `even` as a dotted line."""
    even = even or {}
    figure = Figure(figsize=(6, 3), layout="constrained")
    axis = figure.subplots()
    for number, (name, value_NH) in enumerate(values.items()):
        colour = COLOURS[number % len(COLOURS)]
        layers = np.arange(len(value_NH))
        axis.plot(layers, value_NH.mean(1), color=colour, label=name)
        for head in range(value_NH.shape[1]):
            axis.plot(layers, value_NH[:, head], ".", color=colour, alpha=0.5)
        if name in even:
            axis.axhline(even[name], color=colour, linestyle=":", label=f"{name}, if it were even")
    axis.set_xticks(layers)
    highest = max(float(value_NH.max()) for value_NH in values.values())
    axis.set_ylim(0, 1.1 * max([highest, *even.values()]))
    axis.set_xlabel("layer", fontsize=8)
    axis.set_ylabel(unit, fontsize=8)
    axis.legend(fontsize=7)
    return figure


def write_explanation(explained: Explained, path: Path, command: str) -> None:
    """One file with the pictures in it."""
    page = render(
        "explanation.html.j2",
        title=explained.title,
        intro="",
        lines=explained.lines,
        pictures={title: embedded(png(figure)) for title, figure in explained.pictures.items()},
        notes=[*explained.notes, f"Made by {command}"],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)
