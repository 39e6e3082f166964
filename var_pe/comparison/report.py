"""The comparison as files: JSON for programs, Markdown and one HTML page for people, two pictures.

Markdown and HTML say the same, since both are made from one `Page`.
"""

import base64
import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment
from matplotlib.figure import Figure

from var_pe.comparison.page import HTML
from var_pe.comparison.plots import loss_curves, samples
from var_pe.comparison.statistics import CONFIDENCE, Difference, Summary, difference, summary
from var_pe.comparison.study import Comparison
from var_pe.evaluation.metrics import FEW_IMAGES
from var_pe.training.run import write_text


@dataclass(frozen=True)
class Column:
    """A quantity of the table; `exact` ones are counted, not measured, and have no spread."""

    key: str  # of Result.values
    label: str
    better: str = ""  # lower | higher
    factor: float = 1.0  # from the value's unit to the label's
    exact: bool = False


# Scores by the start of their names; what follows it is the extractor, which Inception's alone do not name.
SCORES = (
    Column("fid", "FID", "lower"),
    Column("frechet_distance", "Frechet distance", "lower"),
    Column("inception_score_mean", "IS", "higher"),
    Column("kid_mean", "KID", "lower"),
    Column("precision", "precision", "higher"),
    Column("recall", "recall", "higher"),
    Column("accuracy_generated", "recognised", "higher"),
)
COSTS = (
    Column("validation/loss", "validation loss (nats per token)", "lower"),
    Column("parameters", "trainable parameters", exact=True),
    Column("encoding_parameters", "of these, the encoding's", exact=True),
    Column("seconds_per_step", "step time (ms)", "lower", factor=1000),
    Column("peak_memory_gb", "peak memory (GB)", "lower"),
)


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


def write_report(comparison: Comparison, folder: Path) -> Page:
    """Writes comparison.json, .md and .html, loss_curves.png and samples.png into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    page = describe(comparison)
    pictures = {"loss_curves": png(loss_curves(comparison)), "samples": png(samples(comparison))}
    for name, data in pictures.items():
        (folder / f"{name}.png").write_bytes(data)
    encoded = {name: base64.b64encode(data).decode() for name, data in pictures.items()}
    html = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(HTML)
    write_text(folder / "comparison.json", json.dumps(as_json(comparison), indent=2, allow_nan=False) + "\n")
    write_text(folder / "comparison.md", markdown(page))
    write_text(folder / "comparison.html", html.render(page=page, pictures=encoded))
    return page


def png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


# ----------------------------------------------------------------------------------------- what stands in it


def columns(comparison: Comparison) -> list[Column]:
    """Those that some result has a value for; a score has one for each feature extractor."""
    keys = list(dict.fromkeys(key for result in comparison.results for key in result.values))
    found = []
    for column in SCORES:
        for key in keys:
            if key == column.key or key.startswith(f"{column.key}_"):
                extractor = key[len(column.key) + 1 :]
                found.append(
                    Column(key, f"{column.label} ({extractor})" if extractor else column.label, column.better)
                )
    return found + [column for column in COSTS if column.key in keys]


def cell(comparison: Comparison, encoding: str, column: Column) -> Summary | None:
    values = comparison.values(encoding, column.key)
    return summary(list(values.values())) if values else None


def compared(comparison: Comparison, column: Column) -> dict[str, Difference]:
    """How much each encoding but the first differs from it, seed by seed; nothing for exact quantities."""
    first, *others = comparison.encodings
    if column.exact:
        return {}
    base = comparison.values(first, column.key)
    found = {
        encoding: difference(base, comparison.values(encoding, column.key), comparisons=len(others))
        for encoding in others
    }
    return {encoding: value for encoding, value in found.items() if value is not None}


def floor_of(comparison: Comparison) -> dict[str, float]:
    """The scores of real images against real ones, by name; the same for all results, so of the first."""
    floors = [entry["floor"] for entry in comparison.results[0].records.values() if entry["floor"]]
    return {name: value for floor in floors for name, value in floor.items()}


def as_json(comparison: Comparison) -> dict[str, Any]:
    table: dict[str, Any] = {}
    differences: dict[str, Any] = {}
    for column in columns(comparison):
        for encoding in comparison.encodings:
            if found := cell(comparison, encoding, column):
                table.setdefault(encoding, {})[column.key] = asdict(found)
        for encoding, other in compared(comparison, column).items():
            stated = {**asdict(other), "exceeds_spread": other.exceeds_spread}
            differences.setdefault(encoding, {})[column.key] = stated
    kept = ("encoding", "seed", "run", "values", "records")
    return {
        "encodings": comparison.encodings,
        "seeds": comparison.seeds,
        "table": table,
        "differences_to_first": differences,
        "confidence": CONFIDENCE,
        "floor": floor_of(comparison),
        "about": comparison.about,
        "runs": [{name: getattr(result, name) for name in kept} for result in comparison.results],
    }


# ------------------------------------------------------------------------------------------------- in words


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
        notes=notes(comparison, shown),
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
    lines = []
    for entry in comparison.results[0].records.values():
        floor: Mapping[str, float] = entry["floor"] or {}
        labels = {column.key: column.label for column in columns(comparison)}
        values = ", ".join(
            f"{labels[name]} {plain(value)}" for name, value in floor.items() if name in labels
        )
        if values:
            count = f"{int(floor['count']):,}"
            lines.append(
                f"Real against real, {count} images on either side, which no generator is expected to beat: {values}."
            )
    return lines


def notes(comparison: Comparison, shown: list[Column]) -> list[str]:
    """What the numbers rest on and what they cannot say."""
    about, lines = comparison.about, []
    for entry in comparison.results[0].records.values():
        reference, features = entry["reference"], entry["features"]
        of_papers = "" if features["comparable_with_papers"] else ", not comparable with the FID of papers"
        few = f" Below {FEW_IMAGES} images scores are unreliable." if entry["num_images"] < FEW_IMAGES else ""
        lines.append(
            f"Scores of {entry['num_images']:,} generated images against {reference['num_images']:,} {reference['set']} "
            f"({reference['split']} split), by features of {features['name']} "
            f"(weights {features['weights_sha256'][:12]}){of_papers}.{few}"
        )
    sampling = {name: value for name, value in about["sampling"].items() if name != "batch"}
    lines.append(f"Sampler: {', '.join(f'{name} {value}' for name, value in sampling.items())}.")
    lines.append(
        f"All runs share the tokenizer in {about['tokenizer_run']}; runs of one seed share the initial weights around "
        f"the encoding, the order of the data and the random numbers of the images."
    )
    keys = {column.key for column in shown}
    if "seconds_per_step" in keys:
        lines.append(
            f"Step time: median of each run's log; the runs were trained one after another on the same machine "
            f"({about['processes']} processes on {about['device']}, {about['threads']} threads each), so whatever else "
            f"ran there at the time is in it."
        )
    if "peak_memory_gb" in keys:
        lines.append(memory_note(about))
    if len(comparison.seeds) > 1 and len(comparison.encodings) > 1:
        lines.append(
            f"Differences to {comparison.encodings[0]}: seed by seed, ± half of Student's t interval, {CONFIDENCE:.0%} "
            f"for all encodings of a quantity together. They hold for these reference images and this tokenizer."
        )
    return lines


def memory_note(about: Mapping[str, Any]) -> str:
    if not about["peak_memory_comparable"]:
        return "Peak memory: of the process so far, so it can only grow from run to run here: not comparable."
    if about["device"] == "cuda":
        return "Peak memory: allocated by PyTorch on the first GPU during each training."
    return (
        "Peak memory: the whole first process, libraries included, during each training; what an earlier training "
        "left behind is part of it, so small differences say nothing."
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
