"""Claims of articles about positions, each tested on a study's own numbers by a stated rule.

Made of the results' JSON alone. A claim that a study has no arms for is left to another study.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from var_pe.comparison.guide import FEWEST_SEEDS
from var_pe.comparison.results import ArmEntry, CellEntry, Results
from var_pe.comparison.statistics import half_width, summary
from var_pe.comparison.verdicts import (
    LOSS,
    Column,
    Compared,
    Rows,
    family,
    is_blind_to_places,
    primary_column,
    values_of,
)
from var_pe.comparison.wording import many, p_text, signed
from var_pe.pages.numbers import plain, rounded
from var_pe.settings.line import Member, parse

Verdict = Literal["confirmed", "refuted", "undecided"]
By = dict[int, float]  # a value for each seed

EARLY = 0.25  # of the steps: what is early at most
SAVED = 0.1  # of memory: half of the fifth that is claimed
BYTES = 16  # of a trained number: itself, its gradient and Adam's two moments, float32 each
PLAIN = Column("", "")


@dataclass(frozen=True)
class Finding:
    """What a study says of a claim."""

    measured: str
    verdict: Verdict


@dataclass(frozen=True)
class Claim:
    """A statement of articles, and the rule by which a study's numbers speak for or against it."""

    name: str
    claim: str
    rule: str
    # None where the study has no arms for it
    look: Callable[[Results], Finding | None]
    # the study that has
    study: str


# --------------------------------------------------------------------------------------- who plays which part


def is_learned(member: Member) -> bool:
    """A table that starts at random and is trained."""
    return member.name == "learned" and not member.options


def is_fixed(member: Member) -> bool:
    """The sinusoid, by itself or as a table of a learned one's amplitude that is not trained."""
    if member.name == "sinusoidal":
        return not member.options.keys() - {"scale"}
    return member.name == "learned" and member.options == {"init": "sinusoidal", "trainable": False}


def is_mixed(member: Member) -> bool:
    """A learned table and the sinusoid of equal amplitudes, with weights that stay."""
    return member.name == "mixed" and set(member.options) == {"learned", "sinusoidal"}


def is_control(member: Member) -> bool:
    """The control of a mixture: a trained table that starts as the sinusoid, and learns at another rate."""
    return member.name == "learned" and member.options == {"init": "sinusoidal"}


Part = Callable[[Member], bool]


def arms_that(results: Results, plays: Part) -> list[ArmEntry]:
    """The arms whose encoding is one such member alone."""
    found = []
    for arm in results["arms"]:
        members = parse(arm["encoding"])
        if len(members) == 1 and plays(members[0]) and not arm["handicapped"]:
            found.append(arm)
    return found


def situation(arm: ArmEntry, without: Sequence[str] = ()) -> tuple[str, ...]:
    """How an arm differs from the study's first one, apart from its encoding and the settings in `without`.

    The folder of a tokenizer of its own follows from other settings.
    """
    left_out = tuple(f"{key}: " for key in ("generator.encoding", "tokenizer_run", *without))
    return tuple(line for line in arm["differs_in"] if not line.startswith(left_out))


def pairs_of(results: Results, mine: Part, theirs: Part) -> list[tuple[ArmEntry, ArmEntry]]:
    """Pairs of arms, one of each part, that differ in nothing else."""
    return [
        (one, other)
        for one in arms_that(results, mine)
        for other in arms_that(results, theirs)
        if situation(one) == situation(other)
    ]


def plain_pairs(results: Results, mine: Part, theirs: Part) -> list[tuple[ArmEntry, ArmEntry]]:
    """Those pairs that are like the study's first arm in everything else."""
    return [(one, other) for one, other in pairs_of(results, mine, theirs) if not situation(one)]


# ---------------------------------------------------------------------------------------- tests of one claim


def by_sign(found: Sequence[Compared], claimed: float) -> Verdict:
    """Confirmed if all differences are real and have the claimed sign; refuted if all are equivalent, or some
    are real and all of these have the other sign; else undecided."""
    if min(one.difference.count for one in found) < FEWEST_SEEDS:
        return "undecided"
    if all(one.is_equivalent for one in found):
        return "refuted"
    real = [math.copysign(1, one.difference.mean * claimed) for one in found if one.is_real]
    if len(real) == len(found) and set(real) == {1.0}:
        return "confirmed"
    return "refuted" if set(real) == {-1.0} else "undecided"


BY_SIGN = (
    "paired t over seeds, Holm over the comparisons of the row, 5 %: confirmed if all differences are real "
    "and have the claimed sign; refuted if all are equivalent within the study's margin, or some are real "
    "and all of these have the other sign; else undecided, and always with fewer than three seeds"
)


def joined(found: Sequence[Compared], column: Column) -> str:
    """`sinusoidal minus learned -0.021 ± 0.008 (8 seeds, p = 0.003); ...`"""
    return "; ".join(f"{one.arm} minus {one.reference} {_size(one, column)}" for one in found)


def _size(one: Compared, column: Column) -> str:
    said = [many(one.difference.count, "seed")]
    if one.p_holm is not None:
        p = p_text(one.p_holm)
        said.append(f"p {p}" if p.startswith("<") else f"p = {p}")
    if one.is_equivalent:
        said.append("equivalent within the margin")
    return f"{signed(one, column)} ({', '.join(said)})"


def better_by(results: Results) -> float:
    """The sign that an improvement of the primary quantity has."""
    return 1.0 if primary_column(results).better == "higher" else -1.0


def primary_of(results: Results, arm: ArmEntry) -> By:
    """By seed; none of a score whose features do not see places, since no claim can rest on it."""
    if is_blind_to_places(results, results["primary"]):
        return {}
    return values_of(results, arm["name"], results["primary"])


# ------------------------------------------------------------------------------------------------- the claims


def learned_or_fixed(results: Results) -> Finding | None:
    """The primary quantity of learned tables against fixed ones, the rest as in the study's first arm."""
    column = primary_column(results)
    rows = [
        Rows(mine["name"], theirs["name"], primary_of(results, mine), primary_of(results, theirs))
        for mine, theirs in plain_pairs(results, is_learned, is_fixed)
    ]
    found = family(rows, results["margin"])
    if not found:
        return None
    return Finding(f"{column.label}: {joined(found, column)}", by_sign(found, better_by(results)))


def memory(results: Results) -> Finding | None:
    """Peak memory of fixed positions against learned ones, of trainings that had a process of their own."""
    if not results["times"]["own_processes"]:
        return None
    savings = []
    for fixed, learned in pairs_of(results, is_fixed, is_learned):
        of_fixed, of_learned = peaks(results, fixed), peaks(results, learned)
        savings += [1 - of_fixed[seed] / of_learned[seed] for seed in of_fixed.keys() & of_learned.keys()]
    if len(savings) < FEWEST_SEEDS:
        return None

    found = summary(savings)
    half = half_width(found.count, found.spread or 0.0)
    verdict: Verdict = "undecided"
    if found.mean - half >= SAVED:
        verdict = "confirmed"
    elif found.mean + half < SAVED:
        verdict = "refuted"

    saved = rounded(100 * found.mean, 100 * half)
    measured = (
        f"fixed positions save {saved} % of a training's peak memory ({found.count} pairs of trainings)"
    )
    tables = [
        values_of(results, arm["name"], "encoding_parameters") for arm in arms_that(results, is_learned)
    ]
    numbers = [number for table in tables for number in table.values()]
    if numbers:
        size = plain(BYTES * max(numbers) / 1e6)
        measured += f"; the table, its gradient and Adam's two moments hold {size} MB"
    return Finding(measured, verdict)


def peaks(results: Results, arm: ArmEntry) -> By:
    """Peak memory in GB by seed."""
    known = results["times"]["cells"]
    return {
        cell["seed"]: known[cell["key"]]["peak_memory_gb"]
        for cell in cells_of(results, arm)
        if "peak_memory_gb" in known.get(cell["key"], {})
    }


def cells_of(results: Results, arm: ArmEntry) -> list[CellEntry]:
    """The finished cells of an arm."""
    return [cell for cell in results["cells"] if cell["arm"] == arm["name"] and cell["values"]]


def stability(results: Results) -> Finding | None:
    """Spikes of the loss and the largest gradient norm."""
    rows = []
    for key, label in (("loss_spikes", "loss spikes"), ("grad_norm_largest", "largest gradient norm")):
        for fixed, learned in plain_pairs(results, is_fixed, is_learned):
            mine, theirs = (values_of(results, arm["name"], key) for arm in (fixed, learned))
            rows.append(Rows(f"{label}: {fixed['name']}", learned["name"], mine, theirs))
    found = family(rows)
    return Finding(joined(found, PLAIN), by_sign(found, -1.0)) if found else None


def early_speed(results: Results) -> Finding | None:
    """The validation loss at the last validation in the first quarter of the steps."""
    rows, steps = [], set[str]()
    for fixed, learned in plain_pairs(results, is_fixed, is_learned):
        both = [early_of(results, fixed), early_of(results, learned)]
        steps |= {one.when for own in both for one in own.values()}
        mine, theirs = ({seed: one.loss for seed, one in own.items()} for own in both)
        rows.append(Rows(fixed["name"], learned["name"], mine, theirs))
    found = family(rows, results["margin"] if results["primary"] == LOSS.key else 0.0)
    if not found:
        return None
    measured = f"{LOSS.label} after {' or '.join(sorted(steps))} steps: {joined(found, LOSS)}"
    return Finding(measured, by_sign(found, -1.0))


@dataclass(frozen=True)
class Early:
    """A validation early in a training."""

    loss: float
    # `250 of 1,500`: validations need not come at just a quarter of the steps
    when: str


def early_of(results: Results, arm: ArmEntry) -> dict[int, Early]:
    """By seed, the last validation in the first `EARLY` of the steps; seeds without one are left out."""
    found = {}
    for cell in cells_of(results, arm):
        curve = cell["curves"].get(LOSS.key, {"steps": [], "values": []})
        steps = curve["steps"]
        early = [place for place, step in enumerate(steps) if 0 < step <= EARLY * steps[-1]]
        if early:
            when = f"{steps[early[-1]]:,} of {steps[-1]:,}"
            found[cell["seed"]] = Early(curve["values"][early[-1]], when)
    return found


def mixture(results: Results) -> Finding | None:
    """A mixture against both of its parts, and against what it is but for the rate of learning."""
    column, better = primary_column(results), better_by(results)
    rows, parts = [], set()
    for part in (is_learned, is_fixed, is_control):
        for mixed, other in plain_pairs(results, is_mixed, part):
            rows.append(
                Rows(mixed["name"], other["name"], primary_of(results, mixed), primary_of(results, other))
            )
            if part is not is_control:
                parts.add(other["name"])
    found = family(rows, results["margin"])
    if not found:
        return None

    against_parts = [one for one in found if one.reference in parts]
    verdict: Verdict = "undecided"
    if min(one.difference.count for one in found) < FEWEST_SEEDS:
        pass
    elif any((one.is_real and one.difference.mean * better < 0) or one.is_equivalent for one in found):
        verdict = "refuted"
    elif against_parts and all(one.is_real for one in against_parts):
        verdict = "confirmed"
    return Finding(f"{column.label}: {joined(found, column)}", verdict)


def along(
    results: Results, keys: tuple[str, ...], value_of: Callable[[ArmEntry], float], *, at_smallest: bool
) -> Finding | None:
    """Whether fixed positions gain on learned ones towards the smallest, or the largest, value of an axis.

    Tested are fixed minus learned at that end, and by how much that is more there than at the other end.
    `keys` are the settings that the axis changes.
    """
    column = primary_column(results)
    groups: dict[tuple[str, ...], dict[float, By]] = {}
    for fixed, learned in pairs_of(results, is_fixed, is_learned):
        mine, theirs = primary_of(results, fixed), primary_of(results, learned)
        gain = {seed: mine[seed] - theirs[seed] for seed in mine.keys() & theirs.keys()}
        group = (fixed["encoding"], *situation(fixed, without=keys))
        groups.setdefault(group, {})[value_of(learned)] = gain

    rows = []
    for (encoding, *others), by_value in groups.items():
        if len(by_value) < 2:
            continue
        ends = sorted(by_value)
        end, other = (ends[0], ends[-1]) if at_smallest else (ends[-1], ends[0])

        # A second axis, such as augmentation, makes pairs of its own, which its values tell apart
        values = [f"{line.partition(': ')[0]} {line.rpartition(' -> ')[2]}" for line in others]
        at_end = f"{encoding} minus learned at {', '.join([_axis(keys[0], end), *values])}"
        rows.append(Rows(at_end, "none", by_value[end], dict.fromkeys(by_value[end], 0.0)))
        rows.append(Rows(at_end, f"the same at {_axis(keys[0], other)}", by_value[end], by_value[other]))
    found = family(rows)
    if not found:
        return None

    sizes = []
    for one in found:
        reference = "" if one.reference == "none" else f", minus {one.reference}"
        sizes.append(f"{one.arm}{reference} {_size(one, column)}")
    return Finding(f"{column.label}: {'; '.join(sizes)}", by_sign(found, better_by(results)))


def _axis(key: str, value: float) -> str:
    return f"{key} null" if math.isinf(value) else f"{key} {value:g}"


def setting_of(results: Results, key: str) -> Callable[[ArmEntry], float]:
    """A number among an arm's settings; null is the largest of all, as of a limit."""

    def value(arm: ArmEntry) -> float:
        for line in arm["differs_in"]:
            if line.startswith(f"{key}: "):
                return _number(line.rpartition(" -> ")[2])
        found: object = results["config"]
        for name in key.split("."):
            found = found.get(name) if isinstance(found, Mapping) else None
        return _number(found)

    return value


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return math.inf


def small_data(results: Results) -> Finding | None:
    """The share of the training pictures."""
    key = "data.limit"
    return along(results, (key,), setting_of(results, key), at_smallest=True)


def depth(results: Results) -> Finding | None:
    """The generator's blocks."""
    key = "generator.depth"
    return along(results, (key,), setting_of(results, key), at_smallest=True)


def long_sequences(results: Results) -> Finding | None:
    """Tokens an image, as far as an axis changes the ladder; pictures may grow with it."""

    def tokens(arm: ArmEntry) -> float:
        return float(max((len(cell["nats_by_place"]) for cell in cells_of(results, arm)), default=0))

    keys = ("tokens an image", "tokenizer.levels", "data.height", "data.width")
    return along(results, keys, tokens, at_smallest=False)


def rules_of(claims: Sequence[Claim]) -> list[str]:
    """The rules by which claims are judged, each once."""
    names: dict[str, list[str]] = {}
    for claim in claims:
        names.setdefault(claim.rule, []).append(claim.name)
    return [
        *(f"Rule of {', '.join(those)}: {rule}." for rule, those in names.items()),
        "Each row is of one study by itself: a claim that several studies looked at had as many chances.",
    ]


CLAIMS = (
    Claim(
        "learned against fixed",
        "Learned positions are better than fixed ones.",
        BY_SIGN,
        learned_or_fixed,
        "learned_against_fixed.yaml",
    ),
    Claim(
        "memory",
        "Fixed positions save a fifth of the memory.",
        f"peak memory of processes of their own, the 95 % interval of the saving: confirmed from "
        f"{SAVED:.0%} on, refuted below {SAVED:.0%}, else undecided",
        memory,
        "learned_against_fixed.yaml",
    ),
    Claim(
        "stability", "Fixed positions train more steadily.", BY_SIGN, stability, "learned_against_fixed.yaml"
    ),
    Claim(
        "early speed", "Fixed positions learn faster at first.", BY_SIGN, early_speed,
        "learned_against_fixed.yaml",
    ),
    Claim(
        "mixture",
        "A mixture of learned and fixed positions is the best balance.",
        "paired t over seeds, Holm over the comparisons of the row, 5 %: confirmed if really better than its "
        "parts, refuted if really worse than a part or than its control (a trained table with a "
        "sinusoidal start), or equivalent to one of these within the margin, else undecided, and always with "
        "fewer than three seeds",
        mixture,
        "learned_against_fixed.yaml",
    ),
    Claim(
        "small data", "Fixed positions win where there are few pictures.", BY_SIGN, small_data,
        "small_data.yaml",
    ),
    Claim(
        "depth", "Shallow models like fixed positions, deep ones learned.", BY_SIGN, depth,
        "depth_and_heads.yaml",
    ),
    Claim(
        "long sequences", "Fixed positions win on long sequences.", BY_SIGN, long_sequences,
        "long_sequences.yaml",
    ),
)  # fmt: skip
