"""Which folder of a set of pictures holds a split: the top one with its name, or with another usual name."""

import re
from collections.abc import Sequence
from pathlib import Path

from var_pe.data.walk import find_pictures, subfolders

TRAIN = frozenset(("train", "training"))
HELD_OUT = (
    frozenset(("test", "testing", "eval", "evaluation")),
    frozenset(("validation", "valid", "val", "dev")),
)


def usual_names(name: str) -> frozenset[str]:
    """The usual names of the split that `name` means, `name` among them; empty if it is none of them."""
    for names in (TRAIN, *HELD_OUT):
        if name.casefold() in names:
            return names
    return frozenset()


def is_for_training(name: str) -> bool:
    return usual_names(name) == TRAIN


def words(name: str) -> set[str]:
    """`train2017`, `train_images` and `my-train` hold the word train."""
    return set(re.split(r"[-._ 0-9]+", name.casefold()))


def means_a_split(name: str) -> bool:
    """Whether a word of the name is a usual name of a split."""
    return any(words(name) & names for names in (TRAIN, *HELD_OUT))


def named(folders: Sequence[str], split: str) -> list[str]:
    """Those of the folders that may hold the split, by the strictest rule that any of them meets.

    The rules: the same name; the same in upper or lower case; another usual name; a word of its name. The
    last one needs a folder for training beside it: without any, a folder "test tube" is a class.
    """
    usual = usual_names(split) or frozenset((split.casefold(),))
    found = [name for name in folders if name == split]
    found = found or [name for name in folders if name.casefold() == split.casefold()]
    found = found or [name for name in folders if name.casefold() in usual]
    if not found and any(words(name) & TRAIN for name in folders):
        found = [name for name in folders if words(name) & usual]
    return found


def find_split(root: Path, split: str) -> Path | None:
    """The folder of a split below `root`; None if there is none.

    A folder without any splits is the training split as a whole. If all its pictures
    lie in one folder that holds splits (archives are often unpacked so), that one is looked through instead.

    Raises:
        ValueError: several folders may be meant.
    """
    folders = subfolders(root)
    found = named(folders, split)
    if len(found) == 1:
        return root / found[0]
    if found:
        raise ValueError(
            f"{root} holds several folders for split {split}: {', '.join(found)}; "
            f"name one of them in data.train_split or data.test_split"
        )
    if any(usual_names(name) for name in folders):
        return None

    # Splits further down
    places = {tuple(path.split("/")[:-1]) for path in find_pictures(root).pictures}
    above = {place[:depth] for place in places for depth, name in enumerate(place) if is_for_training(name)}
    divided = min(above, default=())
    if len(above) == 1 and all(place[: len(divided)] == divided for place in places):
        return find_split(root.joinpath(*divided), split)
    if above:
        raise ValueError(
            f"{root.joinpath(*divided)} holds a folder for training of its own: give that folder as "
            f"data.path, or put the split first, as in {root.joinpath('train', *divided)}"
        )
    return root if is_for_training(split) else None


def splits_in(root: Path, *, for_training: bool) -> list[str]:
    """The folders right below `root` that may hold such a split: with a usual name, or a word of one."""
    folders = subfolders(root)
    if not any(words(name) & TRAIN for name in folders):
        return [name for name in folders if usual_names(name)]
    return [name for name in folders if means_a_split(name) and for_training == bool(words(name) & TRAIN)]
