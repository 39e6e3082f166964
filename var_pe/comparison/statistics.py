"""Mean and spread over seeds, and whether two encodings differ by more than the spread.

Runs of one seed share initial weights, order of the data and the numbers that images are drawn from; so
encodings are compared seed by seed, and what a seed does to all of them cancels.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import t as students_t

CONFIDENCE = 0.95  # of all differences of one score to the first encoding together


@dataclass(frozen=True)
class Summary:
    """The values of a quantity over seeds."""

    mean: float
    # Standard deviation (n - 1 in the denominator); None for a single value.
    spread: float | None
    count: int


@dataclass(frozen=True)
class Difference:
    """The paired differences of a quantity between two encodings."""

    mean: float
    # Half of the mean's interval; None for a single pair.
    half_width: float | None
    count: int

    @property
    def exceeds_spread(self) -> bool:
        """Never with one seed, nor where equal differences (a score in coarse steps) feign no spread."""
        return self.half_width is not None and 0 < self.half_width < abs(self.mean)


def summary(values: Sequence[float]) -> Summary:
    """Mean and spread.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("a mean needs at least one value, got none")
    spread = statistics.stdev(values) if len(values) > 1 else None
    return Summary(statistics.fmean(values), spread, len(values))


def difference(
    first: Mapping[int, float], other: Mapping[int, float], comparisons: int = 1
) -> Difference | None:
    """`other` minus `first` over the seeds they share, with Student's t interval for the mean of pairs.

    The interval supposes that the differences of single seeds scatter normally about their mean; with n seeds
    it has n - 1 degrees of freedom: for one comparison, two seeds need a difference of 9 times its standard
    deviation, three of 2.5 times, five of 1.2 times. Where nothing differs, all `comparisons` of one score
    together call something a difference in at most 1 - CONFIDENCE of the cases (Bonferroni); scores are not
    corrected for each other.

    Args:
        first, other: values by seed.
        comparisons: how many encodings are held against the first.
    """
    pairs = [other[seed] - first[seed] for seed in sorted(first.keys() & other.keys())]
    if not pairs:
        return None

    found = summary(pairs)
    if found.spread is None:
        return Difference(found.mean, None, 1)

    # Two-sided, the error shared among the comparisons.
    probability = 1 - (1 - CONFIDENCE) / (2 * comparisons)
    quantile = float(students_t.ppf(probability, found.count - 1))
    return Difference(found.mean, quantile * found.spread / math.sqrt(found.count), found.count)
