"""No codebook: the signs of a few channels (Zhao et al. 2024, binary spherical quantization)."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from var_pe.models.quantizers.projection import Projection
from var_pe.models.quantizers.residual import MultiScaleQuantizer, QuantizerShape
from var_pe.processes import mean_over_processes
from var_pe.pyramid import Pyramid
from var_pe.settings.line import Value

MOST_BITS = 12  # 4,096 codes a token
LEAST_SHARE = 1e-5  # of a value of a bit, so that the gradient of its entropy stays finite


class BSQ(MultiScaleQuantizer):
    """Each vector is rounded to a corner of the cube in the unit sphere: every channel +-1 / sqrt(bits).

    The first channel is the token's highest bit, as in vector-quantize-pytorch. As with `cosine`, length
    carries nothing. Two entropies are trained with it, on soft signs: with u of length 1, bit k is +1 with
    probability p_k = sigmoid(2 temperature u_k / sqrt(bits)), and

        own loss of a level = entropy * (mean over tokens of H(p) - diversity * H(mean over tokens of p))

    with H(p) = sum over k of the entropy of bit k, in nats: tokens should be sure, and use all codes. The
    first H is exact, the second an upper bound, which the article takes, too.

    Args:
        bits: channels of a code.
        entropy: weight of both terms.
        diversity: weight of the second one over that of the first (gamma).
        temperature: of the soft signs (tau).
    """

    place_F: Tensor

    def __init__(
        self,
        shape: QuantizerShape,
        *,
        bits: int = MOST_BITS,
        entropy: float = 0.1,
        diversity: float = 1.0,
        temperature: float = 100.0,
        gradient: str = "straight_through",
    ) -> None:
        num_codes = 2 ** checked(bits)
        super().__init__(shape, num_codes=num_codes, gradient=gradient)
        if entropy < 0 or diversity < 0 or temperature <= 0:
            raise ValueError(
                f"entropy and diversity must be at least 0 and temperature above 0, "
                f"got {entropy}, {diversity} and {temperature}"
            )

        self.length = bits**-0.5
        self.entropy = entropy
        self.diversity = diversity
        self.temperature = temperature
        self.register_buffer("place_F", 2 ** torch.arange(bits).flip(0))
        self.codebook_projection = Projection(bits, shape.latent_channels)

    @classmethod
    def codes_of(cls, codebook_size: int, options: Mapping[str, Value]) -> int:
        return 2 ** checked(options.get("bits", MOST_BITS))

    @property
    def doubled(self) -> str:
        bits = len(self.place_F) + 1
        return f"tokenizer.quantizer=bsq(bits={bits})" if bits <= MOST_BITS else "another tokenizer.quantizer"

    def scale_to(self, rms: Tensor) -> None:
        self.codebook_projection.scale(rms / self.length)

    def nearest(self, z_BlZ: Tensor) -> Tensor:
        return ((self.codebook_projection.down(z_BlZ) > 0) * self.place_F).sum(-1)

    def codes(self, tokens: Tensor) -> Tensor:
        bits = (tokens[..., None] & self.place_F) > 0
        return self.codebook_projection.up(self.length * (2.0 * bits - 1))

    def own_loss(
        self, z_BlZ: Tensor, seen_BlZ: Tensor, tokens_Bl: Tensor, level: int, pyramid: Pyramid
    ) -> Tensor | None:
        if not self.entropy:
            return None

        u_BlF = F.normalize(self.codebook_projection.down(z_BlZ), dim=-1)
        share_BlF = (2 * self.temperature * self.length * u_BlF).sigmoid()
        unsure = entropy_of_bits(share_BlF).mean()
        varied = entropy_of_bits(mean_over_processes(share_BlF.mean((0, 1))))
        return self.entropy * (unsure - self.diversity * varied)


def entropy_of_bits(share: Tensor) -> Tensor:
    """The entropy in nats of independent bits, 1 with these probabilities, summed over the last axis."""
    share = share.clamp(LEAST_SHARE, 1 - LEAST_SHARE)
    return (torch.special.entr(share) + torch.special.entr(1 - share)).sum(-1)


def checked(bits: Value) -> int:
    """The number of bits that a line gives.

    Raises:
        ValueError: it is not a whole number of at least 1, or too large.
    """
    if not isinstance(bits, int) or isinstance(bits, bool) or not 1 <= bits <= MOST_BITS:
        raise ValueError(
            f"bits must be in 1 .. {MOST_BITS} (a token has at most {2**MOST_BITS:,} codes, of which the "
            f"generator predicts one), got {bits!r}"
        )
    return bits
