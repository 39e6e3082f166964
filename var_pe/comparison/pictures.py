"""The comparison's pictures: losses with their range over seeds, and the same seeds under every encoding."""

import statistics
import textwrap
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # without pyplot: no window, no global state
from matplotlib.ticker import MaxNLocator
from PIL import Image

from var_pe.comparison.study import Comparison

# Okabe & Ito's colours, which the colour-blind can tell apart; the line styles go on where they end.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", ":", "-.")
GAP = 2  # pixels between images


@dataclass(frozen=True)
class Curve:
    """A logged quantity over the steps that all seeds have: mean, least and most over the seeds."""

    steps: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]


def curve(comparison: Comparison, encoding: str, key: str) -> Curve:
    logs = [
        {entry["step"]: entry[key] for entry in result.log if key in entry}
        for result in comparison.results
        if result.encoding == encoding
    ]
    steps = sorted(set.intersection(*map(set, logs)))
    columns = [[log[step] for log in logs] for step in steps]
    return Curve(
        steps, list(map(statistics.fmean, columns)), list(map(min, columns)), list(map(max, columns))
    )


def loss_curves(comparison: Comparison) -> Figure:
    figure = Figure(figsize=(11, 4.5), layout="constrained", dpi=120)
    left, right = figure.subplots(1, 2)
    _draw(left, comparison, "loss", "training loss (nats per token)")
    _draw(right, comparison, "validation/loss", "validation loss (nats per token)", marker="o")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    if len(comparison.seeds) > 1:
        figure.suptitle(f"mean over {len(comparison.seeds)} seeds; the band is from the least to the most")
    return figure


def _draw(axes: Axes, comparison: Comparison, key: str, label: str, marker: str | None = None) -> None:
    styles = [(colour, style) for style in STYLES for colour in COLOURS]
    for encoding, (colour, style) in zip(comparison.encodings, cycle(styles), strict=False):
        found = curve(comparison, encoding, key)
        axes.plot(found.steps, found.mean, color=colour, linestyle=style, marker=marker, label=encoding)
        if len(comparison.seeds) > 1:
            axes.fill_between(found.steps, found.low, found.high, color=colour, alpha=0.2, linewidth=0)
    axes.set_xlabel("optimizer steps")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)


def samples(comparison: Comparison) -> Figure:
    """A row for each encoding, of the study's first seed; in a column the sampler draws the same numbers."""
    rows = [result for result in comparison.results if result.seed == comparison.seeds[0]]
    columns, width = len(rows[0].pictures), 0.9  # inches an image
    height, between = pixels(rows[0].pictures[0][1]).shape[:2]
    shape = (max(4.0, columns * width), len(rows) * (width * height / between + 0.25) + 0.5)
    figure = Figure(figsize=shape, layout="constrained", dpi=150)
    for axes, row in zip(figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows, strict=True):
        images = [
            np.pad(pixels(file), ((0, 0), (0, GAP), (0, 0)), constant_values=255) for _, file in row.pictures
        ]
        axes.imshow(np.concatenate(images, axis=1), interpolation="nearest")
        axes.set_title(row.encoding, loc="left", fontsize=9)
        axes.set_yticks([])
        axes.set_xticks([])
        axes.spines[:].set_visible(False)
    centres = [(column + 0.5) * (between + GAP) - GAP / 2 for column in range(columns)]
    names = [textwrap.fill(name, 14) for name, _ in rows[0].pictures]
    axes.set_xticks(centres, names, fontsize=7)
    axes.tick_params(length=0)
    return figure


def pixels(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"))
