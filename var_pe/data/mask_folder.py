"""A folder of pictures with a mask each: `images/` and, of the same stem, `masks/`."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from var_pe.data.folder_source import held_out
from var_pe.data.folders import Pictures, some
from var_pe.data.label_lists import text_of
from var_pe.data.pictures import CorruptImage, DataError, open_picture, orientation
from var_pe.data.splits import find_split
from var_pe.data.walk import find_pictures, hash_of_files
from var_pe.progress import number_of
from var_pe.pyramid import Grid

# The value of pixels that are of no class: no loss, no score. That of Pascal VOC and Cityscapes.
IGNORED = 255
MOST_CLASSES = IGNORED

# Modes of pictures that hold a whole number a pixel
LABEL_MODES = ("1", "L", "P", "I;16", "I;16B")


class MaskFolder:
    """One split of a folder with `images/` and, of the same stem, `masks/`: PNG files of class numbers.

    Args:
        root: holds a folder for each split, or is one, of which `hold_out` then takes the test split.
        classes: names by number; empty: the lines of `classes.txt` in `root`.
    Raises:
        ValueError: a folder or the classes' names are missing, or a picture has no mask, or several.
    """

    class_names: tuple[str, ...] = ()

    def __init__(
        self,
        root: Path,
        split: str,
        *,
        train: bool,
        train_split: str,
        hold_out: float,
        classes: Sequence[str],
    ) -> None:
        self.root, self.split = root, split
        self.mask_names = tuple(classes) or names_in(root)
        if not 2 <= len(self.mask_names) <= MOST_CLASSES:
            raise ValueError(
                f"masks have 2 to {MOST_CLASSES} classes, got {len(self.mask_names)} names in "
                f"{'data.classes' if classes else root / 'classes.txt'}"
            )

        folder = find_split(root, train_split if hold_out else split)
        if folder is None:
            raise ValueError(
                f"{root} has no folder for split {split}: give it one, {root / split}, with images/ and "
                f"masks/ in it, or set data.hold_out=0.1 to hold out a tenth of the training pictures"
            )
        self.below = folder
        files, remarks = paired(folder)
        if hold_out:
            held, _ = held_out(Pictures(folder / "images", files, [None] * len(files)), hold_out)
            files = [file for file, is_held in zip(files, held, strict=True) if is_held != train]
            if not files:
                raise ValueError(f"data.hold_out={hold_out} leaves one of the splits of {folder} empty")

        self.names_N = np.array([os.fsencode(file) for file in files])
        self.labels_N: NDArray[np.int64] = np.full(len(files), -1, np.int64)
        self.remarks = tuple(remarks)

    def __len__(self) -> int:
        return len(self.names_N)

    def file(self, index: int) -> Path:
        return self.below / "images" / os.fsdecode(self.names_N[index])

    def mask_file(self, index: int) -> Path:
        return self.below / "masks" / f"{stem_of(os.fsdecode(self.names_N[index]))}.png"

    def read(self, index: int) -> tuple[Image.Image, int]:
        file = self.file(index)
        return open_picture(file, str(file)), -1

    def mask(self, index: int) -> NDArray[np.uint8]:
        return read_mask(self.mask_file(index), len(self.mask_names))

    def check_mask(self, index: int) -> None:
        """Looks at a mask's values, and at its size beside the picture's.

        Raises:
            ValueError: it cannot be read, has another size than its picture, or a value of no class.
        """
        (height, width), size = self.mask(index).shape, size_of(self.file(index))
        if (height, width) != size:
            raise DataError(
                f"mask {self.mask_file(index)} has {height} x {width} pixels (height x width), but its "
                f"picture {self.file(index).name} has {size[0]} x {size[1]}"
            )

    @property
    def fingerprint(self) -> str:
        return self._hash(times=True)

    @property
    def identity(self) -> str:
        return self._hash(times=False)

    def _hash(self, *, times: bool) -> str:
        files: list[tuple[str, Path]] = []
        for index, name in enumerate(self.names_N.tolist()):
            files += [(name, self.file(index)), (name, self.mask_file(index))]
        found = hash_of_files(repr(self.mask_names).encode(), files, times=times)
        return f"masks-{self.split}-{len(self)}-{found}"


def names_in(root: Path) -> tuple[str, ...]:
    """The classes' names, one a line of `classes.txt`.

    Raises:
        ValueError: it is not there or not text.
    """
    file = root / "classes.txt"
    if not file.exists():
        raise ValueError(
            f"the classes of the masks have no names: list them in {file}, one a line, the name of value 0 "
            f"first, or in data.classes"
        )
    return tuple(line.strip() for line in text_of(file).splitlines() if line.strip())


def stem_of(path: str) -> str:
    """A path without the ending of its file."""
    return os.path.splitext(path)[0]


def paired(folder: Path) -> tuple[list[str], list[str]]:
    """The pictures below `images/` that a mask below `masks/` belongs to, and remarks.

    Raises:
        ValueError: there are none; a picture has no mask, or two have the same; a mask is not a PNG file.
    """
    for name in ("images", "masks"):
        if not (folder / name).is_dir():
            raise ValueError(
                f"{folder} has no folder {name}/: pictures are read from images/ and masks of the same stem "
                f"from masks/"
            )
    pictures = find_pictures(folder / "images").pictures
    masks = find_pictures(folder / "masks").pictures
    if not pictures:
        raise ValueError(f"{folder / 'images'} holds no pictures")

    lossy = [path for path in masks if os.path.splitext(path)[1] != ".png"]
    if lossy:
        raise ValueError(
            f"{folder / 'masks' / lossy[0]} is not a .png file: masks hold class numbers, which other "
            f"formats change"
        )
    stems = Counter(stem_of(path) for path in pictures)
    twice = [stem for stem, number in stems.items() if number > 1]
    if twice:
        raise ValueError(
            f"{folder / 'images'} holds several pictures called {twice[0]}, but a mask belongs to one of them"
        )
    there = {stem_of(path) for path in masks}
    missing = [f"{stem}.png" for stem in stems if stem not in there]
    if missing:
        raise ValueError(
            f"{number_of(len(missing), 'picture')} in {folder / 'images'} without a mask in masks/: "
            f"{some(missing)}"
        )
    unused = sorted(there - set(stems))
    remarks = [f"{folder / 'masks'}: {number_of(len(unused), 'mask')} without a picture: {some(unused)}"]
    return pictures, remarks if unused else []


def read_mask(file: Path, num_classes: int) -> NDArray[np.uint8]:
    """The class numbers of a PNG file, (h, w); `IGNORED` stays.

    Raises:
        DataError: it cannot be read, has colours, or a value of no class.
    """
    try:
        picture = open_picture(file, str(file))
    except CorruptImage as error:
        raise DataError(f"mask {file} cannot be read: {error}") from None
    if picture.mode not in LABEL_MODES:
        raise DataError(
            f"mask {file} has mode {picture.mode}: a mask is grey or with a palette, and a pixel's value is "
            f"the number of its class"
        )
    values_HW = np.asarray(picture).astype(np.int64)
    wrong_M = values_HW[(values_HW >= num_classes) & (values_HW != IGNORED)]
    if len(wrong_M):
        raise DataError(
            f"mask {file} has the value {wrong_M.max()}, but the {num_classes} classes are 0 to "
            f"{num_classes - 1} (and {IGNORED}: none)"
        )
    return values_HW.astype(np.uint8)


def size_of(file: Path) -> Grid:
    """Rows and columns of a picture turned upright, read from its header.

    Raises:
        CorruptImage: it is not a picture.
    """
    try:
        with Image.open(file) as picture:
            width, height = picture.size
            turned = orientation(picture) >= 5
    except OSError as error:
        raise CorruptImage(f"corrupt image {file}: {error}") from error
    return (width, height) if turned else (height, width)
