"""What a set of images is to everybody who reads one: protocols, and the form of what they give."""

from collections.abc import Iterable
from typing import Protocol, TypedDict

import torch
from torch import Tensor

from var_pe.data.sampler import Draw
from var_pe.processes import Processes

Batch = dict[str, Tensor]  # what a data loader makes of items: their values stacked, by name


class ImageItem(TypedDict):
    """One image of a set."""

    # float32 (channels, height, width) in [-1, 1]
    image: Tensor
    # -1: none
    label: int
    # which picture of its split
    index: int
    # counts every image that the run has drawn, on all processes
    draw_number: int


class HeldOutImages(Protocol):
    """Images that are read by their number alone, for validation and scores."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """By label; empty where there are no labels."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> ImageItem: ...


class TrainingSet(Protocol):
    """What is trained on: a set read by `Draw`, or an endless stream (`num_images` is then None)."""

    @property
    def num_images(self) -> int | None: ...

    def passed_over(self, processes: Processes) -> int:
        """How many pictures could not be read so far, on all processes together."""


class ImageSet(HeldOutImages, TrainingSet, Protocol):
    """Images of one split by number, each as a draw of the run augments it."""

    def __getitem__(self, key: Draw | int, /) -> ImageItem: ...


def count_unreadable(unreadable_N: Tensor, processes: Processes) -> int:
    """Pictures that some process could not read; one that several met counts once."""
    met_N = processes.sum(unreadable_N.int().to(processes.device))
    return int((met_N > 0).sum())


def stacked(items: Iterable[ImageItem]) -> Tensor:
    """The images of items as one batch (B, C, H, W)."""
    return torch.stack([item["image"] for item in items])
