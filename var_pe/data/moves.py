"""Pictures shifted, cropped, shrunk and rotated; beyond its border a picture's last pixels are repeated."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from var_pe.progress import number_of
from var_pe.seeding import mix

DIRECTIONS = ((-1, 0), (1, 0), (0, -1), (0, 1))  # down, right


@dataclass(frozen=True)
class Move:
    """One change of place; each image's direction follows from (seed, index), the same for all amounts."""

    # of the content, in pixels, in one of four directions
    pixels: int = 0
    # how much larger the content becomes, about the middle: 1 / 0.5 shows half of each side
    zoom: float = 1.0
    # about the middle, one way or the other
    degrees: float = 0.0

    def __call__(self, images_BCHW: Tensor, *, seed: int, first: int = 0) -> Tensor:
        """Images in [-1, 1], numbered from `first`."""
        numbers = range(first, first + len(images_BCHW))
        if self.pixels:
            chosen = [DIRECTIONS[mix(seed, "shift", number) % 4] for number in numbers]
            return shifted(images_BCHW, [(down * self.pixels, right * self.pixels) for down, right in chosen])
        signs = torch.tensor([1.0 if mix(seed, "turn", number) % 2 else -1.0 for number in numbers])
        return turned(images_BCHW, self.degrees * signs, self.zoom)


def shifted(images_BCHW: Tensor, shifts: list[tuple[int, int]]) -> Tensor:
    """Each image's content moved down and right by whole pixels."""
    moved = []
    for image_CHW, (down, right) in zip(images_BCHW, shifts, strict=True):
        rows, columns = (torch.arange(side) for side in image_CHW.shape[1:])
        rows = (rows - down).clamp(0, len(rows) - 1)
        columns = (columns - right).clamp(0, len(columns) - 1)
        moved.append(image_CHW[:, rows][:, :, columns])
    return torch.stack(moved)


def turned(images_BCHW: Tensor, degrees_B: Tensor, zoom: float) -> Tensor:
    """Content turned to the right and enlarged about the middle, read bilinearly."""
    height, width = images_BCHW.shape[2:]
    angle_B = torch.deg2rad(degrees_B)
    cos_B, sin_B = angle_B.cos() / zoom, angle_B.sin() / zoom
    zero_B = torch.zeros_like(cos_B)

    # From a pixel of the result to the place it is read at; torch's coordinates are x, y in half sides.
    rows_2B3 = [
        torch.stack([cos_B, sin_B * height / width, zero_B], dim=1),
        torch.stack([-sin_B * width / height, cos_B, zero_B], dim=1),
    ]
    places_BHW2 = F.affine_grid(torch.stack(rows_2B3, dim=1), list(images_BCHW.shape), align_corners=False)
    return F.grid_sample(images_BCHW, places_BHW2, "bilinear", "border", align_corners=False)


MOVES: dict[str, Move] = {
    **{f"shift by {number_of(pixels, 'pixel')}": Move(pixels=pixels) for pixels in (1, 2, 4, 8)},
    **{f"crop to {share:.0%}": Move(zoom=1 / share) for share in (0.9, 0.75, 0.5)},
    **{f"shrink to {share:.0%}": Move(zoom=share) for share in (0.75, 0.5)},
    **{f"turn by {degrees} degrees": Move(degrees=degrees) for degrees in (10, 20, 45, 90)},
}
