"""Images that show all classes: of a set that is sorted by class, the first ones would show one."""

from collections import Counter

import pytest

from var_pe.data.classes import from_all_classes

SORTED = [label for label in range(5) for _ in range(20)]


@pytest.mark.parametrize("number", [1, 4, 5, 7, 23, 100, 300])
def test_classes_differ_by_one_image_at_most(number):
    chosen = from_all_classes(SORTED, number, seed=0)
    assert len(set(chosen)) == len(chosen) == min(number, 100)
    counts = Counter(SORTED[index] for index in chosen)
    assert len(counts) == min(number, 5)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert [SORTED[index] for index in chosen] == sorted(SORTED[index] for index in chosen)


def test_a_rare_class_is_shown_and_exhausted():
    """One picture of a class is all that there is to show."""
    labels = [0] * 50 + [1] + [-1] * 2
    counts = Counter(labels[index] for index in from_all_classes(labels, 9, seed=0))
    assert counts == {0: 6, 1: 1, -1: 2}


def test_the_choice_follows_from_the_seed():
    """The same pictures every time, so that two sheets can be compared; but not simply the first ones."""
    assert from_all_classes(SORTED, 5, seed=0) == from_all_classes(SORTED, 5, seed=0)
    assert from_all_classes(SORTED, 5, seed=0) != from_all_classes(SORTED, 5, seed=1)
    assert from_all_classes([], 5, seed=0) == []
