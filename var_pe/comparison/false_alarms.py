"""How often a study finds a difference where there is none, and finds one that is there.

Everything is measured with the procedure of the study itself: paired t tests over seeds, Holm over all
comparisons, at 5 %.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from var_pe.comparison.statistics import (
    ERROR,
    Difference,
    Numbers,
    holm,
    p_of_equivalence,
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


def halves(values: Mapping[int, float], splits: int) -> Numbers:
    """One group of runs against itself: differences of random halves of its seeds, disjoint, (splits, N / 2).

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
    orders = [rng.permutation(len(runs_N)) for _ in range(splits)]
    return np.array([runs_N[order[:half]] - runs_N[order[half : 2 * half]] for order in orders])


def real_splits(values: Mapping[int, float], handicap: float = 0.0, splits: int = SPLITS) -> Rate:
    """How many splits of one group are called a difference; a `handicap` of one half makes one.

    Raises:
        ValueError: as in `halves`.
    """
    pairs_XN = halves(values, splits) + handicap
    return Rate(finds(pairs_XN[:, None]), splits, pairs_XN.shape[1], 1)


def equivalent_splits(values: Mapping[int, float], margin: float, splits: int = SPLITS) -> Rate:
    """How many splits of one group are shown not to differ by more than the margin.

    Raises:
        ValueError: as in `halves`.
    """
    pairs_XN = halves(values, splits)
    found = 0
    for pairs_N in pairs_XN:
        both = Difference(float(pairs_N.mean()), float(pairs_N.std(ddof=1)), len(pairs_N))
        p = p_of_equivalence(both, margin)
        found += p is not None and p < ERROR
    return Rate(found, splits, pairs_XN.shape[1], 1)


def resampled(groups: Sequence[Mapping[int, float]], handicap: float = 0.0, studies: int = STUDIES) -> Rate:
    """Studies made up from what seeds did in a real one: nothing differs but for chance.

    Left of every value when the means of its group and of its seed are taken away is a residual. A made-up
    study has as many groups and seeds as the real one, and draws all its values from the residuals of all
    groups, with replacement: one group's few seeds alone would often be drawn again and again, which raises
    alarms by itself. The first group is the one that the others are compared with; `handicap` is added to
    the second.

    Raises:
        ValueError: there are fewer than two groups, or they share fewer than two seeds.
    """
    shared = sorted(set.intersection(*(set(group) for group in groups))) if groups else []
    if len(groups) < 2 or len(shared) < 2:
        raise ValueError(
            f"made-up studies need two groups of runs that share two seeds, got {len(groups)} that share "
            f"{len(shared)}"
        )

    residuals_GN = residuals(groups, shared)
    rng = np.random.default_rng(SEED)
    drawn_XGN = rng.choice(residuals_GN.flatten(), size=(studies, *residuals_GN.shape))
    pairs_XMN = drawn_XGN[:, 1:] - drawn_XGN[:, :1]
    pairs_XMN[:, 0] += handicap
    return Rate(finds(pairs_XMN), studies, len(shared), len(groups) - 1)


def residuals(groups: Sequence[Mapping[int, float]], seeds: Sequence[int]) -> Numbers:
    """What is left of (G, N) values without the means of groups and seeds, brought back to its size."""
    values_GN = np.array([[group[seed] for seed in seeds] for group in groups])
    of_groups_G1 = values_GN.mean(1, keepdims=True)
    of_seeds_1N = values_GN.mean(0, keepdims=True)
    left_GN = values_GN - of_groups_G1 - of_seeds_1N + values_GN.mean()

    # Of G N values (G - 1) (N - 1) are free.
    number, count = values_GN.shape
    return left_GN * math.sqrt(number * count / ((number - 1) * (count - 1)))


def findable(groups: Sequence[Mapping[int, float]]) -> float | None:
    """The smallest effect that a study of these groups finds with a power of 0.8, in any of them."""
    shared = sorted(set.intersection(*(set(group) for group in groups)))
    if len(groups) < 2 or len(shared) < 2:
        return None
    spread = math.sqrt(2 * float((residuals(groups, shared) ** 2).mean()))
    return smallest_effect(len(shared), spread, len(groups) - 1)
