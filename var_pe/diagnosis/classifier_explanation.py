"""What classifiers look at: what their answers rest on, and what the heads of plain ViTs see."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from var_pe.diagnosis.attention import as_read, attention_of_classifier, distances, mean_distance, rollout
from var_pe.diagnosis.attributions import attributions
from var_pe.diagnosis.explanation import SHOWN, Explained, by_layer
from var_pe.models.classifier import Classifier
from var_pe.models.vit import ViTClassifier

NOTES = [
    "Rollout: the product of all layers' attention, meaned over heads, half of each layer's and half the "
    "identity, which stands for the residual connection (Abnar & Zuidema 2020).",
    "Grad-CAM and EigenCAM: of the tokens that the last block is given, after its first norm, for the "
    "class that the picture is taken for.",
    "Distances are mean distances of patches' centres under attention, in sides of the image, without "
    "class token and registers.",
]


@dataclass(frozen=True)
class Examined:
    """A classifier, images of its size in [-1, 1], and what they are taken for."""

    name: str
    model: Classifier
    images_BCHW: Tensor
    class_names: Sequence[str]
    # the true classes; -1: unknown. Empty: none are known
    labels: Sequence[int] = ()

    def called(self, label: int) -> str:
        return self.class_names[label] if label < len(self.class_names) else f"class {label}"


def explain_classifiers(examined: Sequence[Examined]) -> Explained:
    """Of each what its answers rest on, and of plain ViTs what every head of every layer looks at."""
    lines = []
    answers, heads = dict[str, Figure](), dict[str, Figure]()
    travelled, evenly = dict[str, Tensor](), dict[str, float]()
    for one in examined:
        maps = attributions(one.model, one.images_BCHW)
        said = f"{one.name}: {type(one.model).__name__}, encoding {one.model.config['encoding']}"
        if isinstance(one.model, ViTClassifier):
            layers = attention_of_classifier(one.model, one.images_BCHW)
            maps = {"rollout": as_read(one.model, rollout(layers, one.model.prompts)), **maps}
            travelled[one.name] = distances(one.model, layers)
            evenly[one.name] = even(one.model)
            heads[f"{one.name}: every head of every layer, first picture"] = heads_figure(one.model, layers)
            said += (
                f"; mean distance of attention {travelled[one.name].mean():.3f} sides, "
                f"{evenly[one.name]:.3f} if it were even"
            )
        else:
            said += "; attention in parts of a map has no rollout, so its maps are left out"
        lines.append(f"{said}.")
        answers[f"{one.name}: what answers rest on"] = answers_figure(one, maps)

    how_far = (
        {"How far attention goes": by_layer(travelled, "sides of the image", evenly)} if travelled else {}
    )
    return Explained("What classifiers look at", lines, answers | how_far | heads, NOTES)


def even(model: ViTClassifier) -> float:
    """The mean distance of attention that prefers nothing, in sides of the image."""
    positions = model.pyramid.positions()
    number = positions.num_tokens
    return float(mean_distance(torch.ones(1, 1, number, number), positions, positions)[0])


@torch.no_grad()
def answers_figure(examined: Examined, maps: dict[str, Tensor]) -> Figure:
    """A row for each picture: itself under the predicted class, and the true one; then it under each map."""
    taken_B = examined.model(examined.images_BCHW).argmax(1)
    number = len(examined.images_BCHW)
    figure = Figure(figsize=(1.7 * (1 + len(maps)), 1.85 * number), layout="constrained")
    grid = figure.subplots(number, 1 + len(maps), squeeze=False)
    for row, axes in enumerate(grid):
        picture_HWC = as_picture(examined.images_BCHW[row])
        axes[0].imshow(picture_HWC, cmap="gray", vmin=0, vmax=1)
        taken = int(taken_B[row])
        true = examined.labels[row] if examined.labels else -1
        wrong = f"\ntruly {examined.called(true)}" if true not in (-1, taken) else ""
        axes[0].set_title(f"{examined.called(taken)}{wrong}", fontsize=7)
        for axis, (method, map_Bhw) in zip(axes[1:], maps.items(), strict=True):
            laid_over(axis, picture_HWC, map_Bhw[row])
            axis.set_title(method, fontsize=7)
        for axis in axes:
            axis.set_axis_off()
    return figure


def heads_figure(model: ViTClassifier, layers: Sequence[Tensor]) -> Figure:
    """What classes are read from looks at, in the first image: rows are layers, columns heads."""
    shown = [weights_BHLL[0, :SHOWN] for weights_BHLL in layers[:SHOWN]]
    heads = len(shown[0])
    figure = Figure(figsize=(1.3 * heads, 1.45 * len(shown)), layout="constrained")
    for layer, axes in enumerate(figure.subplots(len(shown), heads, squeeze=False)):
        for head, (axis, map_hw) in enumerate(zip(axes, as_read(model, shown[layer]), strict=True)):
            axis.imshow(map_hw, cmap="viridis")
            axis.set_title(f"layer {layer}, head {head}", fontsize=6)
            axis.set_axis_off()
    return figure


def as_picture(image_CHW: Tensor) -> Tensor:
    """An image in [-1, 1] as (H, W, C) in [0, 1], grey ones without the last axis."""
    picture_HWC = ((image_CHW + 1) / 2).clamp(0, 1).permute(1, 2, 0)
    return picture_HWC[..., 0] if picture_HWC.shape[-1] == 1 else picture_HWC


def laid_over(axis: Axes, picture_HWC: Tensor, map_hw: Tensor) -> None:
    """A map of few cells, enlarged, over a picture that is made pale."""
    height, width = picture_HWC.shape[:2]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axis.imshow(picture_HWC, cmap="gray", vmin=0, vmax=1)
    axis.imshow(map_hw, cmap="inferno", alpha=0.65, extent=extent, interpolation="nearest")
