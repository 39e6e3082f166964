"""A finding, of which a diagnosis consists."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """An observation on a model's positions, and what to do about it."""

    # fine | note (something to know) | problem
    verdict: str
    said: str
    # what to do about it; empty where there is nothing to do
    todo: str = ""
