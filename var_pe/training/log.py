"""A run's log.jsonl, read."""

import json
from collections.abc import Mapping
from pathlib import Path

LogEntry = Mapping[str, float]  # a line: the step and what was measured there, by name


def read_log(path: Path) -> list[LogEntry]:
    """The entries in order."""
    return [json.loads(line) for line in path.read_text().splitlines()]
