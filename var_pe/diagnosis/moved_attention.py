"""What a plain ViT looks at before and after a change of its size, in the same pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from var_pe.diagnosis.attention import as_read, attention_of_classifier, rollout
from var_pe.diagnosis.classifier_explanation import Examined, as_picture, laid_over
from var_pe.diagnosis.explanation import SHOWN, Explained
from var_pe.models.vit import ViTClassifier

NOTES = [
    "Before and after a change of size: nothing was trained in between. Rollouts are compared by their "
    "correlation over the cells of the first size, each with the mean of the other one's cells that lie in "
    "it; 1: the same shape.",
]


@dataclass(frozen=True)
class Seen:
    """What a plain ViT looks at, in pictures of its size."""

    examined: Examined
    # of every layer as `attention_of_classifier`, then what classes are read from through all of them
    layers: list[Tensor]
    rollout_Bhw: Tensor
    # the classes that pictures are taken for
    taken_B: Tensor


@torch.no_grad()
def seen(examined: Examined) -> Seen:
    """What its classifier, a plain ViT, sees."""
    model = examined.model
    if not isinstance(model, ViTClassifier):
        raise ValueError(
            f"{examined.name}: attention is compared before and after a change of size in plain ViTs, not in "
            f"stages, which attend in parts of a map"
        )
    layers = attention_of_classifier(model, examined.images_BCHW)
    taken_B = model(examined.images_BCHW).argmax(1)
    return Seen(examined, layers, as_read(model, rollout(layers, model.prompts)), taken_B)


def with_moved(explained: Explained, pairs: Sequence[tuple[Examined, Examined]]) -> Explained:
    """A page with more on it: of each pair a classifier at its own size and at another one.

    Raises:
        ValueError: a classifier is no plain ViT.
    """
    lines, pictures = [], dict[str, Figure]()
    for own, other in pairs:
        before, after = seen(own), seen(other)
        lines.append(in_words(before, after))
        pictures[f"{own.name}: rollout before and after a change of size"] = rollouts_figure(before, after)
        pictures[f"{own.name}: heads before and after, first picture"] = heads_figure(before, after)
    return replace(
        explained,
        lines=[*explained.lines, *lines],
        pictures=explained.pictures | pictures,
        notes=[*explained.notes, *NOTES],
    )


def in_words(before: Seen, after: Seen) -> str:
    """How alike maps of both sizes are, beside those of other pictures, and how many answers stay."""
    alike = likeness(before.rollout_Bhw, after.rollout_Bhw).mean()
    number = len(before.taken_B)
    said = f"{before.examined.name} at {size_of(before)} and {size_of(after)}: "
    said += f"correlation of rollouts {alike:.2f}"
    if number > 1:
        others = likeness(before.rollout_Bhw, after.rollout_Bhw.roll(1, 0)).mean()
        said += f", with another picture's {others:.2f}"
    stay = int((before.taken_B == after.taken_B).sum())
    return f"{said}; {stay} of {number} pictures are taken for the same class."


def likeness(before_Bhw: Tensor, after_BHW: Tensor) -> Tensor:
    """Pearson's correlation of maps over the cells of the first ones, (B,)."""
    brought_B1hw = F.interpolate(after_BHW[:, None], size=before_Bhw.shape[1:], mode="area")
    one_BL = before_Bhw.flatten(1) - before_Bhw.mean((1, 2))[:, None]
    other_BL = brought_B1hw.flatten(1) - brought_B1hw.mean((1, 2, 3))[:, None]
    return F.cosine_similarity(one_BL, other_BL)


def size_of(found: Seen) -> str:
    height, width = found.examined.images_BCHW.shape[-2:]
    return f"{height}x{width}"


def rollouts_figure(before: Seen, after: Seen) -> Figure:
    """A row for each picture: it and its rollout at one size, then at the other."""
    number = len(before.taken_B)
    figure = Figure(figsize=(1.7 * 4, 1.85 * number), layout="constrained")
    for row, axes in enumerate(figure.subplots(number, 4, squeeze=False)):
        for (picture, map_axis), found in zip((axes[:2], axes[2:]), (before, after), strict=True):
            picture_HWC = as_picture(found.examined.images_BCHW[row])
            picture.imshow(picture_HWC, cmap="gray", vmin=0, vmax=1)
            picture.set_title(f"{size_of(found)}: {taken_for(found, row)}", fontsize=7)
            laid_over(map_axis, picture_HWC, found.rollout_Bhw[row])
            map_axis.set_title("rollout", fontsize=7)
        for axis in axes:
            axis.set_axis_off()
    return figure


def taken_for(found: Seen, row: int) -> str:
    names, taken = found.examined.class_names, int(found.taken_B[row])
    return names[taken] if taken < len(names) else f"class {taken}"


def heads_figure(before: Seen, after: Seen) -> Figure:
    """What classes are read from looks at in the first picture: rows are layers, columns heads, twice."""
    shown = min(SHOWN, len(before.layers))
    heads = min(SHOWN, before.layers[0].shape[1])
    figure = Figure(figsize=(1.3 * 2 * heads, 1.45 * shown), layout="constrained")
    for layer, axes in enumerate(figure.subplots(shown, 2 * heads, squeeze=False)):
        for found, columns in ((before, axes[:heads]), (after, axes[heads:])):
            model = found.examined.model
            assert isinstance(model, ViTClassifier), "`seen` takes no other"
            maps_Hhw = as_read(model, found.layers[layer][0, :heads])
            for head, (axis, map_hw) in enumerate(zip(columns, maps_Hhw, strict=True)):
                axis.imshow(map_hw, cmap="viridis")
                axis.set_title(f"{size_of(found)}: layer {layer}, head {head}", fontsize=5)
                axis.set_axis_off()
    return figure
