"""Pictures of positions: how alike they are, how large, how fast rotary ones turn, what a bias shows."""

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from var_pe.diagnosis.measures import Asked, bias, centre, code, cosine, turned, wavelengths
from var_pe.pyramid import Pyramid

LEVELS, HEADS = 6, 8  # as many are shown at most, of levels the finest
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
            span, (h, w) = pyramid.spans[level], pyramid.grids[level]
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


def similarity_figures(asked: Asked, there: Asked | None) -> dict[str, Figure]:
    """By what is added to tokens, and by how queries and keys are turned; as trained, and moved."""
    figures = {}
    both = [("trained", asked)] + ([("moved", there)] if there is not None else [])
    for title, measure in (
        ("Cosine of what is added to tokens", code),
        ("Inner product of a vector turned for both places", turned),
    ):
        found = [(name, one, measure(one)) for name, one in both]
        rows = [
            (name, cosine(value) if measure is code else value, one.pyramid)
            for name, one, value in found
            if value is not None
        ]
        if rows:
            figures[title] = similarities(rows)
    return figures


def norm_histograms(asked: Asked, tokens_BLC: Tensor) -> Figure | None:
    """Norms of tokens and of what is added to them, a plot for each level."""
    code_LC = code(asked)
    if code_LC is None:
        return None
    levels = list(range(asked.pyramid.num_levels))[-LEVELS:]
    figure = Figure(figsize=(2.8 * len(levels) + 0.6, 2.6), layout="constrained")
    for axis, level in zip(figure.subplots(1, len(levels), squeeze=False)[0], levels, strict=True):
        span, (h, w) = asked.pyramid.spans[level], asked.pyramid.grids[level]
        tokens_M = tokens_BLC[:, span].norm(dim=2).flatten()
        histogram(axis, tokens_M, "tokens", "C0")
        histogram(axis, code_LC[span].norm(dim=1), "positions", "C1")
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


def wavelength_figure(asked: Asked) -> Figure | None:
    """Cells in which each channel turns once, sorted, against the sides of the grid."""
    found_2F = wavelengths(asked)
    if found_2F is None:
        return None
    sides = zip(("rows", "columns"), asked.pyramid.finest, found_2F, strict=True)
    judged = [(name, side, waves_F) for name, side, waves_F in sides if side > 1]
    figure = Figure(figsize=(3.5 * len(judged), 3), layout="constrained")
    axes = figure.subplots(1, len(judged), sharey=True, squeeze=False)[0]
    for axis, (name, side, waves_F) in zip(axes, judged, strict=True):
        turning_F = waves_F[waves_F.isfinite()].sort().values
        axis.semilogy(torch.arange(len(turning_F)), turning_F, ".", label="first layer's channels")
        axis.axhline(side, color="black", linewidth=1, label=f"grid: {side} {name}")
        axis.axhline(2, color="grey", linestyle=":", linewidth=1, label="2 cells, the fastest to be told")
        axis.set_title(f"cells per turn along {name}", fontsize=8)
        axis.legend(fontsize=7)
    return figure


def bias_figure(asked: Asked) -> Figure | None:
    """What the centre of the finest level would look at if content did not count: softmax of the bias."""
    bias_HLL = bias(asked)
    if bias_HLL is None:
        return None
    (h, w), span = asked.pyramid.finest, asked.pyramid.spans[-1]
    seen_HL = bias_HLL[:HEADS, span.start + centre((h, w)), span].float().softmax(dim=-1)
    figure = Figure(figsize=(2.1 * len(seen_HL) + 0.6, 2.5), layout="constrained")
    axes = figure.subplots(1, len(seen_HL), squeeze=False)[0]
    for head, axis in enumerate(axes):
        axis.imshow(seen_HL[head].reshape(h, w), cmap="viridis")
        axis.set_title(f"head {head}: {seen_HL[head].min():.1%} to {seen_HL[head].max():.1%}", fontsize=8)
        axis.set_axis_off()
    return figure
