"""Finds the classes that a user names among those of a set; a name that is not there becomes a sentence."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from var_pe.data.folders import composed, some
from var_pe.progress import number_of


def no_such_class(word: str, class_names: Sequence[str], most: int = 20) -> str:
    """A sentence about a class that is not there: the nearest names, and all unless they are many."""
    if not class_names:
        return f"there is no class {word!r}; the classes have no names"
    lower = {name.lower(): name for name in class_names}
    near = [lower[name] for name in get_close_matches(word.lower(), lower, n=3, cutoff=0.5)]
    near = near or [name for name in class_names if word.lower() in name.lower()][:3]
    if len(class_names) <= most:
        meant = f"did you mean {near[0]}? " if near and not word.isdecimal() else ""
        return f"there is no class {word!r}; {meant}there are {', '.join(class_names)}"

    hint = f"the nearest of {len(class_names)} are {', '.join(near)}" if near else "none is similar"
    return f"there is no class {word!r}; {hint}"


@dataclass(frozen=True)
class ChosenClasses:
    """Some classes of a set, in an order of their own."""

    # as the set spells them, in the order of their new labels
    names: tuple[str, ...]
    # how many classes there are in the set
    of: int
    # the new label of each class, -1 if it is left out; one more -1 at the end, which label -1 (none) reads
    labels_C: NDArray[np.int64]

    @classmethod
    def among(cls, class_names: Sequence[str], chosen: Sequence[str]) -> "ChosenClasses":
        """The `chosen` classes; names that differ only in the form of their Unicode are equal.

        Raises:
            ValueError: one of them is not there.
        """
        numbers = {composed(name): number for number, name in enumerate(class_names)}
        labels_C = np.full(len(class_names) + 1, -1, np.int64)
        names = []
        for label, name in enumerate(chosen):
            number = numbers.get(composed(name))
            if number is None:
                raise ValueError(f"data.classes: {no_such_class(name, class_names)}")
            labels_C[number] = label
            names.append(class_names[number])
        return cls(tuple(names), len(class_names), labels_C)

    def check(self, pictures: int, total: int, where: str) -> None:
        """Checks that some of a split's pictures are of these classes.

        Raises:
            ValueError: none is.
        """
        if not pictures:
            raise ValueError(
                f"none of the {number_of(total)} of {where} belongs to a class in data.classes: "
                f"{some(self.names)}"
            )

    def leaves_out(self, pictures: int, total: int) -> tuple[str, ...]:
        """A remark on the pictures of a training split that are of other classes, if any."""
        if pictures == total:
            return ()
        return (
            f"data.classes takes {len(self.names)} of {self.of} classes, which leaves out "
            f"{total - pictures} of {number_of(total)} to train on",
        )
