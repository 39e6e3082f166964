"""How often a study finds a difference where there is none, and finds one that is there.

Everything is measured with the procedure of the study itself: paired t tests over seeds, Holm over all
comparisons, at 5 %.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from var_pe.comparison.statistics import (
    ERROR,
    Margin,
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


def finds_first(pairs_XMN: Numbers) -> int:
    """How many of them call the first of their comparisons a difference."""
    adjusted_XM = holm(p_of_pairs(pairs_XMN))
    return int((np.nan_to_num(adjusted_XM[:, 0], nan=1.0) < ERROR).sum())


def halves(values: Mapping[int, float], splits: int) -> list[tuple[list[int], list[int]]]:
    """The seeds of one group of runs in two random halves, disjoint, `splits` times.

    Raises:
        ValueError: there are fewer than four seeds.
    """
    if len(values) < 4:
        raise ValueError(
            f"splitting seeds into two halves of two needs at least 4 of them, got {len(values)}"
        )

    seeds = sorted(values)
    half = len(seeds) // 2
    rng = np.random.default_rng(SEED)
    orders = [[seeds[place] for place in rng.permutation(len(seeds))] for _ in range(splits)]
    return [(order[:half], order[half : 2 * half]) for order in orders]


def against_itself(values: Mapping[int, float], splits: int) -> Numbers:
    """The differences of such halves, (splits, N / 2)."""
    return np.array(
        [
            [values[mine] - values[other] for mine, other in zip(*both, strict=True)]
            for both in halves(values, splits)
        ]
    )


def real_splits(values: Mapping[int, float], handicap: float = 0.0, splits: int = SPLITS) -> Rate:
    """How many splits of one group are called a difference; a `handicap` of one half makes one.

    Raises:
        ValueError: as in `halves`.
    """
    pairs_XN = against_itself(values, splits) + handicap
    return Rate(finds(pairs_XN[:, None]), splits, pairs_XN.shape[1], 1)


def equivalent_splits(values: Mapping[int, float], margin: Margin, splits: int = SPLITS) -> Rate:
    """How many splits of one group are shown not to differ by more than the margin.

    Of a margin by seed, each pair has that of its first seed.

    Raises:
        ValueError: as in `halves`; of too few seeds that have a margin, too.
    """
    by_seed = margin if isinstance(margin, Mapping) else dict.fromkeys(values, margin)
    both = {seed: value for seed, value in values.items() if seed in by_seed}
    pairs_XN = against_itself(both, splits)
    margins_XN = np.array([[by_seed[seed] for seed in first] for first, _ in halves(both, splits)])
    found = int((np.nan_to_num(p_of_equivalence(pairs_XN, margins_XN), nan=1.0) < ERROR).sum())
    return Rate(found, splits, pairs_XN.shape[1], 1)


def resampled(groups: Sequence[Mapping[int, float]], handicap: float = 0.0, studies: int = STUDIES) -> Rate:
    """Studies made up from what seeds did in a real one: nothing differs but for chance.

    Left of every value when the means of its group and of its seed are taken away is a residual. A made-up
    study has as many groups and seeds as the real one, and draws all its values from the residuals of all
    groups, with replacement: one group's few seeds alone would often be drawn again and again, which raises
    alarms by itself. The first group is the one that the others are compared with; `handicap` is added to
    the second, and then it is this difference that counts as found.

    Raises:
        ValueError: there are fewer than two groups, or they share fewer than two seeds.
    """
    drawn_XGN = made_up(groups, studies)
    pairs_XMN = drawn_XGN[:, 1:] - drawn_XGN[:, :1]
    pairs_XMN[:, 0] += handicap
    found = finds(pairs_XMN) if not handicap else finds_first(pairs_XMN)
    return Rate(found, studies, pairs_XMN.shape[-1], len(groups) - 1)


def resampled_within(
    groups: Sequence[Mapping[int, float]],
    handicapped: Mapping[int, float],
    share: float,
    *,
    differs: bool = False,
    studies: int = STUDIES,
) -> Rate:
    """How many made-up studies show the second group to lie within a share of what the handicapped one loses.

    The margin is measured anew in every study. Nothing differs but for the handicapped group, as far from the
    first as in the real study; with `differs` the second truly lies at the margin, and to call it equivalent
    is an error.

    Raises:
        ValueError: as in `resampled`.
    """
    all_groups = [*groups, handicapped]
    drawn_XGN = made_up(all_groups, studies)
    handicap = fmean(handicapped[seed] - groups[0][seed] for seed in shared_seeds(all_groups))

    pairs_XMN = drawn_XGN[:, 1:-1] - drawn_XGN[:, :1]
    pairs_XMN[:, 0] += share * handicap if differs else 0.0
    lost_X1N = drawn_XGN[:, -1:] - drawn_XGN[:, :1] + handicap
    margins_X1N = share * math.copysign(1.0, handicap) * lost_X1N

    adjusted_XM = holm(p_of_equivalence(pairs_XMN, margins_X1N))
    found = int((np.nan_to_num(adjusted_XM[:, 0], nan=1.0) < ERROR).sum())
    return Rate(found, studies, pairs_XMN.shape[-1], pairs_XMN.shape[1])


def shared_seeds(groups: Sequence[Mapping[int, float]]) -> list[int]:
    """The seeds that all groups have."""
    return sorted(set.intersection(*(set(group) for group in groups))) if groups else []


def made_up(groups: Sequence[Mapping[int, float]], studies: int) -> Numbers:
    """Values of such studies without any mean of theirs, (studies, G, N).

    Raises:
        ValueError: there are fewer than two groups, or they share fewer than two seeds.
    """
    shared = shared_seeds(groups)
    if len(groups) < 2 or len(shared) < 2:
        raise ValueError(
            f"made-up studies need two groups of runs that share at least two seeds, got {len(groups)} "
            f"that share {len(shared)}"
        )
    residuals_GN = residuals(groups, shared)
    rng = np.random.default_rng(SEED)
    return rng.choice(residuals_GN.flatten(), size=(studies, *residuals_GN.shape))


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
    shared = shared_seeds(groups)
    if len(groups) < 2 or len(shared) < 2:
        return None
    spread = math.sqrt(2 * float((residuals(groups, shared) ** 2).mean()))
    return smallest_effect(len(shared), spread, len(groups) - 1)
