"""Multi-scale residual quantizer: the one walk up the pyramid, for training, encoding and sampling."""

from dataclasses import dataclass
from functools import cache
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from var_pe.pyramid import Pyramid
from var_pe.resampling.precision import full_precision


@dataclass(frozen=True)
class Quantized:
    """A latent map as tokens."""

    # the sum of the tokens' codes, which passes gradients straight through
    f_hat_BZhw: Tensor
    tokens_BL: Tensor
    # what was rounded to codes
    z_BLZ: Tensor
    loss: Tensor


class MultiScaleQuantizer(nn.Module):
    """Rounds a latent map to the nearest codes level by level, each level what the coarser ones left over.

    Tian et al. 2024 (VAR), algorithms 1 and 2. Two methods are the whole walk: `add_level` adds a level's
    codes to the running reconstruction f_hat, `input_for` reads the next level's input from it. float32
    whatever the autocast.

    Args:
        num_phi: convolutions that smooth the upsampled codes: one shared (1), a few shared by neighbouring
            levels (VAR: 4), or one per level (as many as levels); 0 for none.
        phi_ratio: share of the convolution, the rest is the identity; in [0, 1].
        commitment: weight of the encoder's term of the loss (beta).

    `usage_V` is the recent share of each code among all tokens, kept by the training.
    """

    usage_V: Tensor

    def __init__(
        self,
        codebook_size: int,
        latent_channels: int,
        *,
        num_phi: int,
        phi_ratio: float,
        commitment: float,
    ) -> None:
        super().__init__()
        if codebook_size < 2 or num_phi < 0 or not 0 <= phi_ratio <= 1:
            raise ValueError(
                f"a quantizer needs codebook_size >= 2, num_phi >= 0 and phi_ratio in [0, 1], "
                f"got {codebook_size}, {num_phi} and {phi_ratio}"
            )

        self.commitment = commitment
        self.phi_ratio = phi_ratio
        self.codebook_VZ = nn.Parameter(torch.zeros(codebook_size, latent_channels))
        self.register_buffer("usage_V", torch.full((codebook_size,), 1 / codebook_size))
        self.phi = nn.ModuleList(
            nn.Conv2d(latent_channels, latent_channels, 3, padding=1) for _ in range(num_phi)
        )

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        nn.init.uniform_(parameter, -1 / len(parameter), 1 / len(parameter), generator=generator)

    def start(self, batch: int, pyramid: Pyramid) -> Tensor:
        """The reconstruction before the first level: zeros (B, Z, h, w) of the finest grid."""
        channels = self.codebook_VZ.shape[1]
        return self.codebook_VZ.new_zeros(batch, channels, *pyramid.finest, dtype=torch.float32)

    def add_level(self, f_hat_BZhw: Tensor, tokens_Bl: Tensor, level: int, pyramid: Pyramid) -> Tensor:
        """The running reconstruction with the codes of `level` added."""
        return self.add_codes(f_hat_BZhw, F.embedding(tokens_Bl, self.codebook_VZ), level, pyramid)

    def add_mixed(self, f_hat_BZhw: Tensor, share_BlV: Tensor, level: int, pyramid: Pyramid) -> Tensor:
        """`add_level` for weighted means of codes."""
        with full_precision(f_hat_BZhw):
            codes_BlZ = share_BlV.float() @ self.codebook_VZ.float()
        return self.add_codes(f_hat_BZhw, codes_BlZ, level, pyramid)

    def add_codes(self, f_hat_BZhw: Tensor, codes_BlZ: Tensor, level: int, pyramid: Pyramid) -> Tensor:
        """`add_level` for code vectors that need not be in the codebook."""
        with full_precision(f_hat_BZhw):
            h_BZhw = codes_BlZ.float().transpose(1, 2).unflatten(2, pyramid.grids[level])
            if pyramid.grids[level] != pyramid.finest:
                h_BZhw = F.interpolate(h_BZhw, size=pyramid.finest, mode="bicubic")

            if self.phi:
                weight, bias = self.phi_of(level, pyramid)
                h_BZhw = torch.lerp(h_BZhw, F.conv2d(h_BZhw, weight, bias, padding=1), self.phi_ratio)

            return f_hat_BZhw + h_BZhw

    def phi_of(self, level: int, pyramid: Pyramid) -> tuple[Tensor, Tensor]:
        """Weight and bias of the convolution that serves a level, float32 of a half model too.

        Picked from a stack: a phi that no level of this pyramid uses has then a gradient of zeros, as a code
        has that no token uses. Without one, several processes would wait for it and checkpoints lack it.
        """
        index = phi_index(level, pyramid.num_levels, len(self.phi))
        convolutions = [cast(nn.Conv2d, phi) for phi in self.phi]
        weight = torch.stack([phi.weight for phi in convolutions])[index]
        bias = torch.stack([cast(Tensor, phi.bias) for phi in convolutions])[index]
        return weight.float(), bias.float()

    def input_for(self, map_BZhw: Tensor, level: int, pyramid: Pyramid) -> Tensor:
        """A map of the finest grid as `level` sees it: (B, l, Z), each cell the mean of what it covers."""
        if pyramid.grids[level] != pyramid.finest:
            map_BZhw = F.interpolate(map_BZhw, size=pyramid.grids[level], mode="area")
        return map_BZhw.flatten(2).transpose(1, 2)

    def nearest(self, z_BlZ: Tensor) -> Tensor:
        """Index of the nearest code, int64 (B, l)."""
        z_MZ = z_BlZ.flatten(0, 1).float()
        codebook_VZ = self.codebook_VZ.float()

        # |z - c|^2 / 2 but for |z|^2, which is the same for all codes
        half_distance_MV = codebook_VZ.square().sum(1) / 2 - z_MZ @ codebook_VZ.T
        return half_distance_MV.argmin(1).view(z_BlZ.shape[:2])

    def forward(self, f_BZhw: Tensor, pyramid: Pyramid) -> Quantized:
        """Rounds `f_BZhw`, whose sides are the finest grid's.

        The loss is the mean over levels of mse(f_hat_k, sg(f)) + commitment * mse(sg(f_hat_k), f) on the
        running reconstruction f_hat_k (VAR, equation 5).
        """
        with full_precision(f_BZhw):
            f_BZhw = f_BZhw.float()
            f_hat_BZhw = self.start(len(f_BZhw), pyramid)
            loss = f_BZhw.new_zeros(())
            tokens = []
            rests = []

            for level in range(pyramid.num_levels):
                # Round what the coarser levels left over.
                with torch.no_grad():
                    rests.append(self.input_for(f_BZhw - f_hat_BZhw, level, pyramid))
                    tokens.append(self.nearest(rests[-1]))
                f_hat_BZhw = self.add_level(f_hat_BZhw, tokens[-1], level, pyramid)

                # Codes move towards the encoder's map, and the encoder commits itself to them.
                loss = loss + F.mse_loss(f_hat_BZhw, f_BZhw.detach())
                loss = loss + self.commitment * F.mse_loss(f_hat_BZhw.detach(), f_BZhw)

            return Quantized(
                f_hat_BZhw=(f_hat_BZhw - f_BZhw).detach() + f_BZhw,
                tokens_BL=torch.cat(tokens, 1),
                z_BLZ=torch.cat(rests, 1),
                loss=loss / pyramid.num_levels,
            )

    def sum_of(self, tokens_BL: Tensor, pyramid: Pyramid) -> Tensor:
        """The latent map that the tokens stand for: the whole walk."""
        f_hat_BZhw = self.start(len(tokens_BL), pyramid)
        for level, span in enumerate(pyramid.spans):
            f_hat_BZhw = self.add_level(f_hat_BZhw, tokens_BL[:, span], level, pyramid)
        return f_hat_BZhw

    def teacher_forcing(self, tokens_BL: Tensor, pyramid: Pyramid) -> Tensor:
        """Inputs of all levels but the first, (B, L - l_1, Z): each level's view of the levels before it."""
        f_hat_BZhw = self.start(len(tokens_BL), pyramid)
        inputs = []
        for level, span in enumerate(pyramid.spans[:-1]):
            f_hat_BZhw = self.add_level(f_hat_BZhw, tokens_BL[:, span], level, pyramid)
            inputs.append(self.input_for(f_hat_BZhw, level + 1, pyramid))

        if not inputs:  # a single level
            return f_hat_BZhw.new_zeros(len(tokens_BL), 0, f_hat_BZhw.shape[1])
        return torch.cat(inputs, 1)


@cache
def phi_index(level: int, num_levels: int, num_phi: int) -> int:
    """Which phi serves a level: the nearest of evenly spaced ticks (VAR's public code).

    The ticks of four run from 1/12 to 11/12, of any other number P from 1/(2P) to 1 - 1/(2P). Some levels lie
    midway between two, as two of VAR's ten do: rounding decides, so this is numpy's arithmetic, as in that
    code. A pyramid of one level, which VAR cannot have, takes the phi of the finest one.
    """
    edge = 1 / 3 / num_phi if num_phi == 4 else 1 / 2 / num_phi
    height = level / (num_levels - 1) if num_levels > 1 else 1.0
    ticks = np.linspace(edge, 1 - edge, num_phi)
    return int(np.argmin(np.abs(ticks - height)))
