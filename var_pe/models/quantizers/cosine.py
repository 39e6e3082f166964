"""Codes compared by direction alone, in few channels (Yu et al. 2022, ViT-VQGAN, section 3.2)."""

import torch.nn.functional as F
from torch import Generator, Tensor, nn

from var_pe.models.quantizers.codebook import LearnedCodebook
from var_pe.models.quantizers.projection import Projection
from var_pe.models.quantizers.residual import QuantizerShape


class Cosine(LearnedCodebook):
    """Each vector is rounded to the code with the largest cosine; codes have length 1 before they go up.

    Length carries nothing here: what a level adds is as long as the projection and its phi make it. With
    `learning=ema` rows follow the mean of directions, scaled back to length 1.

    Args:
        channels: in which directions are compared; at most those of the latent map.
    """

    def __init__(
        self,
        shape: QuantizerShape,
        *,
        channels: int = 8,
        learning: str = "gradient",
        decay: float = 0.99,
        gradient: str = "straight_through",
    ) -> None:
        super().__init__(shape, channels=channels, learning=learning, decay=decay, gradient=gradient)
        self.codebook_projection = Projection(channels, shape.latent_channels)

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: Generator) -> None:
        nn.init.normal_(parameter, generator=generator)

    def scale_to(self, rms: Tensor) -> None:
        self.codebook_projection.scale(rms * self.codebook_VZ.shape[1] ** 0.5)

    def coordinates(self, z_MZ: Tensor) -> Tensor:
        return F.normalize(self.codebook_projection.down(z_MZ), dim=-1)

    def settled(self, rows_VZ: Tensor) -> Tensor:
        return F.normalize(rows_VZ, dim=-1)

    def nearest(self, z_BlZ: Tensor) -> Tensor:
        codes_VF = F.normalize(self.codebook_VZ.float(), dim=-1)
        return (self.codebook_projection.down(z_BlZ) @ codes_VF.T).argmax(-1)

    def codes(self, tokens: Tensor) -> Tensor:
        rows = F.embedding(tokens, self.codebook_VZ).float()
        return self.codebook_projection.up(F.normalize(rows, dim=-1))
