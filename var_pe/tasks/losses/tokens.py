"""Cross-entropy of the true tokens under the generator."""

import torch.nn.functional as F
from torch import Tensor

from var_pe.pyramid import Pyramid


def token_losses(logits_BLV: Tensor, tokens_BL: Tensor) -> Tensor:
    """Cross-entropy of every token in nats, (B, L)."""
    return F.cross_entropy(logits_BLV.transpose(1, 2), tokens_BL, reduction="none")


def per_level(values_BL: Tensor, pyramid: Pyramid, name: str) -> dict[str, Tensor]:
    """The mean of `values_BL` over images and tokens, level by level: `name/level_0`, ...

    The values may be those of the coarsest levels alone.
    """
    means = {}
    for k, span in enumerate(pyramid.spans):
        if span.stop <= values_BL.shape[1]:
            means[f"{name}/level_{k}"] = values_BL[:, span].mean()
    return means
