"""Images with a mask each, which says the class of every pixel, from any source that has masks."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from var_pe.data.image_set import ImageItem, ImageSource
from var_pe.data.images import ImageDataset
from var_pe.data.mask_folder import IGNORED
from var_pe.data.part import Part
from var_pe.data.sampler import Draw
from var_pe.processes import Processes


@runtime_checkable
class MaskSource(Protocol):
    """Pictures of one split with their masks."""

    @property
    def mask_names(self) -> tuple[str, ...]:
        """Names of the classes of pixels, by their value in a mask."""

    def mask(self, index: int) -> NDArray[np.uint8]:
        """The class of every pixel of a picture in its own size, (h, w); `IGNORED`: none."""

    def check_masks(self) -> None:
        """Raises a ValueError that names the first mask that is not right."""


class MaskedItem(ImageItem):
    """An image with the class of each of its pixels."""

    # int64 (height, width); IGNORED: none
    mask: Tensor


class HeldOutMasks(Protocol):
    """Images with masks that are read by their number alone, for validation and scores."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes of pixels."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> MaskedItem: ...


def mask_source(source: ImageSource) -> MaskSource | None:
    """The source of the masks, also of a part of its pictures; None if there are none."""
    while isinstance(source, Part):
        source = source.source
    return source if isinstance(source, MaskSource) else None


def number_in_source(source: ImageSource, index: int) -> int:
    """The number that a picture of a part has in the source of the masks."""
    while isinstance(source, Part):
        index = source.numbers[index]
        source = source.source
    return index


class MaskedImages(Dataset[MaskedItem]):
    """Images with masks that follow their crops and flips; what lies around a picture is of no class.

    With `numbers`, these images alone.

    Raises:
        ValueError: the source has no masks.
    """

    def __init__(self, images: ImageDataset, numbers: Sequence[int] | None = None) -> None:
        masks, config = mask_source(images.source), images.config
        self.numbers = range(len(images)) if numbers is None else numbers
        if masks is None:
            raise ValueError(
                f"a segmenter needs masks, which data.source=shapes and masks have, got {config.source}"
            )
        self.images, self.masks = images, masks
        self.class_names = masks.mask_names

    @property
    def num_images(self) -> int:
        return len(self)

    @property
    def identity(self) -> str:
        return self.images.identity

    def passed_over(self, processes: Processes) -> int:
        return self.images.passed_over(processes)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, key: Draw | int) -> MaskedItem:
        draw = Draw.of(key)
        draw = draw._replace(index=self.numbers[draw.index])  # also ends `for item in images`
        item = self.images[draw]
        mask_HW = self.masks.mask(number_in_source(self.images.source, draw.index))
        height, width = mask_HW.shape
        placed = self.images.frame.placement(height, width, draw.epoch, draw.index)
        return {**item, "mask": torch.from_numpy(placed.mask(mask_HW, IGNORED)).long()}
