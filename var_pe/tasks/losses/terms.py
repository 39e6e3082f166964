"""Loss terms of the tokenizer and of the generator; perceptual and adversarial terms belong here too."""

import torch.nn.functional as F
from torch import Tensor

from var_pe.pyramid import Pyramid


def reconstruction_terms(reconstruction_BCHW: Tensor, images_BCHW: Tensor) -> dict[str, Tensor]:
    """`l1` and `l2`: mean absolute and mean squared difference, images in [-1, 1]."""
    return {
        "l1": F.l1_loss(reconstruction_BCHW, images_BCHW),
        "l2": F.mse_loss(reconstruction_BCHW, images_BCHW),
    }


def token_losses(logits_BLV: Tensor, tokens_BL: Tensor) -> Tensor:
    """Cross-entropy of every token in nats, (B, L)."""
    return F.cross_entropy(logits_BLV.transpose(1, 2), tokens_BL, reduction="none")


def per_level(values_BL: Tensor, pyramid: Pyramid, name: str) -> dict[str, Tensor]:
    """The mean of `values_BL` over images and tokens, level by level: `name/level_0`, ..."""
    return {f"{name}/level_{k}": values_BL[:, span].mean() for k, span in enumerate(pyramid.spans)}
