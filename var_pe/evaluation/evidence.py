"""What encodings reached on tasks: task_evidence.json, which studies write and diagnoses quote."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

from var_pe.encodings import as_saved
from var_pe.files import write_json
from var_pe.pyramid import Grid

DEFAULT_TABLE = Path(__file__).parents[2] / "docs" / "task_evidence.json"
CLASSIFICATION = "classification"  # a classifier's own task, which needs no other head
TASKS = (CLASSIFICATION, "detection", "segmentation")


@dataclass(frozen=True)
class TaskScore:
    """What one encoding reached on one task, at one size, over some seeds."""

    encoding: str
    task: str
    size: Grid
    # whether the classifier below a head was left as it was; None where there is no head
    frozen: bool | None
    mean: float
    # standard deviation over seeds; None for a single one
    spread: float | None
    seeds: tuple[int, ...]
    # what was measured, such as top-1 accuracy
    score: str = ""


def write_evidence(scores: Sequence[TaskScore], path: Path) -> None:
    """Writes the table that `read_evidence` reads."""
    rows = [
        {
            "encoding": score.encoding,
            "task": score.task,
            "score": score.score,
            "size": list(score.size),
            "frozen": score.frozen,
            "mean": score.mean,
            "spread": score.spread,
            "count": len(score.seeds),
            "seeds": list(score.seeds),
        }
        for score in scores
    ]
    write_json(path, rows)


def read_evidence(path: Path | None = None) -> list[TaskScore]:
    """Without a path the table of docs/, which an installed package lacks: then it is empty.

    Raises:
        ValueError: the file does not exist or does not hold such a table.
    """
    if path is None and not DEFAULT_TABLE.exists():
        return []
    path = path or DEFAULT_TABLE
    try:
        table = json.loads(path.read_text())
        if not isinstance(table, list):
            raise TypeError("rows make a list")
        return [_read_row(row) for row in table]
    except OSError as error:
        raise ValueError(f"the evidence {path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, LookupError) as error:
        raise ValueError(
            f"the evidence {path} is not a table of scripts/heads.py (task_evidence.json)"
        ) from error


def _read_row(row: Mapping[str, Any]) -> TaskScore:
    """One entry of the table.

    Raises:
        ValueError, TypeError, LookupError: a field is missing or of another type.
    """
    height, width = row["size"]
    found = TaskScore(
        encoding=row["encoding"],
        task=row["task"],
        size=(height, width),
        frozen=row["frozen"],
        mean=row["mean"],
        spread=row["spread"],
        seeds=tuple(row["seeds"]),
        score=row.get("score", ""),
    )

    # JSON's own types, and no others: true would pass for the number 1.
    words = (found.encoding, found.task, found.score)
    numbers = [found.mean] if found.spread is None else [found.mean, found.spread]
    whole = (height, width, *found.seeds)
    if not (
        all(type(word) is str for word in words)
        and all(type(number) in (int, float) and isfinite(number) for number in numbers)
        and all(type(number) is int for number in whole)
        and found.frozen in (True, False, None)
        and found.seeds
    ):
        raise TypeError("a field is of another type")
    return replace(found, encoding=as_saved(found.encoding))
