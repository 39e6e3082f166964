"""What a diagnosis consists of."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Something that was seen of a model's positions."""

    # fine | note (something to know) | problem
    verdict: str
    said: str
    # what to do about it; empty where there is nothing to do
    todo: str = ""
