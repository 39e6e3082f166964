"""The inputs of an edit: pictures and masks as tensors, and a mask as tokens to be drawn anew.

Masks are white (1) where the picture is to be repainted.
"""

from collections.abc import Callable, Sequence
from math import floor

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_tensor

from var_pe.pyramid import Grid, Pyramid

MODES = {1: "L", 3: "RGB"}

Picture = Image.Image | NDArray[np.generic] | Tensor
Pictures = Picture | Sequence[Picture]


def pictures(given: Pictures, channels: int, name: str = "image") -> Tensor:
    """Pictures of one size as (B, C, H, W) in [0, 1]: from PIL (converted to the channels), numpy (HWC, bytes
    or in [0, 1]) or tensors (CHW in [0, 1]), one, a list or a batch.

    Raises:
        ValueError: the channels are others, the sizes differ, or a value lies outside [0, 1].
    """
    if isinstance(given, Sequence) or (isinstance(given, np.ndarray | Tensor) and given.ndim == 4):
        found = [_picture(item, channels) for item in given]
    else:
        found = [_picture(given, channels)]

    sizes = {tuple(picture.shape) for picture in found}
    if len(sizes) != 1 or len(next(iter(sizes))) != 3:
        raise ValueError(f"{name} must be pictures of one size, got shapes {sorted(sizes)}")

    pictures_BCHW = torch.stack(found)
    if pictures_BCHW.shape[1] != channels:
        raise ValueError(f"{name} must have {channels} channels, got {pictures_BCHW.shape[1]}")

    least, most = pictures_BCHW.min(), pictures_BCHW.max()
    if not (least >= 0 and most <= 1):  # NaN is refused, too
        raise ValueError(f"{name}: values must lie in [0, 1], got {least:g} .. {most:g}")
    return pictures_BCHW


def _picture(given: Picture, channels: int) -> Tensor:
    """Grey pictures may come without an axis of channels."""
    if isinstance(given, Image.Image):
        picture: Tensor = to_tensor(given.convert(MODES.get(channels)))
    elif isinstance(given, np.ndarray):
        picture = to_tensor(given)
    else:
        picture = given
    return (picture[None] if picture.ndim == 2 else picture).float()


# parts of a picture by name, as (top, left, bottom, right) shares of its sides
PARTS = {
    "top": (0.0, 0.0, 0.5, 1.0),
    "bottom": (0.5, 0.0, 1.0, 1.0),
    "left": (0.0, 0.0, 1.0, 0.5),
    "right": (0.0, 0.5, 1.0, 1.0),
    "centre": (0.25, 0.25, 0.75, 0.75),
    "all": (0.0, 0.0, 1.0, 1.0),
}


def part(name: str, height: int, width: int) -> Tensor:
    """The mask (1, 1, H, W) of one of `PARTS`."""
    top, left = PARTS[name][:2]
    bottom, right = PARTS[name][2:]
    rows = slice(round(top * height), round(bottom * height))
    columns = slice(round(left * width), round(right * width))

    mask_11HW = torch.zeros(1, 1, height, width)
    mask_11HW[..., rows, columns] = 1
    return mask_11HW


def outpainting(
    image: Pictures, channels: int = 3, *, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0
) -> tuple[Tensor, Tensor]:
    """Pictures with margins of so many pixels, which repeat the border's, and the mask of the margins."""
    image_BCHW = pictures(image, channels)
    margins = (left, right, top, bottom)
    if min(margins) < 0:
        raise ValueError(f"margins (left, right, top, bottom) must be at least 0, got {margins}")

    mask_B1HW = F.pad(torch.zeros_like(image_BCHW[:, :1]), margins, value=1.0)
    return F.pad(image_BCHW, margins, mode="replicate"), mask_B1HW


def _covered(mask_B1HW: Tensor, grid: Grid) -> Tensor:
    """The masked share of each cell, (B, 1, h, w), as levels are read: the mean of the pixels it covers."""
    return F.interpolate(mask_B1HW, size=grid, mode="area")


def _as_var(mask_B1HW: Tensor, grid: Grid) -> Tensor:
    """VAR's notebook: bilinear above one half, and levels of at most three tokens stay as they are."""
    if grid[0] * grid[1] <= 3:
        return torch.zeros(len(mask_B1HW), 1, *grid, dtype=torch.bool, device=mask_B1HW.device)
    return F.interpolate(mask_B1HW, size=grid, mode="bilinear") > 0.5


# which cells of a grid are repainted
RULES: dict[str, Callable[[Tensor, Grid], Tensor]] = {
    "any": lambda mask_B1HW, grid: _covered(mask_B1HW, grid) > 0,
    "half": lambda mask_B1HW, grid: _covered(mask_B1HW, grid) > 0.5,  # more than half
    "all": lambda mask_B1HW, grid: _covered(mask_B1HW, grid) == 1,
    "var": _as_var,
}


def repainted(mask_B1HW: Tensor, pyramid: Pyramid, *, rule: str, strength: float) -> Tensor:
    """Which tokens are drawn anew, bool (B, L).

    Args:
        rule: how much of a cell must be masked: `any` of it, more than `half`, `all`, or `var` as VAR does.
        strength: share of the levels, the finest first, in which tokens may change; 1: all, 0: none. In
            whole levels: rounded, a half up; above 0 at least one, since an edit must not quietly do nothing.
    Raises:
        ValueError: there is no such rule, or strength lies outside [0, 1].
    """
    if rule not in RULES:
        raise ValueError(f"mask_rule is one of {', '.join(RULES)}, got {rule!r}")
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must lie in [0, 1], got {strength}")

    changing = floor(strength * pyramid.num_levels + 0.5)
    if strength > 0:
        changing = max(1, changing)
    first = pyramid.num_levels - changing

    masks = []
    for level, grid in enumerate(pyramid.grids):
        mask_Bl = RULES[rule](mask_B1HW, grid).flatten(1)
        masks.append(mask_Bl & (level >= first))
    return torch.cat(masks, dim=1)
