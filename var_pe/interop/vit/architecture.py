"""ViTs that timm knows by name, or by the config.json beside their weights; nothing is downloaded."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from var_pe.models.folder import in_words

CONFIG = "config.json"


def of_architecture(
    name: str | Path,
    classes: int,
    channels: int,
    image_size: tuple[int, int] | None = None,
    *,
    device: str = "meta",
) -> nn.Module:
    """timm's model of this name, with or without its tag, or the one that a folder's config.json describes.

    On the meta device it needs no memory and has no weights, which is enough to read its form.

    Raises:
        ValueError: timm is not installed, knows no such model, or cannot build it so.
    """
    try:
        import timm
    except ImportError as error:
        raise ValueError("an architecture is looked up in timm: pip install timm") from error

    if Path(name).is_dir():
        called = f"local-dir:{name}"
    elif timm.is_model(str(name).partition(".")[0]):
        called = str(name)
    else:
        raise ValueError(
            f"{name} is neither a model of timm {timm.__version__} nor a folder with timm's {CONFIG}"
        )

    try:
        with torch.device(device):
            model = timm.create_model(
                called, pretrained=False, num_classes=classes, in_chans=channels, img_size=image_size
            )
    except Exception as error:  # arguments of any kind fail in every way there is
        raise ValueError(f"timm cannot build {name}: {error or type(error).__name__}") from error
    return cast(nn.Module, model)


def with_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """The library's model with these weights, in evaluation mode.

    Raises:
        ValueError: one of its parameters is not among them, or has another shape.
    """
    for name, parameter in model.named_parameters():
        if name not in weights:
            raise ValueError(f"the library's model has {name}, which is not among the weights")
        if weights[name].shape != parameter.shape:
            raise ValueError(
                f"{name} is {in_words(tuple(weights[name].shape))}, in the library's model "
                f"{in_words(tuple(parameter.shape))}: another architecture or another image size"
            )
    model.load_state_dict(dict(weights), strict=False)  # buffers that follow from the grid may be missing
    return model.eval()


def normalisation_of(name: str | Path) -> tuple[Sequence[float], Sequence[float]] | None:
    """Mean and standard deviation that images had in training, per channel in [0, 1].

    Models of one architecture differ in them: a name says them only with its tag, a folder in its
    config.json. None where neither says them.

    Raises:
        ValueError: the name's tag is not known to timm.
    """
    if Path(name).is_dir():
        try:
            found = json.loads((Path(name) / CONFIG).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{Path(name) / CONFIG} cannot be read: {error}") from error
        found = found.get("pretrained_cfg", found) if isinstance(found, dict) else {}
        return (found["mean"], found["std"]) if "mean" in found and "std" in found else None

    import timm

    architecture, _, tag = str(name).partition(".")
    if not tag:
        return None
    try:
        config = timm.get_pretrained_cfg(str(name), allow_unregistered=False)
    except RuntimeError:
        config = None
    if config is None:
        raise ValueError(f"timm {timm.__version__} knows no weights {tag} of {architecture}")
    return config.mean, config.std
