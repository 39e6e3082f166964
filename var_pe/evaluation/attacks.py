"""Images changed so that a classifier errs, by the library adversarial-robustness-toolbox (ART)."""

from importlib.util import find_spec
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

Method = Literal["FGSM", "PGD"]


def check_library() -> None:
    """Checks that the library, an optional dependency, is installed.

    Raises:
        ValueError: it is not.
    """
    if find_spec("art") is None:
        raise ValueError(
            "attacks are made by adversarial-robustness-toolbox, which is not installed: pip install "
            "adversarial-robustness-toolbox (or var_pe with its extra: pip install -e '.[robust]')"
        )


def attacked(
    model: nn.Module,
    images_BCHW: Tensor,
    labels_B: Tensor,
    method: Method,
    *,
    epsilon: float,
    steps: int = 10,
    seed: int = 0,
    batch: int = 100,
) -> Tensor:
    """Images in [-1, 1], on the CPU, each value changed by at most `epsilon` so that labels are missed.

    FGSM (Goodfellow et al. 2015) is one step of epsilon. PGD (Madry et al. 2018) has `steps` of epsilon / 4
    from one random start, which follows from `seed`.
    """
    from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    model.eval()
    device = next(model.parameters()).device
    classes = model(images_BCHW[:1].to(device)).shape[1]
    estimator = PyTorchClassifier(
        model=model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(images_BCHW.shape[1:]),
        nb_classes=classes,
        clip_values=(-1.0, 1.0),
        device_type="gpu" if device.type == "cuda" else "cpu",
    )
    if method == "FGSM":
        attack = FastGradientMethod(estimator, eps=epsilon, batch_size=batch)
    else:
        attack = ProjectedGradientDescentPyTorch(
            estimator,
            eps=epsilon,
            eps_step=epsilon / 4,
            max_iter=steps,
            num_random_init=1,
            batch_size=batch,
            verbose=False,
        )

    # ART draws from numpy's global generator, so that one is seeded here and restored afterwards.
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        changed = attack.generate(images_BCHW.numpy(), labels_B.numpy())
    finally:
        np.random.set_state(state)
    return torch.from_numpy(changed)
