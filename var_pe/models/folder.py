"""A saved model's folder, looked at before it is loaded: what is wrong is one sentence that names the file.

diffusers' own sentences speak to programmers, and it leaves those weights empty that a file lacks.
"""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn


def check_folder(cls: type[ModelMixin], folder: Path) -> None:
    """Raises:
    ValueError: a file is missing or damaged, or config.json describes no `cls` or one with other weights."""
    config = read_config(folder)
    if (named := config.get("_class_name")) != cls.__name__:
        raise ValueError(f"{folder} holds a {named}, not a {cls.__name__}")
    try:
        with torch.device("meta"):
            model: Any = cls.from_config(config)  # type: ignore[attr-defined]  # of the ConfigMixin beside it
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'} describes no {cls.__name__}: {error}") from error
    except Exception as error:  # settings of any type fail in every way there is
        raise ValueError(
            f"{folder / 'config.json'} describes no {cls.__name__}: a setting is of the wrong type ({error})"
        ) from error
    shapes = {name: shape for file in weight_files(folder) for name, shape in stored(file)[0].items()}
    wrong = [
        f"{name} is {f'{in_words(shapes[name])}, not {in_words(shape)}' if name in shapes else 'missing'}"
        for name, shape in ((name, tuple(value.shape)) for name, value in model.state_dict().items())
        if shapes.get(name) != shape
    ]
    if wrong:
        more = f" ({len(wrong) - 1} more differ)" if len(wrong) > 1 else ""
        size = getattr(cls, "size_argument", "levels")
        raise ValueError(
            f"the weights in {folder} are not those that its config.json describes: {wrong[0]}{more}; "
            f"a setting such as {size} was changed, or one of the two files is another model's"
        )


def check_whole(model: nn.Module, name: str) -> None:
    """For what came from the hub.

    Raises:
        ValueError: a weight was not in its file; it would fail at its first use, far from here.
    """
    if empty := [key for key, tensor in model.state_dict().items() if tensor.is_meta]:
        more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
        raise ValueError(f"the weights of {name} do not fit its config.json: they lack {empty[0]}{more}")


def read_config(folder: Path) -> dict[str, Any]:
    """Raises:
    ValueError: config.json is missing or holds no settings."""
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text())
    except FileNotFoundError:
        raise ValueError(f"{folder} has no config.json: not a saved model") from None
    except ValueError as error:  # no JSON, or no text at all
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file} must hold a model's settings by name, got a {type(config).__name__}")
    return config


def weight_files(folder: Path) -> list[Path]:
    """Raises:
    ValueError: there are none."""
    files = sorted(folder.glob("diffusion_pytorch_model*.safetensors"))
    if not files:
        raise ValueError(f"{folder} has no weights: there is no diffusion_pytorch_model.safetensors in it")
    return files


def stored(file: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, Tensor]]:
    """The shapes of all tensors in a file, and the grids that are stored beside tables.

    Raises:
        ValueError: it is damaged or something else.
    """
    try:
        with safe_open(file, framework="pt") as tensors:
            shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
            grids = {name: tensors.get_tensor(name) for name in shapes if name.endswith("grids_K2")}
    except SafetensorError as error:
        raise ValueError(f"{file} is not a safetensors file, or a damaged one: {error}") from error
    return shapes, grids


def in_words(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"
