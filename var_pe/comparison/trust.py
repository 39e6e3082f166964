"""How far a study can be trusted: what its own procedure finds where nothing differs, and where it does."""

from collections.abc import Callable
from functools import partial

from var_pe.comparison.equivalence import is_found, margins_of
from var_pe.comparison.false_alarms import (
    Rate,
    equivalent_splits,
    findable,
    real_splits,
    resampled,
    resampled_within,
)
from var_pe.comparison.results import Results
from var_pe.comparison.table import Table
from var_pe.comparison.verdicts import by_arm, handicap, primary_column, values_of
from var_pe.comparison.wording import difference_text
from var_pe.pages.numbers import plain


def alarms_table(results: Results) -> Table:
    """The rate of false alarms of this study's own procedure, and whether it finds differences that exist."""
    column = primary_column(results)
    groups = by_arm(results, column.key)
    rows = []

    def row(name: str, rate: Callable[[], Rate]) -> None:
        try:
            found = rate()
        except ValueError:
            return  # too few seeds for it
        low, high = found.interval
        rows.append(
            [
                name,
                f"{found.found:,} of {found.studies:,}",
                f"{found.share:.1%} ({low:.1%} to {high:.1%})",
                str(found.seeds),
                str(found.comparisons),
            ]
        )

    first = next(iter(groups), "")
    margins = margins_of(results)
    if groups:
        row(f"{first} against itself, seeds split in two", lambda: real_splits(groups[first]))
        for one in margins:
            what = f"the same splits, called equivalent within {one.name}"
            row(what, partial(equivalent_splits, groups[first], one.margin))

    # Arms with fewer seeds would leave a made-up study no more of them than they have.
    values = [own for own in groups.values() if len(own) == len(groups[first])]
    worse = handicap(results)
    if len(values) > 1:
        row("made-up studies in which nothing differs", lambda: resampled(values))
        size = findable(values)
        if size is not None:
            what = f"made-up studies in which one arm differs by {plain(size * column.factor)}"
            row(what, lambda: resampled(values, size))
        for one in margins:
            if one.share is None or worse is None:
                continue
            lost = values_of(results, worse.arm, column.key)
            within = partial(resampled_within, values, lost, one.share)
            row(f"nothing differs: one arm called equivalent within {one.name}", within)
            row(f"the same, of an arm that differs by {one.name}", partial(within, differs=True))

    notes = [
        "Where nothing differs, one study of twenty should raise an alarm; where one arm differs by what can "
        "be seen, four of five should find it. Made-up studies take the residuals of this one's seeds, with "
        "replacement, and have the arms that have as many seeds as the first."
    ]
    if len(groups.get(first, {})) >= 4:
        notes.append(
            "Splits of one arm's few seeds overlap, but their interval supposes that they do not: it is too "
            "narrow."
        )
    tied = any(one.share is not None for one in margins)
    if results.get("handicap_margins") and not tied:
        notes.append("Margins tied to the handicapped arm are left out: it was not shown to be worse.")
    if tied:
        notes.append(
            "An arm that differs by the margin should be called equivalent in one study of twenty at most; "
            "the margin is measured anew in each."
        )
    if worse is not None:
        notes.append(
            f"The handicapped arm, {worse.arm}, was {'found' if is_found(worse, column) else 'not found'}: "
            f"{difference_text(worse, column)}."
        )
    header = ["", "found", "rate (95 % interval)", "seeds of each", "comparisons"]
    return Table("False alarms of this study", header, rows, notes, "")
