"""Differentiable augmentation of what a discriminator sees (Zhao et al. 2020, DiffAugment).

A discriminator memorises a small set; it cannot where pictures are changed at random, real and rebuilt
ones alike. Gradients pass through the changes.
"""

from collections.abc import Collection
from typing import Literal

import torch
from torch import Tensor

from var_pe.seeding import mix, random_bits, shifted

Augmentation = Literal["color", "translation", "cutout"]

# Random numbers that an image needs for all of them, and the shares of a side
NUMBERS = 7
MOST_SHIFT = 1 / 8
CUT = 1 / 2


def uniforms(draw_numbers_B: Tensor, count: int, *seed: int | str) -> Tensor:
    """Random numbers in [0, 1), (B, count), that follow from the seed and each image's draw number alone."""
    numbers_BN = draw_numbers_B[:, None] * count + torch.arange(count, device=draw_numbers_B.device)
    return shifted(random_bits(mix(*seed), numbers_BN), 40).float() / 2**24


def augmented(images_BCHW: Tensor, uniforms_BN: Tensor, kinds: Collection[Augmentation]) -> Tensor:
    """Images in [-1, 1] changed by the kinds asked for, none by default; `NUMBERS` numbers an image."""
    if "color" in kinds:
        images_BCHW = recoloured(images_BCHW, uniforms_BN[:, :3])
    if "translation" in kinds:
        images_BCHW = moved(images_BCHW, uniforms_BN[:, 3:5])
    if "cutout" in kinds:
        images_BCHW = cut_out(images_BCHW, uniforms_BN[:, 5:7])
    return images_BCHW


def recoloured(images_BCHW: Tensor, uniforms_B3: Tensor) -> Tensor:
    """Brightness by at most 0.5 up or down, saturation by a factor in [0, 2], contrast in [0.5, 1.5]."""
    brightness_B, saturation_B, contrast_B = (number_B[:, None, None, None] for number_B in uniforms_B3.T)
    images_BCHW = images_BCHW + (brightness_B - 0.5)

    grey_B1HW = images_BCHW.mean(1, keepdim=True)
    images_BCHW = grey_B1HW + (images_BCHW - grey_B1HW) * (2 * saturation_B)

    mean_B111 = images_BCHW.mean((1, 2, 3), keepdim=True)
    return mean_B111 + (images_BCHW - mean_B111) * (contrast_B + 0.5)


def moved(images_BCHW: Tensor, uniforms_B2: Tensor) -> Tensor:
    """Shifted by whole pixels, at most an eighth of each side, over zeros."""
    for axis, uniforms_B in zip((2, 3), uniforms_B2.T, strict=True):
        side = images_BCHW.shape[axis]
        most = round(MOST_SHIFT * side)
        shift_B = (uniforms_B * (2 * most + 1)).long() - most
        source_Bn = torch.arange(side, device=images_BCHW.device) + shift_B[:, None]
        inside_Bn = (source_Bn >= 0) & (source_Bn < side)

        shape = (-1, 1, side, 1) if axis == 2 else (-1, 1, 1, side)
        source = source_Bn.clamp(0, side - 1).view(shape).expand(images_BCHW.shape)
        images_BCHW = images_BCHW.gather(axis, source) * inside_Bn.view(shape)
    return images_BCHW


def cut_out(images_BCHW: Tensor, uniforms_B2: Tensor) -> Tensor:
    """With a box of zeros of half of each side somewhere, which may reach beyond the edge."""
    outside = []
    for axis, uniforms_B in zip((2, 3), uniforms_B2.T, strict=True):
        side = images_BCHW.shape[axis]
        length = round(CUT * side)
        first_B = (uniforms_B * (side + 1 - length % 2)).long() - length // 2
        place_n = torch.arange(side, device=images_BCHW.device)
        outside.append((place_n < first_B[:, None]) | (place_n >= first_B[:, None] + length))

    kept_BHW = outside[0][:, :, None] | outside[1][:, None, :]
    return images_BCHW * kept_BHW[:, None]
