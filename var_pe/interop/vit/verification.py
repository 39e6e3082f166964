"""Whether a converted ViT computes what the library's model does, found out on random pictures."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from var_pe.models.classifier import Classifier

# how far outputs may differ, as a share of the largest one: positions are added in float32 on both sides
AGREEMENT = 1e-5


@torch.no_grad()
def check_same_outputs(
    ours: Classifier,
    theirs: nn.Module,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> float:
    """The largest difference between the outputs on two random pictures, computed in float64.

    With `mean` and `std` ours takes images in [-1, 1], and theirs the same ones normalised. Both models are
    left as they are.

    Raises:
        ValueError: the outputs have other shapes, differ, or are not finite.
    """
    channels = ours.config["image_channels"]
    generator = torch.Generator().manual_seed(0)
    images_BCHW = torch.rand(2, channels, *ours.image_size, generator=generator, dtype=torch.float64) * 2 - 1
    normalised_BCHW = images_BCHW
    if mean is not None and std is not None:
        mean_C = torch.tensor(mean, dtype=torch.float64)
        std_C = torch.tensor(std, dtype=torch.float64)
        normalised_BCHW = (images_BCHW / 2 + 0.5 - mean_C[:, None, None]) / std_C[:, None, None]

    our_BV = deepcopy(ours).cpu().double().eval()(images_BCHW)
    try:
        their_BV = deepcopy(theirs).cpu().double().eval()(normalised_BCHW)
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"verify: the library's model cannot be run on our pictures: {error}") from error
    if not isinstance(their_BV, Tensor) or their_BV.shape != our_BV.shape:
        found = tuple(their_BV.shape) if isinstance(their_BV, Tensor) else type(their_BV).__name__
        raise ValueError(f"verify: our outputs have the shape {tuple(our_BV.shape)}, the library's {found}")

    difference, scale = float((our_BV - their_BV).abs().max()), float(their_BV.abs().max())
    if not difference <= AGREEMENT * scale:  # NaN is refused, too
        raise ValueError(
            f"verify: outputs differ by up to {difference:.2g}, where the largest is {scale:.2g}: the "
            f"weights or the architecture are not those of the library's model"
        )
    return difference
