"""Going on from a trained model at another size: of images for a classifier, of pyramid for a generator."""

import copy
from dataclasses import dataclass

import torch

from var_pe.models.resizable import Resizable
from var_pe.resampling.conventions import CONVENTIONS
from var_pe.settings.loading import differences
from var_pe.settings.rules import check_names

MAY_DIFFER = ("image_size", "levels", "kept_grids", "num_classes", "drop_path", "dropout", "seed", "dynamic")


@dataclass(frozen=True)
class ModelStart:
    init_from: str | None = (
        None  # folder of a trained run whose generator or classifier to go on from, of any size
    )
    resample: str = "timm"  # convention under which its position tables move to this config's size

    def __post_init__(self) -> None:
        check_names(self, resample=tuple(CONVENTIONS))


@torch.no_grad()
def start_from(model: Resizable, source: Resizable, resample: str, same_classes: bool = True) -> None:
    """Copies a trained model into `model`, its tables moved to the model's size; `source` is moved.

    With other classes, in number or by what is known of them, what belongs to the classes stays as it is.

    Raises:
        ValueError: the two differ in more than size, classes and regularisation, or a table cannot move.
    """
    ours, theirs = (
        {name: value for name, value in one.config.items() if name not in MAY_DIFFER and name[0] != "_"}
        for one in (model, source)
    )
    if lines := differences(theirs, ours):
        raise ValueError(f"model.init_from holds another model: {'; '.join(lines)}")
    theirs_size, ours_size = (one.config[one.size_argument] for one in (source, model))
    source.move_to(ours_size, resample)
    model.position_encoding = copy.deepcopy(source.position_encoding).train(model.training)
    model.register_to_config(kept_grids=source.config["kept_grids"])
    keep = not same_classes or source.config["num_classes"] != model.config["num_classes"]
    state, mine = source.state_dict(), model.state_dict()
    wanted = [name for name in mine if not (keep and name.startswith(model.class_parameters))]
    if stuck := [name for name in wanted if state[name].shape != mine[name].shape]:
        raise ValueError(
            f"model.init_from: {', '.join(stuck)} cannot move from {model.size_argument} "
            f"{theirs_size} to {ours_size}; choose an encoding that follows the size"
        )
    model.load_state_dict(mine | {name: state[name] for name in wanted})
