"""Which arm to choose, by a stated rule on the study's own numbers alone."""

from var_pe.comparison.results import ArmEntry, Results
from var_pe.comparison.verdicts import (
    Column,
    all_pairs,
    mean_of,
    primary_column,
    ranking,
)
from var_pe.pages.numbers import plain

RULE = (
    "of the arms of a situation that are not shown to be worse than its best one (paired t test, Holm over "
    "all pairs, 5 %), take the one whose encoding has the fewest parameters, and of equals the one with the "
    "better mean; with fewer than three seeds nothing is advised."
)
FEWEST_SEEDS = 3


def advice(results: Results) -> list[str]:
    """A line for each situation: the values of all axes but the encoding's."""
    column = primary_column(results)
    situations: dict[str, list[ArmEntry]] = {}
    for arm in results["arms"]:
        if not arm["handicapped"]:
            situations.setdefault(", ".join(arm["place"][1:]), []).append(arm)
    return [_advice(results, column, name, arms) for name, arms in situations.items()]


def _advice(results: Results, column: Column, situation: str, arms: list[ArmEntry]) -> str:
    where = situation or "as the config says"
    ranked = [one for one in ranking(results) if one.arm in arms]
    fewest = min((one.count for one in ranked), default=0)
    if len(ranked) < 2 or fewest < FEWEST_SEEDS:
        return f"{where}: nothing can be advised yet (arms: {len(ranked)}, seeds of each: at least {fewest})."

    best = ranked[0]
    worse = set()
    for one in all_pairs(results, column.key):
        if one.is_real and best.arm["name"] in (one.arm, one.reference):
            worse.add(one.reference if one.arm == best.arm["name"] else one.arm)

    equal = [one for one in ranked if one.arm["name"] not in worse]
    taken = min(equal, key=lambda one: (_parameters(results, one.arm), ranked.index(one)))
    others = [one.arm["name"] for one in equal if one is not taken]
    line = f"{where}: {taken.arm['name']} ({column.label} {plain(taken.mean * column.factor)}"
    line += f", {_parameters(results, taken.arm):,.0f} parameters)"
    if taken is not best:
        line += f"; {best.arm['name']} has the best mean ({plain(best.mean * column.factor)})"
    if others:
        line += f"; not shown to be worse than the best: {', '.join(others)}"
    return f"{line}."


def _parameters(results: Results, arm: ArmEntry) -> float:
    found = mean_of(results, arm["name"], "encoding_parameters")
    return float("inf") if found is None else found.mean
