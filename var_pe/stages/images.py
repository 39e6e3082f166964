"""Every set of images that a run uses: for training, held out, drawn, and for scores."""

import hashlib
import itertools
import os
from collections.abc import Sequence
from copy import copy
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from var_pe.data.image_set import HeldOutImages, ImageItem, stacked
from var_pe.data.images import Box, ImageDataset, content_box
from var_pe.data.part import drawn
from var_pe.data.sampler import Draw
from var_pe.data.sources import open_source
from var_pe.data.streams import ImageStream, open_stream
from var_pe.evaluation.folder import ImageFolder, to_uint8
from var_pe.models.tokenizer import VQTokenizer
from var_pe.processes import Processes
from var_pe.pyramid import Pyramid
from var_pe.sampling.folder import SETTINGS, number_in, plain_name
from var_pe.stages.config import Config
from var_pe.stages.pyramids import at_pyramid

# ------------------------------------------------------------------------------------ for training, held out


def training_images(config: Config, processes: Processes, seed: int) -> ImageDataset | ImageStream:
    """The training split, or this process's part of an endless stream."""
    if config.data.streaming:
        return open_stream(config.data, True, processes, seed=seed, endless=True)
    return ImageDataset(open_source(config.data, train=True), config.data, train=True, seed=seed)


def held_out_images(config: Config, number: int | None = None) -> HeldOutImages:
    """The test split, or `number` of its images, drawn over all of it by data.subset_seed.

    A stream's images are kept in memory; `number` of them are the first that come out of its shuffle buffer.
    """
    if config.data.streaming:
        return InMemory(open_stream(config.data, False, mixed=number is not None), number)
    images = ImageDataset(open_source(config.data, train=False), config.data, train=False, seed=0)
    return images if number is None else Some(images, drawn(len(images), number, config.data.subset_seed))


def numbered_images(config: Config, largest: int) -> HeldOutImages:
    """The test split, to be read by the numbers that its images have there, up to `largest`."""
    if config.data.streaming:
        return InMemory(open_stream(config.data, False), largest + 1)
    return held_out_images(config)


def fingerprint(config: Config, train: bool, number: int | None = None) -> str:
    """What a split's images, or `number` drawn ones, are known by where results are kept.

    It changes when a picture does; of a stream only the settings are known.
    """
    if config.data.streaming:
        return repr((config.data, number))
    images = ImageDataset(open_source(config.data, train), config.data, train=False, seed=0)
    return (
        images.fingerprint if number is None else f"{images.fingerprint} {number} {config.data.subset_seed}"
    )


def picture_box(config: Config) -> Box:
    """Top, left, height and width of the picture in an image, without its margin."""
    if config.data.streaming:
        return 0, 0, config.data.height, config.data.width
    return content_box(config.data, open_source(config.data, train=False))


def training_images_at(
    config: Config, pyramids: Sequence[Pyramid], downsampling: int, processes: Processes, seed: int
) -> dict[Pyramid, ImageDataset | ImageStream]:
    """The training images for each pyramid, of the size of its finest level."""
    sized = {pyramid: at_pyramid(config, pyramid, downsampling) for pyramid in pyramids}
    return {pyramid: training_images(own, processes, seed) for pyramid, own in sized.items()}


def held_out_images_at(
    config: Config, pyramids: Sequence[Pyramid], downsampling: int, number: int | None = None
) -> dict[Pyramid, tuple[HeldOutImages, Box]]:
    """The test images for each pyramid, or `number` of them, and the box in them that shows the picture."""
    sized = {pyramid: at_pyramid(config, pyramid, downsampling) for pyramid in pyramids}
    return {pyramid: (held_out_images(own, number), picture_box(own)) for pyramid, own in sized.items()}


class Some(Dataset[ImageItem]):
    """The images of these numbers."""

    def __init__(self, images: HeldOutImages, numbers: Sequence[int]) -> None:
        self.images, self.numbers = images, numbers
        self.class_names = images.class_names

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> ImageItem:
        return self.images[self.numbers[index]]  # also ends `for item in images`


class InMemory(Dataset[ImageItem]):
    """The first images of a stream, or all of them, in memory, since a stream has no numbers to read by.

    Raises:
        ValueError: the stream holds no images.
    """

    def __init__(self, stream: ImageStream, number: int | None) -> None:
        self.items = list(itertools.islice(stream, number))
        if not self.items:
            raise ValueError(f"{stream.nothing()} to validate on")
        self.class_names = stream.class_names

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> ImageItem:
        return self.items[index]


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
                f"{given} was not drawn by scripts/sample.py: its folders are neither class numbers nor names"
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


# -------------------------------------------------------------------------------------- for scores


class RealImages(Dataset[tuple[Tensor, int]]):
    """A split for scoring: uint8 images of the config's size and channels, with labels."""

    def __init__(self, config: Config, train: bool) -> None:
        self.images: HeldOutImages
        if not config.data.streaming:
            source = open_source(config.data, train=train)
            self.images = ImageDataset(source, config.data, train=False, seed=0)
        elif train:
            raise ValueError(
                "evaluation.reference_split train needs images by number: set data.streaming=false"
            )
        else:
            self.images = held_out_images(config, 2 * (config.evaluation.images or 5000))

    def part(self, numbers: Sequence[int]) -> "RealImages":
        """The images of these numbers alone."""
        part = copy(self)
        part.images = Some(self.images, numbers)
        return part

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        item = self.images[index]
        return to_uint8(item["image"]), item["label"]


class Reconstructions(Dataset[tuple[Tensor, int]]):
    """Images encoded and decoded by the tokenizer, the best that a generator could draw; made in blocks."""

    def __init__(self, images: RealImages, tokenizer: VQTokenizer, block: int = 256) -> None:
        self.images, self.tokenizer, self.block = images, tokenizer, block
        self._first = -1
        self._images_BCHW = torch.empty(0)
        self._labels: list[int] = []

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        first = index - index % self.block
        if first != self._first:
            self._rebuild(first)
        return self._images_BCHW[index - first], self._labels[index - first]

    def _rebuild(self, first: int) -> None:
        items = [self.images.images[i] for i in range(first, min(first + self.block, len(self)))]
        images_BCHW = stacked(items).to(self.tokenizer.device)
        rebuilt_BCHW = self.tokenizer.decode(self.tokenizer.encode(images_BCHW))

        self._images_BCHW = to_uint8(rebuilt_BCHW).cpu()
        self._labels = [item["label"] for item in items]
        self._first = first


class Labelled(Dataset[tuple[Tensor, int]]):
    """A folder of drawn images, or an `.npz`, with the labels that the folders' names give."""

    def __init__(self, path: Path, class_names: Sequence[str] = ()) -> None:
        self.images = ImageFolder(path)
        self.labels = labels_of_folders(self.images, class_names) or [-1] * len(self.images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], self.labels[index]
