"""A study in words and tables: one `Report`, made of the JSON alone, from which all its pages are made."""

from dataclasses import dataclass

from var_pe.comparison.equivalence import within_words
from var_pe.comparison.excess import excess_table
from var_pe.comparison.guide import RULE, advice
from var_pe.comparison.learned_maps import learned_maps_tables
from var_pe.comparison.results import CellEntry, Record, Results, TokenizerScores
from var_pe.comparison.size_tables import size_tables
from var_pe.comparison.table import Table
from var_pe.comparison.tables import ranking_table, tables
from var_pe.comparison.verdicts import compared, primary_column, ranking
from var_pe.comparison.wording import difference_text, many
from var_pe.pages.numbers import plain, setting


@dataclass(frozen=True)
class Report:
    """All texts and tables of a study's report."""

    title: str
    # two sentences
    answer: list[str]
    # cells that failed or are not finished
    missing: list[str]
    ranking: Table
    guide: list[str]
    tables: list[Table]
    # what each tokenizer does by itself
    tokenizers: list[str]
    notes: list[str]


def report_of(results: Results) -> Report:
    """The report of a study's results; it claims nothing that the tests do not show."""
    return Report(
        title=title(results),
        answer=answer(results),
        missing=missing(results),
        ranking=ranking_table(results),
        guide=[*advice(results), f"The rule: {RULE}"],
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
    seeds = len({cell["seed"] for cell in results["cells"]})
    what = "encodings" if results["study"]["encodings"] else "arms"
    return f"{len(results['arms'])} {what} compared over {many(seeds, 'seed')}"


def answer(results: Results) -> list[str]:
    """The study's answer in two sentences: what is best and real, and what so many seeds could have shown."""
    column, ranked = primary_column(results), ranking(results)
    if not ranked:
        return ["No cell is finished yet."]
    best = ranked[0]
    quantity = column.label
    first = f"{best.arm['name']} has the best {quantity}, {plain(best.mean * column.factor)}"

    family = compared(results, column)
    if best.count < 2:
        return [
            f"{first}.",
            "One seed shows no spread: no difference between these runs can be called real.",
        ]
    if not family:
        return [f"{first}.", f"It is the mean over {best.count} seeds; there is nothing to compare it with."]

    falls = -1 if column.better == "higher" else 1
    real = sorted((one for one in family if one.is_real), key=lambda one: falls * one.difference.mean)
    named = [f"{one.arm} ({difference_text(one, column)})" for one in real[:3]]
    if real:
        more = f" and {len(real) - 3} more" if len(real) > 3 else ""
        said = f"of {many(len(family), 'comparison')} these are real: {', '.join(named)}{more}"
    else:
        said = f"none of {many(len(family), 'comparison')} shows a difference beyond chance"

    sizes = [one.smallest for one in family if one.smallest is not None]
    count = min(one.difference.count for one in family)
    second = "Nothing can be said of what was too small to see."
    if sizes:
        size = f"{plain(min(sizes) * column.factor)}"
        if max(sizes) > min(sizes):
            size += f" to {plain(max(sizes) * column.factor)}"
        second = f"{many(count, 'seed')} could have shown differences of {size} with a power of 80 %"
        second = "; ".join([second, *within_words(results)]) + "."
    return [f"{first}; {said}.", second]


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
        *results.get("remarks", []),
    ]
    return lines


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
