"""The comparison's pictures: losses with their range over seeds, and the same seeds under every encoding."""

import statistics
import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from var_pe.comparison.generator_study import Comparison
from var_pe.pages.charts import line_looks
from var_pe.pages.sheets import Pixels

GAP = 2  # pixels between images
IMAGE_WIDTH = 0.9  # inches


@dataclass(frozen=True)
class Curve:
    """A logged quantity over the steps that all seeds have: mean, least and most over the seeds."""

    steps: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]


def curve(comparison: Comparison, encoding: str, key: str) -> Curve:
    """How a quantity went under an encoding."""
    logs = [
        {int(entry["step"]): entry[key] for entry in result.log if key in entry}
        for result in comparison.results
        if result.encoding == encoding
    ]

    steps = sorted(set.intersection(*map(set, logs)))
    by_step = [[log[step] for log in logs] for step in steps]
    return Curve(
        steps,
        mean=[statistics.fmean(values) for values in by_step],
        low=[min(values) for values in by_step],
        high=[max(values) for values in by_step],
    )


def loss_curves(comparison: Comparison) -> Figure:
    """Training loss on the left, validation loss on the right, a line for each encoding."""
    figure = Figure(figsize=(11, 4.5), layout="constrained", dpi=120)
    left, right = figure.subplots(1, 2)
    _draw_curves(left, comparison, "loss", "training loss (nats per token)")
    _draw_curves(right, comparison, "validation/loss", "validation loss (nats per token)", marker="o")

    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    if len(comparison.seeds) > 1:
        figure.suptitle(f"mean over {len(comparison.seeds)} seeds; the band is from the least to the most")
    return figure


def _draw_curves(axes: Axes, comparison: Comparison, key: str, label: str, marker: str | None = None) -> None:
    for encoding, (colour, style) in line_looks(comparison.encodings).items():
        found = curve(comparison, encoding, key)
        axes.plot(found.steps, found.mean, color=colour, linestyle=style, marker=marker, label=encoding)
        if len(comparison.seeds) > 1:
            axes.fill_between(found.steps, found.low, found.high, color=colour, alpha=0.2, linewidth=0)

    axes.set_xlabel("optimizer steps")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)


def samples(comparison: Comparison) -> Figure:
    """Real images and their reconstructions, then a row for each encoding, of the study's first seed.

    In a column all images have one class, and the sampler draws the same numbers.
    """
    results = [result for result in comparison.results if result.seed == comparison.seeds[0]]
    names = [name for name, _ in results[0].pictures]
    rows: list[tuple[str, list[Pixels | None]]] = []
    if comparison.real:
        originals = [picture.original if picture else None for picture in comparison.real]
        rebuilt = [picture.reconstruction if picture else None for picture in comparison.real]
        rows += [("real test images", originals), ("their reconstructions by the tokenizer", rebuilt)]
    rows += [(result.encoding, [pixels(file) for _, file in result.pictures]) for result in results]

    # Rows may have images of different sizes: drawn ones can be larger than those that were trained on.
    number = len(names)
    height, width = pixels(results[0].pictures[0][1]).shape[:2]

    # A title's height above each row, and the classes' names below the last.
    row_height = IMAGE_WIDTH * height / width + 0.25
    size = (max(4.0, number * IMAGE_WIDTH), len(rows) * row_height + 0.5)
    figure = Figure(figsize=size, layout="constrained", dpi=150)

    for axes, (title, pictures) in zip(figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows, strict=True):
        axes.imshow(in_a_row(pictures), interpolation="nearest")
        axes.set_title(title, loc="left", fontsize=9, parse_math=False)
        axes.set_yticks([])
        axes.set_xticks([])
        axes.spines[:].set_visible(False)

    centres = [(column + 0.5) * (width + GAP) - GAP / 2 for column in range(number)]
    axes.set_xticks(centres, [textwrap.fill(name, 14) for name in names], fontsize=7, parse_math=False)
    axes.tick_params(length=0)
    return figure


def in_a_row(pictures: list[Pixels | None]) -> Pixels:
    """Pictures of one size side by side in colour; white where one is missing."""
    size = next(picture.shape[:2] for picture in pictures if picture is not None)
    shown = []
    for picture in pictures:
        rgb = np.full((size[0], size[1] + GAP, 3), 255, np.uint8)
        if picture is not None:
            rgb[:, : size[1]] = picture  # a grey one three times
        shown.append(rgb)
    return np.concatenate(shown, axis=1)


def pixels(file: Path) -> Pixels:
    """A picture file as an array (rows, columns, 3)."""
    return np.asarray(Image.open(file).convert("RGB"))
