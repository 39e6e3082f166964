"""How far the tokenizer's reconstruction is from the image."""

import torch.nn.functional as F
from torch import Tensor

from var_pe.data.images import Box


def reconstruction_terms(reconstruction_BCHW: Tensor, images_BCHW: Tensor) -> dict[str, Tensor]:
    """`l1` and `l2`: mean absolute and mean squared difference, images in [-1, 1]."""
    return {
        "l1": F.l1_loss(reconstruction_BCHW, images_BCHW),
        "l2": F.mse_loss(reconstruction_BCHW, images_BCHW),
    }


def psnr(reconstruction_BCHW: Tensor, images_BCHW: Tensor, content: Box) -> Tensor:
    """Peak signal-to-noise ratio (dB) of each image in [-1, 1], over the box that shows the picture."""
    top, left = content[:2]
    height, width = content[2:]
    area = (slice(None), slice(None), slice(top, top + height), slice(left, left + width))

    error_BCHW = (reconstruction_BCHW.float()[area] - images_BCHW.float()[area]) / 2
    error_B = error_BCHW.square().mean((1, 2, 3))
    return -10 * error_B.clamp(min=1e-10).log10()
