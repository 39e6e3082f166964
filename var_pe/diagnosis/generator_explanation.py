"""What the levels of generators look at: shares and distances, level by level, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from var_pe.diagnosis.attention import LevelAttention, attention_of_generator, by_level
from var_pe.diagnosis.explanation import SHOWN, Explained, by_layer
from var_pe.models.generator import VARTransformer
from var_pe.models.tokenizer import VQTokenizer

WRITTEN = 8  # levels up to which numbers stand in the cells of a map

NOTES = [
    "Rows are levels that look, columns the levels that they see. Measured level by level with a cache, "
    "as in drawing, on the tokens of test images.",
    "Even: the share or distance that attention without any preference would have.",
    "Distances are of centres, in sides of the image, under the attention that goes to a level.",
]


@dataclass(frozen=True)
class Drawer:
    """A generator with its tokenizer, and tokens and labels of images that it is shown."""

    name: str
    transformer: VARTransformer
    tokenizer: VQTokenizer
    tokens_BL: Tensor
    labels_B: Tensor


def explain_generators(drawers: Sequence[Drawer]) -> Explained:
    """What each level looks at, where in space, and how both differ between the models."""
    lines = []
    found = dict[str, LevelAttention]()
    for one in drawers:
        weights = attention_of_generator(one.transformer, one.tokenizer, one.tokens_BL, one.labels_B)
        found[one.name] = attention = by_level(one.transformer, weights)
        finest = attention.mass_NHKK[:, :, -1].mean((0, 1))
        lines.append(
            f"{one.name}: encoding {one.transformer.config['encoding']}; the finest level "
            f"{one.transformer.pyramid.finest[0]}x{one.transformer.pyramid.finest[1]} gives {finest[-1]:.1%} "
            f"of its attention to itself ({attention.even_mass_KK[-1, -1]:.1%} if it were even), at a mean "
            f"distance of {attention.distance_NHKK[:, :, -1, -1].mean():.3f} sides "
            f"({attention.even_distance_KK[-1, -1]:.3f})."
        )

    grids = {one.name: one.transformer.pyramid.grids for one in drawers}
    first = next(iter(found.values()))
    mass = {"even": first.even_mass_KK} | {name: each.mass_NHKK.mean((0, 1)) for name, each in found.items()}
    distance = {"even": first.even_distance_KK}
    distance |= {name: each.distance_NHKK.mean((0, 1)) for name, each in found.items()}
    own = {name: each.mass_NHKK[:, :, -1, -1] for name, each in found.items()}
    own_distance = {name: each.distance_NHKK[:, :, -1, -1] for name, each in found.items()}
    own_even = {name: float(each.even_distance_KK[-1, -1]) for name, each in found.items()}
    of_even = grids[drawers[0].name]
    pictures = {
        "Share of attention by level, mean of layers and heads": matrices(mass, grids | {"even": of_even}),
        "Mean distance by level, mean of layers and heads": matrices(distance, grids | {"even": of_even}),
        "Share of the finest level's attention that stays in it, by layer": by_layer(own, "share"),
        "Mean distance within the finest level, by layer": by_layer(
            own_distance, "sides of the image", own_even
        ),
    }
    for name, attention in found.items():
        pictures[f"{name}: share of attention by level, of every head and layer"] = each_head(attention)
    return Explained("What the levels of generators look at", lines, pictures, NOTES)


def matrices(values: dict[str, Tensor], grids: dict[str, tuple[tuple[int, int], ...]]) -> Figure:
    """Level by level, a map for each model, all in one scale."""
    across = min(4, len(values))
    down = -(-len(values) // across)
    figure = Figure(figsize=(3 * across, 3 * down), layout="constrained")
    places = list(figure.subplots(down, across, squeeze=False).flat)
    most = max(float(value_KK.nan_to_num().max()) for value_KK in values.values())
    for axis, (name, value_KK) in zip(places, values.items(), strict=False):
        level_map(axis, value_KK, most)
        ticks = [str(h) if h == w else f"{h}x{w}" for h, w in grids[name]]
        axis.set_xticks(range(len(ticks)), ticks, fontsize=7)
        axis.set_yticks(range(len(ticks)), ticks, fontsize=7)
        axis.set_title(fill(name, 36), fontsize=8)
        axis.set_xlabel("level seen", fontsize=7)
        axis.set_ylabel("level that looks", fontsize=7)
    for axis in places[len(values) :]:
        axis.set_axis_off()
    return figure


def level_map(axis: Axes, value_KK: Tensor, most: float) -> None:
    """What a level does not see is white; numbers where they have room."""
    number = len(value_KK)
    unseen_KK = torch.ones(number, number).triu(1).bool()
    axis.imshow(value_KK.masked_fill(unseen_KK, float("nan")), vmin=0, vmax=most, cmap="viridis")
    if number > WRITTEN:
        return
    for looking in range(number):
        for seen in range(looking + 1):
            value = float(value_KK[looking, seen])
            colour = "black" if value > most / 2 else "white"
            axis.text(seen, looking, f"{value:.2f}", fontsize=6, ha="center", va="center", color=colour)


def each_head(attention: LevelAttention) -> Figure:
    """A row for each layer, a column for each head."""
    shown_NHKK = attention.mass_NHKK[:SHOWN, :SHOWN]
    layers, heads = shown_NHKK.shape[:2]
    figure = Figure(figsize=(1.4 * heads, 1.5 * layers), layout="constrained")
    for layer, axes in enumerate(figure.subplots(layers, heads, squeeze=False)):
        for head, axis in enumerate(axes):
            unseen_KK = torch.ones_like(shown_NHKK[layer, head]).triu(1).bool()
            axis.imshow(shown_NHKK[layer, head].masked_fill(unseen_KK, float("nan")), vmin=0, vmax=1)
            axis.set_title(f"layer {layer}, head {head}", fontsize=6)
            axis.set_xticks([])
            axis.set_yticks([])
    return figure
