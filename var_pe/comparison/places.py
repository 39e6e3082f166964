"""A generator's loss token by token."""

import torch
from torch import Tensor

from var_pe.models.generator import VARTransformer
from var_pe.models.tokenizer import VQTokenizer
from var_pe.pyramid import Pyramid
from var_pe.tasks.generator import known_labels
from var_pe.tasks.losses.tokens import token_losses


@torch.no_grad()
def nats_by_place(
    transformer: VARTransformer,
    tokenizer: VQTokenizer,
    tokens_NL: Tensor,
    labels_N: Tensor,
    pyramid: Pyramid,
    batch: int = 256,
) -> Tensor:
    """The mean loss of each token of a pyramid over images, given their classes, (L,) in nats."""
    device = transformer.device
    total_L = torch.zeros(tokens_NL.shape[1], dtype=torch.float64)
    for tokens_BL, labels_B in zip(tokens_NL.split(batch), labels_N.split(batch), strict=True):
        tokens_BL = tokens_BL.to(device)
        labels_B = known_labels(labels_B.to(device), transformer.num_classes)
        inputs_BLZ = tokenizer.quantizer.teacher_forcing(tokens_BL, pyramid)
        losses_BL = token_losses(transformer(labels_B, inputs_BLZ, pyramid), tokens_BL)
        total_L += losses_BL.double().sum(0).cpu()
    return total_L / len(tokens_NL)
