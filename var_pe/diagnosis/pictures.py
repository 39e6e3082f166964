"""Pictures of positions: how alike they are, how large, how fast rotary ones turn, what a bias shows."""

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from var_pe.diagnosis.measures import PlacedEncoding, bias, centre, code, cosine, turned, wavelengths
from var_pe.pages.charts import COLOURS
from var_pe.pyramid import Pyramid

# As many are shown at most, of levels the finest.
LEVELS = 6
HEADS = 8
CONSTANT = 1e-3  # relative width of norms below which they are one


def similarities(named: Sequence[tuple[str, Tensor, Pyramid]]) -> Figure:
    """A row each: the centre of every level against its level, then all positions against all."""
    columns = 1 + max(len(shown_levels(pyramid)) for _, _, pyramid in named)
    figure = Figure(figsize=(2.4 * columns + 0.6, 2.5 * len(named)), layout="constrained")
    grid = figure.subplots(len(named), columns, squeeze=False)

    for axes, (name, similarity_LL, pyramid) in zip(grid, named, strict=True):
        for axis in axes:
            axis.set_axis_off()

        for axis, level in zip(axes, shown_levels(pyramid), strict=False):
            h, w = pyramid.grids[level]
            span = pyramid.spans[level]
            row_hw = similarity_LL[span.start + centre((h, w)), span].reshape(h, w)
            axis.imshow(row_hw, vmin=-1, vmax=1, cmap="RdBu_r")
            axis.set_title(f"{name}: centre of {h}x{w}", fontsize=8)

        image = axes[-1].imshow(similarity_LL, vmin=-1, vmax=1, cmap="RdBu_r")
        axes[-1].set_title(f"{name}: all to all, coarse first", fontsize=8)
        figure.colorbar(image, ax=axes[-1])
    return figure


def shown_levels(pyramid: Pyramid) -> list[int]:
    """The finest ones of those with more than one cell."""
    return [level for level, (h, w) in enumerate(pyramid.grids) if h * w > 1][-LEVELS:]


def similarity_figures(here: PlacedEncoding, there: PlacedEncoding | None) -> dict[str, Figure]:
    """By what is added to tokens, and by how queries and keys are turned; as trained, and moved."""
    encodings = {"trained": here}
    if there is not None:
        encodings["moved"] = there

    added, rotated = [], []
    for name, placed in encodings.items():
        code_LC = code(placed)
        if code_LC is not None:
            added.append((name, cosine(code_LC), placed.pyramid))
        similarity_LL = turned(placed)
        if similarity_LL is not None:
            rotated.append((name, similarity_LL, placed.pyramid))

    figures = {}
    if added:
        figures["Cosine of what is added to tokens"] = similarities(added)
    if rotated:
        figures["Inner product of a vector turned for both positions"] = similarities(rotated)
    return figures


def norm_histograms(placed: PlacedEncoding, tokens_BLC: Tensor) -> Figure | None:
    """Norms of tokens and of what is added to them, a plot for each level."""
    code_LC = code(placed)
    if code_LC is None:
        return None

    levels = list(range(placed.pyramid.num_levels))[-LEVELS:]
    figure = Figure(figsize=(2.8 * len(levels) + 0.6, 2.6), layout="constrained")
    for axis, level in zip(figure.subplots(1, len(levels), squeeze=False)[0], levels, strict=True):
        h, w = placed.pyramid.grids[level]
        span = placed.pyramid.spans[level]
        tokens_M = tokens_BLC[:, span].norm(dim=2).flatten()
        histogram(axis, tokens_M, "tokens", COLOURS[0])
        histogram(axis, code_LC[span].norm(dim=1), "positions", COLOURS[1])
        axis.set_title(f"norms, {h}x{w}", fontsize=8)
        axis.set_yticks([])

    axis.legend(fontsize=8)
    return figure


def histogram(axis: Axes, norms_M: Tensor, label: str, colour: str) -> None:
    """Norms that differ by rounding alone, as those of a fixed code, have no width: a line."""
    low, high = norms_M.min(), norms_M.max()
    if high - low <= CONSTANT * high:
        axis.axvline(float(high), color=colour, linewidth=2, label=f"{label}, all alike")
    else:
        axis.hist(norms_M, bins=30, density=True, alpha=0.6, color=colour, label=label)


def wavelength_figure(placed: PlacedEncoding) -> Figure | None:
    """Cells in which each channel turns once, sorted, against the sides of the grid."""
    found_2F = wavelengths(placed)
    if found_2F is None:
        return None

    sides = zip(("rows", "columns"), placed.pyramid.finest, found_2F, strict=True)
    shown = [(name, side, waves_F) for name, side, waves_F in sides if side > 1]

    figure = Figure(figsize=(3.5 * len(shown), 3), layout="constrained")
    axes = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axis, (name, side, waves_F) in zip(axes, shown, strict=True):
        turning_F = waves_F[waves_F.isfinite()].sort().values
        axis.semilogy(torch.arange(len(turning_F)), turning_F, ".", label="first layer's channels")
        axis.axhline(side, color="black", linewidth=1, label=f"grid: {side} {name}")
        axis.axhline(2, color="grey", linestyle=":", linewidth=1, label="2 cells, the fastest to be seen")
        axis.set_title(f"cells per turn along {name}", fontsize=8)
        axis.legend(fontsize=7)
    return figure


def bias_figure(placed: PlacedEncoding) -> Figure | None:
    """What the centre of the finest level would look at if content did not count: softmax of the bias."""
    bias_HLL = bias(placed)
    if bias_HLL is None:
        return None

    h, w = placed.pyramid.finest
    span = placed.pyramid.spans[-1]
    seen_HL = bias_HLL[:HEADS, span.start + centre((h, w)), span].float().softmax(dim=-1)

    figure = Figure(figsize=(2.1 * len(seen_HL) + 0.6, 2.5), layout="constrained")
    axes = figure.subplots(1, len(seen_HL), squeeze=False)[0]
    for head, axis in enumerate(axes):
        axis.imshow(seen_HL[head].reshape(h, w), cmap="viridis")
        axis.set_title(f"head {head}: {seen_HL[head].min():.1%} to {seen_HL[head].max():.1%}", fontsize=8)
        axis.set_axis_off()
    return figure
