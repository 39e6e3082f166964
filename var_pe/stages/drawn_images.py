"""Folders of drawn images as sets, to train on or to be scored; and the classes that their names give."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

from var_pe.data.image_set import ImageItem
from var_pe.data.sampler import Draw
from var_pe.evaluation.folder import ImageFolder
from var_pe.processes import Processes
from var_pe.sampling.folder import SETTINGS, number_in, plain_name


class DrawnImages(Dataset[ImageItem]):
    """A folder written by scripts/sample.py as a training set, or one with a folder for each class.

    Raises:
        ValueError: the folder holds no such images.
    """

    def __init__(self, folder: Path, class_names: Sequence[str] = ()) -> None:
        given = f"classifier_training.drawn_images={folder}"
        self.images = drawn_pictures(folder)
        self.labels = labels_of_folders(self.images, class_names)
        if not self.labels or -1 in self.labels:
            raise ValueError(
                f"{given} was not drawn by scripts/sample.py: its folders are not named after classes or "
                "their numbers"
            )
        if class_names and max(self.labels) >= len(class_names):
            raise ValueError(
                f"{given} has images of class {max(self.labels)}, the data has {len(class_names)} classes"
            )

    @property
    def num_images(self) -> int:
        return len(self.images)

    @property
    def identity(self) -> str:
        """A hash of the pictures' paths and sizes in order, or of the archive's size, and of the labels."""
        files = self.images.files or [self.images.path]
        names = [(os.path.relpath(file, self.images.path), file.stat().st_size) for file in files]
        return hashlib.blake2b(repr((names, self.labels)).encode(), digest_size=16).hexdigest()

    def passed_over(self, processes: Processes) -> int:
        """Always 0, since a drawn image that cannot be read is an error."""
        return 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Draw | int) -> ImageItem:
        draw = Draw.of(key)
        return {
            "image": self.images[draw.index].float() / 127.5 - 1,
            "label": self.labels[draw.index],
            "index": draw.index,
            "draw_number": draw.draw_number,
        }


class Labelled(Dataset[tuple[Tensor, int]]):
    """A folder of drawn images, or an `.npz`, with the labels that the folders' names give."""

    def __init__(self, path: Path, class_names: Sequence[str] = ()) -> None:
        self.images = ImageFolder(path)
        self.labels = labels_of_folders(self.images, class_names) or [-1] * len(self.images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], self.labels[index]


def drawn_pictures(folder: Path) -> ImageFolder:
    """The pictures of `classifier_training.drawn_images`, whatever their folders are called.

    Raises:
        ValueError: the folder holds none, or one cannot be read.
    """
    try:
        return ImageFolder(pictures_in(folder))
    except ValueError as error:
        raise ValueError(f"classifier_training.drawn_images={folder}: {error}") from error


def pictures_in(folder: Path) -> Path:
    """The images of a folder that scripts/sample.py wrote, without the grid beside them."""
    return folder / "images" if (folder / "images").is_dir() else folder


def labels_of_folders(images: ImageFolder, class_names: Sequence[str] = ()) -> list[int]:
    """The class of every picture by the folders that it lies in, the outermost first; -1 if none names one.

    Folders that scripts/sample.py wrote begin with the class's number, whatever the classes are called. In
    others the name of a class counts; a number is one only where no class is called by a number.
    """
    numbered = any((folder / SETTINGS).exists() for folder in (images.path, images.path.parent))
    labels = {plain_name(name): label for label, name in enumerate(class_names)}
    labels |= {name: label for label, name in enumerate(class_names)}
    by_number = numbered or not any(map(str.isdecimal, class_names))

    found = []
    for file in images.files:
        names = file.relative_to(images.path).parts[:-1]
        known = [] if numbered else [labels[name] for name in names if name in labels]
        if not known:
            known = [label for label in map(number_in, names) if label is not None]
        if not known and by_number:
            known = [int(name) for name in names if name.isascii() and name.isdecimal()]
        found.append(known[0] if known else -1)
    return found
