"""The tables of a study's report, made of the JSON alone."""

from collections.abc import Sequence

from var_pe.comparison.agreement import agreement_table
from var_pe.comparison.claims import CLAIMS, rules_of
from var_pe.comparison.equivalence import equivalence_table
from var_pe.comparison.excess import floor_of
from var_pe.comparison.results import ArmEntry, Results, grids_of
from var_pe.comparison.statistics import CONFIDENCE
from var_pe.comparison.table import Table
from var_pe.comparison.trust import alarms_table
from var_pe.comparison.verdicts import (
    COSTS,
    TRAINING,
    Column,
    all_columns,
    all_pairs,
    compared,
    mean_of,
    primary_column,
    ranking,
    variance,
)
from var_pe.comparison.wording import many, p_text, signed, value_text
from var_pe.pages.numbers import plain

REAL = "real images"  # the row of what no generator can be expected to beat
ARROWS = {"lower": " ↓", "higher": " ↑", "": ""}
MOST_IN_MATRIX = 12  # arms of the table of all pairs


def ranking_table(results: Results) -> Table:
    """All arms by the primary quantity, with what may be claimed of each."""
    column = primary_column(results)
    by_name = {one.arm: one for one in compared(results, column)}
    # Names of arms that are written out do not say which encoding that is.
    lines = any(arm["encoding"] not in arm["name"] for arm in results["arms"])
    rows = []
    for ranked in ranking(results):
        name = ranked.arm["name"]
        one = by_name.get(name)
        mean = mean_of(results, name, column.key)
        cell = value_text(mean.mean, mean.spread, column) if mean else ""
        row = [name, *([ranked.arm["encoding"]] if lines else []), cell, str(ranked.count)]
        row += ["", "", ""] if one is None else [signed(one, column), _p(one.p_holm), one.verdict(column)]
        rows.append(row)

    references = {arm["compared_with"] for arm in results["arms"]}
    against = f"against {references.pop()}" if len(references) == 1 else "against the first of its group"
    notes = [
        f"Mean ± standard deviation over seeds. Differences are seed by seed, ± half of the interval that "
        f"holds at {CONFIDENCE:.0%} for all of them together (Bonferroni); p by the paired t test, after "
        "Holm, who finds more: the interval of a real difference may reach 0."
    ]
    floor = floor_of(results)
    if floor is not None:
        notes.append(f"The floor, {floor[0]}, is {plain(floor[1] * column.factor)}.")
    header = ["", *(["encoding"] if lines else []), f"{column.label}{ARROWS[column.better]}", "seeds"]
    header += [f"difference {against}", "p", "verdict"]
    return Table("The ranking in numbers", header, rows, notes, results["command"])


def _p(p: float | None) -> str:
    return "" if p is None else p_text(p)


def tables(results: Results) -> list[Table]:
    """All tables below the first screen; those without rows are left out."""
    outer = {column.key for column in (*TRAINING, *COSTS)}
    columns = all_columns(results)
    run = next((cell["run"] for cell in results["cells"] if cell["values"]), "RUN")
    scores = [column for column in columns if column.key not in outer]

    # What needs no features of images, such as losses and histograms, only a study measures.
    by_features = any("features" in record for record in results["records"].values())
    evaluate = f"python scripts/evaluate.py --run {run} --images {run}/drawn/images"

    return [
        _quantities(
            results,
            "Scores",
            scores,
            evaluate if by_features else results["command"],
            [f"The row of {REAL} holds the scores of real images against other real ones, as many as drawn."],
        ),
        *levels_tables(results),
        claims_table(results),
        differences_table(results, columns),
        costs_table(results),
        _quantities(
            results,
            "Trainings",
            [column for column in columns if column in TRAINING],
            results["command"],
            training_notes(results),
        ),
        pairs_table(results),
        equivalence_table(results),
        agreement_table(results),
        variance_table(results, columns),
        alarms_table(results),
        extractors_table(results),
        chosen_table(results),
    ]


def _quantities(
    results: Results, title: str, columns: Sequence[Column], command: str, notes: list[str]
) -> Table:
    """Mean and spread of quantities, a row for each arm."""
    rows = []
    for arm in results["arms"]:
        cells = []
        for column in columns:
            found = mean_of(results, arm["name"], column.key)
            cells.append("" if found is None else value_text(found.mean, found.spread, column))
        if any(cells):
            rows.append([arm["name"], *cells])

    floor = [results["floor"].get(column.key) for column in columns]
    if any(value is not None for value in floor):
        texts = [
            "" if value is None else plain(value * column.factor)
            for value, column in zip(floor, columns, strict=True)
        ]
        rows.append([REAL, *texts])
    header = ["", *(f"{column.label}{ARROWS[column.better]}" for column in columns)]
    return Table(title, header, rows if columns else [], notes, command)


def levels_tables(results: Results) -> list[Table]:
    """The validation loss of every level, a table for each ladder that arms have."""
    ladders: dict[str, list[ArmEntry]] = {}
    for arm in results["arms"]:
        ladders.setdefault(repr(grids_of(results, arm)), []).append(arm)

    found = []
    for arms in ladders.values():
        grids = grids_of(results, arms[0])
        columns = [
            Column(f"validation/loss/level_{level}", f"{height}x{width}", "lower")
            for level, (height, width) in enumerate(grids)
        ]
        title = "Validation loss by level"
        if len(ladders) > 1:
            title += f", {sum(rows * columns for rows, columns in grids)} tokens"
        notes = ["Nats per token of the last validation, given the class and all coarser levels."]
        own: Results = {**results, "arms": arms, "floor": {}}
        found.append(_quantities(own, title, columns, results["command"], notes))
    return [table for table in found if any(any(row[1:]) for row in table.rows)]


def claims_table(results: Results) -> Table:
    """What became of the claims of articles that this study has arms for."""
    looked = [(claim, claim.look(results)) for claim in CLAIMS]
    found = [(claim, finding) for claim, finding in looked if finding is not None]
    rows = [[claim.claim, finding.measured, finding.verdict] for claim, finding in found]
    notes = rules_of([claim for claim, _ in found])
    header = ["claim", "what was measured", "verdict"]
    return Table("Claims of articles", header, rows, notes, results["command"], prose=True)


def differences_table(results: Results, columns: Sequence[Column]) -> Table:
    """Every quantity in which arms can be compared."""
    rows = []
    for column in columns:
        for one in compared(results, column):
            if one.difference.count < 2:
                continue
            smallest = "" if one.smallest is None else plain(one.smallest * column.factor)
            rows.append(
                [
                    column.label,
                    one.arm,
                    one.reference,
                    signed(one, column),
                    _p(one.p_holm),
                    one.verdict(column),
                    smallest,
                ]
            )

    notes = [
        "Holm's correction is within a quantity; quantities are not corrected for each other, so the primary "
        "one decides. The last column is the difference that this number of seeds would have shown with a "
        "power of 80 %: smaller ones may be there and were not seen."
    ]
    header = ["quantity", "arm", "against", "difference", "p", "verdict", "could be seen"]
    return Table("Differences in every quantity", header, rows, notes, results["command"])


def costs_table(results: Results) -> Table:
    """Parameters, time and memory."""
    times = results["times"]
    steps = {str(row["encoding"]): row for row in times["steps"]}
    rows = []
    for arm in results["arms"]:
        keys = [cell["key"] for cell in results["cells"] if cell["arm"] == arm["name"]]
        own = [times["cells"][key] for key in keys if key in times["cells"]]
        if not own:
            continue
        seconds = [1000 * one["seconds_per_step"] for one in own if "seconds_per_step" in one]
        memory = [one["peak_memory_gb"] for one in own if "peak_memory_gb" in one]
        row = [arm["name"]]
        for column in COSTS:
            found = mean_of(results, arm["name"], column.key)
            row.append("" if found is None else value_text(found.mean, None, column))
        turn = steps.get(arm["name"])
        row.append("" if turn is None else f"{turn['ratio']:.3f} ({turn['low']:.3f} to {turn['high']:.3f})")
        row.append(_range(seconds))
        row.append(_range(memory))
        rows.append(row)

    header = ["", *(column.label for column in COSTS), "step against none", "step (ms)", "peak memory (GB)"]
    notes = [
        "Step against none: a training step in turns with one of a model without positions, median and "
        "quartiles of the ratio, measured before the trainings while nothing else of the study ran.",
        "Step (ms): the medians of the logs, from the quickest to the slowest seed, whatever else ran there "
        f"({times['device']}, {many(times['threads'], 'thread')} a cell).",
        "Peak memory: of the first process of each training, "
        + (
            "each of which had a process of its own."
            if times["own_processes"]
            else "in one process after each other: what earlier ones left behind is partly in it."
        ),
    ]
    if "none" in steps and len(times["steps"]) > 1:
        again = times["steps"][1]
        notes.append(
            f"A second model without positions came out at {again['ratio']:.3f} "
            f"({again['low']:.3f} to {again['high']:.3f}): that is noise."
        )
    return Table("Costs", header, rows, notes, results["command"])


def _range(values: Sequence[float]) -> str:
    if not values:
        return ""
    low, high = plain(min(values)), plain(max(values))
    return low if low == high else f"{low} to {high}"


def training_notes(results: Results) -> list[str]:
    """What the table of trainings needs to be read."""
    span = results["shared"]["sinusoid"]
    lines = [
        "A spike is a logged loss above the median of the ten before it by six times their scatter and 5 %."
    ]
    if span and any("validation/share_in_sinusoid" in cell["values"] for cell in results["cells"]):
        lines.append(
            f"A table that knew nothing of the sinusoid would have {span['dimensions']} of {span['of']} "
            f"dimensions in its span, a share of {span['dimensions'] / span['of']:.2f}."
        )
    return lines


def pairs_table(results: Results) -> Table:
    """Every arm against every other."""
    column = primary_column(results)
    found = {(one.arm, one.reference): one for one in all_pairs(results, column.key)}
    names = [ranked.arm["name"] for ranked in ranking(results)]
    if not 2 < len(names) <= MOST_IN_MATRIX or all(one.p is None for one in found.values()):
        return Table("All pairs", [], [], [])

    rows = []
    for row in names:
        cells = []
        for other in names:
            forward, back = found.get((row, other)), found.get((other, row))
            one = forward or back
            if one is None or one.p_holm is None:
                cells.append("")
                continue
            mean = one.difference.mean if forward else -one.difference.mean
            star = " *" if one.is_real else ""
            cells.append(f"{'+' if mean > 0 else ''}{plain(mean * column.factor)}{star}")
        rows.append([row, *cells])
    notes = [f"{column.label}: row minus column; * real after Holm over all {len(found)} pairs."]
    return Table("All pairs", ["", *names], rows, notes, results["command"])


def variance_table(results: Results, columns: Sequence[Column]) -> Table:
    """Which seeds move which quantity."""
    rows = []
    for column in columns:
        found = None if column.exact else variance(results, column.key)
        if found is None:
            continue
        parts = [found.tokenizer, found.training, found.sampling]
        texts = ["not varied" if part is None else plain(part * column.factor) for part in parts]
        rows.append([column.label, *texts, f"{found.tokenizers} x {found.trainings} x {found.samplings}"])
    notes = [
        "Standard deviations that each kind of seed adds by itself: a nested analysis of variance, pooled "
        "over arms."
    ]
    header = ["", "tokenizer seed", "training seed", "sampling seed", "seeds of each"]
    return Table("Where the scatter comes from", header, rows, notes, results["command"])


def extractors_table(results: Results) -> Table:
    """Whether features see places."""
    rows = []
    for check in results["shared"]["extractors"]:
        numbers = {name: check[name] for name in ("unchanged", "shifted", "exchanged")}
        base = float(str(numbers["unchanged"]))
        cells = [
            f"{plain(float(str(value)))} ({float(str(value)) / base:.1f}x)" for value in numbers.values()
        ]
        rows.append([str(check["extractor"]), *cells, "yes" if check["sees_places"] else "no"])
    notes = [
        "Frechet distance of half of the test images to the other half: as they are, moved by a quarter of "
        "each side, quarters exchanged crosswise; means over 5 pairs of halves. An extractor sees places if "
        "every moved half is farther away than any that was not. Scores by others are marked as blind to "
        "places, and no claim rests on them."
    ]
    header = ["", "as they are", "shifted", "exchanged", "sees places"]
    return Table("Do the features see places?", header, rows, notes, results["command"])


def chosen_table(results: Results) -> Table:
    """What each arm's learning rate and guidance were chosen from."""
    rows = []
    for arm in results["arms"]:
        chosen = arm["chosen"]
        if chosen is not None:
            tried = [f"{name}: {plain(value)}" for name, value in chosen["nats"].items()]
            nats = ", ".join([*tried, *(f"{name}: diverged" for name in chosen.get("diverged", []))])
            distances = ", ".join(f"{name}: {plain(value)}" for name, value in chosen["distances"].items())
            rows.append(
                [arm["name"], f"{chosen['learning_rate']:g}", nats, f"{chosen['guidance']:g}", distances]
            )
    notes = [
        "Learning rates by nats per token on test images that no validation uses, guidance by the Frechet "
        "distance to training images, with a seed that the study does not use.",
        *rates_at_ends(results),
    ]
    header = ["", "learning rate", "nats by rate", "guidance", "distance by guidance"]
    return Table("Learning rate and guidance of each arm", header, rows, notes, results["command"])


def rates_at_ends(results: Results) -> list[str]:
    """How many arms got the smallest or largest rate that was tried: beyond it may be a better one."""
    several = [one for arm in results["arms"] if (one := arm["chosen"]) is not None and len(one["nats"]) > 1]
    ends = {"smallest": min, "largest": max}
    said = []
    for name, end in ends.items():
        tried = [[*one["nats"], *one.get("diverged", [])] for one in several]
        number = sum(
            one["learning_rate"] == end(map(float, own)) for one, own in zip(several, tried, strict=True)
        )
        if number:
            said.append(f"the {name} rate that was tried is that of {number} of {many(len(several), 'arm')}")
    return [f"Rates beyond those may suit arms better: {', '.join(said)}."] if said else []
