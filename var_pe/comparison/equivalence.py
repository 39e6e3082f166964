"""Which arms a study shows not to differ, within which margins, and how many seeds that takes.

One margin is declared as a number; others are shares of what the handicapped arm loses, which says what a
difference means to somebody who does not think in the quantity's units.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from var_pe.comparison.results import Results
from var_pe.comparison.statistics import MOST_SEEDS, Margin
from var_pe.comparison.table import Table
from var_pe.comparison.verdicts import Column, Compared, compared, handicap, primary_column, values_of
from var_pe.comparison.wording import p_text, signed
from var_pe.pages.numbers import plain


@dataclass(frozen=True)
class NamedMargin:
    """A difference of the primary quantity that would not matter."""

    name: str
    margin: Margin
    # of what the handicapped arm loses; None for the declared number
    share: float | None = None


def margins_of(results: Results) -> list[NamedMargin]:
    """The declared margin, then those that are shares; none of a handicapped arm that was not found."""
    column = primary_column(results)
    found = []
    if results["margin"]:
        found.append(NamedMargin(f"{results['margin'] * column.factor:g}", results["margin"]))

    worse = handicap(results)
    if worse is None or not is_found(worse, column):
        return found
    mine, theirs = (values_of(results, arm, column.key) for arm in (worse.arm, worse.reference))
    sign = 1 if worse.difference.mean > 0 else -1
    for share in results.get("handicap_margins", []):
        by_seed = {seed: sign * share * (mine[seed] - theirs[seed]) for seed in mine.keys() & theirs.keys()}
        size = plain(share * abs(worse.difference.mean) * column.factor)
        name = f"what {worse.arm} loses ({size})"
        found.append(NamedMargin(name if share == 1 else f"{share:g} x {name}", by_seed, share))
    return found


def is_found(handicapped: Compared, column: Column) -> bool:
    """Whether the handicapped arm is shown to be worse than what it was made from."""
    return handicapped.is_real and handicapped.verdict(column).startswith("worse")


def seeds_words(comparisons: Sequence[Compared]) -> str:
    """`23 to 82 seeds`: what a margin takes if nothing differs; nothing where that is not known."""
    needed = [one.seeds_for_margin for one in comparisons if one.seeds_for_margin is not None]
    if not needed:
        return ""
    low, high = min(needed), max(needed)
    return f"{low} seeds" if low == high else f"{low} to {high} seeds"


def within_words(results: Results) -> list[str]:
    """For each margin which arms are shown to lie within it, for the answer of the report."""
    column = primary_column(results)
    said = []
    for one in margins_of(results):
        family = compared(results, column, one.margin)
        same = ", ".join(each.arm for each in family if each.is_equivalent)
        takes = seeds_words(family)
        needed = f"none, which takes {takes}" if takes else "none"
        said.append(f"by less than {one.name}: {same or needed}")
    return [f"shown to differ {said[0]}", *said[1:]] if said else []


def equivalence_table(results: Results) -> Table:
    """Every comparison against every margin, with the seeds that it takes."""
    column, margins = primary_column(results), margins_of(results)
    families = [compared(results, column, one.margin) for one in margins]
    rows = []
    for of_one in zip(*families, strict=True):
        row = [of_one[0].arm, signed(of_one[0], column)]
        for each in of_one:
            tested = each.p_equivalent is not None
            needed = "" if each.seeds_for_margin is None else f"{each.seeds_for_margin:,}"
            row += [p_text(each.p_equivalent) if each.p_equivalent is not None else ""]
            row += [("yes" if each.is_equivalent else "not shown") if tested else "", needed]
        rows.append(row)

    header = ["", "difference"]
    for one in margins:
        header += [f"within {one.name}: p", "shown?", "seeds it takes"]
    notes = [
        "Two one-sided paired t tests after Holm: p that a difference is as large as the margin, or larger. "
        "That no difference was found does not show that there is none. Seeds it takes: how many show, in "
        "four of five studies, that an arm lies within the margin, if it does not differ at all and "
        f"differences scatter as these do (empty: above {MOST_SEEDS:,}).",
    ]
    if any(one.share is not None for one in margins):
        notes.append(
            "A margin that is a share of what the handicapped arm loses is tested seed by seed with that "
            "loss, so that what is uncertain in the margin counts."
        )
    return Table("Is it shown that they do not differ?", header, rows, notes, results["command"])
