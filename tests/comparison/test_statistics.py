"""What a comparison may claim: its tests are scipy's, and what chance can explain is not called real."""

import math
import statistics

import numpy as np
import pytest
from scipy import stats

from var_pe.comparison.statistics import (
    components,
    difference,
    half_width,
    holm,
    p_of_equivalence,
    p_of_pairs,
    rate_interval,
    seeds_for_margin,
    smallest_effect,
    summary,
)
from var_pe.comparison.verdicts import Rows, family


def by_seed(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


# Student's t that 97.5 % stay below, from printed tables, by degrees of freedom
TABLE = {1: 12.7062, 2: 4.3027, 3: 3.1824, 9: 2.2622, 30: 2.0423}


@pytest.mark.parametrize(("degrees", "quantile"), TABLE.items())
def test_half_an_interval_is_the_quantile_of_the_table(degrees, quantile):
    """With the normal's 1.96 in its place, every small study would find differences."""
    assert half_width(degrees + 1, math.sqrt(degrees + 1)) == pytest.approx(quantile, abs=5e-5)


def test_several_comparisons_share_the_error():
    """Three encodings against the first: each at 1 - 0.05 / 3, two-sided; t for two degrees is 7.6488."""
    assert half_width(3, math.sqrt(3), comparisons=3) == pytest.approx(7.6488, abs=5e-4)


def test_the_spread_is_over_n_minus_one_and_absent_for_one_value():
    """Over n, three seeds would look a fifth steadier than they are."""
    found = summary([1.0, 2.0, 6.0])
    assert (found.mean, found.count) == (3.0, 3)
    assert found.spread == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    assert summary([5.0]).spread is None


def test_the_test_is_the_paired_one():
    """What a seed does to both encodings must cancel: an unpaired test would see nothing here."""
    first, other = by_seed(1.0, 5.0, 9.0, 13.0), by_seed(1.5, 5.4, 9.6, 13.5)
    test = stats.ttest_rel(list(other.values()), list(first.values()))
    found = difference(first, other)
    half = half_width(found.count, found.spread)
    assert (found.mean - half, found.mean + half) == pytest.approx(test.confidence_interval(0.95))
    pairs = np.array([[0.5, 0.4, 0.6, 0.5]])
    assert p_of_pairs(pairs)[0] == pytest.approx(test.pvalue)
    assert stats.ttest_ind(list(other.values()), list(first.values())).pvalue > 0.5
    assert difference(first, {7: 2.0}) is None


def test_one_seed_and_equal_differences_prove_nothing():
    """Recall of 100 images goes in steps of 0.01: two equal steps are chance, not a spread of zero."""
    pairs = np.array([[0.25, 0.25], [0.0, 0.0]])
    assert np.isnan(p_of_pairs(pairs)).all()
    assert np.isnan(p_of_pairs(np.array([[1000.0]]))).all()
    assert not difference(by_seed(0.25, 0.5), by_seed(0.5, 0.75)).has_spread
    assert np.isnan(p_of_equivalence(pairs, 1.0)).all()


@pytest.mark.parametrize("rounded", [float, lambda value: float(np.float32(value))])
def test_what_rounding_leaves_of_equal_differences_is_no_spread(rounded):
    """Two of 300 images more at every seed: held against rounding errors, p would be 1e-11."""
    first = by_seed(*(rounded(number / 300) for number in (130, 222, 271)))
    other = by_seed(*(rounded(number / 300) for number in (132, 224, 273)))
    assert len({other[seed] - first[seed] for seed in first}) > 1
    assert not difference(first, other).has_spread
    (found,) = family([Rows("other", "first", other, first)], margin=0.5)
    assert (found.p, found.half_width, found.p_equivalent) == (None, None, None)

    # One image more at one seed is a spread.
    assert difference(first, other | {2: rounded(274 / 300)}).has_spread


def test_holm_is_that_of_the_textbook():
    """Holm's steps: the smallest p by 4, the next by 3 ..., never falling; a comparison without p counts."""
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    with_nan = holm(np.array([np.nan, 0.02, 0.2]))
    assert with_nan[1:] == pytest.approx([0.06, 0.4])
    assert np.isnan(with_nan[0])


def test_equivalence_is_two_one_sided_tests():
    """That no difference was found does not show that there is none: both sides must be excluded."""
    pairs = [0.1, -0.2, 0.05, 0.0, -0.1]
    found = np.array([pairs])
    expected = max(
        stats.ttest_1samp(pairs, -0.3, alternative="greater").pvalue,
        stats.ttest_1samp(pairs, 0.3, alternative="less").pvalue,
    )
    assert p_of_equivalence(found, 0.3)[0] == pytest.approx(expected)
    assert p_of_equivalence(found, 0.3)[0] < 0.05 < p_of_equivalence(found, 0.05)[0]

    # A margin of the same size that was itself measured is less certain.
    measured = np.array([0.1, 0.5, 0.2, 0.6, 0.1])
    assert p_of_equivalence(found, measured)[0] > p_of_equivalence(found, measured.mean())[0]


def test_seeds_for_a_margin_show_it_in_four_of_five_studies():
    """One who plans a study by this number must not find out afterwards that it was too small."""
    seeds = seeds_for_margin(0.5, 1.0, comparisons=3)
    drawn = np.random.default_rng(0).standard_normal((4000, seeds))
    share = (p_of_equivalence(drawn, 0.5) < 0.05 / 3).mean()
    assert share == pytest.approx(0.8, abs=0.03)
    assert seeds_for_margin(1000.0, 1.0) == 2
    assert seeds_for_margin(1e-6, 1.0) is None


def test_the_smallest_effect_has_the_power_of_the_table():
    """Cohen's table for a paired test of 34 pairs: an effect of half a deviation has a power of 0.8."""
    assert smallest_effect(34, 1.0) == pytest.approx(0.495, abs=0.005)
    assert smallest_effect(8, 1.0, comparisons=5) > smallest_effect(8, 1.0)
    assert smallest_effect(1, 1.0) is None


def test_the_interval_of_a_rate_is_scipys():
    """Of 20 splits without an alarm the rate may still be 17 %."""
    for hits, trials in ((0, 20), (1, 20), (20, 20), (512, 10_000)):
        exact = stats.binomtest(hits, trials).proportion_ci(0.95, method="exact")
        assert rate_interval(hits, trials) == pytest.approx((exact.low, exact.high))


def test_variance_is_split_as_it_was_put_in():
    """Seeds of training and of sampling must not be mistaken for each other: FID moves by both."""
    rng = np.random.default_rng(0)
    tokenizer, training, sampling = (
        size * rng.standard_normal(shape)
        for size, shape in ((3.0, (40, 8, 1, 1)), (2.0, (40, 8, 8, 1)), (0.5, (40, 8, 8, 4)))
    )
    found = components(tokenizer + training + sampling)
    assert (found.tokenizer, found.training, found.sampling) == pytest.approx((3.0, 2.0, 0.5), rel=0.1)

    # By hand: means 2 and 6 of two trainings, variance 8, less half of the 2 that drawings have.
    small = components(np.array([[[[1.0, 3.0], [5.0, 7.0]]]]))
    assert small.tokenizer is None
    assert small.training == pytest.approx(math.sqrt(8 - 1))
    assert small.sampling == pytest.approx(math.sqrt(2))


def test_a_shared_shift_of_a_seed_changes_no_difference():
    """A seed with an unlucky order of data hits all encodings, and says nothing about any of them."""
    first, other = by_seed(1.0, 2.0, 3.0), by_seed(1.5, 2.25, 3.5)
    shift = by_seed(0.0, 64.0, -32.0)
    moved = difference(
        {s: v + shift[s] for s, v in first.items()}, {s: v + shift[s] for s, v in other.items()}
    )
    assert moved == difference(first, other)
    assert statistics.stdev(first[s] + shift[s] for s in first) > 10
