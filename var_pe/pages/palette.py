"""Colours of classes: in masks those of Pascal VOC, of boxes bright ones."""

from collections.abc import Sequence
from colorsys import hsv_to_rgb
from functools import cache

import numpy as np
from numpy.typing import NDArray

from var_pe.pages.sheets import Cell, Section, class_name

MOST_COLOURS = 48  # classes whose colours a sheet says
SQUARE = 24  # pixels of a colour's height
GOLDEN = 0.6180339887


@cache
def palette() -> NDArray[np.uint8]:
    """Colours (256, 3) by class number, 0 black, 255 nearly white (the number of what is of no class).

    As in VOC's development kit, the bits of a number, three at a time, become the upper bits of red, green
    and blue.
    """
    numbers_N = np.arange(256)
    colours_N3 = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours_N3[:, channel] |= ((numbers_N >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return colours_N3


def painted(mask_HW: NDArray[np.int64]) -> NDArray[np.uint8]:
    """A mask in colours, (h, w, 3)."""
    return palette()[mask_HW]


def outline_colour(label: int) -> tuple[int, int, int]:
    """A bright colour for the outlines of a class's boxes; hues in a row differ by the golden section."""
    red, green, blue = hsv_to_rgb(label * GOLDEN % 1, 1.0 if label % 2 else 0.55, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def colours_of(names: Sequence[str], colours_V3: NDArray[np.uint8]) -> Section:
    """The classes' names below their colours."""
    cells = []
    for label in range(min(len(names), MOST_COLOURS)):
        square = np.tile(colours_V3[label], (SQUARE, 2 * SQUARE, 1))
        cells.append(Cell([square], class_name(names, label)))
    return Section("Colours of the classes", cells)
