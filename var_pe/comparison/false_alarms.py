"""How often a study finds a difference where there is none, and finds one that is there.

Everything is measured with the procedure of the study itself: paired t tests over seeds, Holm over all
comparisons, at 5 %.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from var_pe.comparison.statistics import (
    ERROR,
    Numbers,
    holm,
    p_of_pairs,
    rate_interval,
    smallest_effect,
)

SPLITS = 20
STUDIES = 10_000
SEED = 0  # of the splits and of what is made up


@dataclass(frozen=True)
class Rate:
    """How many of some studies found a difference, with the exact 95 % interval of the rate."""

    found: int
    studies: int
    # seeds of each study, and comparisons in it
    seeds: int
    comparisons: int

    @property
    def share(self) -> float:
        return self.found / self.studies

    @property
    def interval(self) -> tuple[float, float]:
        return rate_interval(self.found, self.studies)


def finds(pairs_XMN: Numbers) -> int:
    """How many of X studies of M comparisons over N seeds call at least one of them a difference."""
    adjusted_XM = holm(p_of_pairs(pairs_XMN))
    return int((np.nan_to_num(adjusted_XM, nan=1.0) < ERROR).any(-1).sum())


def real_splits(values: Mapping[int, float], handicap: float = 0.0, splits: int = SPLITS) -> Rate:
    """One group of runs against itself: random halves of its seeds, disjoint, paired at random.

    `handicap` is added to one of the halves: then a difference is there.

    Raises:
        ValueError: there are fewer than four seeds.
    """
    if len(values) < 4:
        raise ValueError(
            f"splitting seeds into two halves of two needs at least 4 of them, got {len(values)}"
        )

    runs_N = np.array([values[seed] for seed in sorted(values)])
    half = len(runs_N) // 2
    rng = np.random.default_rng(SEED)
    pairs = []
    for _ in range(splits):
        order = rng.permutation(len(runs_N))
        pairs.append(runs_N[order[:half]] + handicap - runs_N[order[half : 2 * half]])
    return Rate(finds(np.array(pairs)[:, None]), splits, half, 1)


def resampled(groups: Sequence[Mapping[int, float]], handicap: float = 0.0, studies: int = STUDIES) -> Rate:
    """Studies made up from what seeds did in a real one: nothing differs but for chance.

    Every group of runs is brought to the same mean. A made-up study draws as many seeds as the real one, with
    replacement, and takes the residuals that all groups had under them, so that what seeds do to all alike
    stays. The first group is the one that the others are compared with; `handicap` is added to the second.

    Raises:
        ValueError: there are fewer than two groups, or they share fewer than two seeds.
    """
    shared = sorted(set.intersection(*(set(group) for group in groups))) if groups else []
    if len(groups) < 2 or len(shared) < 2:
        raise ValueError(
            f"made-up studies need two groups of runs that share two seeds, got {len(groups)} that share "
            f"{len(shared)}"
        )

    values_GN = np.array([[group[seed] for seed in shared] for group in groups])
    residuals_GN = values_GN - values_GN.mean(1, keepdims=True)
    pairs_MN = residuals_GN[1:] - residuals_GN[0]

    rng = np.random.default_rng(SEED)
    drawn_XN = rng.integers(len(shared), size=(studies, len(shared)))
    pairs_XMN = pairs_MN[:, drawn_XN].transpose(1, 0, 2)
    pairs_XMN[:, 0] += handicap
    return Rate(finds(pairs_XMN), studies, len(shared), len(pairs_MN))


def findable(groups: Sequence[Mapping[int, float]]) -> float | None:
    """The smallest effect that a study of these groups finds with a power of 0.8, for its second group."""
    first, second = groups[0], groups[1]
    shared = sorted(first.keys() & second.keys())
    pairs_N = np.array([second[seed] - first[seed] for seed in shared])
    if len(pairs_N) < 2:
        return None
    return smallest_effect(len(pairs_N), float(pairs_N.std(ddof=1)), len(groups) - 1)
