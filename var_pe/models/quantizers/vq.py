"""The plain codebook: the nearest of V learned vectors (van den Oord et al. 2017), as in VAR.

With `rate`, the code at the least distance plus price of its rarity (Chou et al. 1989).
"""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from var_pe.models.quantizers.codebook import LearnedCodebook
from var_pe.models.quantizers.residual import MultiScaleQuantizer, QuantizerShape

# Of a code's mean share, added to all shares, so that an unused code has a price and can come back
UNUSED = 0.01


class VQ(LearnedCodebook):
    """Each vector is rounded to the code at the least squared distance plus what the code's rarity costs.

    With p_v the recent share of code v among all tokens (`usage_V`), a code costs
    -ln p_v * rate * (sum over v of p_v |e_v|^2). This is entropy-constrained vector quantization (Chou,
    Lookabaugh and Gray 1989) with its multiplier in units of the codes' mean square, so that it does not
    depend on how large latents are. Where several codes would do, the usual one is taken: tokens say less
    that a generator would have to learn.

    Args:
        learning: as in `LearnedCodebook`, and so is `decay`.
        gradient: as in `MultiScaleQuantizer`.
        rate: what a nat of a token is worth, in parts of the codes' mean square; 0: distances alone count.
    """

    def __init__(
        self,
        shape: QuantizerShape,
        *,
        learning: str = "gradient",
        decay: float = 0.99,
        gradient: str = "straight_through",
        rate: float = 0.0,
    ) -> None:
        super().__init__(
            shape, channels=shape.latent_channels, learning=learning, decay=decay, gradient=gradient
        )
        if not 0 <= rate < math.inf:
            raise ValueError(f"rate must be in [0, inf), got {rate}")
        self.rate = rate

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: Generator) -> None:
        nn.init.uniform_(parameter, -1 / len(parameter), 1 / len(parameter), generator=generator)

    def nearest(self, z_BlZ: Tensor) -> Tensor:
        if not self.rate:
            return nearest_row(z_BlZ, self.codebook_VZ)

        share_V = self.usage_V.float() + UNUSED / self.num_codes
        share_V = share_V / share_V.sum()
        mean_square = (share_V * self.codebook_VZ.float().square().sum(1)).sum()
        return nearest_row(z_BlZ, self.codebook_VZ, -self.rate * mean_square * share_V.log())

    def codes(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.codebook_VZ)


def nearest_row(z_BlZ: Tensor, rows_VZ: Tensor, cost_V: Tensor | None = None) -> Tensor:
    """Index of the row at the least squared distance, plus its cost if rows have one, int64 (B, l)."""
    z_MZ = z_BlZ.flatten(0, 1).float()
    rows_VZ = rows_VZ.float()

    # |z - c|^2 / 2 but for |z|^2, which is the same for all rows
    half_of_row_V = rows_VZ.square().sum(1) / 2
    if cost_V is not None:
        half_of_row_V = half_of_row_V + cost_V / 2
    half_distance_MV = half_of_row_V - z_MZ @ rows_VZ.T
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
