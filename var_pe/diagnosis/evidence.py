"""What was measured of encodings and tasks: the table that `scripts/heads.py` writes, kept in docs/."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

EVIDENCE = Path(__file__).parents[2] / "docs" / "task_evidence.json"
TASKS = ("classification", "detection", "segmentation")


@dataclass(frozen=True)
class Measured:
    """Scores of one encoding on one task, at one size, over some seeds."""

    encoding: str
    task: str
    size: tuple[int, int]
    frozen: bool | None  # whether a head's classifier was left as it was; None: no head, the classifier's own
    mean: float
    spread: float | None
    seeds: tuple[int, ...]

    @property
    def where(self) -> str:
        trained = {True: "frozen", False: "fine-tuned", None: "as trained"}[self.frozen]
        return f"{trained}, {self.size[0]}x{self.size[1]}"

    @property
    def shown(self) -> str:
        spread = "" if self.spread is None else f" ± {100 * self.spread:.1f}"
        return f"{100 * self.mean:.1f}{spread} % ({len(self.seeds)} seeds)"


def read_evidence(path: Path | None = None) -> list[Measured]:
    """Without a path the table of docs/, which an installed package lacks: then it is empty.

    Raises:
        ValueError: the file that was named is not there, or no such table.
    """
    if path is None and not EVIDENCE.exists():
        return []
    path = path or EVIDENCE
    try:
        table = json.loads(path.read_text())
        if not isinstance(table, list):
            raise TypeError("rows make a list")
        return [_row(row) for row in table]
    except OSError as error:
        raise ValueError(f"the evidence {path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, LookupError) as error:
        raise ValueError(
            f"the evidence {path} is no table of scripts/heads.py (task_evidence.json)"
        ) from error


def _row(row: dict[str, Any]) -> Measured:
    """Raises:
    ValueError, TypeError, LookupError: a field is missing or of another type."""
    height, width = row["size"]
    found = Measured(
        row["encoding"],
        row["task"],
        (height, width),
        row["frozen"],
        row["mean"],
        row["spread"],
        tuple(row["seeds"]),
    )
    numbers = [found.mean, 0.0 if found.spread is None else found.spread]
    whole = [height, width, *found.seeds]
    if not (
        all(type(word) is str for word in (found.encoding, found.task))
        and all(type(number) in (int, float) and isfinite(number) for number in numbers)
        and all(type(number) is int for number in whole)
        and found.frozen in (True, False, None)
        and found.seeds
    ):
        raise TypeError("a field is of another type")
    return found


def compare(line: str, task: str, rows: Sequence[Measured]) -> list[tuple[Measured, Measured]]:
    """The encoding's own scores on the task, each with the best encoding's under the same circumstances."""
    pairs = []
    for row in rows:
        if row.task == task and row.encoding == line:
            rivals = [r for r in rows if (r.task, r.size, r.frozen) == (task, row.size, row.frozen)]
            pairs.append((row, max(rivals, key=lambda rival: rival.mean)))
    return pairs


def clearly_below(own: Measured, best: Measured) -> bool:
    """Whether means differ by more than both spreads together; without spreads nothing can be said."""
    return (
        own.spread is not None and best.spread is not None and best.mean - own.mean > own.spread + best.spread
    )
