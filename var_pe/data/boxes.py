"""Images with boxes around what they show, from any source that has boxes."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import Dataset

from var_pe.data.annotated import AnnotatedImages
from var_pe.data.image_set import ImageItem
from var_pe.data.images import ImageDataset
from var_pe.data.placement import Boxes
from var_pe.data.sampler import Draw


@runtime_checkable
class BoxSource(Protocol):
    """Pictures of one split with their boxes."""

    @property
    def box_names(self) -> tuple[str, ...]:
        """Names of the classes of boxes, by their label."""

    @property
    def most_boxes(self) -> int:
        """How many a picture has at most."""

    def boxes(self, index: int) -> Boxes:
        """The boxes of a picture, in its own size."""

    def check_boxes(self, index: int) -> None:
        """Checks that a picture has the size that its boxes were drawn in.

        Raises:
            ValueError: it has another one.
        """


class BoxedItem(ImageItem):
    """An image with its boxes, in as many rows as the picture with most of them needs."""

    # float32 (M, 4): left, top, right and bottom in pixels
    boxes: Tensor
    # int64 (M): classes; -1: no box
    box_labels: Tensor
    # bool (M)
    crowds: Tensor


class BoxedImages(AnnotatedImages, Dataset[BoxedItem]):
    """Images with boxes that follow their crops and flips, cut at the border; those outside are left out.

    Raises:
        ValueError: the source has no boxes.
    """

    def __init__(self, images: ImageDataset, numbers: Sequence[int] | None = None) -> None:
        super().__init__(images, numbers)
        truth = self.origin
        if not isinstance(truth, BoxSource):
            raise ValueError(
                f"a detector needs boxes, which data.source=shapes and coco have, got {images.config.source}"
            )
        self.truth: BoxSource = truth
        self.class_names = truth.box_names

    def check(self) -> None:
        """Looks at the size of every picture.

        Raises:
            ValueError: its boxes were drawn in another one.
        """
        for index in self.numbers:
            self.truth.check_boxes(self.number_of(index))

    def __getitem__(self, key: Draw | int) -> BoxedItem:
        draw = self.draw_of(key)
        item = self.images[draw]
        found = self.truth.boxes(self.number_of(draw.index))
        placed = self.images.frame.placement(*found.size, draw.epoch, draw.index)
        places_M4, inside_M = placed.boxes(found.places_M4)

        # The same number of rows for every image, so that they can be stacked
        number, rows = int(inside_M.sum()), self.truth.most_boxes
        boxes_M4, labels_M = torch.zeros(rows, 4), torch.full((rows,), -1)
        crowds_M = torch.zeros(rows, dtype=torch.bool)
        boxes_M4[:number] = places_M4[inside_M]
        labels_M[:number] = found.labels_M[inside_M]
        crowds_M[:number] = found.crowds_M[inside_M]
        return {**item, "boxes": boxes_M4, "box_labels": labels_M, "crowds": crowds_M}
