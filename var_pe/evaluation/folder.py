"""Images on disk as sets of uint8 CHW tensors, and the step from a model's range to bytes."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

LOSSLESS = {"L": "L", "RGB": "RGB", "1": "L", "P": "RGB"}  # PIL modes that become grey or RGB without a loss


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] as bytes: (x + 1) * 127.5, rounded; cutting off would darken by half a step.

    Raises:
        ValueError: a value is not finite; it would silently become a black pixel.
    """
    if not torch.isfinite(images).all():
        raise ValueError(f"images must be finite, got NaN or infinity in a batch of {tuple(images.shape)}")
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


class ImageFolder(Dataset[Tensor]):
    """The PNGs below a folder in the order of their paths, or the images of an `.npz` (`arr_0`, uint8 NHWC).

    Palettes and one-bit pictures are unfolded; alpha and 16 bits, which would lose something, are refused.

    Raises:
        ValueError: nothing is there, a file cannot be read, or has not the size and channels of the first.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.archive = _read_npz(self.path) if self.path.suffix == ".npz" else None
        self.files = [] if self.archive is not None else _find_pngs(self.path)

        shapes = [_shape(file) for file in self.files]
        for file, shape in zip(self.files, shapes, strict=True):
            if shape != shapes[0]:
                raise ValueError(
                    f"all images must have one size, got {shape} in {file} and {shapes[0]} in {self.files[0]}"
                )

    def __len__(self) -> int:
        return len(self.files) if self.archive is None else len(self.archive)

    def __getitem__(self, index: int) -> Tensor:
        if self.archive is not None:
            return self.archive[index]

        file = self.files[index]
        try:
            with Image.open(file) as image:
                pixels = np.array(image.convert(LOSSLESS[image.mode]))
        except (OSError, SyntaxError) as error:
            raise ValueError(f"{file} cannot be read: {error}") from None
        return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)


def _find_pngs(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"{folder} is neither a folder of PNGs nor an .npz file")

    inside = (file.relative_to(folder) for file in folder.rglob("*") if file.suffix.lower() == ".png")
    visible = [file for file in inside if not any(part.startswith(".") for part in file.parts)]
    if not visible:
        raise ValueError(f"{folder} holds no .png file")
    return [folder / file for file in sorted(visible)]


def _shape(file: Path) -> tuple[int, int, int]:
    """Channels, height, width from the file's header."""
    try:
        with Image.open(file) as image:
            mode, transparent = image.mode, "transparency" in image.info
            width, height = image.size
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from None

    if mode not in LOSSLESS or transparent:
        kind = f"mode {mode} with transparency" if transparent else f"mode {mode}"
        raise ValueError(f"{file} must be an 8-bit grey or RGB picture without transparency, got {kind}")
    return 1 if LOSSLESS[mode] == "L" else 3, height, width


def _read_npz(path: Path) -> Tensor:
    try:
        with np.load(path, allow_pickle=False) as archive:
            images = archive["arr_0"]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ValueError(f"{path} must be an .npz whose arr_0 holds the images: {error}") from None

    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or not len(images):
        raise ValueError(
            f"{path}: arr_0 must be uint8 of shape (N > 0, H, W, 1 or 3), got {images.dtype} {images.shape}"
        )
    return torch.from_numpy(images).permute(0, 3, 1, 2)
