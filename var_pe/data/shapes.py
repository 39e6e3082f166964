"""The made-up set `shapes`: one coloured shape on a shaded ground, drawn from the picture's number alone.

Seven uniform, independent factors determine a picture, so its information content is known to the bit. The
first factor is the class; four of the twelve classes differ from another class only in *where* the shape is.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from var_pe.data.placement import Boxes
from var_pe.seeding import mix

Array = NDArray[np.floating]

# Class -> (kind, part of the height, part of the width); the centre lies in this part, on a grid of cells.
WHOLE, FIRST, SECOND = (0.0, 1.0), (0.0, 0.5), (0.5, 1.0)
CLASSES = {
    "disc in the upper half": ("disc", FIRST, WHOLE),
    "disc in the lower half": ("disc", SECOND, WHOLE),
    "square in the left half": ("square", WHOLE, FIRST),
    "square in the right half": ("square", WHOLE, SECOND),
    "triangle": ("triangle", WHOLE, WHOLE),
    "diamond": ("diamond", WHOLE, WHOLE),
    "ring": ("ring", WHOLE, WHOLE),
    "frame": ("frame", WHOLE, WHOLE),
    "plus": ("plus", WHOLE, WHOLE),
    "saltire": ("saltire", WHOLE, WHOLE),
    "crescent": ("crescent", WHOLE, WHOLE),
    "bars": ("bars", WHOLE, WHOLE),
}
ROWS, COLUMNS = 8, 8
RADII = (0.15, 0.18, 0.21, 0.24)  # of the shorter side
COLOURS = np.array(
    [
        (235, 64, 52), (247, 148, 30), (250, 220, 60), (90, 200, 80),
        (60, 200, 210), (80, 130, 250), (200, 100, 240), (245, 245, 245),
    ],
    np.float32,
)  # fmt: skip
GROUNDS = np.array(
    [
        (20, 20, 24), (24, 36, 84), (20, 70, 60), (80, 24, 40),
        (70, 50, 24), (62, 30, 90), (70, 74, 84), (30, 84, 110),
    ],
    np.float32,
)  # fmt: skip

# The corner (down, right) towards which the ground grows brighter
LIGHTS = ((-1, -1), (-1, 1), (1, -1), (1, 1))


class Factors(NamedTuple):
    """Everything that determines a picture, counted from 0; row and column are those of the class's part."""

    label: int
    row: int
    column: int
    size: int
    colour: int
    ground: int
    light: int


SPACE = Factors(len(CLASSES), ROWS, COLUMNS, len(RADII), len(COLOURS), len(GROUNDS), len(LIGHTS))


def entropy_bits() -> float:
    """Bits in the factors of a picture: no lossless code of the pictures can be shorter on average."""
    return math.log2(math.prod(SPACE))


@dataclass(frozen=True)
class ShapePicture:
    """A picture with its labels for every task."""

    image: Image.Image
    label: int
    factors: Factors
    # y0, x0, height, width of the mask, in pixels
    box: tuple[int, int, int, int]
    # pixels at least half covered by the shape
    mask: NDArray[np.bool_]


def distance(kind: str, y: Array, x: Array, radius: float) -> Array:
    """Signed distance (or a close bound) from the shape's edge in pixels, negative inside."""
    ay, ax = np.abs(y), np.abs(x)
    if kind in ("disc", "ring", "crescent"):
        disc = np.sqrt(y * y + x * x) - radius
        if kind == "ring":
            return np.abs(disc + 0.25 * radius) - 0.25 * radius
        if kind == "crescent":
            bite = np.sqrt((y + 0.3 * radius) ** 2 + (x - 0.45 * radius) ** 2) - 0.75 * radius
            return np.maximum(disc, -bite)
        return disc

    if kind in ("square", "frame"):
        square = np.maximum(ay, ax) - 0.85 * radius
        if kind == "frame":
            return np.maximum(square, -square - 0.42 * radius)
        return square

    if kind == "diamond":
        return (ay + ax - radius) * math.sqrt(0.5)
    if kind == "triangle":
        return np.maximum(y - 0.7 * radius, (2 * ax - y - 0.9 * radius) / math.sqrt(5))

    # A saltire is a plus that is turned by 45 degrees.
    if kind == "saltire":
        y, x = (y + x) * math.sqrt(0.5), (y - x) * math.sqrt(0.5)
        ay, ax = np.abs(y), np.abs(x)
    if kind in ("plus", "saltire"):
        arm = 0.28 * radius
        return np.minimum(np.maximum(ay - radius, ax - arm), np.maximum(ay - arm, ax - radius))

    assert kind == "bars", f"no distance is written for {kind}"
    return np.maximum(np.abs(ay - 0.55 * radius) - 0.28 * radius, ax - radius)


def render(factors: Factors, height: int, width: int) -> tuple[NDArray[np.uint8], Array]:
    """RGB pixels (height, width, 3) and how much of each pixel the shape covers, in [0, 1]."""
    cover_HW = covered(factors, height, width)
    shade_HW = shaded(LIGHTS[factors.light], height, width)
    return painted(cover_HW, shade_HW, COLOURS[factors.colour], GROUNDS[factors.ground]), cover_HW


def render_all(label: int, row: int, column: int, size: int, height: int, width: int) -> NDArray[np.uint8]:
    """Pixels (P, height, width, 3) of all pictures with these factors, by colour, ground and light."""
    cover_HW = covered(Factors(label, row, column, size, 0, 0, 0), height, width)
    shade_THW = np.stack([shaded(light, height, width) for light in LIGHTS])
    pixels = painted(cover_HW, shade_THW, COLOURS[:, None, None, None, None], GROUNDS[:, None, None, None])
    return pixels.reshape(-1, height, width, 3)


def covered(factors: Factors, height: int, width: int) -> Array:
    """How much of each pixel the shape covers, in [0, 1]."""
    kind, (top, bottom), (left, right) = list(CLASSES.values())[factors.label]
    radius = RADII[factors.size] * min(height, width)

    # The centre: its cell's share of what is left beside the shape itself.
    v = top + (bottom - top) * (factors.row + 0.5) / ROWS
    u = left + (right - left) * (factors.column + 0.5) / COLUMNS
    centre_y = radius + v * (height - 2 * radius)
    centre_x = radius + u * (width - 2 * radius)

    y_H1, x_1W = centres(height, width)
    edge = distance(kind, y_H1 - centre_y, x_1W - centre_x, radius)
    return np.clip(0.5 - edge, 0, 1)


def shaded(light: tuple[int, int], height: int, width: int) -> Array:
    """How bright the ground is at each pixel; 1 in the middle."""
    y_H1, x_1W = centres(height, width)
    down, over = light
    return 1 + 0.25 * (down * (2 * y_H1 / height - 1) + over * (2 * x_1W / width - 1))


def centres(height: int, width: int) -> tuple[Array, Array]:
    """Of pixels, (height, 1) and (1, width)."""
    rows, columns = (np.arange(0.5, side, dtype=np.float32) for side in (height, width))
    return rows[:, None], columns[None, :]


def painted(cover: Array, shade: Array, colour: Array, ground: Array) -> NDArray[np.uint8]:
    """A shape of one colour on a shaded ground; several of each broadcast."""
    ground = shade[..., None] * ground
    pixels = ground + cover[..., None] * (colour - ground)
    return (pixels + 0.5).astype(np.uint8)


class MadeUp:
    """A made-up set as a source: item i of a split is the same on every machine and in every run.

    What determines it is drawn uniformly from the item's number.
    """

    name: str
    # how many values each factor has; the first one is the class
    space: tuple[int, ...]
    remarks: tuple[str, ...] = ()

    def __init__(self, count: int, height: int, width: int, split: str) -> None:
        self.count, self.split = count, split
        self.height, self.width = height, width

    @property
    def identity(self) -> str:
        """It leaves the size out, which is a setting: a training on several pyramids has several."""
        return f"{self.name.replace(' ', '-')}-1-{self.split}-{self.count}"

    def __len__(self) -> int:
        return self.count

    @property
    def labels_N(self) -> NDArray[np.int64]:
        numbers = [self._number(index) for index in range(self.count)]
        return np.unravel_index(numbers, self.space)[0]

    def values(self, index: int) -> Iterator[int]:
        """Each factor's value."""
        return map(int, np.unravel_index(self._number(index), self.space))

    def _number(self, index: int) -> int:
        return mix(self.name, self.split, index) % math.prod(self.space)


class Shapes(MadeUp):
    """The set as an image source.

    Raises:
        ValueError: pictures are too small for shapes to be told apart.
    """

    name = "shapes"
    space = SPACE
    class_names = tuple(CLASSES)
    # of pixels, by their number in a mask
    mask_names = ("ground", *CLASSES)

    def __init__(self, count: int, height: int, width: int, split: str) -> None:
        super().__init__(count, height, width, split)
        if min(height, width) < 8:
            raise ValueError(f"shapes need 8 pixels a side to be told apart, got {height} x {width}")
        self.fingerprint = f"{self.identity}-{height}x{width}"

    def factors(self, index: int) -> Factors:
        return Factors(*self.values(index))

    def array(self, index: int) -> tuple[NDArray[np.uint8], int]:
        factors = self.factors(index)
        return render(factors, self.height, self.width)[0], factors.label

    def read(self, index: int) -> tuple[Image.Image, int]:
        pixels, label = self.array(index)
        return Image.fromarray(pixels), label

    def mask(self, index: int) -> NDArray[np.uint8]:
        """What every pixel is, (height, width): 0 the ground, 1 + label the shape."""
        picture = self.describe(index)
        return picture.mask.astype(np.uint8) * np.uint8(1 + picture.label)

    def check_mask(self, index: int) -> None:
        """It is right by construction."""

    # of boxes, by their label
    box_names = class_names
    most_boxes = 1

    def boxes(self, index: int) -> Boxes:
        """The smallest box around the shape's pixels."""
        picture = self.describe(index)
        top, left = picture.box[:2]
        rows, columns = picture.box[2:]
        place = torch.tensor([[left, top, left + columns, top + rows]], dtype=torch.float32)
        size = (self.height, self.width)
        return Boxes(size, place, torch.tensor([picture.label]), torch.zeros(1, dtype=torch.bool))

    def check_boxes(self, index: int) -> None:
        """They are right by construction."""

    def describe(self, index: int) -> ShapePicture:
        """The picture with its factors, its box and its mask."""
        factors = self.factors(index)
        pixels, cover = render(factors, self.height, self.width)
        mask = cover >= 0.5

        y, x = np.nonzero(mask)
        box = (int(y.min()), int(x.min()), int(np.ptp(y)) + 1, int(np.ptp(x)) + 1)
        return ShapePicture(Image.fromarray(pixels), factors.label, factors, box, mask)
