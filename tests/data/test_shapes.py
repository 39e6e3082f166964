"""The made-up set: known information, true labels, true boxes."""

import math
from itertools import pairwise

import numpy as np
import pytest

from var_pe.data.shapes import CLASSES, SPACE, Factors, Shapes, entropy_bits, render
from var_pe.data.sources import DataConfig
from var_pe.settings import ConfigError

MIDDLE = Factors(*(count // 2 for count in SPACE))


@pytest.fixture(scope="module")
def shapes() -> Shapes:
    return Shapes(500, 32, 48, "train")


def test_a_picture_follows_from_its_number(shapes):
    """Every run, process and machine must see the same set, and training and test split different ones."""
    again = Shapes(500, 32, 48, "train")
    assert np.array_equal(shapes.array(17)[0], again.array(17)[0])
    other = Shapes(500, 32, 48, "test")
    assert [shapes.factors(i) for i in range(20)] != [other.factors(i) for i in range(20)]


def test_the_numbers_do_not_change_between_versions(shapes):
    """Results are compared across versions of the code; it may only change under another fingerprint."""
    assert shapes.factors(0) == (3, 3, 4, 1, 6, 0, 3)
    assert shapes.fingerprint.startswith("shapes-1-")


def test_the_entropy_is_that_of_the_factors():
    assert entropy_bits() == pytest.approx(sum(math.log2(count) for count in SPACE))
    assert len(CLASSES) == SPACE.label >= 10


@pytest.mark.parametrize("factor", Factors._fields)
def test_every_value_of_every_factor_shows_in_the_picture(factor):
    """The stated entropy is that of the pictures only if no two values look the same."""
    values = range(getattr(SPACE, factor))
    pictures = [render(MIDDLE._replace(**{factor: value}), 32, 32)[0].astype(int) for value in values]
    for i, picture in enumerate(pictures):
        assert all(np.abs(picture - other).max() >= 16 for other in pictures[:i])


def test_factors_are_drawn_uniformly(shapes):
    """Each value's count over 8,000 draws lies within five standard deviations."""
    drawn = np.array([shapes.factors(i) for i in range(8000)])
    for column, count in zip(drawn.T, SPACE, strict=True):
        expected, spread = 8000 / count, math.sqrt(8000 / count)
        assert (abs(np.bincount(column, minlength=count) - expected) < 5 * spread).all()


def test_the_place_decides_between_classes_of_one_kind(shapes):
    """Otherwise the set could not tell a model that knows places from one that does not."""
    for i in range(300):
        picture = shapes.describe(i)
        y, x, height, width = picture.box
        name = shapes.class_names[picture.label]
        centre = (y + height / 2) / 32, (x + width / 2) / 48
        for half, axis, upper in (
            ("upper", 0, False),
            ("lower", 0, True),
            ("left", 1, False),
            ("right", 1, True),
        ):
            if half in name:
                assert (centre[axis] > 0.5) == upper, name


def test_kinds_look_different_at_the_same_place():
    masks = [render(MIDDLE._replace(label=label, size=0), 32, 32)[1] for label in range(4, len(CLASSES))]
    assert all(np.abs(a - b).sum() > 4 for i, a in enumerate(masks) for b in masks[:i])


def test_box_and_mask_hold_the_shape(shapes):
    """Outside the box there is only ground, which is darker than any colour at some channel."""
    for i in range(50):
        picture = shapes.describe(i)
        y, x, height, width = picture.box
        inside = np.zeros_like(picture.mask)
        inside[y : y + height, x : x + width] = True
        assert picture.mask[y].any()
        assert picture.mask[:, x + width - 1].any()
        assert not (picture.mask & ~inside).any()
        assert picture.image.size == (48, 32)


@pytest.mark.parametrize("size", [(32, 32), (64, 32), (24, 56)])
def test_shapes_stay_inside_images_of_any_aspect(size):
    """A clipped shape would lose its class; the largest size at the four corners shows it."""
    for row, column in ((0, 0), (0, SPACE.column - 1), (SPACE.row - 1, 0)):
        _, cover = render(Factors(8, row, column, SPACE.size - 1, 0, 0, 0), *size)
        radius = 0.24 * min(size)
        area = radius**2 * (4 * 2 * 0.28 - 4 * 0.28**2)  # a plus is two bars less their overlap
        assert cover.sum() == pytest.approx(area, rel=0.08)


def test_rows_and_columns_are_evenly_spaced(shapes):
    rows = [
        np.nonzero(render(MIDDLE._replace(label=5, row=r), 64, 64)[1])[0].mean() for r in range(SPACE.row)
    ]
    steps = [b - a for a, b in pairwise(rows)]
    assert np.ptp(steps) < 0.5
    assert min(steps) > 3


@pytest.mark.parametrize("key", ["shapes_train", "shapes_test"])
def test_more_pictures_than_there_can_be_are_refused_before_their_labels_are_made(key):
    with pytest.raises(
        ConfigError, match=rf"{key} must be int, at least 1, at most 1e\+06, got 1000000000000"
    ):
        DataConfig(**{key: 10**12})
