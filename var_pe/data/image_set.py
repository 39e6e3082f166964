"""What every set of images offers to its readers: protocols, and the form of one image."""

from collections.abc import Iterable
from typing import Protocol, TypedDict, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from var_pe.data.sampler import Draw
from var_pe.processes import Processes

Batch = dict[str, Tensor]  # what a data loader makes of items: their values stacked, by name


class ImageSource(Protocol):
    """Pictures of one split by number."""

    @property
    def fingerprint(self) -> str:
        """Changes when the pictures, their order or their labels change."""

    @property
    def identity(self) -> str:
        """The same without times of change, which a mere copy of the files sets anew.

        What is made from the pictures is kept by `fingerprint`, which at worst has it made once more. A run,
        which could not go on, is held to this one.
        """

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes by label; empty if there are no labels."""

    @property
    def labels_N(self) -> NDArray[np.int64]:
        """The label of every picture (-1: none); no picture is read for it."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a user should know before training on these pictures, a sentence each."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[Image.Image, int]:
        """A picture, in its own size and mode, and its label (-1: none).

        Raises:
            CorruptImage: the picture cannot be read.
        """


@runtime_checkable
class ArraySource(Protocol):
    """A source that holds its pictures as arrays, which need not become pictures first."""

    def array(self, index: int) -> tuple[NDArray[np.uint8], int]:
        """Pixels (h, w) or (h, w, 3), of a clip those of all its frames, and the label."""


class ImageItem(TypedDict):
    """One image of a set."""

    # float32 (channels, height, width) in [-1, 1]; of a clip (frames, channels, height, width)
    image: Tensor
    # number of its class; -1: it has none
    label: int
    # number of the picture in its split
    index: int
    # number of this draw among all images that the run has drawn, on all processes
    draw_number: int


class HeldOutImages(Protocol):
    """Images that are read by index, without a draw number, for validation and scores."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes by label; empty if there are no labels."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> ImageItem: ...


class TrainingSet(Protocol):
    """What is trained on: a set read by `Draw`, or an endless stream (`num_images` is then None)."""

    @property
    def num_images(self) -> int | None: ...

    def passed_over(self, processes: Processes) -> int:
        """How many pictures could not be read so far, on all processes together."""


class ImageSet(HeldOutImages, TrainingSet, Protocol):
    """Images of one split by number, each augmented as its draw prescribes."""

    @property
    def fingerprint(self) -> str:
        """It stands for all that an image depends on, its augmentation included."""

    @property
    def augments(self) -> bool:
        """Whether an image looks different in another epoch."""

    @property
    def unreadable(self) -> Tensor:
        """Which pictures could not be read so far, bool (N,)."""

    def __getitem__(self, key: Draw | int, /) -> ImageItem: ...


def count_unreadable(unreadable_N: Tensor, processes: Processes) -> int:
    """How many pictures some process could not read; a picture that several met counts once."""
    met_N = processes.sum(unreadable_N.int().to(processes.device))
    return int((met_N > 0).sum())


def stacked(items: Iterable[ImageItem]) -> Tensor:
    """The images of items as one batch (B, C, H, W)."""
    return torch.stack([item["image"] for item in items])
