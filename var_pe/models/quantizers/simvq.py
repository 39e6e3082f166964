"""Fixed codes behind one learned linear map, which moves all of them at once (Zhu et al. 2024, SimVQ)."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from var_pe.models.quantizers.residual import MultiScaleQuantizer, QuantizerShape
from var_pe.models.quantizers.vq import nearest_row


class SimVQ(MultiScaleQuantizer):
    """Each vector is rounded to the nearest of V fixed random vectors after the map.

    A code that no token uses moves with the others, so none is left behind, and nothing is restarted. The
    fixed vectors are normal with deviation 1 / sqrt(Z), as in vector-quantize-pytorch; the map starts as the
    identity, which makes this the plain codebook.
    """

    frozen_VZ: Tensor
    rows_of_codes = ("frozen_VZ",)

    def __init__(self, shape: QuantizerShape, *, gradient: str = "straight_through") -> None:
        super().__init__(shape, num_codes=shape.codebook_size, gradient=gradient)
        channels = shape.latent_channels
        self.register_buffer("frozen_VZ", torch.zeros(self.num_codes, channels))
        self.codebook_map_ZZ = nn.Parameter(torch.zeros(channels, channels))

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: Generator) -> None:
        nn.init.eye_(parameter)

    def init_buffer(self, name: str, buffer: Tensor, generator: Generator) -> None:
        if name == "frozen_VZ":
            nn.init.normal_(buffer, std=buffer.shape[1] ** -0.5, generator=generator)

    @torch.no_grad()
    def scale_to(self, rms: Tensor) -> None:
        self.codebook_map_ZZ.mul_(rms * len(self.codebook_map_ZZ) ** 0.5)

    def nearest(self, z_BlZ: Tensor) -> Tensor:
        return nearest_row(z_BlZ, self.frozen_VZ.float() @ self.codebook_map_ZZ.float())

    def codes(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.frozen_VZ).float() @ self.codebook_map_ZZ.float()
