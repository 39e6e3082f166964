"""What a study's numbers show: means, ranking, real differences, and how small a difference could be seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from var_pe.comparison.results import ArmEntry, Results
from var_pe.comparison.statistics import (
    ERROR,
    Components,
    Difference,
    Margin,
    Summary,
    components,
    difference,
    holm,
    p_of_equivalence,
    p_of_pairs,
    paired,
    seeds_for_margin,
    smallest_effect,
    summary,
)
from var_pe.comparison.statistics import half_width as t_half_width


@dataclass(frozen=True)
class Column:
    """A quantity of the table."""

    # its name among the values of cells
    key: str
    label: str
    # lower | higher | "": neither is better
    better: str = ""
    # from the value's unit to the label's
    factor: float = 1.0
    # counted and not measured: it has no spread
    exact: bool = False


INCEPTION = "inception"
# Scores by the start of their names; what follows is the extractor, which Inception's alone do not name.
SCORES = (
    Column("fid", "FID", "lower"),
    Column("frechet_distance", "Frechet distance", "lower"),
    Column("kid_mean", "KID", "lower"),
    Column("inception_score_mean", "IS", "higher"),
    Column("precision", "precision", "higher"),
    Column("recall", "recall", "higher"),
    Column("accuracy_generated", "recognised", "higher"),
)
LOSS = Column("validation/loss", "validation loss (nats per token)", "lower")
OTHERS = (
    LOSS,
    Column("token_histogram_distance", "token histogram distance", "lower"),
    Column("class_agreement", "class agreement (judge)", "higher"),
    Column("accuracy_of_classifier_of_drawn", "top-1 of a classifier trained on drawn images", "higher"),
)
TRAINING = (
    Column("training/loss", "training loss at the end"),
    Column("loss_spikes", "loss spikes", "lower"),
    Column("grad_norm_median", "gradient norm, median"),
    Column("grad_norm_largest", "gradient norm, largest"),
    Column("validation/share_in_sinusoid", "share of the code in the sinusoid's span"),
)
COSTS = (
    Column("parameters", "trainable parameters", exact=True),
    Column("encoding_parameters", "of these, the encoding's", exact=True),
)
# Parts of scores that are shown elsewhere, or are only their settings
LEFT_OUT = ("kid_std", "kid_subset_size", "inception_score_std", "accuracy_reference", "count")


def values_of(results: Results, arm: str, key: str) -> dict[int, float]:
    """A quantity by seed; cells without it are left out."""
    mine = [cell for cell in results["cells"] if cell["arm"] == arm]
    return {cell["seed"]: cell["values"][key] for cell in mine if key in cell["values"]}


def mean_of(results: Results, arm: str, key: str) -> Summary | None:
    """Mean and spread of a quantity under an arm; None where no cell has it."""
    values = values_of(results, arm, key)
    return summary(list(values.values())) if values else None


def is_blind_to_places(results: Results, key: str) -> bool:
    """Whether a score rests on features that were shown moved parts, and did not see them.

    Such a score may be told, but nothing about positions follows from it.
    """
    column = next((one for one in SCORES if key == one.key or key.startswith(f"{one.key}_")), None)
    if column is None:
        return False
    extractor = key.removeprefix(column.key).removeprefix("_") or INCEPTION
    checks = results["shared"]["extractors"]
    return any(check["extractor"] == extractor and not check["sees_places"] for check in checks)


def all_columns(results: Results) -> list[Column]:
    """Every quantity that some cell has: the primary one first, then scores, trainings, costs."""
    keys = list(dict.fromkeys(key for cell in results["cells"] for key in cell["values"]))

    # What was read off the pictures says in words what a person sees.
    found = [Column(key, label, better) for key, label, better in results["labels"] if key in keys]
    found += [column for column in OTHERS if column.key in keys]
    for column in SCORES:
        for key in keys:
            if key == column.key:
                found.append(column)
            elif key.startswith(f"{column.key}_"):
                extractor = key.removeprefix(f"{column.key}_")
                spatial = "spatial " if extractor.endswith("_spatial") else ""
                name = extractor.removesuffix("_spatial")
                label = f"{spatial}{column.label} ({name})" if spatial else f"{column.label} ({extractor})"
                found.append(Column(key, label, column.better))

    # What a measurement adds that this list does not know is shown by its own name. Parts of scores are shown
    # elsewhere, but one of them may be what arms are ranked by.
    known = {column.key for column in (*found, *TRAINING, *COSTS)}
    for key in keys:
        part = "/level_" in key or key.startswith(LEFT_OUT)
        if key not in known and (not part or key == results["primary"]):
            better = "lower" if key.startswith(f"{LOSS.key}/level_") else ""
            found.append(Column(key, key.replace("_", " "), better))

    found += [column for column in (*TRAINING, *COSTS) if column.key in keys]
    found = [
        replace(column, label=f"{column.label}, blind to places")
        if is_blind_to_places(results, column.key)
        else column
        for column in found
    ]
    first = [column for column in found if column.key == results["primary"]]
    return first + [column for column in found if column.key != results["primary"]]


def primary_column(results: Results) -> Column:
    """The quantity that arms are ranked by.

    Raises:
        ValueError: there are finished cells, and none has it.
    """
    primary = results["primary"]
    for column in all_columns(results):
        if column.key == primary:
            return column
    names = sorted({key for cell in results["cells"] for key in cell["values"]})
    if names:
        raise ValueError(f"primary={primary} was not measured; measured were {', '.join(names)}")
    return Column(primary, primary)


# ----------------------------------------------------------------------------------------- differences


@dataclass(frozen=True)
class Compared:
    """An arm against the one that it is compared with, in one quantity."""

    arm: str
    reference: str
    difference: Difference
    # half of the interval that holds for all comparisons of the quantity together; None without a spread
    half_width: float | None
    # of the paired test, and after Holm over all comparisons of the quantity; None without a spread
    p: float | None
    p_holm: float | None
    # of the test that it is smaller than the margin, after Holm; None: not tested
    p_equivalent: float | None
    # what so many seeds would have shown in four of five studies
    smallest: float | None
    # seeds that show it to be smaller than the margin, if nothing differs; None: not tested, or very many
    seeds_for_margin: int | None = None

    @property
    def is_real(self) -> bool:
        return self.p_holm is not None and self.p_holm < ERROR

    @property
    def is_equivalent(self) -> bool:
        return self.p_equivalent is not None and self.p_equivalent < ERROR

    def verdict(self, column: Column) -> str:
        """What may be claimed, in a few words."""
        if self.p_holm is None:
            return "one seed: unknown" if self.difference.count < 2 else "no spread seen: unknown"
        small = "; smaller than the margin" if self.is_equivalent else ""
        if self.is_real:
            if not column.better:
                return f"different{small}"
            falls = self.difference.mean < 0
            return ("better" if falls == (column.better == "lower") else "worse") + small
        return "equivalent within the margin" if self.is_equivalent else "undecided"


def compared(results: Results, column: Column, margin: Margin | None = None) -> list[Compared]:
    """All comparisons of a quantity but those of exact ones and of the handicapped arm.

    `margin` stands in the place of the declared one.
    """
    if column.exact:
        return []
    arms = [arm for arm in results["arms"] if not arm["handicapped"]]
    pairs = [(arm["name"], arm["compared_with"]) for arm in arms]
    return _family(results, column.key, pairs, margin)


def handicap(results: Results) -> Compared | None:
    """The handicapped arm against the one that it was made from; None where there is none."""
    arms = [(arm["name"], arm["compared_with"]) for arm in results["arms"] if arm["handicapped"]]
    found = _family(results, results["primary"], arms)
    return found[0] if found else None


def all_pairs(results: Results, key: str) -> list[Compared]:
    """Every arm against every other, Holm over all pairs."""
    names = [arm["name"] for arm in results["arms"] if not arm["handicapped"]]
    pairs = [(names[j], names[i]) for i in range(len(names)) for j in range(i + 1, len(names))]
    return _family(results, key, pairs)


def _family(
    results: Results, key: str, pairs: Sequence[tuple[str, str]], margin: Margin | None = None
) -> list[Compared]:
    """Arms against their references in one quantity; the declared margin is the primary one's."""
    if margin is None:
        margin = results["margin"] if key == results["primary"] else 0.0
    rows = [
        Rows(arm, reference, values_of(results, arm, key), values_of(results, reference, key))
        for arm, reference in pairs
        if arm != reference
    ]
    return family(rows, margin)


@dataclass(frozen=True)
class Rows:
    """What is compared: values by seed, and what has them."""

    arm: str
    reference: str
    mine: Mapping[int, float]
    theirs: Mapping[int, float]


def family(rows: Sequence[Rows], margin: Margin = 0.0) -> list[Compared]:
    """Comparisons that share one error rate; those without a common seed are left out."""
    found: list[tuple[Rows, Difference]] = []
    for row in rows:
        both = difference(row.theirs, row.mine)
        if both is not None:
            found.append((row, both))
    if not found:
        return []

    # Comparisons without a spread have no p, and count among those that share the error.
    number = len(found)
    raw = [float(p_of_pairs(paired(row.theirs, row.mine)[None])[0]) for row, _ in found]
    adjusted = holm(np.array(raw)).tolist()
    within = [_within(row, margin, number) for row, _ in found]
    same_adjusted = holm(np.array([one.p for one in within])).tolist()

    made = []
    for place, (row, both) in enumerate(found):
        spread = both.spread or 0.0
        made.append(
            Compared(
                row.arm,
                row.reference,
                both,
                t_half_width(both.count, spread, number) if both.has_spread else None,
                _or_none(raw[place]),
                _or_none(adjusted[place]),
                _or_none(same_adjusted[place]),
                smallest_effect(both.count, spread, number),
                within[place].seeds,
            )
        )
    return made


@dataclass(frozen=True)
class _Within:
    """The test that a comparison is smaller than the margin; NaN and None where it is not tested."""

    p: float
    seeds: int | None


def _within(row: Rows, margin: Margin, comparisons: int) -> _Within:
    if not isinstance(margin, Mapping):
        margin = dict.fromkeys(row.mine, margin)
    shared = sorted(row.mine.keys() & row.theirs.keys() & margin.keys())
    pairs_N = paired(row.theirs, {seed: row.mine[seed] for seed in shared})
    margins_N = np.array([margin[seed] for seed in shared])
    if len(shared) < 2 or not margins_N.any():
        return _Within(float("nan"), None)

    # On either side of 0 what is left of the margin scatters by itself, if the margin was measured.
    p = float(p_of_equivalence(pairs_N[None], margins_N)[0])
    spread = max(float((margins_N + sign * pairs_N).std(ddof=1)) for sign in (-1, 1))
    size = float(margins_N.mean())
    return _Within(p, seeds_for_margin(size, spread, comparisons) if spread > 0 and size > 0 else None)


def _or_none(p: float) -> float | None:
    return None if np.isnan(p) else p


# ------------------------------------------------------------------------------------------- the ranking


@dataclass(frozen=True)
class Ranked:
    """An arm's place by the primary quantity."""

    arm: ArmEntry
    mean: float
    # half of Student's t interval of this mean alone; None for one seed
    half_width: float | None
    count: int


def ranking(results: Results) -> list[Ranked]:
    """All arms that have the primary quantity, the best first; the handicapped one is left out."""
    column = primary_column(results)
    found = []
    for arm in results["arms"]:
        mean = mean_of(results, arm["name"], column.key)
        if mean is None or arm["handicapped"]:
            continue
        half = t_half_width(mean.count, mean.spread) if mean.spread else None
        found.append(Ranked(arm, mean.mean, half, mean.count))
    return sorted(found, key=lambda ranked: ranked.mean, reverse=column.better == "higher")


def variance(results: Results, key: str) -> Components | None:
    """Where a quantity's variance comes from; None where neither drawings nor tokenizers are several.

    Groups are the arms; arms that differ in the tokenizer's seed alone are one group.
    """
    groups: dict[tuple[str, ...], list[list[list[float]]]] = {}
    for arm in results["arms"]:
        if arm["handicapped"]:
            continue
        rows = []
        for cell in results["cells"]:
            if cell["arm"] == arm["name"] and cell["values"]:
                drawn = [drawing[key] for drawing in cell["drawings"].values() if key in drawing]
                rows.append(drawn or ([cell["values"][key]] if key in cell["values"] else []))
        rest = tuple(word for word in arm["place"] if not word.startswith("tokenizer seed"))
        group = rest if arm["place"] else (arm["name"],)
        groups.setdefault(group, []).append([row for row in rows if row])

    # Balanced groups alone can be pooled: the commonest shape.
    shapes = {name: _shape(group) for name, group in groups.items()}
    whole = [shape for shape in shapes.values() if shape is not None]
    if not whole:
        return None
    shape = max(whole, key=lambda one: (whole.count(one), one))
    if max(shape[0], shape[2]) < 2:
        return None
    return components(np.array([groups[name] for name, own in shapes.items() if own == shape]))


def _shape(group: Sequence[Sequence[Sequence[float]]]) -> tuple[int, int, int] | None:
    """Tokenizers, trainings and drawings of a group; None if it is not balanced, or has nothing."""
    trainings = {len(rows) for rows in group}
    drawings = {len(row) for rows in group for row in rows}
    if len(trainings) != 1 or len(drawings) != 1 or 0 in trainings:
        return None
    return len(group), trainings.pop(), drawings.pop()


def by_arm(results: Results, key: str) -> Mapping[str, dict[int, float]]:
    """A quantity of every arm but the handicapped one, by seed; arms without it are left out."""
    found = {
        arm["name"]: values_of(results, arm["name"], key) for arm in results["arms"] if not arm["handicapped"]
    }
    return {name: values for name, values in found.items() if values}
