"""Which arm to choose, by a stated rule on the study's own numbers alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from var_pe.comparison.results import ArmEntry, Results, grids_of
from var_pe.comparison.size_tables import There, all_there, at_size, sizes_of, words
from var_pe.comparison.statistics import summary
from var_pe.comparison.verdicts import (
    LOSS,
    Column,
    Rows,
    family,
    is_blind_to_places,
    mean_of,
    primary_column,
    values_of,
)
from var_pe.comparison.wording import many
from var_pe.pages.numbers import plain

RULE = (
    "of the arms of a situation that have the most seeds and are not shown to be worse than the best of "
    "these (paired t test, 5 %, Holm over all such pairs of the study in the same quantity), take the one "
    "whose encoding has the fewest parameters; of equals the one that the others are compared with, or else "
    "the one with the best mean; with fewer than three seeds nothing is advised."
)
FEWEST_SEEDS = 3

# What people ask, and the studies of configs/studies/ that answer it
SITUATIONS = (
    ("one size", "learned_against_fixed"),
    ("rotary codes: where levels meet", "rope_coordinates"),
    ("small and large generators", "smallest_generator"),
    ("other sizes than were trained", "other_sizes"),
    ("small data, with and without augmentation", "small_data"),
    ("shallow and deep, few and many heads", "depth_and_heads"),
    ("long sequences", "long_sequences"),
    ("another tokenizer", "second_tokenizer"),
    ("colour: drawings in place of made-up shapes", "colour"),
)


@dataclass(frozen=True)
class Candidate:
    """An arm that may be taken."""

    name: str
    encoding: str
    # of the quantity that decides, by seed
    values: Mapping[int, float]
    # of the encoding
    parameters: float
    # whether the others are compared with it
    is_first: bool = False

    @property
    def mean(self) -> float:
        return summary(list(self.values.values())).mean


@dataclass(frozen=True)
class Choice:
    """What the rule says of some candidates."""

    taken: Candidate
    best: Candidate
    # others that are not shown to be worse than the best, and those that are
    equal: list[Candidate]
    worse: list[Candidate]
    # with too few seeds to be among those that are compared
    left_out: list[Candidate]


def with_most_seeds(candidates: Sequence[Candidate], column: Column) -> list[Candidate]:
    """Those that can be compared, the best first; none with too few seeds."""
    falls = -1.0 if column.better == "higher" else 1.0
    seeds = max((len(one.values) for one in candidates), default=0)
    most = [one for one in candidates if len(one.values) == seeds]
    return sorted(most, key=lambda one: falls * one.mean) if seeds >= FEWEST_SEEDS else []


def pairs_of(compared: Sequence[Candidate]) -> list[Rows]:
    """Each against every better one."""
    return [Rows(one.name, other.name, one.values, other.values) for other, one in combinations(compared, 2)]


def chosen(candidates: Sequence[Candidate], column: Column, others: Sequence[Rows] = ()) -> Choice | None:
    """What `RULE` takes; None where there are fewer than two candidates, or too few seeds.

    `others` are comparisons of other situations, which share the error with these.
    """
    compared = with_most_seeds(candidates, column)
    if len(compared) < 2:
        return None

    best, falls = compared[0], -1.0 if column.better == "higher" else 1.0
    nameless = [replace(row, arm="", reference="") for row in others]
    found = family([*pairs_of(compared), *nameless])
    worse = {one.arm for one in found if one.is_real and one.reference == best.name}
    equal = [one for one in compared if one.name not in worse]
    taken = min(equal, key=lambda one: (one.parameters, not one.is_first, falls * one.mean))
    left_out = [one for one in candidates if one not in compared]
    return Choice(
        taken,
        best,
        [one for one in equal if one not in (taken, best)],
        [one for one in compared if one.name in worse],
        left_out,
    )


def advice(results: Results) -> list[str]:
    """A line for each situation: arms that are compared with the same one, then every other size.

    A size has two: all arms that were measured there, and those alone that were never trained there.
    """
    column = primary_column(results)
    lines = []
    groups = situations(results)
    if is_blind_to_places(results, column.key):
        lines.append(f"nothing: what arms are ranked by, {column.label}, says nothing of positions.")
        groups = {}
    asked: list[tuple[str, list[Candidate]]] = []
    for first, all_arms in groups.items():
        where = _where(all_arms[0], first) if len(groups) > 1 else ""
        # Those that were trained at further sizes, too, are ceilings, with more steps.
        arms = [arm for arm in all_arms if arm.get("trained_at") == all_arms[0].get("trained_at")]
        candidates = [
            Candidate(
                # the line says the values of the other axes once
                arm["place"][0] if where and len(arm["place"]) > 1 else arm["name"],
                arm["encoding"],
                values,
                _parameters(results, arm),
                arm["name"] == first,
            )
            for arm in arms
            if (values := values_of(results, arm["name"], column.key))
        ]
        asked.append((where, candidates))

    for number, (where, candidates) in enumerate(asked):
        elsewhere = [own for place, (_, own) in enumerate(asked) if place != number]
        others = [row for own in elsewhere for row in pairs_of(with_most_seeds(own, column))]
        lines.append(_line(where, candidates, column, others))

    # Of a table's resamplings the best one: the others would only take from the comparisons' error.
    for grids in sizes_of(results):
        best: dict[str, There] = {}
        for there in all_there(results, grids):
            best.setdefault(there.arm["name"], there)
        size, others = at_size(results, grids), list[Rows]()
        everywhere = [_there(results, there) for there in best.values()]
        never = [_there(results, there) for there in best.values() if not there.trained_there]
        if len(never) < len(everywhere):
            lines.append(_line(size, everywhere, LOSS))
            size = f"{size}, if only {words(grids_of(results, results['arms'][0]))} can be trained"
            names = {one.name for one in never}
            all_pairs = pairs_of(with_most_seeds(everywhere, LOSS))
            others = [row for row in all_pairs if not {row.arm, row.reference} <= names]
        lines.append(_line(size, never, LOSS, others))
    return lines


def situations(results: Results) -> dict[str, list[ArmEntry]]:
    """Arms whose numbers can be held against each other, by the arm that they are compared with."""
    found: dict[str, list[ArmEntry]] = {}
    for arm in results["arms"]:
        if not arm["handicapped"]:
            found.setdefault(arm["compared_with"], []).append(arm)
    return found


def _where(arm: ArmEntry, first: str) -> str:
    """The values of all axes but the encoding's; of arms that are written out, the first one's name."""
    return ", ".join(arm["place"][1:]) or f"{first} and what is compared with it"


def _there(results: Results, there: There) -> Candidate:
    return Candidate(there.name, there.arm["encoding"], there.losses, _parameters(results, there.arm))


def _line(where: str, candidates: Sequence[Candidate], column: Column, others: Sequence[Rows] = ()) -> str:
    before = f"{where}: " if where else ""
    found = chosen(candidates, column, others)
    if found is None:
        seeds = max((len(one.values) for one in candidates), default=0)
        return (
            f"{before}nothing can be advised yet (arms: {len(candidates)}, seeds of each: at most {seeds})."
        )

    taken, best = found.taken, found.best
    if taken.encoding == "none" and taken is not best:
        line = f"{before}no encoding is shown to be better than no positions at all: {column.label} "
    else:
        line = f"{before}take {named(taken.name, taken.encoding)}: {column.label} "
    line += f"{plain(taken.mean * column.factor)} over {many(len(taken.values), 'seed')}"
    if taken is best:
        line += ", the best mean"
    line += f"; {taken.parameters:,.0f} parameters of the encoding"
    if taken is not best:
        line += f"; {named(best.name, best.encoding)} has the best mean, {plain(best.mean * column.factor)}, "
        line += "and is not shown to be better"
    if found.equal:
        line += f"; not shown to be worse than the best: {', '.join(one.name for one in found.equal)}"
    if found.worse:
        line += f"; shown to be worse: {', '.join(one.name for one in found.worse)}"
    if found.left_out:
        line += f"; {many(len(found.left_out), 'arm')} with fewer seeds left out"
    return f"{line}."


def named(name: str, encoding: str) -> str:
    """An arm's encoding as a config has it, with the arm's name if that is another."""
    return name if encoding in name else f"{encoding} ({name})"


def _parameters(results: Results, arm: ArmEntry) -> float:
    found = mean_of(results, arm["name"], "encoding_parameters")
    return math.inf if found is None else found.mean
