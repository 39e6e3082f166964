"""Going on from a trained classifier at another size of image."""

import torch

from var_pe.models.vit import ViTClassifier
from var_pe.settings import differences

MAY_DIFFER = ("image_size", "num_classes", "drop_path", "dropout", "seed", "dynamic")


@torch.no_grad()
def start_from(model: ViTClassifier, source: ViTClassifier, resample: str) -> None:
    """Copies a trained classifier into `model`, its tables moved to the model's size; `source` is moved.

    With another number of classes the head stays as it is.

    Raises:
        ValueError: the two differ in more than size, classes and regularisation, or a table cannot move.
    """
    ours, theirs = (
        {name: value for name, value in one.config.items() if name not in MAY_DIFFER and name[0] != "_"}
        for one in (model, source)
    )
    if lines := differences(theirs, ours):
        raise ValueError(f"classifier_training.init_from holds another model: {'; '.join(lines)}")
    theirs_size, ours_size = ("x".join(map(str, one.image_size)) for one in (source, model))
    source.set_input_size(model.image_size, resample)
    keep_head = source.config["num_classes"] != model.config["num_classes"]
    state, mine = source.state_dict(), model.state_dict()
    wanted = [name for name in mine if not (keep_head and name.startswith("head."))]
    if stuck := [name for name in wanted if state[name].shape != mine[name].shape]:
        raise ValueError(
            f"classifier_training.init_from: {', '.join(stuck)} cannot move from images of "
            f"{theirs_size} to {ours_size}; choose an encoding that follows the size"
        )
    model.load_state_dict(mine | {name: state[name] for name in wanted})
