"""Fashion-MNIST from its IDX files (Yann LeCun's format for MNIST), plain or gzipped."""

import gzip
import hashlib
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def find_idx(folder: Path, name: str) -> Path:
    """The file `name` or `name.gz` in the folder."""
    for file in (folder / name, folder / f"{name}.gz"):
        if file.is_file():
            return file
    raise ValueError(f"fashion_mnist needs {name} or {name}.gz in {folder}, but neither is there")


def read_idx(file: Path, axes: int) -> NDArray[np.uint8]:
    """The unsigned bytes of an IDX file as an array with `axes` axes.

    Raises:
        ValueError: the file cannot be read, or its header, number of axes or length is wrong.
    """
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error

    # The header: two zeros, 8 for unsigned bytes, the number of axes; then each side, big-endian.
    start = 4 + 4 * axes
    magic = bytes([0, 0, 8, axes])
    if content[:4] != magic or len(content) < start:
        raise ValueError(
            f"{file} is not an IDX file of {axes} axes of bytes: it begins with {content[:4].hex()}"
        )

    shape = tuple(np.frombuffer(content, ">u4", axes, offset=4).tolist())
    if len(content) != start + math.prod(shape):
        raise ValueError(
            f"{file} must hold {shape} bytes after its header, as that says, but holds {len(content) - start}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


class FashionMNIST:
    """Grey 28 x 28 pictures of clothes in memory (47 MB for the training split)."""

    class_names = FASHION_CLASSES
    remarks: tuple[str, ...] = ()

    def __init__(self, folder: Path, train: bool) -> None:
        prefix = "train" if train else "t10k"
        image_file = find_idx(folder, f"{prefix}-images-idx3-ubyte")
        label_file = find_idx(folder, f"{prefix}-labels-idx1-ubyte")
        self.images = read_idx(image_file, 3)
        self.labels = read_idx(label_file, 1)

        if len(self.images) != len(self.labels):
            raise ValueError(
                f"{image_file} holds {len(self.images)} images, {label_file} {len(self.labels)} labels"
            )
        if not len(self.images):
            raise ValueError(f"{image_file} holds no images")
        if self.labels.max() >= len(FASHION_CLASSES):
            raise ValueError(
                f"{label_file} holds label {self.labels.max()}; Fashion-MNIST's labels are 0 .. 9"
            )

        digest = hashlib.blake2b(self.images.tobytes() + self.labels.tobytes(), digest_size=8)
        self.fingerprint = f"fashion_mnist-{prefix}-{len(self.images)}-{digest.hexdigest()}"

    @property
    def identity(self) -> str:
        return self.fingerprint

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labels_N(self) -> NDArray[np.int64]:
        return self.labels.astype(np.int64)

    def array(self, index: int) -> tuple[NDArray[np.uint8], int]:
        return self.images[index], int(self.labels[index])

    def read(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.images[index]), int(self.labels[index])
