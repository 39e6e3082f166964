"""How well the tokenizer keeps the colours of flat areas."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# A place is flat whose neighbours differ by less than this in every channel, and coloured whose chroma is
# more; both as shares of a channel's range.
FLAT = 0.075
COLOURED = 0.15


def chroma(images_BCHW: Tensor) -> Tensor:
    """The two opponent colours of RGB images in [-1, 1], (B, 2, H, W): length is chroma, direction is hue."""
    red, green, blue = (images_BCHW / 2).unbind(1)
    return torch.stack([red - (green + blue) / 2, math.sqrt(3) / 2 * (green - blue)], dim=1)


@torch.no_grad()
def hue_errors(reconstruction_BCHW: Tensor, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Hues in flat coloured places: differences in degrees, (M,), and the share of chroma that is left, (M,).

    A place counts if all in the 3x3 around it are alike in the image and it has a colour. A reconstruction
    without any colour counts as 90 degrees, what a hue at random has on average, and 0 of the chroma.
    """
    spread_BCHW = F.max_pool2d(images_BCHW, 3, 1, 1) + F.max_pool2d(-images_BCHW, 3, 1, 1)
    wanted_BHW2 = chroma(images_BCHW).movedim(1, -1)
    found_BHW2 = chroma(reconstruction_BCHW).movedim(1, -1)
    size_BHW = wanted_BHW2.norm(dim=-1)
    counts_BHW = (spread_BCHW.amax(1) < 2 * FLAT) & (size_BHW > COLOURED)

    wanted_M2, found_M2 = wanted_BHW2[counts_BHW], found_BHW2[counts_BHW]
    along_M = (wanted_M2 * found_M2).sum(1)
    cosine_M = along_M / (wanted_M2.norm(dim=1) * found_M2.norm(dim=1)).clamp(min=1e-6)
    return torch.rad2deg(cosine_M.clamp(-1, 1).acos()), along_M / wanted_M2.square().sum(1)
