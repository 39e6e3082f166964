"""Whether encodings rank the same under other settings: a smaller model, another tokenizer, fewer pictures.

What ranks as the largest model does can stand in its place, and a study with it fits many more seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from scipy.stats import kendalltau

from var_pe.comparison.results import ArmEntry, Results
from var_pe.comparison.table import Table
from var_pe.comparison.verdicts import (
    Column,
    Compared,
    Rows,
    family,
    mean_of,
    primary_column,
    values_of,
)
from var_pe.comparison.wording import value_text
from var_pe.pages.numbers import plain


@dataclass(frozen=True)
class Group:
    """All encodings under the same other settings."""

    name: str
    # by encoding, each with its values by seed
    values: dict[str, dict[int, float]]
    # of the generator, on average over its encodings
    parameters: float

    def mean(self, encoding: str) -> float:
        own = self.values[encoding]
        return sum(own.values()) / len(own)

    def pairs(self) -> dict[tuple[str, str], Compared]:
        """Every encoding against every one before it; one error rate is shared among these comparisons."""
        two = list(combinations(self.values, 2))
        rows = [Rows(other, one, self.values[other], self.values[one]) for one, other in two]
        return {(found.reference, found.arm): found for found in family(rows)}


def groups_of(results: Results) -> list[Group]:
    """The groups whose encodings are all measured, the one with the most parameters first."""
    column = primary_column(results)
    arms: dict[str, list[ArmEntry]] = {}
    for arm in results["arms"]:
        if len(arm["place"]) > 1 and not arm["handicapped"]:
            arms.setdefault(", ".join(arm["place"][1:]), []).append(arm)

    found = []
    for name, mine in arms.items():
        # By the lines that were asked for: what a line leaves to the width is another number in every size.
        asked, lines = results["study"].get("encodings"), [arm["encoding"] for arm in mine]
        if isinstance(asked, list) and len(asked) == len(mine):
            lines = asked
        pairs = zip(lines, mine, strict=True)
        values = {line: values_of(results, arm["name"], column.key) for line, arm in pairs}
        sizes = [mean_of(results, arm["name"], "parameters") for arm in mine]
        known = [size.mean for size in sizes if size is not None]
        if all(values.values()) and len(values) > 1 and known:
            found.append(Group(name, values, sum(known) / len(known)))
    return sorted(found, key=lambda group: -group.parameters)


def alike(results: Results) -> list[Group]:
    """The groups that have the encodings of the largest, which comes first; empty if it stands alone."""
    found = groups_of(results)
    found = [group for group in found if list(group.values) == list(found[0].values)]
    return found if len(found) > 1 else []


def agreement_sentences(results: Results) -> list[str]:
    """The smallest generator that ranks as the largest; nothing where there is one size alone."""
    found = alike(results)
    if len({round(group.parameters) for group in found}) < 2:
        return []
    return [chosen(found, list(found[0].values))]


def agreement_table(results: Results) -> Table:
    """Order and real differences of every group beside those of the largest."""
    found = alike(results)
    encodings = [line for line in found[0].values] if found else []
    if not found:
        return Table("Do they rank the same?", [], [], [])

    column, largest = primary_column(results), found[0]
    rows = []
    for group in found:
        order = sorted(encodings, key=group.mean, reverse=column.better == "higher")
        said = ", ".join(f"{line} {_value(group, line, column)}" for line in order)
        shared = agreed(group, largest)
        rows.append(
            [
                group.name,
                f"{group.parameters:,.0f}",
                said,
                plain(tau(group, largest, encodings)),
                f"{shared.kept} of {shared.real}",
                str(shared.turned),
            ]
        )

    header = [
        "",
        "parameters",
        "from the best to the worst",
        "Kendall's tau",
        "real pairs kept",
        "turned round",
    ]
    notes = [
        f"Against {largest.name}, the largest: Kendall's tau of the means (1: the same order), how many of "
        "its pairs that are real (paired t test, Holm over all pairs of the group) are real here with the "
        "same sign, and how many are real with the other sign.",
        chosen(found, encodings),
    ]
    return Table("Do they rank the same?", header, rows, notes, results["command"])


def _value(group: Group, encoding: str, column: Column) -> str:
    own = list(group.values[encoding].values())
    middle = sum(own) / len(own)
    if len(own) < 2:
        return value_text(middle, None, column)
    spread = (sum((value - middle) ** 2 for value in own) / (len(own) - 1)) ** 0.5
    return value_text(middle, spread, column)


@dataclass(frozen=True)
class Agreed:
    """How many of the real differences of one group another group finds, too."""

    real: int
    kept: int
    turned: int


def agreed(group: Group, largest: Group) -> Agreed:
    """How many of the largest group's real pairs are real here, with the same sign and with the other."""
    here, real = group.pairs(), [one for one in largest.pairs().items() if one[1].is_real]
    same = [
        here[pair].difference.mean * one.difference.mean > 0
        for pair, one in real
        if pair in here and here[pair].is_real
    ]
    return Agreed(len(real), sum(same), len(same) - sum(same))


def tau(group: Group, largest: Group, encodings: Sequence[str]) -> float:
    """Kendall's rank correlation of the means."""
    mine, theirs = ([one.mean(line) for line in encodings] for one in (group, largest))
    return float(kendalltau(mine, theirs).statistic)


def chosen(found: Sequence[Group], encodings: Sequence[str]) -> str:
    """The smallest group that ranks as the largest, by a stated rule."""
    largest = found[0]
    rule = "every real pair of the largest is real with the same sign, and the means have the same order"
    for group in reversed(found[1:]):
        shared = agreed(group, largest)
        if shared.real and shared.kept == shared.real and tau(group, largest, encodings) > 1 - 1e-9:
            return f"The smallest that ranks as the largest ({rule}): {group.name}."
    return f"None of the smaller is shown to rank as the largest ({rule})."
