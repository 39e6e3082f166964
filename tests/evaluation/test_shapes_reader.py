"""The reader of made-up shapes: right on real pictures, mild about small faults, silent about all else."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from var_pe.data.shapes import CLASSES, COLOURS, GROUNDS, LIGHTS, RADII, SPACE, Factors, Shapes, render
from var_pe.evaluation.features import FeatureSet
from var_pe.evaluation.shapes_reader import KIND_OF_CLASS, KINDS, NOTHING, ShapeReader, nearest
from var_pe.evaluation.shapes_scores import shape_scores

COUNT = 48


@pytest.fixture(scope="module")
def reader() -> ShapeReader:
    return ShapeReader()


@pytest.fixture(scope="module")
def shapes() -> Shapes:
    return Shapes(COUNT, 32, 32, "test")


@pytest.fixture(scope="module")
def real(shapes) -> Tensor:
    return stacked([shapes.array(number)[0] for number in range(COUNT)])


def stacked(pixels: list[NDArray[np.floating]]) -> Tensor:
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)


def read(reader: ShapeReader, images: Tensor) -> NDArray[np.int64]:
    """The kind and all factors, by number."""
    return reader(images.float().round().clamp(0, 255).byte()).features_BF.numpy().astype(int)


def truth(source: Shapes) -> NDArray[np.int64]:
    factors = np.array([source.factors(number) for number in range(len(source))])
    return np.concatenate([KIND_OF_CLASS[factors[:, :1]], factors], 1)


def ground(factors: Factors) -> NDArray[np.floating]:
    """The picture without its shape."""
    place = np.linspace(-1, 1, 33)
    middle = (place[1:] + place[:-1]) / 2
    down, over = LIGHTS[factors.light]
    shade = 1 + 0.25 * (down * middle[:, None] + over * middle)
    return shade[:, :, None] * GROUNDS[factors.ground]


@pytest.mark.parametrize("size", [(16, 16), (32, 32), (32, 56), (64, 64)])
def test_every_factor_of_a_real_picture_is_read(reader, size):
    """A reader that errs on real pictures would blame the generator for it."""
    source = Shapes(COUNT, *size, "test")
    images = stacked([source.array(number)[0] for number in range(COUNT)])
    assert np.array_equal(read(reader, images), truth(source))


def test_small_faults_change_nothing(reader, shapes, real):
    """A drawn picture has soft edges and noise, and a person names its shape all the same."""
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(0))
    for spoilt in (real + 6 * noise, gaussian_blur(real.float(), [7, 7], [0.8, 0.8]), 0.97 * real + 3):
        assert np.array_equal(read(reader, spoilt), truth(shapes))


def test_a_shape_between_two_places_and_sizes_is_read_by_its_kind(reader):
    """Drawn shapes do not keep to the set's cells."""
    source = Shapes(COUNT, 34, 34, "test")
    images = stacked([source.array(number)[0][1:-1, 1:-1] for number in range(COUNT)])
    assert np.array_equal(read(reader, images)[:, 0], truth(source)[:, 0])


@pytest.mark.parametrize("what", ["ground", "noise", "blurred", "two shapes", "half a shape", "a blot"])
def test_what_no_person_could_name_is_read_as_nothing(reader, shapes, real, what):
    """Otherwise blots would count as whatever they are the least unlike."""
    random = torch.Generator().manual_seed(0)
    factors = [shapes.factors(number) for number in range(COUNT)]
    grounds = stacked([ground(each) for each in factors])
    cover = torch.from_numpy(np.stack([render(each, 32, 32)[1] for each in factors]))[:, None]

    if what == "ground":
        images = grounds + torch.randn(real.shape, generator=random)
    elif what == "noise":
        images = torch.randint(0, 256, real.shape, generator=random)
    elif what == "blurred":
        images = gaussian_blur(real.float(), [17, 17], [2.5, 2.5])
    elif what == "two shapes":
        # No other shape hides much of the first, or is hidden by it.
        pairs = [(i, j) for i in range(COUNT) for j in range(i) if float((cover[i] * cover[j]).sum()) < 2]
        images = torch.stack([torch.where(cover[j] > 0.5, real[j], real[i]) for i, j in pairs[:COUNT]])
    elif what == "half a shape":
        across = torch.arange(32) + 0.5
        centre = (cover * across).sum((1, 2, 3)) / cover.sum((1, 2, 3))
        images = torch.where(across < centre[:, None, None, None], real, grounds)
    else:
        waves = gaussian_blur(torch.randn(COUNT, 1, 32, 32, generator=random), [17, 17], [2.5, 2.5])
        blot = ((waves / waves.std() - 1) * 2).clamp(0, 1)
        images = blot * 240 + (1 - blot) * grounds

    kinds = read(reader, images)[:, 0]
    assert (kinds == NOTHING).mean() >= {"half a shape": 0.8, "two shapes": 0.9, "a blot": 0.9}.get(what, 1)


@pytest.mark.parametrize("values", [COLOURS, GROUNDS, np.array(RADII)[:, None]])
def test_what_is_between_two_of_the_sets_values_is_neither(values):
    """The share of values among the set's would otherwise be 1 whatever is drawn."""
    away = np.linalg.norm(values[:, None] - values, axis=2) + 1000 * np.eye(len(values))
    neighbour = values[away.argmin(1)]
    assert (nearest(0.8 * values + 0.2 * neighbour, values) == np.arange(len(values))).all()
    assert (nearest(0.55 * values + 0.45 * neighbour, values) == NOTHING).all()
    assert (nearest(values + 500, values) == NOTHING).all()


def test_scores_count_what_was_asked_apart_from_what_was_not(shapes):
    """A disc in the wrong half is a disc; a kind that is not there has no half."""
    names = list(CLASSES)
    right = truth(shapes)[:12].astype(np.float32)
    asked = torch.from_numpy(truth(shapes)[:12, 1].copy())
    scores = shape_scores(FeatureSet(torch.from_numpy(right), torch.zeros(12, 12), asked), names)
    assert scores["as_asked_shapes"] == scores["kind_as_asked_shapes"] == scores["half_as_asked_shapes"] == 1

    # Four discs of the upper half, all asked for: one right, one in the lower half, one grey, one a blot
    read = np.array([[KINDS.index("disc"), 0, 1, 1, 1, 1, 1, 1]] * 4)
    read[1, 1] = 1
    read[2, 5] = NOTHING
    read[3] = NOTHING
    found = FeatureSet(torch.from_numpy(read).float(), torch.zeros(4, 12), torch.zeros(4, dtype=torch.long))
    scores = shape_scores(found, ["disc in the upper half"])
    assert scores["as_asked_shapes"] == 0.25
    assert scores["kind_as_asked_shapes"] == 0.75
    assert scores["half_as_asked_shapes"] == pytest.approx(2 / 3)
    assert scores["size_of_set_shapes"] == scores["ground_of_set_shapes"] == 0.75
    assert scores["colour_of_set_shapes"] == 0.5
    assert scores["nothing_read_shapes"] == 0.25
    assert scores["values_that_occur_shapes"] == pytest.approx(7 / (len(KINDS) + sum(SPACE[1:])))
