"""Every set of images that a run has of its data: for training, held out, and for scores."""

import itertools
from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor
from torch.utils.data import Dataset

from var_pe.data.boxes import BoxedImages
from var_pe.data.image_set import HeldOutImages, ImageItem, stacked
from var_pe.data.images import Box, ImageDataset, content_box
from var_pe.data.masks import MaskedImages
from var_pe.data.part import drawn
from var_pe.data.sources import open_source
from var_pe.data.streams import ImageStream, open_stream
from var_pe.evaluation.folder import to_uint8
from var_pe.models.tokenizer import VQTokenizer
from var_pe.processes import Processes
from var_pe.pyramid import Pyramid
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
    """A text that identifies a split's images, or `number` drawn ones, where results are kept.

    It changes when a picture does; of a stream only the settings are known.
    """
    if config.data.streaming:
        shown = ", ".join(f"{name}={value!r}" for name, value in config.data.record().items())
        return f"(DataConfig({shown}), {number!r})"
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


def masked_images(config: Config, *, train: bool, number: int | None = None) -> MaskedImages:
    """A split with the class of every pixel, or `number` of its images, drawn over all of it.

    Every mask is looked at, once in a process.

    Raises:
        ValueError: the data have no masks, or one of them is not right.
    """
    images, numbers = _to_annotate(config, train, number)
    masked = MaskedImages(images, numbers)
    _check_once(config, masked, number)
    return masked


def boxed_images(config: Config, *, train: bool, number: int | None = None) -> BoxedImages:
    """A split with its boxes, or `number` of its images; the size of every picture is looked at.

    Raises:
        ValueError: the data have no boxes, or a picture has another size than they were drawn in.
    """
    images, numbers = _to_annotate(config, train, number)
    boxed = BoxedImages(images, numbers)
    _check_once(config, boxed, number)
    return boxed


def _to_annotate(
    config: Config, train: bool, number: int | None
) -> tuple[ImageDataset, Sequence[int] | None]:
    source = open_source(config.data, train=train)
    images = ImageDataset(source, config.data, train=train, seed=config.seed if train else 0)
    return images, None if number is None else drawn(len(images), number, config.data.subset_seed)


# The sets whose masks or boxes have been looked at
_CHECKED: set[tuple[str | None, str, int | None]] = set()


def _check_once(config: Config, annotated: MaskedImages | BoxedImages, number: int | None) -> None:
    """Checks images that are opened for the first time in this process."""
    key = config.data.path, annotated.images.source.fingerprint, number
    if key not in _CHECKED:
        annotated.check()
        _CHECKED.add(key)


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
                "evaluation.reference_split=train needs images by index, which a stream does not have: "
                "set data.streaming=false"
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
