"""Multi-scale VQ tokenizer: images to a pyramid of tokens and back."""

import math
from collections.abc import Callable, Sequence
from dataclasses import field
from typing import Annotated, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import Decoder, Encoder
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401  # pipelines look for it in this module
from torch import Tensor, nn

from var_pe.models.folder import SavedModel
from var_pe.models.initialisation import initialise
from var_pe.models.quantizers import QuantizerShape, build_quantizer, codes_of
from var_pe.models.quantizers.residual import Quantized, Redrawn
from var_pe.pyramid import Levels, Pyramid
from var_pe.seeding import generator_for
from var_pe.settings.fields import Doc, NonNegative, NonNegativeFloat, Positive, Share, section


@section
class TokenizerConfig:
    levels: Annotated[Levels, Doc("grids from coarse to fine: a side, or rows and columns")] = field(
        default_factory=lambda: [1, 2, 3, 4]
    )
    codebook_size: Annotated[int, Ge(2), Doc("number of codes, unless tokenizer.quantizer sets it")] = 512
    latent_channels: Annotated[Positive, Doc("width of a code")] = 16
    channels: Annotated[Positive, Doc("width of the autoencoder at full resolution")] = 64
    channel_multipliers: Annotated[
        list[Positive],
        Doc("width per resolution, as multiples of channels; each but the first halves the sides"),
    ] = field(default_factory=lambda: [1, 1, 2, 2])
    patch: Annotated[
        Positive,
        Doc("side in pixels of the squares that become one cell of the first resolution (pixel unshuffle)"),
    ] = 1
    shortcut: Annotated[
        bool,
        Doc("the mean colour of each cell bypasses the autoencoder, in the first channels of the latent map"),
    ] = True
    blocks_per_resolution: Annotated[
        Positive, Doc("residual blocks of the encoder; the decoder has one more")
    ] = 1
    attention: Annotated[bool, Doc("self-attention at the lowest resolution")] = True
    num_phi: Annotated[
        NonNegative,
        Doc("smoothing convolutions: 1 shared, 4 partly shared (VAR), as many as levels, 0 none"),
    ] = 4
    phi_ratio: Annotated[
        Share, Doc("share of the smoothing convolution in its output; the rest is the identity")
    ] = 0.5
    commitment: Annotated[NonNegativeFloat, Doc("weight of the encoder's term of the quantizer loss")] = 0.25
    norm_groups: Annotated[Positive, Doc("groups of the group norms")] = 32
    quantizer: Annotated[
        str, Doc("how latent vectors are rounded to codes, one line (docs/tokenizers.md)")
    ] = "vq"

    @property
    def num_codes(self) -> int:
        """Codes that a token can be.

        Raises:
            ValueError: the quantizer's line is not one.
        """
        return codes_of(self.quantizer, self.codebook_size)

    @property
    def downsampling(self) -> int:
        return downsampling_of(self.patch, self.channel_multipliers)


DEFAULTS = TokenizerConfig()
# Bytes of a pass's maps at the highest resolution, on processors: larger ones leave the caches
# (benchmarks/memory.py)
AT_ONCE = 8 * 2**20


def downsampling_of(patch: int, channel_multipliers: Sequence[int]) -> int:
    """Pixels of a side that are one cell of the finest level: each resolution but the first halves sides."""
    return patch * 2 ** (len(channel_multipliers) - 1)


class VQTokenizer(SavedModel):
    """Images in [-1, 1] to tokens and back; each token is the nearest code to what coarser levels left over.

    Tian et al. 2024 (VAR) sections 3.2 and 3.3, around the convolutional autoencoder of Esser et al. 2021 in
    diffusers' blocks. Arguments as in `TokenizerConfig`.

    With `shortcut` the first channels of the latent map are the encoder's plus the mean colour of each cell,
    and an image is the decoder's plus these channels of the quantized map, enlarged. The autoencoder learns
    what mean colours lack, as the blocks of DC-AE do (Chen et al. 2024, section 3.2), and hues are right
    sooner (docs/tokenizers.md). A config.json without it was saved before there was one, and means False.

    Raises:
        ValueError: a size or a width does not fit; from `encode`, the image is not `downsampling` times a
        grid.
    """

    # what is compiled where a transformer's blocks are; None in diffusers, as are its models' blocks
    _repeated_blocks = ["Encoder", "Decoder"]  # noqa: RUF012
    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        levels: Sequence[int | Sequence[int]] = tuple(DEFAULTS.levels),
        image_channels: int = 3,
        codebook_size: int = DEFAULTS.codebook_size,
        latent_channels: int = DEFAULTS.latent_channels,
        channels: int = DEFAULTS.channels,
        channel_multipliers: Sequence[int] = tuple(DEFAULTS.channel_multipliers),
        blocks_per_resolution: int = DEFAULTS.blocks_per_resolution,
        attention: bool = DEFAULTS.attention,
        num_phi: int = DEFAULTS.num_phi,
        phi_ratio: float = DEFAULTS.phi_ratio,
        commitment: float = DEFAULTS.commitment,
        norm_groups: int = DEFAULTS.norm_groups,
        seed: int = 0,
        quantizer: str = DEFAULTS.quantizer,
        patch: int = DEFAULTS.patch,
        shortcut: bool = False,
    ) -> None:
        super().__init__()
        self.pyramid = Pyramid.of(levels)
        self.patch = patch
        self.downsampling = downsampling_of(patch, channel_multipliers)
        self.colours = image_channels if shortcut else 0
        self.slice_size: int | None = None
        widths = tuple(channels * multiplier for multiplier in channel_multipliers)
        self.full_width = widths[0] if widths else 0
        if not widths or any(width % norm_groups for width in widths):
            raise ValueError(
                f"channels * channel_multipliers must be multiples of norm_groups ({norm_groups}), "
                f"got {widths}"
            )
        if latent_channels < self.colours:
            raise ValueError(
                f"the shortcut takes {image_channels} of the latent map's channels, got "
                f"latent_channels={latent_channels}"
            )

        # The autoencoder has plain blocks, except at the lowest resolution, which may have attention.
        plain = len(widths) - 1
        lowest = "Attn" if attention else ""
        self.encoder = Encoder(
            in_channels=image_channels * patch**2,
            out_channels=latent_channels,
            down_block_types=("DownEncoderBlock2D",) * plain + (f"{lowest}DownEncoderBlock2D",),
            block_out_channels=widths,
            layers_per_block=blocks_per_resolution,
            norm_num_groups=norm_groups,
            double_z=False,
            mid_block_add_attention=attention,
        )

        self.decoder = Decoder(
            in_channels=latent_channels,
            out_channels=image_channels * patch**2,
            up_block_types=(f"{lowest}UpDecoderBlock2D",) + ("UpDecoderBlock2D",) * plain,
            block_out_channels=widths,
            layers_per_block=blocks_per_resolution,
            norm_num_groups=norm_groups,
            mid_block_add_attention=attention,
        )

        # Between the autoencoder and the tokens, as in VAR
        self.quant_conv = nn.Conv2d(latent_channels, latent_channels, 3, padding=1)
        self.post_quant_conv = nn.Conv2d(latent_channels, latent_channels, 3, padding=1)
        shape = QuantizerShape(codebook_size, latent_channels, num_phi, phi_ratio, commitment)
        self.quantizer = build_quantizer(quantizer, shape)

        initialise(self, seed)
        if shortcut:
            # At first an image is its mean colours, and nothing at random is laid over them.
            nn.init.zeros_(self.last_layer.weight)
        if self.quantizer.has_a_code_of_zeros and not self.post_quant_conv.weight.is_meta:
            # The gradient of stacked group norms overflows at a map that is zero everywhere.
            bias = cast(Tensor, self.post_quant_conv.bias)
            nn.init.normal_(bias, std=0.1, generator=generator_for(seed, "post_quant_conv.bias"))

    def __getattr__(self, name: str) -> Tensor | nn.Module:
        """diffusers' own looks in config.json first, whose `quantizer` is the line, not the module."""
        return nn.Module.__getattr__(self, name)

    def keep_tokens(self) -> None:
        """Leaves only the decoder to train: whatever tokens follow from stays as it is."""
        for part in (self.encoder, self.quant_conv, self.quantizer):
            part.requires_grad_(False)

    def image_size(self, pyramid: Pyramid) -> tuple[int, int]:
        """Height and width, in pixels, of the images that a pyramid is for."""
        rows, columns = pyramid.finest
        return rows * self.downsampling, columns * self.downsampling

    def pyramid_for(self, images_BCHW: Tensor) -> Pyramid:
        """The trained levels, scaled to the images' size.

        Raises:
            ValueError: a side is not a multiple of the downsampling factor.
        """
        height, width = images_BCHW.shape[-2:]
        if height % self.downsampling or width % self.downsampling:
            raise ValueError(
                f"image sides must be multiples of the downsampling factor {self.downsampling}, "
                f"got {height}x{width}"
            )

        grid = (height // self.downsampling, width // self.downsampling)
        return self.pyramid if grid == self.pyramid.finest else self.pyramid.for_size(*grid)

    def latent(self, images_BCHW: Tensor) -> Tensor:
        """The map to be quantized, (B, Z, h, w) of the finest grid."""
        f_BZhw = self.quant_conv(self.encoder(F.pixel_unshuffle(images_BCHW, self.patch)))
        if not self.colours:
            return f_BZhw

        mean_BChw = F.avg_pool2d(images_BCHW, self.downsampling)
        return f_BZhw + F.pad(mean_BChw, (0, 0, 0, 0, 0, f_BZhw.shape[1] - self.colours))

    def reconstruct(self, f_hat_BZhw: Tensor) -> Tensor:
        """Images of a latent map, not clamped."""
        pixels = math.prod(f_hat_BZhw.shape[-2:]) * self.downsampling**2
        return self._by_slices(self._drawn, f_hat_BZhw, pixels, self.slice_size)

    def _by_slices(
        self, compute: Callable[[Tensor], Tensor], maps_BXhw: Tensor, pixels: int, size: int | None = None
    ) -> Tensor:
        """What `compute` makes of some maps, in passes of `size` of them.

        Where that is None, a pass on a processor takes as many as its caches hold. A pass with gradients, or
        one that is compiled or exported, takes all.
        """
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return compute(maps_BXhw)
        if size is None and maps_BXhw.device.type == "cpu":
            half = torch.is_autocast_enabled("cpu")
            dtype = torch.get_autocast_dtype("cpu") if half else maps_BXhw.dtype
            bytes_of_one = self.full_width * pixels // self.patch**2 * dtype.itemsize
            size = max(1, AT_ONCE // max(1, bytes_of_one))

        if size is None or len(maps_BXhw) <= size:
            return compute(maps_BXhw)
        return torch.cat([compute(slice_BXhw) for slice_BXhw in maps_BXhw.split(size)])

    def _drawn(self, f_hat_BZhw: Tensor) -> Tensor:
        """Decoder and shortcut. A training wants the gradient beyond [-1, 1]."""
        f_hat_BZhw = f_hat_BZhw.to(self.post_quant_conv.weight.dtype)
        drawn_BCHW = F.pixel_shuffle(self.decoder(self.post_quant_conv(f_hat_BZhw)), self.patch)
        if not self.colours:
            return drawn_BCHW

        # nearest: the gradient of a smooth enlargement is not the same in every run on a GPU
        colours_BChw = f_hat_BZhw[:, : self.colours]
        return drawn_BCHW + F.interpolate(colours_BChw, scale_factor=self.downsampling, mode="nearest")

    def enable_slicing(self, slice_size: int = 1) -> None:
        """Decodes so many images at once: memory is that of a slice. Pictures are the same up to rounding.

        Raises:
            ValueError: `slice_size` is below 1.
        """
        if slice_size < 1:
            raise ValueError(f"slice_size must be at least 1, got {slice_size}")
        self.slice_size = slice_size

    def disable_slicing(self) -> None:
        """Decodes all images of a batch at once, on a processor as many as its caches hold."""
        self.slice_size = None

    @property
    def last_layer(self) -> nn.Conv2d:
        """The convolution whose output is the image."""
        return self.decoder.conv_out

    @torch.no_grad()
    def encode(self, images_BCHW: Tensor, pyramid: Pyramid | None = None, *, whole: bool = False) -> Tensor:
        """Tokens (B, L), int64, of images in [-1, 1].

        With `whole` in one pass: the steps of a training rest on its rounding.
        """
        pyramid = self._checked(images_BCHW, pyramid)

        def tokens_of(some_BCHW: Tensor) -> Tensor:
            return self.quantizer(self.latent(some_BCHW), pyramid).tokens_BL

        if whole:
            return tokens_of(images_BCHW)
        return self._by_slices(tokens_of, images_BCHW, math.prod(images_BCHW.shape[-2:]))

    @torch.no_grad()
    def decode(self, tokens_BL: Tensor, pyramid: Pyramid | None = None) -> Tensor:
        """Images in [-1, 1] of tokens of `pyramid` (default: the trained one)."""
        pyramid = pyramid or self.pyramid
        if tokens_BL.shape[1] != pyramid.num_tokens:
            raise ValueError(
                f"the pyramid {pyramid} has {pyramid.num_tokens} tokens, got {tokens_BL.shape[1]}"
            )
        return self.reconstruct(self.quantizer.sum_of(tokens_BL, pyramid)).clamp(-1, 1)

    def forward(
        self,
        images_BCHW: Tensor,
        pyramid: Pyramid | None = None,
        kept_B: Tensor | None = None,
        redrawn: Redrawn | None = None,
    ) -> tuple[Tensor, Quantized]:
        """The reconstruction and what the quantizer made of the images: one training pass.

        With `kept_B` an image is rebuilt from its first so many levels, with `redrawn` from other tokens.
        """
        pyramid = self._checked(images_BCHW, pyramid)
        quantized = self.quantizer(self.latent(images_BCHW), pyramid, kept_B, redrawn)
        return self._drawn(quantized.f_hat_BZhw), quantized

    def _checked(self, images_BCHW: Tensor, pyramid: Pyramid | None) -> Pyramid:
        """The pyramid asked for if it ends at the images' latent grid; where none is, the trained levels."""
        fitting = self.pyramid_for(images_BCHW)
        if pyramid is not None and pyramid.finest != fitting.finest:
            raise ValueError(
                f"the pyramid's last level must be the latent grid {fitting.finest}, got {pyramid.finest}"
            )
        return pyramid or fitting
