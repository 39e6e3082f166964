"""Starts from a trained model at another size: of images for a classifier, of the pyramid for a generator."""

import copy
from typing import Annotated

import torch

from var_pe.models.resizable import Resizable
from var_pe.resampling.conventions import CONVENTIONS, DEFAULT_CONVENTION
from var_pe.settings.fields import Doc, FilePath, OneOf, section
from var_pe.settings.loading import differences

MAY_DIFFER = ("image_size", "levels", "kept_grids", "num_classes", "drop_path", "dropout", "seed", "dynamic")


@section(frozen=True)
class ModelStart:
    init_from: Annotated[
        FilePath | None,
        Doc("folder of a trained run whose generator or classifier to go on from, of any size"),
    ] = None
    resample: Annotated[
        str,
        OneOf(CONVENTIONS),
        Doc("convention under which its position tables move to this config's size"),
    ] = DEFAULT_CONVENTION


@torch.no_grad()
def start_from(model: Resizable, source: Resizable, resample: str, same_classes: bool = True) -> None:
    """Copies a trained model into `model`, its tables moved to the model's size; `source` itself is moved.

    Where the classes differ, in number or by name (`same_classes`), their own weights are not copied.

    Raises:
        ValueError: the two differ in more than size, classes and regularisation, or a table cannot move.
    """
    lines = differences(_must_agree(source), _must_agree(model))
    if lines:
        raise ValueError(f"model.init_from holds another model: {'; '.join(lines)}")

    # The source moves to the new size, then its whole encoding is copied.
    old_size = source.config[source.size_argument]
    new_size = model.config[model.size_argument]
    source.move_to(new_size, resample)
    model.position_encoding = copy.deepcopy(source.position_encoding).train(model.training)
    model.register_to_config(kept_grids=source.config["kept_grids"])

    # Weights that belong to classes mean nothing under other classes.
    other_classes = not same_classes or source.config["num_classes"] != model.config["num_classes"]
    trained = source.state_dict()
    state = model.state_dict()
    wanted = list(state)
    if other_classes:
        wanted = [name for name in state if not name.startswith(model.class_parameters)]

    stuck = [name for name in wanted if trained[name].shape != state[name].shape]
    if stuck:
        raise ValueError(
            f"model.init_from: {', '.join(stuck)} cannot move from {model.size_argument} "
            f"{old_size} to {new_size}; choose an encoding that follows the size"
        )

    model.load_state_dict(state | {name: trained[name] for name in wanted})


def _must_agree(model: Resizable) -> dict[str, object]:
    """The settings in which a model and the one that it starts from have to be the same."""
    config = model.config.items()
    return {name: value for name, value in config if name not in MAY_DIFFER and not name.startswith("_")}
