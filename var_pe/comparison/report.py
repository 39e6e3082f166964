"""A study in words and tables: one `Report`, made of the JSON alone, from which all its pages are made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from var_pe.comparison.agreement import agreement_sentences
from var_pe.comparison.equivalence import within_words
from var_pe.comparison.excess import excess_sentences, excess_table
from var_pe.comparison.guide import RULE, advice, named, situations
from var_pe.comparison.learned_maps import learned_maps_sentences, learned_maps_tables
from var_pe.comparison.results import CellEntry, Record, Results, TokenizerScores, grids_of
from var_pe.comparison.size_tables import size_sentence, size_tables, sizes_of
from var_pe.comparison.table import Table
from var_pe.comparison.tables import MOST_IN_MATRIX, ranking_table, tables
from var_pe.comparison.verdicts import (
    Column,
    Ranked,
    compared,
    mean_of,
    primary_column,
    ranking,
)
from var_pe.comparison.wording import difference_text, many
from var_pe.pages.numbers import plain, setting


@dataclass(frozen=True)
class Report:
    """All texts and tables of a study's report."""

    title: str
    # empty where the study's file asks none
    question: str
    # two sentences: what is best, and what is real
    answer: list[str]
    # how small a difference could have been seen; empty where there is nothing to compare
    sensitivity: str
    # what else a study was made for: other sizes, what ranks the same, where coordinates end, excess
    findings: list[str]
    # cells that failed or are not finished
    missing: list[str]
    ranking: Table
    guide: list[str]
    # by which the guide is written
    rule: str
    # on what the arms were trained
    trained: str
    tables: list[Table]
    # what each tokenizer does by itself
    tokenizers: list[str]
    notes: list[str]


def report_of(results: Results) -> Report:
    """The report of a study's results; it claims nothing that the tests do not show."""
    return Report(
        title=title(results),
        question=question(results),
        answer=answer(results),
        sensitivity=sensitivity(results),
        findings=findings(results),
        missing=missing(results),
        ranking=ranking_table(results),
        guide=advice(results),
        rule=RULE,
        trained=trained(results),
        tables=[
            table
            for table in (
                excess_table(results),
                *learned_maps_tables(results),
                *size_tables(results),
                *tables(results),
            )
            if table.rows
        ],
        tokenizers=[line for one in results["shared"]["tokenizers"] for line in tokenizer_lines(one)],
        notes=notes(results),
    )


# ------------------------------------------------------------------------------------------- first screen


def title(results: Results) -> str:
    """What was compared."""
    counts = {len(arm["seeds"]) for arm in results["arms"]}
    what = "encodings" if results["study"]["encodings"] else "arms"
    fewest, most = min(counts), max(counts)
    over = many(most, "seed") if fewest == most else f"{fewest} to {most} seeds"
    return f"{len(results['arms'])} {what} compared over {over}"


def question(results: Results) -> str:
    """What the study asks, as its file says."""
    return str(results["study"].get("question", ""))


def answer(results: Results) -> list[str]:
    """The study's answer in two sentences: which arm has the best mean, and which differences are real."""
    column, ranked = primary_column(results), ranking(results)
    if not ranked:
        return ["No cell is finished yet."]
    first = _best(results, ranked, column) if len(situations(results)) == 1 else ""

    family = compared(results, column)
    if max(one.count for one in ranked) < 2:
        return [
            f"{first or 'Every arm has one seed'}.",
            "One seed shows no spread: no difference between these runs can be called real.",
        ]
    if not family:
        alone = f"It is the mean over {ranked[0].count} seeds; there is nothing to compare it with."
        return [f"{first or column.label}.", alone]

    # Ceilings have had more sizes and more steps than what they are compared with.
    sizes = {arm["name"]: arm.get("trained_at") for arm in results["arms"]}
    alike = [one for one in family if sizes[one.arm] == sizes[one.reference]] or family
    apart = len(family) - len(alike)
    beside = f" ({apart} more with arms that were trained at further sizes, too)" if apart else ""

    falls = -1 if column.better == "higher" else 1
    real = sorted((one for one in alike if one.is_real), key=lambda one: falls * one.difference.mean)

    # Where all are compared with one arm, its name is said once.
    references = {one.reference for one in alike}
    against = f" with {references.pop()}" if len(references) == 1 else ""
    named = [f"{one.arm} ({difference_text(one, column, named=not against)})" for one in real[:3]]
    compared_with = f"{many(len(alike), 'comparison')}{against}{beside}"
    if real:
        more = f" and {len(real) - 3} more" if len(real) > 3 else ""
        said = f"Of {compared_with} these are real: {', '.join(named)}{more}."
    else:
        said = f"None of {compared_with} shows a difference beyond chance."
    return [f"{first}." if first else f"Arms are compared by their {column.label}.", said]


def _best(results: Results, ranked: Sequence[Ranked], column: Column) -> str:
    """Which arm has the best mean, of those that were trained at the same sizes as the first one."""
    sizes = results["arms"][0].get("trained_at")
    best = next((one for one in ranked if one.arm.get("trained_at") == sizes), ranked[0])
    name = named(best.arm["name"], best.arm["encoding"])
    return f"{name} has the best {column.label}, {plain(best.mean * column.factor)}"


def sensitivity(results: Results) -> str:
    """What differences each number of seeds could have shown, and which are shown to be within margins."""
    column = primary_column(results)
    family = compared(results, column)
    if not family or max(one.difference.count for one in family) < 2:
        return ""

    by_seeds: dict[int, list[float]] = {}
    for one in family:
        if one.smallest is not None:
            by_seeds.setdefault(one.difference.count, []).append(one.smallest * column.factor)
    if not by_seeds:
        return "Nothing can be said of what was too small to see."

    parts: list[str] = []
    for count, sizes in sorted(by_seeds.items(), reverse=True):
        low, high = plain(min(sizes), 2), plain(max(sizes), 2)
        size = low if low == high else f"{low} to {high}"
        parts.append(f"{many(count, 'seed')} {'' if parts else 'could have shown differences of '}{size}")
    seen = f"{', '.join(parts)} with a power of 80 %"
    return "; ".join([seen, *within_words(results)]) + "."


def findings(results: Results) -> list[str]:
    """What else a study was made for, each in a sentence."""
    return [
        *(size_sentence(results, grids) for grids in sizes_of(results)),
        *agreement_sentences(results),
        *learned_maps_sentences(results),
        *excess_sentences(results),
    ]


def trained(results: Results) -> str:
    """On what the arms were trained; what an arm changes of it stands among its settings."""
    config = cast(Mapping[str, Mapping[str, object]], results["config"])
    data, training = config["data"], config["generator_training"]
    arms = [arm for arm in results["arms"] if not arm["handicapped"]]
    tokens = sorted({sum(rows * columns for rows, columns in grids_of(results, arm)) for arm in arms})
    found = [mean_of(results, arm["name"], "parameters") for arm in arms]
    sizes = sorted({round(one.mean) for one in found if one is not None})

    said = f"Trained on {data['source']} at {data['height']}x{data['width']}, {_span(tokens)} tokens an image"
    if sizes:
        said += f"; generators of {_span(sizes)} parameters"
    said += f", {training['steps']:,} steps of {training['batch']} images where an arm does not change that. "
    rates, scales = (
        len(cast(Sequence[float], results["study"].get(name, []))) for name in ("learning_rates", "guidances")
    )
    if rates:
        guided = f" and of {many(scales, 'guidance scale')}" if scales else ""
        return f"{said}Each arm has the best of {many(rates, 'learning rate')}{guided}."
    return (
        f"{said}No learning rates were tried: it is {training['learning_rate']:g} where an arm does not say."
    )


def _span(numbers: Sequence[int]) -> str:
    low, high = f"{numbers[0]:,}", f"{numbers[-1]:,}"
    return low if low == high else f"{low} to {high}"


def missing(results: Results) -> list[str]:
    """Cells without a result, and why."""
    failed = [cell for cell in results["cells"] if cell["failed"]]
    lines = [f"Failed: {cell['arm']}, seed {cell['seed']}: {cell['failed']}" for cell in failed]
    left = [cell for cell in results["cells"] if not cell["values"] and not cell["failed"]]
    if left:
        lines.append(
            f"Not finished: {len(left)} of {many(len(results['cells']), 'cell')}; everything below is "
            f"of the others"
        )
    return lines


# ------------------------------------------------------------------------------------------------- notes


def tokenizer_lines(scores: TokenizerScores) -> list[str]:
    """A tokenizer's scores on the test split, and whether it is good."""
    levels = [
        f"level {grid}: {perplexity:.0f} codes, {usage:.0%} used"
        for grid, perplexity, usage in zip(
            scores["levels"], scores["perplexity"], scores["usage"], strict=True
        )
    ]
    return [
        f"{scores['folder']}: PSNR of {scores['num_images']:,} test images {scores['psnr']:.2f} dB. "
        f"Perplexity and share of the {scores['codebook_size']:,} codes that occur, by level: "
        f"{'; '.join(levels)}.",
        scores["verdict"],
    ]


def notes(results: Results) -> list[str]:
    """What the numbers rest on, and what they do not show."""
    config = results["config"]
    sampling = config["sampling"]
    assert isinstance(sampling, dict)
    sampler = [
        f"{name} {setting(value)}"
        for name, value in sampling.items()
        if name != "batch" and value is not None
    ]
    if results["study"].get("guidances"):
        sampler = [text for text in sampler if not text.startswith("guidance_scale ")]
        sampler.insert(0, "guidance_scale as chosen for each arm")

    # Scores first, then what they all rest on
    lines = [
        score_note(record, results["few_images"])
        for record in results["records"].values()
        if "features" in record
    ]
    lines += [
        f"Sampler: {', '.join(sampler)}.",
        "All cells share the tokenizer (but for arms that name another), its token cache and the random "
        "numbers that images are drawn with; those of one seed, also the initial weights around the "
        "encoding and the order of data.",
        "Intervals are for this tokenizer and these images: other data may rank arms otherwise.",
        *unmeasured(results),
        *results.get("remarks", []),
    ]
    return lines


def unmeasured(results: Results) -> list[str]:
    """What a study can measure and this one did not, so that nobody looks for it in vain."""
    keys = {key for cell in results["cells"] for key in cell["values"]}
    study = results["study"]
    known = {
        "a spatial Frechet distance": any(key.endswith("_spatial") for key in keys),
        "agreement with a judge": "class_agreement" in keys,
        "a classifier trained on drawn images": "accuracy_of_classifier_of_drawn" in keys,
        "what other sampling seeds change": any(len(cell["drawings"]) > 1 for cell in results["cells"]),
        "what other tokenizer seeds change": bool(study.get("tokenizer_seeds")),
        "excess nats": "exact" in results["shared"],
        "other sizes": bool(sizes_of(results)),
    }
    left = [name for name, measured in known.items() if not measured]
    said = [f"Not measured in this study: {', '.join(left)}."] if left else []
    if len(results["arms"]) > MOST_IN_MATRIX:
        said.append(f"The table of all pairs is left out, since there are more than {MOST_IN_MATRIX} arms.")
    return said


def score_note(record: Record, few: int) -> str:
    """Which images scores are of, by which features, and how far they can be trusted."""
    reference, features = record["reference"], record["features"]
    note = (
        f"Scores: {record['num_images']:,} generated images against {reference['num_images']:,} "
        f"{reference['set']} ({reference['split']} split) by features of {features['name']} "
        f"(weights {str(features['weights_sha256'])[:12]})"
    )
    if not features["comparable_with_papers"]:
        note += ", not comparable with the FID of papers"
    note += "."

    accuracy = record["values"].get(f"accuracy_reference_{features['name']}")
    if accuracy is not None:
        note += f" It recognises {accuracy:.1%} of those real images."
    if record["num_images"] < few:
        note += f" Below {few:,} images scores are unreliable."
    return note


def sample_rows(results: Results) -> list[tuple[str, str, list[str]]]:
    """Title, strip and classes of every row of pictures: real ones, reconstructions, then each arm."""
    shared = results["shared"]
    shown = {cell["arm"]: cell for cell in results["cells"] if cell["picture"]}
    classes = next((cell["classes"] for cell in shown.values()), [])
    rows = []
    if shared["real"] and shown:
        rows.append(("real test images", shared["real"], classes))
        rows.append(("their reconstructions by the tokenizer", shared["reconstructed"], classes))
    for ranked in ranking(results):
        cell: CellEntry | None = shown.get(ranked.arm["name"])
        if cell is not None:
            rows.append((ranked.arm["name"], cell["picture"], cell["classes"]))
    return rows
