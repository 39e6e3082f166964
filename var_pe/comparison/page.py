"""The comparison in words: one `Page`, from which Markdown, HTML and the terminal's table are made."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from var_pe.comparison.statistics import CONFIDENCE, Summary
from var_pe.comparison.study import Comparison
from var_pe.comparison.table import Column, cell, columns, compared
from var_pe.evaluation.metrics import FEW_IMAGES


@dataclass(frozen=True)
class Page:
    """Everything that a person reads, in words."""

    title: str
    intro: str
    header: list[str]
    rows: list[list[str]]  # the encoding, then a cell for each column
    differences: list[str]
    floors: list[str]
    notes: list[str]


def describe(comparison: Comparison) -> Page:
    shown, count = columns(comparison), len(comparison.seeds)
    seeds = f"{count} seeds ({', '.join(map(str, comparison.seeds))})" if count > 1 else "one seed"
    return Page(
        title=f"Position encodings compared: {len(comparison.encodings)} encodings, {seeds}",
        intro=f"Mean ± standard deviation over n = {count} seeds."
        if count > 1
        else "One seed shows no spread (-): no difference between these encodings can be called real.",
        header=["encoding", *(f"{column.label}{arrow(column)}" for column in shown)],
        rows=[
            [encoding, *(show(cell(comparison, encoding, column), column, count) for column in shown)]
            for encoding in comparison.encodings
        ],
        differences=[line for column in shown if (line := sentence(comparison, column))],
        floors=floor_lines(comparison),
        notes=notes(comparison),
    )


def arrow(column: Column) -> str:
    return {"lower": " ↓", "higher": " ↑"}.get(column.better, "")


def show(found: Summary | None, column: Column, seeds: int) -> str:
    """`12.34 ± 0.21`; with fewer values than seeds, how many there are."""
    if found is None:
        return "-"
    if column.exact:
        return f"{found.mean:,.0f}"
    number = "" if found.count == seeds else f" (n = {found.count})"
    if found.spread is None:
        return f"{plain(found.mean * column.factor)} ± -{number}"
    return f"{rounded(found.mean * column.factor, found.spread * column.factor)}{number}"


def plain(value: float) -> str:
    """Four significant digits, without a power of ten where it can be avoided."""
    digits = 4 - 1 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{min(max(digits, 0), 7)}f}"


def rounded(value: float, spread: float, sign: str = "") -> str:
    """A value and its spread, the spread to two significant digits and both to the same place."""
    if not spread:
        return f"{sign}{plain(value)} ± 0"
    digits = min(max(1 - math.floor(math.log10(spread)), 0), 7)
    return f"{sign}{value:.{digits}f} ± {spread:.{digits}f}"


def sentence(comparison: Comparison, column: Column) -> str:
    """Of one quantity: which encodings differ from the first by more than the spread, and which do not."""
    found = compared(comparison, column)
    if not found or all(other.half_width is None for other in found.values()):
        return ""
    parts = []
    for encoding, other in found.items():
        if other.half_width is None:
            parts.append(f"{encoding} cannot be told (one seed)")
            continue
        size = rounded(
            other.mean * column.factor, other.half_width * column.factor, "+" if other.mean > 0 else ""
        )
        verdict = "within the spread"
        if other.exceeds_spread:
            verdict = "better" if (other.mean < 0) == (column.better == "lower") else "worse"
            verdict = f"{verdict}, more than the spread"
        elif not other.half_width:
            verdict = "no spread seen, cannot be told"
        parts.append(f"{encoding} {size}: {verdict}")
    return f"{column.label}: {'; '.join(parts)}."


def floor_lines(comparison: Comparison) -> list[str]:
    """Real against real, a line for each extractor."""
    labels = {column.key: column.label for column in columns(comparison)}
    lines = []
    for entry in comparison.results[0].records.values():
        floor: Mapping[str, float] = entry["floor"] or {}
        if shown := [f"{labels[name]} {plain(value)}" for name, value in floor.items() if name in labels]:
            count = f"{int(floor['count']):,}"
            lines.append(f"Real against real images, {count} on either side: {', '.join(shown)}.")
    return lines


def notes(comparison: Comparison) -> list[str]:
    """What the numbers rest on and what they cannot say."""
    about, several = comparison.about, len(comparison.seeds) > 1 and len(comparison.encodings) > 1
    sampling = [f"{name} {value}" for name, value in about["sampling"].items() if name != "batch"]
    lines = [
        *map(score_note, comparison.results[0].records.values()),
        f"Sampler: {', '.join(sampling)}.",
        f"All runs share the tokenizer in {about['tokenizer_run']} and the random numbers that images are "
        "drawn with; those of one seed, also the initial weights around the encoding and the order of data.",
        "Step time: the median of each run's log. The runs were trained one after another on one machine "
        f"({about['processes']} x {about['device']}, {about['threads']} threads), whatever else ran there.",
        memory_note(about),
    ]
    if several:
        lines.append(
            f"Differences to {comparison.encodings[0]}: seed by seed, ± half of Student's t interval at "
            f"{CONFIDENCE:.0%} for all encodings of a quantity together; for this tokenizer and these images."
        )
    return lines


def score_note(entry: Mapping[str, Any]) -> str:
    reference, features = entry["reference"], entry["features"]
    of_papers = "" if features["comparable_with_papers"] else ", not comparable with the FID of papers"
    accuracy = entry["values"].get(f"accuracy_reference_{features['name']}")
    known = "" if accuracy is None else f" It recognises {accuracy:.1%} of those real images."
    few = f" Below {FEW_IMAGES:,} images scores are unreliable." if entry["num_images"] < FEW_IMAGES else ""
    return (
        f"Scores: {entry['num_images']:,} generated images against {reference['num_images']:,} "
        f"{reference['set']} ({reference['split']} split) by features of {features['name']} "
        f"(weights {features['weights_sha256'][:12]}){of_papers}.{known}{few}"
    )


def memory_note(about: Mapping[str, Any]) -> str:
    if not about["peak_memory_comparable"]:
        return "Peak memory: of the process so far, so it can only grow from run to run here: not comparable."
    if about["device"] == "cuda":
        return "Peak memory: what PyTorch had allocated on the first GPU at most during each training."
    return (
        "Peak memory: the whole first process, libraries included, during each training. What earlier ones "
        "left behind is partly in it, so no difference is called real."
    )


def table_text(page: Page) -> str:
    """The table for a terminal: a line for each quantity, a column for each encoding."""
    lines = [list(line) for line in zip(page.header, *page.rows, strict=True)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines]
    return "\n".join("  ".join(line) for line in aligned)


def markdown(page: Page) -> str:
    lines = [f"# {page.title}", "", page.intro, ""]
    lines += [f"| {' | '.join(page.header)} |", f"|{' --- |' * len(page.header)}"]
    lines += [f"| `{row[0]}` | {' | '.join(row[1:])} |" for row in page.rows]
    lines += [""]
    if page.differences:
        lines += ["## Differences to the first encoding", "", *(f"- {line}" for line in page.differences), ""]
    lines += [*(f"- {line}" for line in [*page.floors, *page.notes]), ""]
    lines += ["## Loss", "", "![training and validation loss](loss_curves.png)", ""]
    lines += ["## The same seeds under every encoding", "", "![samples](samples.png)", ""]
    return "\n".join(lines)
