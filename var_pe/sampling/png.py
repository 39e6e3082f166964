"""Pictures as PNG files, whole or not there at all."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from var_pe.files import written_whole

Pixels = NDArray[np.uint8]


def write_png(path: Path, image_CHW: Tensor) -> None:
    """A uint8 image, grey or RGB."""
    pixels = image_CHW.permute(1, 2, 0).numpy()
    write_pixels(path, pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def write_pixels(path: Path, pixels: Pixels) -> None:
    """Bytes (H, W) or (H, W, 3)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path, flushed=False) as draft:
        Image.fromarray(pixels).save(draft, format="PNG")


def read_png(path: Path) -> Pixels:
    """A drawn picture as bytes (H, W, 3).

    Raises:
        ValueError: it is damaged.
    """
    try:
        return np.asarray(Image.open(path).convert("RGB"))
    except (OSError, SyntaxError) as error:  # the second of a header in pieces
        raise ValueError(f"{path} is damaged: remove it, and the same command draws it again") from error
