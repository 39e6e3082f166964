"""Corruptions: the same noise every time, stronger with severity, and what each one does."""

import numpy as np
import pytest
import torch

from var_pe.data.corruptions import CORRUPTIONS, SEVERITIES, brightness, corrupted
from var_pe.data.shapes import Shapes


def image(channels: int, index: int = 0) -> torch.Tensor:
    pixels, _ = Shapes(9, 32, 32, "test").array(index)
    image_CHW = torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1
    return image_CHW[:channels]


@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
@pytest.mark.parametrize("channels", [1, 3])
def test_a_corruption_follows_from_seed_and_index(name, channels):
    """Every classifier has to see the same pictures, today and tomorrow."""
    clean_CHW = image(channels)
    first = corrupted(clean_CHW, name, 3, seed=0, index=4)
    assert torch.equal(first, corrupted(clean_CHW, name, 3, seed=0, index=4))
    assert first.shape == clean_CHW.shape
    assert first.abs().max() <= 1

    other = corrupted(clean_CHW, name, 3, seed=0, index=5)
    assert torch.equal(first, other) == ("noise" not in name)


@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
def test_a_higher_severity_changes_more(name):
    changes = []
    for severity in SEVERITIES:
        per_image = [
            (corrupted(image(3, index), name, severity, seed=0, index=index) - image(3, index))
            .square()
            .mean()
            for index in range(9)
        ]
        changes.append(float(torch.stack(per_image).mean()))
    assert changes == sorted(changes)
    assert 0 < changes[0] < changes[-1]


def test_noise_has_the_published_deviation():
    grey_CHW = torch.zeros(1, 200, 200)
    noisy_CHW = corrupted(grey_CHW, "gaussian noise", 5, seed=0, index=0)
    assert float(noisy_CHW.std() / 2) == pytest.approx(0.10, rel=0.02)
    hit = corrupted(grey_CHW, "impulse noise", 5, seed=0, index=0).abs() == 1
    assert float(hit.float().mean()) == pytest.approx(0.07, rel=0.1)


def test_brightness_is_that_of_hue_saturation_value():
    """Value grows by what is added; hue and saturation stay, by Python's own formulas."""
    import colorsys

    picture_HWC = np.random.default_rng(0).random((4, 4, 3))
    brighter_HWC = brightness(picture_HWC, 0.2, np.random.default_rng(0))
    for before, after in zip(picture_HWC.reshape(-1, 3), brighter_HWC.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        assert after == pytest.approx(colorsys.hsv_to_rgb(hue, saturation, min(value + 0.2, 1)))
