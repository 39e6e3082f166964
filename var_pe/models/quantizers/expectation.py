"""Which codes a level's cells will get, as judged by what its coarser levels show."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from var_pe.pyramid import Pyramid

WIDTH = 64


class Expectation(nn.Module):
    """A small network that guesses a level's tokens before they are chosen, each from its neighbourhood.

    It reads what the generator's own input for the level is made of, the sum of the coarser levels' codes as
    the level sees it, and gives every cell a distribution over the codes. Given the coarser levels, cells are
    independent, as they are where a generator draws a level at once. Three layers, the first of which sees
    3x3 cells.

    One more channel holds the logarithm of how many cells of the finest level a cell covers. So a network
    that was trained on one ladder serves others.
    """

    def __init__(self, latent_channels: int, num_codes: int) -> None:
        super().__init__()
        self.around = nn.Conv2d(latent_channels + 1, WIDTH, 3, padding=1)
        self.hidden = nn.Conv2d(WIDTH, WIDTH, 1)
        self.codes = nn.Conv2d(WIDTH, num_codes, 1)

    def forward(self, seen_BlZ: Tensor, level: int, pyramid: Pyramid) -> Tensor:
        """Log probabilities (B, l, V), float32; `seen_BlZ` is in a unit that does not depend on latents."""
        seen_BZhw = seen_BlZ.float().transpose(1, 2).unflatten(2, pyramid.grids[level])
        size_B1hw = torch.full_like(seen_BZhw[:, :1], math.log(cells_covered(level, pyramid)))

        hidden_BWhw = F.gelu(_float32(self.around, torch.cat([seen_BZhw, size_B1hw], 1)))
        hidden_BWhw = F.gelu(_float32(self.hidden, hidden_BWhw))
        return _float32(self.codes, hidden_BWhw).flatten(2).transpose(1, 2).log_softmax(-1)


def cells_covered(level: int, pyramid: Pyramid) -> float:
    """How many cells of the finest grid a cell of this level stands for."""
    height, width = pyramid.grids[level]
    return pyramid.finest[0] * pyramid.finest[1] / (height * width)


def _float32(convolution: nn.Conv2d, map_BChw: Tensor) -> Tensor:
    """The convolution in float32, of a half model too: tokens must not depend on what it is used in."""
    assert convolution.bias is not None
    weight, bias = convolution.weight.float(), convolution.bias.float()
    return F.conv2d(map_BChw, weight, bias, padding=convolution.padding)
