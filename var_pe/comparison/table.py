"""The comparison in numbers: which quantities there are, their mean and spread, their differences."""

from dataclasses import asdict, dataclass

from var_pe.comparison.generator_study import Comparison
from var_pe.comparison.statistics import CONFIDENCE, Difference, Summary, difference, summary
from var_pe.evaluation.shapes_scores import NOTHING_READ, SHAPE_SCORES


@dataclass(frozen=True)
class Column:
    """A quantity of the table."""

    # of Result.values
    key: str
    label: str
    # lower | higher
    better: str = ""
    # from the value's unit to the label's
    factor: float = 1.0
    # counted and not measured: it has no spread
    exact: bool = False


# What can be read off made-up shapes says in words what a person sees
READ = tuple(
    Column(key, label, "lower" if key == NOTHING_READ else "higher") for key, label in SHAPE_SCORES.items()
)

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
LOSS = Column("validation/loss", "validation loss (nats per token)", "lower")
COSTS = (
    Column("parameters", "trainable parameters", exact=True),
    Column("encoding_parameters", "of these, the encoding's", exact=True),
    Column("seconds_per_step", "step time (ms)", "lower", factor=1000),
    Column("peak_memory_gb", "peak memory (GB)", "lower"),
)


def columns(comparison: Comparison) -> list[Column]:
    """Those that some result has a value for; a score has one for each feature extractor.

    What was read off made-up shapes leads, then the loss.
    """
    keys = list(dict.fromkeys(key for result in comparison.results for key in result.values))

    # Of all quantities the loss is the one that the models were trained for, and it has the smallest spread.
    found = [column for column in (*READ, LOSS) if column.key in keys]
    for column in SCORES:
        for key in keys:
            if key == column.key:
                found.append(column)
            elif key.startswith(f"{column.key}_"):
                extractor = key.removeprefix(f"{column.key}_")
                found.append(Column(key, f"{column.label} ({extractor})", column.better))

    return found + [column for column in COSTS if column.key in keys]


def cell(comparison: Comparison, encoding: str, column: Column) -> Summary | None:
    """Mean and spread of a quantity under an encoding; None where no trial has it."""
    values = comparison.values(encoding, column.key)
    return summary(list(values.values())) if values else None


def compared(comparison: Comparison, column: Column) -> dict[str, Difference]:
    """How much each encoding but the first differs from it, seed by seed.

    Not of exact quantities, nor of memory outside a GPU, which depends on what the process did before.
    """
    if column.exact or (column.key == "peak_memory_gb" and comparison.about["device"] != "cuda"):
        return {}

    first, *others = comparison.encodings
    base = comparison.values(first, column.key)
    found = {}
    for encoding in others:
        values = comparison.values(encoding, column.key)
        to_first = difference(base, values, comparisons=len(others))
        if to_first is not None:
            found[encoding] = to_first
    return found


def floor_of(comparison: Comparison) -> dict[str, float]:
    """The scores of real images, by name; the same for all results, so of the first.

    Distances are to other real images. What a classifier recognises stands under the name that it has for
    drawn images.
    """
    floor: dict[str, float] = {}
    for record in comparison.results[0].records.values():
        floor |= record["floor"] or {}
        for name, value in record["values"].items():
            if name.startswith("accuracy_reference_"):
                floor[name.replace("reference", "generated")] = value
    return floor


def as_json(comparison: Comparison) -> dict[str, object]:
    """Every number, and every run that it was made of."""
    table: dict[str, dict[str, object]] = {}
    differences: dict[str, dict[str, object]] = {}
    for column in columns(comparison):
        for encoding in comparison.encodings:
            found = cell(comparison, encoding, column)
            if found is not None:
                table.setdefault(encoding, {})[column.key] = asdict(found)
        for encoding, other in compared(comparison, column).items():
            stated = {**asdict(other), "exceeds_spread": other.exceeds_spread}
            differences.setdefault(encoding, {})[column.key] = stated

    runs = [
        {
            "encoding": result.encoding,
            "seed": result.seed,
            "run": result.run,
            "values": result.values,
            "records": result.records,
        }
        for result in comparison.results
    ]
    return {
        "encodings": comparison.encodings,
        "seeds": comparison.seeds,
        "table": table,
        "differences_to_first": differences,
        "confidence": CONFIDENCE,
        "floor": floor_of(comparison),
        "about": comparison.about,
        "runs": runs,
    }
