"""The comparison in numbers: which quantities there are, their mean and spread, their differences."""

from dataclasses import asdict, dataclass
from typing import Any

from var_pe.comparison.statistics import CONFIDENCE, Difference, Summary, difference, summary
from var_pe.comparison.study import Comparison


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
    """How much each encoding but the first differs from it, seed by seed.

    Not of exact quantities, nor of memory outside a GPU, which depends on what the process did before.
    """
    first, *others = comparison.encodings
    if column.exact or (column.key == "peak_memory_gb" and comparison.about["device"] != "cuda"):
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
