"""The plain codebook: the nearest of V learned vectors (van den Oord et al. 2017), as in VAR."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from var_pe.models.quantizers.codebook import LearnedCodebook
from var_pe.models.quantizers.residual import MultiScaleQuantizer, QuantizerShape


class VQ(LearnedCodebook):
    """Each vector is rounded to the code at the least distance."""

    def __init__(
        self,
        shape: QuantizerShape,
        *,
        learning: str = "gradient",
        decay: float = 0.99,
        gradient: str = "straight_through",
    ) -> None:
        super().__init__(
            shape, channels=shape.latent_channels, learning=learning, decay=decay, gradient=gradient
        )

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: Generator) -> None:
        nn.init.uniform_(parameter, -1 / len(parameter), 1 / len(parameter), generator=generator)

    def nearest(self, z_BlZ: Tensor) -> Tensor:
        return nearest_row(z_BlZ, self.codebook_VZ)

    def codes(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.codebook_VZ)


def nearest_row(z_BlZ: Tensor, rows_VZ: Tensor) -> Tensor:
    """Index of the row at the least distance, int64 (B, l)."""
    z_MZ = z_BlZ.flatten(0, 1).float()
    rows_VZ = rows_VZ.float()

    # |z - c|^2 / 2 but for |z|^2, which is the same for all rows
    half_distance_MV = rows_VZ.square().sum(1) / 2 - z_MZ @ rows_VZ.T
    return half_distance_MV.argmin(1).view(z_BlZ.shape[:2])


@torch.no_grad()
def plain_codebook(quantizer: MultiScaleQuantizer, kept: Tensor) -> VQ:
    """What some codes of any quantizer stand for, as a codebook of their own; the convolutions are shared."""
    codes_KZ = quantizer.codes(kept).float()
    size = max(2, len(kept))  # one code alone serves here, though not to train with
    shape = QuantizerShape(size, quantizer.latent_channels, 0, quantizer.phi_ratio, quantizer.commitment)
    plain = VQ(shape).to(codes_KZ.device).train(quantizer.training)
    plain.codebook_VZ = nn.Parameter(codes_KZ)
    plain.phi = quantizer.phi
    return plain
