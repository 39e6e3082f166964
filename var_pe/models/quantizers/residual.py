"""Multi-scale residual quantizer: the one walk up the pyramid, for training, encoding and sampling."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from var_pe.models.choice import draw
from var_pe.models.quantizers.gradients import GRADIENTS
from var_pe.pyramid import Pyramid
from var_pe.resampling.precision import full_precision
from var_pe.settings.fields import check_choice
from var_pe.settings.line import Value


@dataclass(frozen=True)
class QuantizerShape:
    """The shapes and options that every quantizer is built from."""

    # codes, for those that do not have a number of their own
    codebook_size: int
    latent_channels: int
    # convolutions that smooth the upsampled codes: one shared (1), a few shared by neighbouring levels (VAR:
    # 4), or one per level (as many as levels); 0 for none
    num_phi: int
    # share of the convolution, the rest is the identity; in [0, 1]
    phi_ratio: float
    # weight of the encoder's term of the loss (beta)
    commitment: float


@dataclass(frozen=True)
class Redrawn:
    """Which tokens are drawn anew, from what the coarser levels let one expect, before images are rebuilt."""

    anew_BL: Tensor
    # two numbers in [0, 1) for each token, which decide what is drawn (`models.choice.draw`)
    number_BL2: Tensor


@dataclass(frozen=True)
class Quantized:
    """A latent map as tokens."""

    # the sum of the codes that an image is rebuilt from, which passes gradients to what was rounded
    f_hat_BZhw: Tensor
    tokens_BL: Tensor
    # what was rounded to codes
    z_BLZ: Tensor
    loss: Tensor


class MultiScaleQuantizer(nn.Module):
    """Rounds a latent map to codes level by level, each level what the coarser ones left over.

    Tian et al. 2024 (VAR), algorithms 1 and 2. Two methods are the whole walk: `add_level` adds a level's
    codes to the running reconstruction f_hat, `input_for` reads the next level's input from it. float32
    whatever the autocast.

    A quantizer is a file beside this one that says which token a vector gets (`nearest`, or `choose`) and
    what a token stands for (`codes`). Its constructor is `__init__(self, shape: QuantizerShape, *,
    option=default, ...)`; the keywords are the options that a config's line may set.

    Args:
        gradient: how the gradient passes the rounding, `straight_through` or `rotation`.

    `usage_V` is the recent share of each code among all tokens, kept by the training.
    """

    usage_V: Tensor
    # the tensors of this module that have a row for each code, beside `usage_V`
    rows_of_codes: tuple[str, ...] = ()
    # whether a token may stand for no change, so that the coarsest levels alone may be a map of zeros
    has_a_code_of_zeros = False

    def __init__(self, shape: QuantizerShape, *, num_codes: int, gradient: str = "straight_through") -> None:
        super().__init__()
        if num_codes < 2 or shape.num_phi < 0 or not 0 <= shape.phi_ratio <= 1:
            raise ValueError(
                f"a quantizer needs codebook_size >= 2, num_phi >= 0 and phi_ratio in [0, 1], "
                f"got {num_codes}, {shape.num_phi} and {shape.phi_ratio}"
            )
        check_choice("gradient", gradient, GRADIENTS)

        self.num_codes = num_codes
        self.latent_channels = shape.latent_channels
        self.commitment = shape.commitment
        self.phi_ratio = shape.phi_ratio
        self.pass_gradient = GRADIENTS[gradient]
        self.register_buffer("usage_V", torch.full((num_codes,), 1 / num_codes))
        self.phi = nn.ModuleList(
            nn.Conv2d(shape.latent_channels, shape.latent_channels, 3, padding=1)
            for _ in range(shape.num_phi)
        )

    @classmethod
    def codes_of(cls, codebook_size: int, options: Mapping[str, Value]) -> int:
        """The number of codes under these options, known before anything is built.

        Raises:
            ValueError: an option that decides it is out of its range.
        """
        return codebook_size

    @classmethod
    def expects(cls, options: Mapping[str, Value]) -> bool:
        """Whether it learns under these options which tokens to expect (`expected`)."""
        return False

    @property
    def doubled(self) -> str:
        """The setting that gives twice as many codes, as key=value."""
        return f"tokenizer.codebook_size={2 * self.num_codes}"

    def nearest(self, z_BlZ: Tensor) -> Tensor:
        """The token that stands for each vector, int64 (B, l)."""
        raise NotImplementedError

    def choose(self, z_BlZ: Tensor, seen_BlZ: Tensor, level: int, pyramid: Pyramid) -> Tensor:
        """The token for each vector of a level, which may depend on what the coarser levels show there.

        `seen_BlZ` is the sum of their codes as the level sees it (`input_for`).
        """
        return self.nearest(z_BlZ)

    def codes(self, tokens: Tensor) -> Tensor:
        """What tokens stand for: a vector of Z for each, float32 or the weights' type."""
        raise NotImplementedError

    def expected(self, seen_BlZ: Tensor, level: int, pyramid: Pyramid) -> Tensor:
        """Log shares (B, l, V) of a level's tokens, as judged by what the coarser levels show there.

        Only for quantizers that learn it (`expects`).
        """
        raise NotImplementedError

    def scale_to(self, rms: Tensor) -> None:
        """Makes the codes as large as vectors whose channels have this root mean square, before the training.

        Codes that are much larger than what the encoder makes at first would all but one stay unused. A
        codebook that starts from data has nothing to scale.
        """

    def own_loss(
        self, z_BlZ: Tensor, seen_BlZ: Tensor, tokens_Bl: Tensor, level: int, pyramid: Pyramid
    ) -> Tensor | None:
        """A term on what a level has to round, beside the walk's; None if there is none.

        Asked for in training alone. The gradient of `z_BlZ` reaches the encoder; the others are as in
        `choose`, without a gradient, with the tokens that were chosen.
        """
        return None

    def start(self, batch: int, pyramid: Pyramid) -> Tensor:
        """The reconstruction before the first level: zeros (B, Z, h, w) of the finest grid."""
        return self.usage_V.new_zeros(batch, self.latent_channels, *pyramid.finest, dtype=torch.float32)

    def add_level(self, f_hat_BZhw: Tensor, tokens_Bl: Tensor, level: int, pyramid: Pyramid) -> Tensor:
        """The running reconstruction with the codes of `level` added."""
        with full_precision(f_hat_BZhw):
            codes_BlZ = self.codes(tokens_Bl)
        return self.add_codes(f_hat_BZhw, codes_BlZ, level, pyramid)

    def add_mixed(self, f_hat_BZhw: Tensor, share_BlV: Tensor, level: int, pyramid: Pyramid) -> Tensor:
        """`add_level` for weighted means of codes."""
        with full_precision(f_hat_BZhw):
            codes_VZ = self.codes(torch.arange(self.num_codes, device=share_BlV.device))
            codes_BlZ = share_BlV.float() @ codes_VZ.float()
        return self.add_codes(f_hat_BZhw, codes_BlZ, level, pyramid)

    def add_codes(self, f_hat_BZhw: Tensor, codes_BlZ: Tensor, level: int, pyramid: Pyramid) -> Tensor:
        """`add_level` for vectors that need not be codes."""
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
        index = _phi_index(level, pyramid.num_levels, len(self.phi))
        convolutions = [cast(nn.Conv2d, phi) for phi in self.phi]
        weight = torch.stack([phi.weight for phi in convolutions])[index]
        bias = torch.stack([cast(Tensor, phi.bias) for phi in convolutions])[index]
        return weight.float(), bias.float()

    def input_for(self, map_BZhw: Tensor, level: int, pyramid: Pyramid) -> Tensor:
        """A map of the finest grid as `level` sees it: (B, l, Z), each cell the mean of what it covers."""
        if pyramid.grids[level] != pyramid.finest:
            map_BZhw = F.interpolate(map_BZhw, size=pyramid.grids[level], mode="area")
        return map_BZhw.flatten(2).transpose(1, 2)

    def forward(
        self,
        f_BZhw: Tensor,
        pyramid: Pyramid,
        kept_B: Tensor | None = None,
        redrawn: Redrawn | None = None,
    ) -> Quantized:
        """Rounds `f_BZhw`, whose sides are the finest grid's.

        With `kept_B` the sum is that of each image's first so many levels, with `redrawn` that of some other
        tokens, through which no gradient passes; `tokens_BL` are the rounded ones all the same.

        The loss is the mean over levels of mse(f_hat_k, sg(f)) + commitment * mse(sg(f_hat_k), f) on the
        running reconstruction f_hat_k (VAR, equation 5), and of the quantizer's own term if it has one.
        """
        with full_precision(f_BZhw):
            f_BZhw = f_BZhw.float()
            f_hat_BZhw = self.start(f_BZhw.shape[0], pyramid)
            shown_BZhw = f_hat_BZhw
            loss = f_BZhw.new_zeros(())
            tokens = []
            rests = []

            for level in range(pyramid.num_levels):
                # Round what the coarser levels left over.
                rest_BlZ = self.input_for(f_BZhw - f_hat_BZhw.detach(), level, pyramid)
                rests.append(rest_BlZ.detach())
                seen_BlZ = self.input_for(f_hat_BZhw.detach(), level, pyramid)
                with torch.no_grad():
                    tokens.append(self.choose(rests[-1], seen_BlZ, level, pyramid))
                f_hat_BZhw = self.add_level(f_hat_BZhw, tokens[-1], level, pyramid)

                # What the decoder gets may end sooner, or go on with other tokens.
                more_BZhw = f_hat_BZhw
                if redrawn is not None:
                    more_BZhw = self._redraw(shown_BZhw, tokens[-1], redrawn, level, pyramid)
                if kept_B is not None:
                    more_BZhw = torch.where((level < kept_B)[:, None, None, None], more_BZhw, shown_BZhw)
                shown_BZhw = more_BZhw

                # Codes move towards the encoder's map, and the encoder commits itself to them.
                loss = loss + F.mse_loss(f_hat_BZhw, f_BZhw.detach())
                loss = loss + self.commitment * F.mse_loss(f_hat_BZhw.detach(), f_BZhw)

                if self.training:
                    own_loss = self.own_loss(rest_BlZ, seen_BlZ, tokens[-1], level, pyramid)
                    loss = loss if own_loss is None else loss + own_loss

            passing_BZhw = self.pass_gradient(f_BZhw, shown_BZhw)
            if redrawn is not None:
                # Faults that were drawn are not the encoder's.
                anew_B = redrawn.anew_BL.any(1)
                passing_BZhw = torch.where(anew_B[:, None, None, None], shown_BZhw.detach(), passing_BZhw)

            return Quantized(
                f_hat_BZhw=passing_BZhw,
                tokens_BL=torch.cat(tokens, 1),
                z_BLZ=torch.cat(rests, 1),
                loss=loss / pyramid.num_levels,
            )

    @torch.no_grad()
    def _redraw(
        self, shown_BZhw: Tensor, tokens_Bl: Tensor, redrawn: Redrawn, level: int, pyramid: Pyramid
    ) -> Tensor:
        """`add_level` in which some tokens are drawn ones."""
        span = pyramid.spans[level]
        seen_BlZ = self.input_for(shown_BZhw, level, pyramid)
        drawn_Bl = draw(self.expected(seen_BlZ, level, pyramid), redrawn.number_BL2[:, span])
        shown_Bl = torch.where(redrawn.anew_BL[:, span], drawn_Bl, tokens_Bl)
        return self.add_level(shown_BZhw, shown_Bl, level, pyramid)

    def sum_of(self, tokens_BL: Tensor, pyramid: Pyramid) -> Tensor:
        """The latent map that the tokens stand for: the whole walk."""
        f_hat_BZhw = self.start(tokens_BL.shape[0], pyramid)
        for level, span in enumerate(pyramid.spans):
            f_hat_BZhw = self.add_level(f_hat_BZhw, tokens_BL[:, span], level, pyramid)
        return f_hat_BZhw

    def teacher_forcing(self, tokens_BL: Tensor, pyramid: Pyramid, levels: int | None = None) -> Tensor:
        """Inputs of all levels but the first, (B, L - l_1, Z): each level's view of the levels before it.

        With `levels`, of the coarsest so many alone, whose tokens `tokens_BL` begins with.
        """
        f_hat_BZhw = self.start(tokens_BL.shape[0], pyramid)
        inputs = []
        for level, span in enumerate(pyramid.spans[:levels][:-1]):
            f_hat_BZhw = self.add_level(f_hat_BZhw, tokens_BL[:, span], level, pyramid)
            inputs.append(self.input_for(f_hat_BZhw, level + 1, pyramid))

        if not inputs:  # a single level
            return f_hat_BZhw.new_zeros(tokens_BL.shape[0], 0, f_hat_BZhw.shape[1])
        return torch.cat(inputs, 1)


@torch.compiler.assume_constant_result
def _phi_index(level: int, num_levels: int, num_phi: int) -> int:
    """`phi_index`, which a compiled graph takes as a constant."""
    return phi_index(level, num_levels, num_phi)


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
