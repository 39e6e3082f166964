"""Statistics of differences between runs: paired tests, equivalence, the smallest effect that can be shown.

Runs of one seed share initial weights, order of the data and the numbers that images are drawn from; so
they are compared seed by seed, and what a seed does to all of them cancels.
"""

import bisect
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import beta, nct
from scipy.stats import t as students_t

CONFIDENCE = 0.95  # of all comparisons of one quantity together
ERROR = 1 - CONFIDENCE
POWER = 0.8  # the power with which the smallest effect is found
# Of the values themselves: differences that are no farther apart than this differ by rounding (float32) alone
ROUNDING = 1e-6
MOST_SEEDS = 10_000  # that a person is told of

Numbers = NDArray[np.float64]

# A difference that would not matter, or such differences by seed where one was measured
Margin = float | Mapping[int, float]


@dataclass(frozen=True)
class Summary:
    """The values of a quantity over seeds."""

    mean: float
    # Standard deviation (n - 1 in the denominator); None for a single value.
    spread: float | None
    count: int


@dataclass(frozen=True)
class Difference:
    """The paired differences of a quantity between two groups of runs, one pair for each seed."""

    mean: float
    # Standard deviation of the differences; None for a single pair.
    spread: float | None
    count: int

    @property
    def has_spread(self) -> bool:
        """Whether differences scatter; if not (one seed, a score in coarse steps) nothing can be claimed."""
        return self.spread is not None and self.spread > 0

    @property
    def error(self) -> float:
        """The standard error of the mean."""
        assert self.spread is not None, "a single pair has none"
        return self.spread / math.sqrt(self.count)


def summary(values: Sequence[float]) -> Summary:
    """Mean and spread.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("a mean needs at least one value, got none")
    spread = statistics.stdev(values) if len(values) > 1 else None
    return Summary(statistics.fmean(values), spread, len(values))


def half_width(count: int, spread: float, comparisons: int = 1) -> float:
    """Half of Student's t interval of a mean; `comparisons` of them hold together (Bonferroni)."""
    quantile = float(students_t.ppf(1 - ERROR / (2 * comparisons), count - 1))
    return quantile * spread / math.sqrt(count)


def paired(first: Mapping[int, float], other: Mapping[int, float]) -> Numbers:
    """`other` minus `first` over the seeds that both have, (N,); all equal if they differ by rounding alone.

    A score in coarse steps, such as 250 of 300 images, often differs by as many steps at every seed, and what
    rounding leaves of such differences would look like a spread that almost anything is far beyond.
    """
    seeds = sorted(first.keys() & other.keys())
    first_N, other_N = (np.array([values[seed] for seed in seeds]) for values in (first, other))
    pairs_N = other_N - first_N
    if len(seeds) and np.ptp(pairs_N) <= ROUNDING * max(abs(first_N).max(), abs(other_N).max()):
        pairs_N[:] = pairs_N[0]
    return pairs_N


def difference(first: Mapping[int, float], other: Mapping[int, float]) -> Difference | None:
    """`other` minus `first` over the seeds that both have; None if there is none."""
    pairs_N = paired(first, other)
    if not len(pairs_N):
        return None
    found = summary(pairs_N.tolist())
    return Difference(found.mean, found.spread, found.count)


# --------------------------------------------------------------------------------------- tests


def p_of_pairs(pairs_MN: Numbers) -> Numbers:
    """The two-sided p of the paired t test, (M,): of M rows of N differences, that their mean is 0.

    The test supposes that differences scatter normally about their mean. NaN where all of a row are equal
    (or there is one alone): then chance has shown no size that the mean could be held against.
    """
    return 2 * students_t.sf(abs(_t_of_mean(pairs_MN)), pairs_MN.shape[-1] - 1)


def p_of_equivalence(pairs_MN: Numbers, margins_N: Numbers | float) -> Numbers:
    """The p of two one-sided tests (Schuirmann 1987), (M,): that a mean is the margin or more either way.

    Below 0.05, "no difference larger than the margin" is shown. A margin that was itself measured is given
    pair by pair, and what is uncertain in it counts (as in trials against an active control, Rothmann et al.
    2003). NaN as in `p_of_pairs`.
    """
    degrees = pairs_MN.shape[-1] - 1
    too_low_M = students_t.sf(_t_of_mean(margins_N + pairs_MN), degrees)
    too_high_M = students_t.sf(_t_of_mean(margins_N - pairs_MN), degrees)
    return np.maximum(too_low_M, too_high_M)


def _t_of_mean(pairs_MN: Numbers) -> Numbers:
    """The mean of each row over its standard error; NaN where chance has shown no size."""
    count = pairs_MN.shape[-1]
    mean_M = pairs_MN.mean(-1)
    if count < 2:
        return np.full_like(mean_M, np.nan)

    # Equal differences leave rounding errors in place of a spread of 0.
    spread_M = pairs_MN.std(-1, ddof=1)
    flat_M = np.ptp(pairs_MN, axis=-1) == 0
    error_M = np.where(flat_M, 1.0, spread_M) / math.sqrt(count)
    return np.where(flat_M, np.nan, mean_M / error_M)


def holm(p_M: Numbers) -> Numbers:
    """Each p adjusted for the M comparisons of its row (Holm 1979), the last axis; NaN stays and counts.

    Calling those below 0.05 differences errs in at most 5 % of studies, however many comparisons there are.
    """
    order_M = np.argsort(p_M, axis=-1)  # NaN last
    sorted_M = np.take_along_axis(p_M, order_M, axis=-1)
    number = p_M.shape[-1]
    scaled_M = np.minimum(1.0, sorted_M * np.arange(number, 0, -1))
    adjusted_M = np.maximum.accumulate(scaled_M, axis=-1)

    found_M = np.empty_like(adjusted_M)
    np.put_along_axis(found_M, order_M, adjusted_M, axis=-1)
    return found_M


def smallest_effect(count: int, spread: float, comparisons: int = 1) -> float | None:
    """The true mean difference that `count` pairs of this spread show with a power of 0.8; None for one pair.

    The test is two-sided at 0.05 shared among the comparisons, its power that of the noncentral t.
    """
    if count < 2 or not spread > 0:
        return None
    degrees = count - 1
    critical = float(students_t.ppf(1 - ERROR / (2 * comparisons), degrees))

    # Of a shifted t value; on the other side it is as good as never critical, and scipy may return NaN.
    def missing(shift: float) -> float:
        return float(nct.sf(critical, degrees, shift)) - POWER

    return float(brentq(missing, 0.0, 2 * critical + 8)) * spread / math.sqrt(count)


def seeds_for_margin(margin: float, spread: float, comparisons: int = 1) -> int | None:
    """How many pairs of this spread show with a power of 0.8 that they do not differ by the margin.

    Nothing truly differs. Each of the two one-sided tests is at 0.05 shared among the comparisons; if each
    succeeds in nine of ten studies, both do in eight at least. None: more than `MOST_SEEDS`.
    """

    def is_enough(count: int) -> bool:
        critical = float(students_t.ppf(1 - ERROR / comparisons, count - 1))
        shift = margin * math.sqrt(count) / spread
        # Far beyond what is critical scipy may return NaN.
        return shift > 2 * critical + 8 or float(nct.sf(critical, count - 1, shift)) >= (1 + POWER) / 2

    counts = range(2, MOST_SEEDS + 1)
    place = bisect.bisect_left(counts, True, key=is_enough)
    return counts[place] if place < len(counts) else None


def rate_interval(hits: int, trials: int) -> tuple[float, float]:
    """The exact 95 % interval of a rate (Clopper & Pearson 1934)."""
    low = 0.0 if hits == 0 else float(beta.ppf(ERROR / 2, hits, trials - hits + 1))
    high = 1.0 if hits == trials else float(beta.ppf(1 - ERROR / 2, hits + 1, trials - hits))
    return low, high


# ------------------------------------------------------------------------------- where variance comes from


@dataclass(frozen=True)
class Components:
    """Standard deviations that each kind of seed adds to a quantity; None where it was not varied."""

    tokenizer: float | None
    training: float | None
    sampling: float | None
    # how many of each kind there are in every group
    tokenizers: int
    trainings: int
    samplings: int


def components(values_GKTS: Numbers) -> Components:
    """Splits the variance of G groups of K tokenizers, T trainings on each, S drawings of each.

    A nested analysis of variance (Searle 1971) whose mean squares are pooled over the groups: a drawing
    belongs to its training and a training to its tokenizer. A component below 0 counts as 0.
    """
    tokenizers, trainings, samplings = values_GKTS.shape[1:]

    # Mean squares of drawings in a training, of trainings on a tokenizer, of tokenizers.
    of_training_GKT = values_GKTS.mean(-1)
    of_tokenizer_GK = of_training_GKT.mean(-1)
    sampling = _mean_square(values_GKTS)
    training = _mean_square(of_training_GKT, samplings)
    tokenizer = _mean_square(of_tokenizer_GK, samplings * trainings)

    def part(larger: float | None, smaller: float | None, repeats: int) -> float | None:
        return None if larger is None else math.sqrt(max(0.0, larger - (smaller or 0.0)) / repeats)

    below = training if training is not None else sampling
    return Components(
        tokenizer=part(tokenizer, below, samplings * trainings),
        training=part(training, sampling, samplings),
        sampling=part(sampling, 0.0, 1),
        tokenizers=tokenizers,
        trainings=trainings,
        samplings=samplings,
    )


def _mean_square(values: Numbers, repeats: int = 1) -> float | None:
    """The variance along the last axis, pooled over the others; None for a single value there."""
    if values.shape[-1] < 2:
        return None
    return repeats * float(values.var(-1, ddof=1).mean())
