"""Checks a saved model's folder before it is loaded; an error is one sentence that names the file.

diffusers' own errors are written for programmers, and it leaves weights empty that a file lacks.
"""

import json
import logging
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import ClassVar, cast

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from var_pe.models.weight_files import make_room, stored, weight_files

# diffusers warns of a cast by `to` whenever a list of modules exists, also of an empty one.
logging.getLogger("diffusers.models.modeling_utils").addFilter(
    lambda record: "should be kept in float32: []" not in record.getMessage()
)


class SavedModel(ModelMixin, ConfigMixin):  # type: ignore[misc]  # both declare `dtype` and the like
    """A model that diffusers saves as a folder: config.json with the constructor's arguments, and weights."""

    # the constructor's argument that sets the size
    size_argument: ClassVar[str] = "levels"

    def save_pretrained(
        self,
        save_directory: str | PathLike[str],
        is_main_process: bool = True,
        save_function: Callable[..., object] | None = None,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str = "10GB",
        push_to_hub: bool = False,
        use_flashpack: bool = False,
        **kwargs: object,
    ) -> None:
        """diffusers' folder, in which no weights of an earlier save are left, whatever their format.

        Raises:
            ValueError: the folder holds a variant with other weights.
        """
        folder = Path(save_directory).expanduser()
        if is_main_process and folder.is_dir():
            make_room(folder, variant, self.state_dict())

        super().save_pretrained(
            folder,
            is_main_process=is_main_process,
            save_function=save_function,
            safe_serialization=safe_serialization,
            variant=variant,
            max_shard_size=max_shard_size,
            push_to_hub=push_to_hub,
            use_flashpack=use_flashpack,
            **kwargs,
        )


def check_folder(cls: type[SavedModel], folder: Path, variant: str | None = None) -> None:
    """Checks that a folder holds a complete model of this class, without reading its weights.

    Raises:
        ValueError: a file is missing or damaged, config.json does not describe a `cls`, or it describes one
            with other weights.
    """
    config = read_config(folder)
    named = config.get("_class_name")
    if named != cls.__name__:
        raise ValueError(f"{folder} holds a {named}, not a {cls.__name__}")

    wanted = _shapes_of(cls, config, folder / "config.json")
    found: dict[str, tuple[int, ...]] = {}
    for file in weight_files(folder, variant):
        shapes, _ = stored(file)
        found |= shapes

    wrong = []
    for name, shape in wanted.items():
        if name not in found:
            wrong.append(f"{name} is missing")
        elif found[name] != shape:
            wrong.append(f"{name} is {in_words(found[name])}, not {in_words(shape)}")

    if wrong:
        more = f" ({len(wrong) - 1} more differ)" if len(wrong) > 1 else ""
        raise ValueError(
            f"the weights in {folder} are not those that its config.json describes: {wrong[0]}{more}; "
            f"a setting such as {cls.size_argument} was changed, or one of the two files is another model's"
        )


def _shapes_of(cls: type[SavedModel], config: dict[str, object], file: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the weights of the model that a config describes; it is built without memory."""
    try:
        with torch.device("meta"):
            model = cast(nn.Module, cls.from_config(config))
    except ValueError as error:
        raise ValueError(f"{file} does not describe a {cls.__name__}: {error}") from error
    except Exception as error:  # settings of any type fail in every way there is
        raise ValueError(
            f"{file} does not describe a {cls.__name__}: a setting is of the wrong type ({error})"
        ) from error

    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def check_whole(model: nn.Module, name: str) -> None:
    """Checks that all weights of a model that came from the hub were in its files.

    Raises:
        ValueError: one was not; it would fail at its first use, far from here.
    """
    empty = [key for key, tensor in model.state_dict().items() if tensor.is_meta]
    if empty:
        more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
        raise ValueError(f"the weights of {name} do not fit its config.json: they lack {empty[0]}{more}")


def read_config(folder: Path) -> dict[str, object]:
    """A saved model's config.json.

    Raises:
        ValueError: it is missing or does not hold settings.
    """
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text())
    except FileNotFoundError:
        raise ValueError(f"{folder} has no config.json: not a saved model") from None
    except ValueError as error:  # not JSON, or not even text
        raise ValueError(f"{file} is not JSON: {error}") from error

    if not isinstance(config, dict):
        raise ValueError(f"{file} must hold a model's settings by name, got a {type(config).__name__}")
    return config


def in_words(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"
