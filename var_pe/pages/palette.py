"""Colours of classes in pictures of masks: Pascal VOC's, which differ most among the first numbers."""

from functools import cache

import numpy as np
from numpy.typing import NDArray


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
