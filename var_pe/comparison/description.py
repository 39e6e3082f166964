"""The comparison in words: one `Description`, from which Markdown, HTML and the terminal's table are made."""

from dataclasses import dataclass

from var_pe.comparison.generator_study import About, Comparison
from var_pe.comparison.statistics import CONFIDENCE, Difference, Summary
from var_pe.comparison.table import Column, cell, columns, compared, floor_of
from var_pe.evaluation.metrics import FEW_IMAGES
from var_pe.evaluation.records import Record
from var_pe.pages.numbers import plain, rounded, setting

REAL = "real images"  # the column of what no generator can be expected to beat
ARROWS = {"lower": " ↓", "higher": " ↑", "": ""}


@dataclass(frozen=True)
class Description:
    """Everything that a person reads."""

    title: str
    intro: str
    header: list[str]
    # the quantity, then a cell for each encoding, then what real images get
    rows: list[list[str]]
    # a sentence for each quantity that encodings can be compared by
    differences: list[str]
    # what the tokenizer, which all of them share, does by itself
    tokenizer: list[str]
    notes: list[str]


def describe(comparison: Comparison) -> Description:
    """Says what was measured, and claims no more."""
    shown = columns(comparison)
    count = len(comparison.seeds)
    seeds = "one seed"
    intro = "One seed shows no spread: no difference between these encodings can be called real."
    if count > 1:
        seeds = f"{count} seeds ({', '.join(map(str, comparison.seeds))})"
        intro = f"Mean ± standard deviation over n = {count} seeds."

    rows = []
    floor = floor_of(comparison)
    for column in shown:
        found = [cell(comparison, encoding, column) for encoding in comparison.encodings]
        cells = [cell_text(value, column, count) for value in found]
        real = plain(floor[column.key] * column.factor) if column.key in floor else ""
        rows.append([f"{column.label}{ARROWS[column.better]}", *cells, real])

    sentences = [difference_sentence(comparison, column) for column in shown]
    return Description(
        title=f"Position encodings compared: {len(comparison.encodings)} encodings, {seeds}",
        intro=intro,
        header=["", *comparison.encodings, REAL],
        rows=rows,
        differences=[sentence for sentence in sentences if sentence],
        tokenizer=tokenizer_sentences(comparison),
        notes=notes(comparison),
    )


def cell_text(found: Summary | None, column: Column, seeds: int) -> str:
    """`12.34 ± 0.21`; with fewer values than seeds, how many there are."""
    if found is None:
        return "not measured"
    if column.exact:
        return f"{found.mean:,.0f}"

    number = "" if found.count == seeds else f" (n = {found.count})"
    if found.spread is None:
        return f"{plain(found.mean * column.factor)}{number}"
    return f"{rounded(found.mean * column.factor, found.spread * column.factor)}{number}"


def difference_sentence(comparison: Comparison, column: Column) -> str:
    """Of one quantity: which encodings differ from the first by more than the spread, and which do not."""
    found = compared(comparison, column)
    if all(other.half_width is None for other in found.values()):
        return ""
    parts = [f"{encoding} {difference_text(other, column)}" for encoding, other in found.items()]
    return f"{column.label}: {'; '.join(parts)}."


def difference_text(found: Difference, column: Column) -> str:
    """The size of a difference to the first encoding, and what it means."""
    if found.half_width is None:
        return "unknown (one seed)"

    sign = "+" if found.mean > 0 else ""
    size = rounded(found.mean * column.factor, found.half_width * column.factor, sign)
    if found.exceeds_spread:
        falls = found.mean < 0
        verdict = "better" if falls == (column.better == "lower") else "worse"
        return f"{size}: {verdict}, more than the spread"
    if not found.half_width:
        return f"{size}: no spread seen, so significance is unknown"
    return f"{size}: within the spread"


def tokenizer_sentences(comparison: Comparison) -> list[str]:
    """Its scores on the test split, and whether it is good; none where it was not scored."""
    scores = comparison.tokenizer
    if scores is None:
        return []

    levels = [
        f"level {grid}: {perplexity:.0f} codes, {usage:.0%} used"
        for grid, perplexity, usage in zip(scores.levels, scores.perplexity, scores.usage, strict=True)
    ]
    return [
        f"PSNR of {scores.num_images:,} test images: {scores.psnr:.2f} dB. Perplexity and share of the "
        f"{scores.codebook_size:,} codes that occur, by level: {'; '.join(levels)}.",
        scores.verdict,
    ]


def notes(comparison: Comparison) -> list[str]:
    """What the numbers rest on, and what they do not show."""
    about = comparison.about
    sampler = [
        f"{name} {setting(value)}"
        for name, value in about["sampling"].items()
        if name != "batch" and value is not None
    ]
    machine = f"{about['processes']} x {about['device']}, {about['threads']} threads"
    lines = [
        *(floor_note(record) for record in comparison.results[0].records.values() if record["floor"]),
        *(score_note(record) for record in comparison.results[0].records.values()),
        f"Sampler: {', '.join(sampler)}.",
        f"All runs share the tokenizer in {about['tokenizer_run']} and the random numbers that images are "
        "drawn with; those of one seed, also the initial weights around the encoding and the order of data.",
        "Step time: the median of each run's log. The runs were trained one after another on one machine "
        f"({machine}), whatever else ran there.",
        memory_note(about),
    ]

    if len(comparison.seeds) > 1 and len(comparison.encodings) > 1:
        lines.append(
            f"Differences to {comparison.encodings[0]}: seed by seed, ± half of Student's t interval at "
            f"{CONFIDENCE:.0%} for all encodings of a quantity together; for this tokenizer and these images."
        )
    return lines


def floor_note(record: Record) -> str:
    """What the column of real images is of."""
    floor = record["floor"] or {}
    return (
        f"{REAL.capitalize()}: {int(floor['count']):,} against as many other real ones, by features of "
        f"{record['features']['name']}; no generator can be expected to be nearer."
    )


def score_note(record: Record) -> str:
    """Which images scores are of, by which features, and how far they can be trusted."""
    reference = record["reference"]
    features = record["features"]
    note = (
        f"Scores: {record['num_images']:,} generated images against {reference['num_images']:,} "
        f"{reference['set']} ({reference['split']} split) by features of {features['name']} "
        f"(weights {features['weights_sha256'][:12]})"
    )
    if not features["comparable_with_papers"]:
        note += ", not comparable with the FID of papers"
    note += "."

    accuracy = record["values"].get(f"accuracy_reference_{features['name']}")
    if accuracy is not None:
        note += f" It recognises {accuracy:.1%} of those real images."
    if record["num_images"] < FEW_IMAGES:
        note += f" Below {FEW_IMAGES:,} images scores are unreliable."
    return note


def memory_note(about: About) -> str:
    """What the peak of memory is of."""
    if not about["peak_memory_comparable"]:
        return "Peak memory: of the process so far, so it can only grow from run to run here: not comparable."
    if about["device"] == "cuda":
        return "Peak memory: what PyTorch had allocated on the first GPU at most during each training."
    return (
        "Peak memory: the whole first process, libraries included, during each training. What earlier ones "
        "left behind is partly in it, so no difference is called real."
    )
