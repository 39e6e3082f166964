"""Discriminators, which tell the tokenizer's reconstructions from images place by place.

Letters: `B` images, `C` channels, `h w` a map's sides.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from var_pe.models.initialisation import initialise
from var_pe.seeding import mix

# Receptive fields in pixels of patch discriminators with 1, 2 and 3 halvings (Isola et al. 2017)
RECEPTIVE_FIELDS = (16, 34, 70)
# and the largest share of the shorter side that one may be
MOST_OF_A_SIDE = 5 / 8
SMALLEST_SIDE = 8


def halvings_for(height: int, width: int) -> int:
    """Halving convolutions of the patch discriminator for pictures of a size.

    The most whose receptive field is at most 5/8 of the shorter side, so that a patch is less than the
    picture: one (16 pixels) below a side of 55, two (34) below 112, else three (70).

    Raises:
        ValueError: a side is too short for a single one.
    """
    side = min(height, width)
    if side < SMALLEST_SIDE:
        raise ValueError(
            f"a patch discriminator needs pictures of at least {SMALLEST_SIDE} pixels a side, got "
            f"{height}x{width}: set tokenizer_training.adversarial.discriminator=features"
        )
    fitting = [field for field in RECEPTIVE_FIELDS if field <= MOST_OF_A_SIDE * side]
    return max(1, len(fitting))


class PatchDiscriminator(nn.Module):
    """Logits of patches that overlap (pix2pix, Isola et al. 2017, section 6.1.2): positive says "an image".

    Without batch norm, which would see real and rebuilt pictures apart or let processes differ: each
    convolution's weight is divided by its spectral norm (Miyato et al. 2018), or its result group-normed.
    """

    def __init__(
        self, image_channels: int, channels: int, halvings: int, *, spectral: bool, seed: int
    ) -> None:
        super().__init__()
        widths = [channels * min(2**depth, 8) for depth in range(halvings + 1)]
        layers: list[nn.Module] = []
        before = image_channels
        for depth, width in enumerate(widths):
            layers.append(nn.Conv2d(before, width, 4, stride=2 if depth < halvings else 1, padding=1))
            if depth and not spectral:
                layers.append(group_norm(width))
            layers.append(nn.LeakyReLU(0.2))
            before = width

        layers.append(to_logit(before, 4, padding=1))
        self.layers = nn.Sequential(*layers)
        start(self, spectral, seed)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """One map of logits, (B, 1, h, w), of the pictures alone."""
        (images_BCHW,) = maps
        return [self.layers(images_BCHW)]


class FeatureDiscriminator(nn.Module):
    """A small head on each map of a frozen network (projected GANs, Sauer et al. 2021, without projections).

    Each place's vector is brought to a mean square of 1 first, so that all maps come at the same size.
    """

    def __init__(self, map_channels: Sequence[int], channels: int, *, spectral: bool, seed: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(self._head(width, channels, spectral) for width in map_channels)
        start(self, spectral, seed)

    def _head(self, width: int, channels: int, spectral: bool) -> nn.Sequential:
        norms = [nn.Identity() if spectral else group_norm(channels) for _ in range(2)]
        return nn.Sequential(
            nn.Conv2d(width, channels, 1),
            norms[0],
            nn.LeakyReLU(0.2),
            nn.Conv2d(channels, channels, 3, padding=1),
            norms[1],
            nn.LeakyReLU(0.2),
            to_logit(channels, 1),
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """A map of logits, (B, 1, h, w), of each map of features."""
        logits = []
        for head, map_BChw in zip(self.heads, maps, strict=True):
            map_BChw = map_BChw.float()
            size_B1hw = (map_BChw.square().mean(1, keepdim=True) + 1e-8).sqrt()
            logits.append(head(map_BChw / size_B1hw))
        return logits


def to_logit(channels: int, kernel: int, padding: int = 0) -> nn.Conv2d:
    """The last convolution, without a bias.

    While both sides are within the hinge's margin a common shift has no gradient, and AdamW would make steps
    of its rounding.
    """
    return nn.Conv2d(channels, 1, kernel, padding=padding, bias=False)


def group_norm(channels: int) -> nn.GroupNorm:
    """Of 32 groups, or the most that divide the channels."""
    return nn.GroupNorm(next(groups for groups in range(32, 0, -1) if channels % groups == 0), channels)


def start(discriminator: nn.Module, spectral: bool, seed: int) -> None:
    """Initial weights, and the vectors of power iteration, that follow from the seed."""
    initialise(discriminator, seed)
    if not spectral:
        return

    convolutions = [module for module in discriminator.modules() if isinstance(module, nn.Conv2d)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(seed, "spectral norm"))
        for convolution in convolutions:
            spectral_norm(convolution)
