"""What a comparison may claim: its intervals are Student's, and what the spread can explain is not real."""

import math
import statistics

import pytest
import torch
from scipy import stats

from var_pe.comparison.statistics import difference, summary
from var_pe.seeding import generator_for


def by_seed(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


# Student's t that 97.5 % stay below, from printed tables, by degrees of freedom
TABLE = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 9: 2.2622, 30: 2.0423}


@pytest.mark.parametrize(("degrees", "quantile"), TABLE.items())
def test_half_an_interval_is_the_quantile_of_the_table(degrees, quantile):
    """With the normal's 1.96 in its place, every small study would find differences."""
    pairs = by_seed(*(float(value) for value in range(degrees + 1)))
    found = difference(by_seed(*[0.0] * (degrees + 1)), pairs)
    standard_error = statistics.stdev(pairs.values()) / math.sqrt(degrees + 1)
    assert found.half_width / standard_error == pytest.approx(quantile, abs=5e-5)


def test_several_comparisons_share_the_error():
    """Three encodings against the first: each at 1 - 0.05 / 3, two-sided; t for two degrees is 7.6488."""
    found = difference(by_seed(0.0, 0.0, 0.0), by_seed(1.0, 2.0, 3.0), comparisons=3)
    assert found.half_width * math.sqrt(3) == pytest.approx(7.6488, abs=5e-4)


def test_the_spread_is_over_n_minus_one_and_absent_for_one_value():
    """Over n, three seeds would look a fifth steadier than they are."""
    found = summary([1.0, 2.0, 6.0])
    assert (found.mean, found.count) == (3.0, 3)
    assert found.spread == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    assert summary([5.0]).spread is None


def test_the_interval_is_that_of_a_paired_t_test():
    """What a seed does to both encodings must cancel: an unpaired test would see nothing here."""
    first, other = by_seed(1.0, 5.0, 9.0, 13.0), by_seed(1.5, 5.4, 9.6, 13.5)
    found = difference(first, other)
    test = stats.ttest_rel(list(other.values()), list(first.values()))
    low, high = test.confidence_interval(0.95)
    assert found.mean == pytest.approx(0.5)
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((low, high))
    assert found.exceeds_spread
    assert stats.ttest_ind(list(other.values()), list(first.values())).pvalue > 0.5


def test_one_seed_proves_nothing():
    """The rule of the whole report: without a spread no difference is real, however large."""
    assert not difference(by_seed(1.0), by_seed(1000.0)).exceeds_spread
    assert difference(by_seed(1.0), {7: 2.0}) is None


def test_equal_differences_of_a_coarse_score_prove_nothing():
    """Recall of 100 images goes in steps of 0.01: two equal steps are chance, not a spread of zero."""
    assert not difference(by_seed(0.25, 0.5), by_seed(0.5, 0.75)).exceeds_spread


def test_chance_alone_is_rarely_called_a_difference():
    """Three encodings that are the same, five seeds: at most one study in twenty may find a difference."""
    values_NES = torch.randn(2000, 4, 5, generator=generator_for(0, "chance"), dtype=torch.float64)
    wrong = 0
    for values_ES in values_NES.tolist():
        first, *others = [by_seed(*values) for values in values_ES]
        wrong += any(difference(first, other, len(others)).exceeds_spread for other in others)
    assert wrong / len(values_NES) < 0.06


def test_a_shared_shift_of_a_seed_changes_no_difference():
    """A seed with an unlucky order of data hits all encodings, and says nothing about any of them."""
    first, other = by_seed(1.0, 2.0, 3.0), by_seed(1.5, 2.25, 3.5)
    shift = by_seed(0.0, 64.0, -32.0)
    moved = difference(
        {s: v + shift[s] for s, v in first.items()}, {s: v + shift[s] for s, v in other.items()}
    )
    assert moved == difference(first, other)
    assert statistics.stdev(first[s] + shift[s] for s in first) > 10
