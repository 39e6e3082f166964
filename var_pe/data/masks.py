"""Images with a mask each, which says the class of every pixel, from any source that has masks."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from var_pe.data.annotated import AnnotatedImages
from var_pe.data.image_set import ImageItem
from var_pe.data.images import ImageDataset
from var_pe.data.mask_folder import IGNORED
from var_pe.data.sampler import Draw


@runtime_checkable
class MaskSource(Protocol):
    """Pictures of one split with their masks."""

    @property
    def mask_names(self) -> tuple[str, ...]:
        """Names of the classes of pixels, by their value in a mask."""

    def mask(self, index: int) -> NDArray[np.uint8]:
        """The class of every pixel of a picture in its own size, (h, w); `IGNORED`: none."""

    def check_mask(self, index: int) -> None:
        """Checks the size and the classes of a mask.

        Raises:
            ValueError: it is not right; the sentence names it.
        """


class MaskedItem(ImageItem):
    """An image with the class of each of its pixels."""

    # int64 (height, width); IGNORED: none
    mask: Tensor


class MaskedImages(AnnotatedImages, Dataset[MaskedItem]):
    """Images with masks that follow their crops and flips; pixels around a picture belong to no class.

    Raises:
        ValueError: the source has no masks.
    """

    def __init__(self, images: ImageDataset, numbers: Sequence[int] | None = None) -> None:
        super().__init__(images, numbers)
        masks = self.origin
        if not isinstance(masks, MaskSource):
            raise ValueError(
                f"a segmenter needs masks, which data.source=shapes and masks have, got "
                f"{images.config.source}"
            )
        self.masks: MaskSource = masks
        self.class_names = masks.mask_names

    def check(self) -> None:
        """Looks at the mask of every image.

        Raises:
            ValueError: one is not right.
        """
        for index in self.numbers:
            self.masks.check_mask(self.number_of(index))

    def __getitem__(self, key: Draw | int) -> MaskedItem:
        draw = self.draw_of(key)
        item = self.images[draw]
        mask_HW = self.masks.mask(self.number_of(draw.index))
        height, width = mask_HW.shape
        placed = self.images.frame.placement(height, width, draw.epoch, draw.index)
        return {**item, "mask": torch.from_numpy(placed.mask(mask_HW, IGNORED)).long()}
