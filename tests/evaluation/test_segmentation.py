"""Intersection over union is what one counts by hand."""

import pytest
import torch

from var_pe.data.mask_folder import IGNORED
from var_pe.evaluation.segmentation import Overlaps


def test_overlaps_are_those_of_a_hand_count():
    """Over all images; a pixel of no class does not count, and a class that is nowhere has no value."""
    truth = torch.tensor([[[0, 0, 1], [1, 1, IGNORED]], [[0, 2, 2], [IGNORED, 0, 0]]])
    found = torch.tensor([[[0, 1, 1], [1, 0, 2]], [[0, 2, 0], [1, 0, 0]]])
    overlaps = Overlaps(4, torch.device("cpu"))
    for images in zip(found, truth, strict=True):
        overlaps.add(*(image[None] for image in images))
    values = overlaps.values(["a", "b", "c", "d"])

    # a: found 4 of 5, and 2 more; b: 2 of 3, and 1 more; c: 1 of 2
    ious = {"a": 4 / 7, "b": 2 / 4, "c": 1 / 2}
    assert {name: values.get(f"iou/{name}") for name in "abcd"} == pytest.approx({**ious, "d": None})
    assert values["mean_iou"] == pytest.approx(sum(ious.values()) / 3)
    assert values["pixel_accuracy"] == pytest.approx(7 / 10)
