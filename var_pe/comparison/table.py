"""A table of a study's report."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A table of the report; the first cell of a row is its name."""

    title: str
    header: list[str]
    rows: list[list[str]]
    # what it shows and does not show
    notes: list[str]
    # what makes its numbers anew
    command: str = ""
    # its cells are sentences and not numbers
    prose: bool = False
