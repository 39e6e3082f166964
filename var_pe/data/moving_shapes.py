"""The made-up set `moving_shapes`: clips of one shape whose class is how it moves, and which way.

Eight motions are four pairs, of which one is the other played backwards: the frames of a clip, without their
order, are as probable under both classes of a pair. Whoever does not know the order is right in half of the
clips at best. Shapes, colours and grounds are those of `shapes.py`.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from var_pe.data.shapes import (
    COLOURS,
    COLUMNS,
    GROUNDS,
    LIGHTS,
    RADII,
    ROWS,
    MadeUp,
    centres,
    distance,
    painted,
    shaded,
)

# Class -> (what changes, whether backwards)
CLASSES = {
    "moves right": ("column", False),
    "moves left": ("column", True),
    "moves down": ("row", False),
    "moves up": ("row", True),
    "turns clockwise": ("angle", False),
    "turns anticlockwise": ("angle", True),
    "grows": ("size", False),
    "shrinks": ("size", True),
}
# Kinds whose turning shows
KINDS = ("square", "triangle", "plus", "crescent", "bars")

# From the first frame to the last: share of the way that is free, radians, and factor on the radius. Starts
# are spread, so that they tell little of where a shape goes.
WAY = 0.4
TURN = math.pi / 3
GROWTH = 1.6


class Motion(NamedTuple):
    """Everything that determines a clip, counted from 0."""

    label: int
    kind: int
    row: int
    column: int
    size: int
    colour: int
    ground: int
    light: int


SPACE = Motion(len(CLASSES), len(KINDS), ROWS, COLUMNS, len(RADII), len(COLOURS), len(GROUNDS), len(LIGHTS))


def entropy_bits() -> float:
    """Bits in what determines a clip."""
    return math.log2(math.prod(SPACE))


def render(motion: Motion, frames: int, height: int, width: int) -> NDArray[np.uint8]:
    """RGB pixels, (frames, height, width, 3)."""
    what, backwards = list(CLASSES.values())[motion.label]
    shade_HW = shaded(LIGHTS[motion.light], height, width)
    pixels = []
    for frame in range(frames):
        done = frame / max(1, frames - 1)
        cover_HW = _covered(motion, what, done, height, width)
        pixels.append(painted(cover_HW, shade_HW, COLOURS[motion.colour], GROUNDS[motion.ground]))
    return np.stack(pixels[::-1] if backwards else pixels)


def _covered(motion: Motion, what: str, done: float, height: int, width: int) -> NDArray[np.floating]:
    """How much of each pixel the shape covers when so much of its motion is done, from 0 to 1."""
    # As much smaller at one end as it is larger at the other, so that sizes tell as little as places
    radius = RADII[motion.size] * min(height, width) / math.sqrt(GROWTH)
    most = radius * GROWTH if what == "size" else radius
    radius *= GROWTH**done if what == "size" else 1

    # The centre: the share of what is left beside the shape itself, of which the motion takes a part
    v, u = (motion.row + 0.5) / ROWS, (motion.column + 0.5) / COLUMNS
    v = (1 - WAY) * v + WAY * done if what == "row" else v
    u = (1 - WAY) * u + WAY * done if what == "column" else u
    centre_y = most + v * (height - 2 * most)
    centre_x = most + u * (width - 2 * most)

    # Turned about its centre, y being downwards
    angle = TURN * (done - 0.5) if what == "angle" else 0.0
    y_H1, x_1W = centres(height, width)
    y_HW, x_HW = np.broadcast_arrays(y_H1 - centre_y, x_1W - centre_x)
    cosine, sine = math.cos(angle), math.sin(angle)
    edge = distance(KINDS[motion.kind], cosine * y_HW - sine * x_HW, cosine * x_HW + sine * y_HW, radius)
    return np.clip(0.5 - edge, 0, 1)


class MovingShapes(MadeUp):
    """The set as a source of clips.

    Raises:
        ValueError: frames are too small for shapes to be told apart, or too few to show a motion.
    """

    name = "moving shapes"
    space = SPACE
    class_names = tuple(CLASSES)

    def __init__(self, count: int, frames: int, height: int, width: int, split: str) -> None:
        super().__init__(count, height, width, split)
        if min(height, width) < 16:
            raise ValueError(f"moving shapes need 16 pixels a side to be seen moving, got {height} x {width}")
        if frames < 2:
            raise ValueError(f"moving shapes need at least 2 frames, got data.frames={frames}")
        self.frames = frames
        self.fingerprint = f"{self.identity}-{frames}x{height}x{width}"

    def motion(self, index: int) -> Motion:
        return Motion(*self.values(index))

    def array(self, index: int) -> tuple[NDArray[np.uint8], int]:
        """Pixels (frames, height, width, 3), and the label."""
        motion = self.motion(index)
        return render(motion, self.frames, self.height, self.width), motion.label

    def read(self, index: int) -> tuple[Image.Image, int]:
        """The first frame, and the label."""
        pixels, label = self.array(index)
        return Image.fromarray(pixels[0]), label
