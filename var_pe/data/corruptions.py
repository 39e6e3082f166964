"""Common corruptions of images, at five severities, by the published numbers for small pictures.

Those of CIFAR-10-C (Hendrycks & Dietterich 2019, `make_cifar_c.py`) that need no picture of frost, no
ImageMagick and no fixed size: three noises, a blur, contrast, brightness, pixels and JPEG.
"""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from var_pe.seeding import mix

SEVERITIES = (1, 2, 3, 4, 5)

# A picture (H, W, C) in [0, 1]
Picture = NDArray[np.float64]


@dataclass(frozen=True)
class Corruption:
    """What it does to a picture, given its strength and random numbers; its strength by severity."""

    change: Callable[[Picture, float, Generator], Picture]
    strengths: tuple[float, float, float, float, float]


def gaussian_noise(picture_HWC: Picture, deviation: float, numbers: Generator) -> Picture:
    return picture_HWC + deviation * numbers.standard_normal(picture_HWC.shape)


def shot_noise(picture_HWC: Picture, photons: float, numbers: Generator) -> Picture:
    """Poisson noise, as if `photons` photons made a white pixel."""
    return numbers.poisson(picture_HWC * photons) / photons


def impulse_noise(picture_HWC: Picture, share: float, numbers: Generator) -> Picture:
    """A share of all values becomes 0 or 1."""
    hit_HWC = numbers.random(picture_HWC.shape) < share
    salt_HWC = numbers.random(picture_HWC.shape) < 0.5
    return np.where(hit_HWC, salt_HWC.astype(np.float64), picture_HWC)


def gaussian_blur(picture_HWC: Picture, deviation: float, numbers: Generator) -> Picture:
    """`deviation` in pixels; beyond the border the picture goes on as it ends."""
    blurred: Picture = gaussian_filter(picture_HWC, sigma=(deviation, deviation, 0), mode="nearest")
    return blurred


def contrast(picture_HWC: Picture, share: float, numbers: Generator) -> Picture:
    """Scales the difference of each value from its channel's mean by `share`."""
    mean_11C = picture_HWC.mean(axis=(0, 1), keepdims=True)
    return mean_11C + share * (picture_HWC - mean_11C)


def brightness(picture_HWC: Picture, added: float, numbers: Generator) -> Picture:
    """Adds to the value (of hue, saturation, value), so that all channels grow in proportion."""
    value_HW1 = picture_HWC.max(axis=2, keepdims=True)
    brighter_HW1 = np.minimum(value_HW1 + added, 1)
    is_black_HW1 = value_HW1 == 0
    factor_HW1 = brighter_HW1 / np.where(is_black_HW1, 1, value_HW1)
    return np.where(is_black_HW1, brighter_HW1, picture_HWC * factor_HW1)


def pixelate(picture_HWC: Picture, share: float, numbers: Generator) -> Picture:
    """Shrinks the picture to a share of its sides and enlarges it again, both by box filters."""
    image = as_image(picture_HWC)
    small = image.resize((int(image.width * share), int(image.height * share)), Image.Resampling.BOX)
    return as_picture(small.resize(image.size, Image.Resampling.BOX))


def jpeg(picture_HWC: Picture, quality: float, numbers: Generator) -> Picture:
    buffer = BytesIO()
    as_image(picture_HWC).save(buffer, "JPEG", quality=int(quality))
    with Image.open(buffer) as image:
        return as_picture(image)


CORRUPTIONS = {
    "gaussian noise": Corruption(gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot noise": Corruption(shot_noise, (500, 250, 100, 75, 50)),
    "impulse noise": Corruption(impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "gaussian blur": Corruption(gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "contrast": Corruption(contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "brightness": Corruption(brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "pixelate": Corruption(pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg": Corruption(jpeg, (80, 65, 58, 50, 40)),
}


def corrupted(image_CHW: Tensor, name: str, severity: int, *, seed: int, index: int) -> Tensor:
    """An image in [-1, 1] under one of CORRUPTIONS, severity 1 to 5, in the 256 values of a picture.

    Noise follows from (seed, name, index): it is the same pattern at all severities.
    """
    numbers = np.random.default_rng(mix(seed, name, index))
    corruption = CORRUPTIONS[name]
    picture_HWC = as_picture(((image_CHW + 1) * 127.5).permute(1, 2, 0).numpy().round().astype(np.uint8))
    changed_HWC = corruption.change(picture_HWC, corruption.strengths[severity - 1], numbers)
    changed_HWC = (changed_HWC.clip(0, 1) * 255).round() / 127.5 - 1
    return torch.from_numpy(changed_HWC.astype(np.float32)).permute(2, 0, 1).contiguous()


def as_image(picture_HWC: Picture) -> Image.Image:
    pixels = (picture_HWC * 255).round().astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def as_picture(pixels: Image.Image | NDArray[Any]) -> Picture:
    picture = np.asarray(pixels, dtype=np.float64) / 255
    return picture[..., None] if picture.ndim == 2 else picture
