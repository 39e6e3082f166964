"""A study's own false alarms are as many as it promises, and a handicap that is there is found."""

import numpy as np
import pytest

from var_pe.comparison.false_alarms import (
    equivalent_splits,
    findable,
    real_splits,
    resampled,
    resampled_within,
)


def study(groups: int, seeds: int) -> list[dict[int, float]]:
    """Groups of runs that do not differ; what a seed does to all of them is ten times their own scatter."""
    rng = np.random.default_rng(3)
    shared = 10 * rng.standard_normal(seeds)
    return [dict(enumerate(shared + rng.standard_normal(seeds))) for _ in range(groups)]


def test_chance_is_called_a_difference_in_about_one_study_of_twenty():
    """The promise of the whole report. Without Holm, five comparisons would err in one study of five."""
    found = resampled(study(6, 8))
    assert (found.studies, found.seeds, found.comparisons) == (10_000, 8, 5)
    low, high = found.interval
    assert 0.005 < high - low < 0.01  # of 10,000 studies with this share
    assert 0.02 < found.share < 0.06


def test_a_handicap_that_can_be_found_is_found():
    """A study that raised no alarms because it sees nothing would pass the test above."""
    groups = study(2, 8)
    handicap = findable(groups)
    assert resampled(groups, handicap).share == pytest.approx(0.8, abs=0.05)
    assert resampled(groups, 3 * handicap).share > 0.99
    assert real_splits(groups[0], 1000.0).share == 1.0

    # What others raise by chance is not the arm that was looked for.
    assert resampled(study(16, 4), 1e-9).share < 0.01 < resampled(study(16, 4)).share


def test_one_group_against_itself_raises_few_alarms():
    """Halves of the same seeds: 20 real studies in which nothing can differ."""
    found = real_splits(study(1, 16)[0])
    assert (found.studies, found.seeds) == (20, 8)
    assert found.found <= 3
    assert equivalent_splits(study(1, 16)[0], 1000.0).share == 1.0
    assert equivalent_splits(study(1, 16)[0], 0.01).share == 0.0
    with pytest.raises(ValueError, match="at least 4"):
        real_splits({0: 1.0, 1: 2.0})


def test_what_differs_by_the_margin_is_rarely_called_equivalent_and_what_does_not_often():
    """A margin is worth something only if the test keeps to it, its own uncertainty included."""
    first, other = study(2, 8)
    worse = {seed: value + 6.0 for seed, value in study(3, 8)[2].items()}
    same = resampled_within([first, other], worse, 1.0)
    at_margin = resampled_within([first, other], worse, 1.0, differs=True)
    assert at_margin.share < 0.06 < 0.8 < same.share
    by_seed = {seed: worse[seed] - first[seed] for seed in first}
    assert equivalent_splits(study(1, 16)[0], by_seed).seeds == 4


def test_groups_that_share_no_seeds_make_no_study():
    """Unpaired runs cannot be compared seed by seed."""
    with pytest.raises(ValueError, match="share at least two seeds"):
        resampled([{0: 1.0, 1: 2.0}, {2: 1.0, 3: 2.0}])
