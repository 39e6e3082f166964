"""No codebook: a few channels, each rounded to a few values (Mentzer et al. 2023, FSQ)."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from var_pe.models.quantizers.projection import Projection
from var_pe.models.quantizers.residual import MultiScaleQuantizer, QuantizerShape
from var_pe.settings.line import Value

MOST_CODES = 65_536  # of the largest in the article


class FSQ(MultiScaleQuantizer):
    """Channel i takes one of `levels[i]` values, evenly spaced in [-1, 1]; a token is all of them together.

    Codes and their numbers are the article's (and vector-quantize-pytorch's): value d of L is
    (d - L // 2) / (L // 2), and the first channel counts fastest. What is rounded goes to the nearest value.
    The article bounds it by tanh before, to keep a gradient through the rounding; the walk needs none there,
    and what tanh takes off would be left to all finer levels.

    Args:
        levels: number of values of each channel.
    """

    levels_F: Tensor
    has_a_code_of_zeros = True

    def __init__(
        self, shape: QuantizerShape, *, levels: tuple[int, ...] = (), gradient: str = "straight_through"
    ) -> None:
        num_codes = math.prod(checked(levels))
        super().__init__(shape, num_codes=num_codes, gradient=gradient)
        self.register_buffer("levels_F", torch.tensor(levels))
        self.codebook_projection = Projection(len(levels), shape.latent_channels)

    @classmethod
    def codes_of(cls, codebook_size: int, options: Mapping[str, Value]) -> int:
        return math.prod(checked(options.get("levels", ())))

    @property
    def doubled(self) -> str:
        return "larger levels in tokenizer.quantizer=fsq"

    def scale_to(self, rms: Tensor) -> None:
        self.codebook_projection.scale(2 * rms)  # the outermost values are two deviations away

    def nearest(self, z_BlZ: Tensor) -> Tensor:
        half_F = self.levels_F // 2
        digits_BlF = (self.codebook_projection.down(z_BlZ) * half_F).round() + half_F
        digits_BlF = digits_BlF.clamp(min=0).minimum(self.levels_F - 1)
        return (digits_BlF.long() * self.strides()).sum(-1)

    def codes(self, tokens: Tensor) -> Tensor:
        half_F = self.levels_F // 2
        digits = tokens[..., None] // self.strides() % self.levels_F
        return self.codebook_projection.up((digits - half_F) / half_F)

    def strides(self) -> Tensor:
        """What a step of each channel adds to the token, int64 (F,)."""
        stride = torch.ones_like(self.levels_F[0])
        found = []
        for level in self.levels_F.unbind():  # ONNX has no cumulative product
            found.append(stride)
            stride = stride * level
        return torch.stack(found)


def checked(levels: Value) -> tuple[int, ...]:
    """The numbers of values that a line gives.

    Raises:
        ValueError: they are not numbers of values, or make too many codes.
    """
    numbers = levels if isinstance(levels, tuple) else ()
    found = tuple(n for n in numbers if isinstance(n, int) and not isinstance(n, bool) and n >= 2)
    if not found or found != numbers:
        raise ValueError(
            f"levels are the numbers of values of each channel, at least 2, such as [8, 8, 8, 5], "
            f"got {levels!r}"
        )
    if math.prod(found) > MOST_CODES:
        raise ValueError(
            f"levels={list(found)} make {math.prod(found):,} codes, of which the generator predicts one in a "
            f"token; at most {MOST_CODES:,}"
        )
    return found
