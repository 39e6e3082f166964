"""The plain codebook: the nearest of V learned vectors (van den Oord et al. 2017), as in VAR.

With `rate`, the code at the least distance plus price of its rarity (Chou et al. 1989), or of how little the
coarser levels let one expect it.
"""

import math
from collections.abc import Mapping
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from var_pe.models.quantizers.codebook import LearnedCodebook
from var_pe.models.quantizers.expectation import Expectation, cells_covered
from var_pe.models.quantizers.residual import MultiScaleQuantizer, QuantizerShape
from var_pe.pyramid import Pyramid
from var_pe.settings.fields import check_choice
from var_pe.settings.line import Value

Given = Literal["usage", "coarser"]

# Of a code's mean share, added to all shares, so that an unused code has a price and can come back
UNUSED = 0.01
# Part of a code's expected share that is its share among all tokens, so that nothing has an infinite price
USAGE_PART = 0.05
# Weight of the expectation's own loss. Small, since it shares the clipping of gradients with the others;
# AdamW, which alone moves these weights, does not mind how large a loss is
EXPECTATION_WEIGHT = 0.01


class VQ(LearnedCodebook):
    """Each vector is rounded to the code at the least squared distance plus what the code costs, if it does.

    With p_v the recent share of code v among all tokens (`usage_V`), a code costs
    -ln p_v * rate * (sum over v of p_v |e_v|^2). This is entropy-constrained vector quantization (Chou,
    Lookabaugh and Gray 1989) with its multiplier in units of the codes' mean square, so that it does not
    depend on how large latents are. Where several codes would do, the usual one is taken: tokens say less
    that a generator would have to learn.

    Under `given=coarser` the price is that of -ln(0.95 q_v + 0.05 p_v), where q_v is how likely `Expectation`
    takes the code to be at this cell, given the coarser levels; the mean square stays that under p_v. And the
    distance counts once for each cell of the finest level that this cell covers. So coarse levels, whose
    errors are large and whose tokens are few, spend freely, and fine levels add what the coarse ones have not
    settled only where it is worth it. What the fine tokens then say can be foreseen by a generator that
    draws a level at once. The expectation is trained beside the codes by the cross-entropy of the tokens
    that were chosen; its gradient reaches nothing else.

    Args:
        learning: as in `LearnedCodebook`, and so is `decay`.
        gradient: as in `MultiScaleQuantizer`.
        rate: what a nat of a token is worth, in parts of the codes' mean square; 0: distances alone count.
        given: what a token's nats are counted by, the codes' `usage` in all levels, or what the `coarser`
            levels show.
    """

    def __init__(
        self,
        shape: QuantizerShape,
        *,
        learning: str = "gradient",
        decay: float = 0.99,
        gradient: str = "straight_through",
        rate: float = 0.0,
        given: str = "usage",
    ) -> None:
        super().__init__(
            shape, channels=shape.latent_channels, learning=learning, decay=decay, gradient=gradient
        )
        if not 0 <= rate < math.inf:
            raise ValueError(f"rate must be in [0, inf), got {rate}")
        check_choice("given", given, Given)
        if given == "coarser" and not rate:
            raise ValueError("given=coarser says what a token costs, so it needs a rate above 0, got rate=0")

        self.rate = rate
        self.expectation: Expectation | None = None
        if given == "coarser":
            self.expectation = Expectation(shape.latent_channels, self.num_codes)
            self.rows_of_codes += ("expectation.codes.weight", "expectation.codes.bias")

    @classmethod
    def expects(cls, options: Mapping[str, Value]) -> bool:
        return options.get("given") == "coarser"

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: Generator) -> None:
        nn.init.uniform_(parameter, -1 / len(parameter), 1 / len(parameter), generator=generator)

    def nearest(self, z_BlZ: Tensor) -> Tensor:
        """By use alone: what `choose` does where nothing is known of coarser levels."""
        if not self.rate:
            return nearest_row(z_BlZ, self.codebook_VZ)
        share_V = self._shares()
        return nearest_row(z_BlZ, self.codebook_VZ, self._price(share_V))

    def choose(self, z_BlZ: Tensor, seen_BlZ: Tensor, level: int, pyramid: Pyramid) -> Tensor:
        if self.expectation is None:
            return self.nearest(z_BlZ)

        # A price in units of the error over all cells that this one covers
        expected_BlV = self.expected(seen_BlZ, level, pyramid).exp()
        share_BlV = torch.lerp(expected_BlV, self._shares(), USAGE_PART)
        price_BlV = self._price(share_BlV) / cells_covered(level, pyramid)
        return nearest_row(z_BlZ, self.codebook_VZ, price_BlV)

    def own_loss(
        self, z_BlZ: Tensor, seen_BlZ: Tensor, tokens_Bl: Tensor, level: int, pyramid: Pyramid
    ) -> Tensor | None:
        """The cross-entropy of the tokens under the expectation, which alone it trains."""
        if self.expectation is None:
            return None
        log_share_BlV = self.expected(seen_BlZ, level, pyramid)
        return EXPECTATION_WEIGHT * F.nll_loss(log_share_BlV.flatten(0, 1), tokens_Bl.flatten())

    def expected(self, seen_BlZ: Tensor, level: int, pyramid: Pyramid) -> Tensor:
        """By `Expectation`, which sees maps in units of the codes' root mean square."""
        if self.expectation is None:
            return super().expected(seen_BlZ, level, pyramid)
        scale = self._mean_square(self._shares()).detach().clamp(min=1e-12).sqrt()
        return self.expectation(seen_BlZ / scale, level, pyramid)

    def _shares(self) -> Tensor:
        """The share of each code among all tokens, (V,)."""
        share_V = self.usage_V.float() + UNUSED / self.num_codes
        return share_V / share_V.sum()

    def _mean_square(self, share_V: Tensor) -> Tensor:
        return (share_V * self.codebook_VZ.float().square().sum(1)).sum()

    def _price(self, share: Tensor) -> Tensor:
        """What codes cost that have these shares, in units of squared distance."""
        return -self.rate * self._mean_square(self._shares()) * share.log()

    @torch.no_grad()
    def replace(self, chosen_V: Tensor, z_VZ: Tensor) -> None:
        """As the codebook's; what was expected of a code that is gone says nothing of the new one."""
        super().replace(chosen_V, z_VZ)
        if self.expectation is not None:
            for row in (self.expectation.codes.weight, cast(Tensor, self.expectation.codes.bias)):
                chosen = chosen_V.view(-1, *(1 for _ in row.shape[1:]))
                row.copy_(torch.where(chosen, row.mean(0, keepdim=True), row))

    def codes(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.codebook_VZ)


def nearest_row(z_BlZ: Tensor, rows_VZ: Tensor, cost: Tensor | None = None) -> Tensor:
    """Index of the row at the least squared distance, plus its cost if rows have one, int64 (B, l).

    `cost` is (V,), or (B, l, V) where a row does not cost the same everywhere.
    """
    z_MZ = z_BlZ.flatten(0, 1).float()
    rows_VZ = rows_VZ.float()

    # |z - c|^2 / 2 but for |z|^2, which is the same for all rows
    half_of_row = rows_VZ.square().sum(1) / 2
    if cost is not None:
        half_of_row = half_of_row + (cost if cost.ndim == 1 else cost.flatten(0, 1)) / 2
    half_distance_MV = half_of_row - z_MZ @ rows_VZ.T
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
