"""The distance of drawn from real tokens: Hellinger's, of all tokens and of each level's."""

import pytest
import torch

from var_pe.evaluation.token_histograms import hellinger, token_histogram_distances
from var_pe.pyramid import Pyramid


def test_the_distance_is_hellingers():
    """0 for the same histogram at any count, 1 for codes that never meet, by hand in between."""
    counts = torch.tensor([2, 2, 0, 0])
    assert hellinger(counts, 5 * counts) == pytest.approx(0.0, abs=1e-8)
    assert hellinger(counts, counts.flip(0)) == pytest.approx(1.0)
    assert hellinger(counts, torch.tensor([1, 0, 0, 0])) == pytest.approx((1 - 0.5**0.5) ** 0.5)
    with pytest.raises(ValueError, match="at least one count"):
        hellinger(counts, 0 * counts)


def test_a_level_that_draws_wrong_codes_is_told_from_the_others():
    """One number for all tokens hides the coarse levels, which have few of them."""
    pyramid = Pyramid.square(1, 2)
    real_NL = torch.arange(50).view(10, 5) % 4
    drawn_NL = real_NL.clone()
    drawn_NL[:, 0] = 7
    found = token_histogram_distances(drawn_NL, real_NL, pyramid, 8)
    assert found["token_histogram_distance/level_0"] == pytest.approx(1.0)
    assert found["token_histogram_distance/level_1"] == pytest.approx(0.0, abs=1e-8)
    assert 0 < found["token_histogram_distance"] < 1
