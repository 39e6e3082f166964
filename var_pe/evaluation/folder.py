"""Images on disk as sets of uint8 CHW tensors, and the step from a model's range to bytes."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from var_pe.data.pictures import open_picture, orientation
from var_pe.data.walk import find_pictures

LOSSLESS = {"L": "L", "RGB": "RGB", "1": "L", "P": "RGB"}  # PIL modes that become grey or RGB without a loss
TURNED = (5, 6, 7, 8)  # orientations whose sides are exchanged


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] as bytes: (x + 1) * 127.5, rounded; cutting off would darken by half a step.

    Raises:
        ValueError: a value is not finite; it would silently become a black pixel.
    """
    if not torch.isfinite(images).all():
        raise ValueError(f"images must be finite, got NaN or infinity in a batch of {tuple(images.shape)}")
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


class ImageFolder(Dataset[Tensor]):
    """The pictures below a folder in the order of their paths, or those of an `.npz` (`arr_0`, uint8 NHWC).

    Every format that PIL reads counts, turned upright; palettes, one bit and opaque alpha are unfolded. What
    would lose something (transparency, 16 bits, further frames) is refused. Hidden files and folders are
    passed over, and `skipped` counts the files that are not pictures, by their endings.

    Raises:
        ValueError: nothing is there, a file cannot be read, or has not the size and channels of the first.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.skipped: dict[str, int] = {}
        self.archive = _read_npz(self.path) if self.path.suffix == ".npz" else None
        self.files = [] if self.archive is not None else self._find_pictures()

        shapes = [_shape(file) for file in self.files]
        for file, shape in zip(self.files, shapes, strict=True):
            if shape != shapes[0]:
                raise ValueError(
                    f"all images must have one size, got {shape} in {file} and {shapes[0]} in {self.files[0]}"
                )

    def _find_pictures(self) -> list[Path]:
        if not self.path.is_dir():
            raise ValueError(f"{self.path} is neither a folder of pictures nor an .npz file")

        found = find_pictures(self.path)
        self.skipped = dict(found.kinds())
        if not found.pictures:
            raise ValueError(f"{self.path} holds no picture that can be read{self.what_was_skipped()}")
        return sorted(self.path / file for file in found.pictures)

    def what_was_skipped(self) -> str:
        """The end of a sentence that counts the files left out; empty if there were none."""
        counts = ", ".join(f"{number} {ending}" for ending, number in sorted(self.skipped.items()))
        return f" (left out: {counts})" if counts else ""

    def __len__(self) -> int:
        return len(self.files) if self.archive is None else len(self.archive)

    def __getitem__(self, index: int) -> Tensor:
        if self.archive is not None:
            return self.archive[index]

        file = self.files[index]
        pixels = np.array(_unfolded(open_picture(file, str(file)), file))
        return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)


def _shape(file: Path) -> tuple[int, int, int]:
    """Channels, height, width, from the file's header where that tells."""
    try:
        with Image.open(file) as image:
            if getattr(image, "n_frames", 1) > 1:
                raise ValueError(f"{file} has {getattr(image, 'n_frames', 1)} frames, one picture is wanted")
            mode = _unfolded(image, file).mode if image.has_transparency_data else image.mode
            turned = orientation(image) in TURNED
            width, height = image.size
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from None

    if mode not in LOSSLESS:
        raise ValueError(f"{file} must be an 8-bit grey or RGB picture without transparency, got mode {mode}")
    channels = 1 if LOSSLESS[mode] == "L" else 3
    return (channels, width, height) if turned else (channels, height, width)


def _unfolded(picture: Image.Image, file: Path) -> Image.Image:
    """The picture in grey or RGB; an alpha channel is dropped if the picture is opaque."""
    if picture.has_transparency_data:
        alpha = np.asarray(picture.convert("RGBA"))[..., 3]
        if alpha.min() < 255:
            raise ValueError(
                f"{file} must be an 8-bit grey or RGB picture without transparency, "
                f"got mode {picture.mode} with transparency"
            )
        return picture.convert("L" if picture.mode in ("L", "LA", "La") else "RGB")
    return picture.convert(LOSSLESS[picture.mode]) if picture.mode in LOSSLESS else picture


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
