"""How a picture became an image: what masks and boxes of the picture have to follow."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from var_pe.pyramid import Grid

Box = tuple[int, int, int, int]  # top, left, height and width in pixels

# A box of which less is left in an image, in pixels a side, is not in it.
LEAST_OF_A_BOX = 1.0


@dataclass(frozen=True)
class Boxes:
    """The boxes of a picture."""

    # the picture's rows and columns
    size: Grid
    # float32 left, top, right and bottom in pixels
    places_M4: Tensor
    # int64 numbers of their classes
    labels_M: Tensor
    # whether a box is around many things of the class, which are not told apart
    crowds_M: Tensor


@dataclass(frozen=True)
class Placement:
    """A picture is resized, cut, perhaps mirrored left to right, and put into its image."""

    # rows and columns of the picture, before and after it is resized
    picture: Grid
    resized: Grid
    # what is cut out of the resized picture
    cut: Box
    mirrored: bool
    # top and left of the cut in the image, and the image's size
    place: Grid
    image: Grid

    def mask(self, mask_HW: NDArray[np.uint8], around: int) -> NDArray[np.uint8]:
        """The picture's mask as that of the image, by the nearest pixel; `around` is what the margin gets."""
        height, width = self.resized
        whole = Image.fromarray(mask_HW)
        if (whole.height, whole.width) != self.resized:
            whole = whole.resize((width, height), Image.Resampling.NEAREST)

        top, left = self.cut[:2]
        rows, columns = self.cut[2:]
        part = np.asarray(whole)[top : top + rows, left : left + columns]
        if self.mirrored:
            part = part[:, ::-1]

        canvas = np.full(self.image, around, np.uint8)
        canvas[self.place[0] : self.place[0] + rows, self.place[1] : self.place[1] + columns] = part
        return canvas

    def boxes(self, boxes_M4: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (left, top, right, bottom) of the picture as those of the image, cut at its border.

        The second answer says which are left: those of which something is still in the image.
        """
        scale_yx = [self.resized[side] / self.picture[side] for side in (0, 1)]
        top, left = self.cut[:2]
        rows, columns = self.cut[2:]
        boxes_M4 = boxes_M4 * torch.tensor([scale_yx[1], scale_yx[0], scale_yx[1], scale_yx[0]])
        boxes_M4 = boxes_M4 - torch.tensor([left, top, left, top])
        if self.mirrored:
            x0_M, y0_M = boxes_M4[:, 0], boxes_M4[:, 1]
            x1_M, y1_M = boxes_M4[:, 2], boxes_M4[:, 3]
            boxes_M4 = torch.stack([columns - x1_M, y0_M, columns - x0_M, y1_M], dim=1)

        # Within the cut, then by its place in the image
        most = torch.tensor([columns, rows, columns, rows])
        boxes_M4 = torch.minimum(boxes_M4.clamp(min=0), most)
        y, x = self.place
        boxes_M4 = boxes_M4 + torch.tensor([x, y, x, y])
        left_M = ((boxes_M4[:, 2:] - boxes_M4[:, :2]) >= LEAST_OF_A_BOX).all(1)
        return boxes_M4, left_M
