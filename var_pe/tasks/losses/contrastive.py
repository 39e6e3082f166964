"""A contrastive loss over places: tokens of the same place of a picture agree, those of others differ."""

from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Gt, Lt
from torch import Tensor

from var_pe.pyramid import Grid, Pyramid
from var_pe.resampling.precision import full_precision
from var_pe.settings.fields import Doc, NonNegative, PositiveFloat, section


@section
class Contrastive:
    """InfoNCE (van den Oord et al. 2018) on hidden tokens, beside the task's own loss.

    With a_i the tokens of one view and b_j those of the other of the same picture, j = m(i) the one whose
    cell holds the place of a_i:

        s_ij = cos(a_i, b_j) / temperature
        weight * mean over i of -log( exp(s_i,m(i)) / sum over j of exp(s_ij) )

    A classifier's second view is a crop of the picture, enlarged to its size; a generator's views are the
    levels, each against the one before.
    """

    weight: Annotated[PositiveFloat, Doc("weight of the contrastive term beside the task's own loss")] = 0.1
    temperature: Annotated[
        PositiveFloat,
        Doc(
            "temperature of the cosine similarities; the smaller, the more only the most similar tokens count"
        ),
    ] = 0.1
    layer: Annotated[
        NonNegative, Doc("block after which tokens are compared, counted from 1; 0: the last")
    ] = 0
    smallest: Annotated[
        float,
        Gt(0),
        Lt(1),
        Doc("for a classifier: smallest side of a crop, as a share of the picture's side"),
    ] = 0.5

    def block(self, depth: int) -> int:
        """The index of the block whose output is compared."""
        return (self.layer or depth) - 1


def place_contrast(a_BlC: Tensor, b_BmC: Tensor, match_Bl: Tensor, temperature: float) -> Tensor:
    """InfoNCE of each token of `a` among those of `b`; `match_Bl` are the indices of the right ones."""
    with full_precision(a_BlC):
        a_BlC, b_BmC = (F.normalize(x.float(), dim=-1) for x in (a_BlC, b_BmC))
        logits_Blm = a_BlC @ b_BmC.mT / temperature
        return F.cross_entropy(logits_Blm.transpose(1, 2), match_Bl.expand(len(a_BlC), -1))


def cells_at(yx_Bl2: Tensor, grid: Grid) -> Tensor:
    """The index of the grid's cell that holds each place of [-1, 1] x [-1, 1], row by row, int64 (B, l)."""
    rows, columns = grid
    row_Bl = ((yx_Bl2[..., 0] + 1) / 2 * rows).long().clamp(0, rows - 1)
    column_Bl = ((yx_Bl2[..., 1] + 1) / 2 * columns).long().clamp(0, columns - 1)
    return row_Bl * columns + column_Bl


def crops_of(images_BCHW: Tensor, smallest: float) -> tuple[Tensor, Tensor, Tensor]:
    """A random crop of each image, enlarged to its size, and where it lies: centres (B, 2) and sides (B,).

    Centres are in [-1, 1], y first, sides shares of the image's: what is at p in a crop is at
    `centre + side * p` in the image. Numbers come from torch's own generator.
    """
    number_B3 = torch.rand(len(images_BCHW), 3, device=images_BCHW.device)
    side_B = smallest + (1 - smallest) * number_B3[:, 0]
    centre_B2 = (2 * number_B3[:, 1:] - 1) * (1 - side_B)[:, None]

    # torch's matrices have x first.
    zero_B = torch.zeros_like(side_B)
    along_x = torch.stack([side_B, zero_B, centre_B2[:, 1]], dim=1)
    along_y = torch.stack([zero_B, side_B, centre_B2[:, 0]], dim=1)
    places = F.affine_grid(torch.stack([along_x, along_y], 1), list(images_BCHW.shape), align_corners=False)
    crop_BCHW = F.grid_sample(images_BCHW, places.type_as(images_BCHW), "bilinear", "border", False)
    return crop_BCHW, centre_B2, side_B


def contrast_of_crops(
    whole_BLC: Tensor, crop_BLC: Tensor, centre_B2: Tensor, side_B: Tensor, grid: Grid, temperature: float
) -> Tensor:
    """Tokens of crops against those of the whole images, by where in the image a token of a crop lies."""
    yx_L2 = Pyramid((grid,)).positions(centre_B2.device).yx_L2
    yx_BL2 = centre_B2[:, None] + side_B[:, None, None] * yx_L2
    return place_contrast(crop_BLC, whole_BLC, cells_at(yx_BL2, grid), temperature)


def contrast_of_levels(x_BLC: Tensor, pyramid: Pyramid, levels: int, temperature: float) -> Tensor:
    """Tokens of each level against those of the level before, by the cell of it that a token lies in.

    The mean over all tokens of the first `levels` levels whose level before has more than one cell; 0 if
    there are none.
    """
    yx_L2 = pyramid.positions(x_BLC.device).yx_L2
    total, number = x_BLC.new_zeros((), dtype=torch.float32), 0
    for level in range(1, levels):
        before, here = pyramid.spans[level - 1], pyramid.spans[level]
        if before.stop - before.start > 1:
            tokens = here.stop - here.start
            match_1l = cells_at(yx_L2[None, here], pyramid.grids[level - 1])
            contrast = place_contrast(x_BLC[:, here], x_BLC[:, before], match_1l, temperature)
            total, number = total + tokens * contrast, number + tokens
    return total / max(1, number)
