"""How many pictures a set has of each class, in words."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from var_pe.data.folder_source import Folder
from var_pe.data.images import check_padding, remarks_on_depth
from var_pe.data.sources import OF_CLIPS, DataConfig, find_data, open_source
from var_pe.data.walk import printable
from var_pe.progress import number_of

# A class with fewer pictures than this gets a remark.
FEW = 20
# So many classes are listed, each with its number.
LISTED = 20


def counts(labels_N: NDArray[np.int64], class_names: Sequence[str], what: str = "picture") -> str:
    """`54 pictures of 3 classes: a 50, b 1, c 3`; for many classes only least and most."""
    pictures = number_of(len(labels_N), what)
    if not class_names:
        return f"{pictures} without labels"

    of_class_C = np.bincount(labels_N[labels_N >= 0], minlength=len(class_names))
    least, most = int(of_class_C.argmin()), int(of_class_C.argmax())
    classes = f"{pictures} of {number_of(len(class_names), 'class', 'classes')}"
    if of_class_C[least] == of_class_C[most]:
        return f"{classes}, {of_class_C[most]} of each"
    if len(class_names) <= LISTED:
        each = [f"{name} {number}" for name, number in zip(class_names, of_class_C, strict=True)]
        return f"{classes}: {', '.join(each)}"
    rarest = f"{of_class_C[least]} ({class_names[least]})"
    return f"{classes}, from {rarest} to {of_class_C[most]} ({class_names[most]})"


def few(labels_N: NDArray[np.int64], class_names: Sequence[str], what: str = "picture") -> str:
    """A remark on the classes with very few pictures to train on; empty if there are none."""
    if not class_names:
        return ""
    of_class_C = np.bincount(labels_N[labels_N >= 0], minlength=len(class_names))
    rare = np.flatnonzero(of_class_C < FEW)
    if not len(rare):
        return ""

    rarest = rare[np.argsort(of_class_C[rare], kind="stable")][:3]
    which = ", ".join(f"{class_names[label]} {of_class_C[label]}" for label in rarest)
    has = "has" if len(rare) == 1 else "have"
    return (
        f"{len(rare)} of {len(class_names)} classes {has} fewer than {FEW} {what}s to train on ({which}), "
        f"which is very few"
    )


def what_a_limit_takes(data: DataConfig) -> str:
    """Which pictures data.limit takes of the tables of a stream, which have no numbers to draw from."""
    first = "as stored" if data.subset_seed is None else "of up to 10 files drawn by data.subset_seed"
    return (
        f"data.limit={data.limit} of a stream takes the first pictures {first}, each data worker those of "
        f"its own files; they may show few of the classes (data.streaming=false draws over the whole split)"
    )


def what_classes_leave_out(data: DataConfig) -> str:
    """What data.classes does to the tables of a stream, which are not counted."""
    return (
        f"data.classes takes {number_of(len(data.classes), 'class', 'classes')}: pictures of all others are "
        f"passed over as the stream is read"
    )


def what_is_read(data: DataConfig) -> list[str]:
    """How many pictures of each class both splits have and what is left out of them, a sentence each.

    The tables of a stream are not counted, but it is said what a limit takes of them.

    Raises:
        ValueError: one of the splits cannot be opened, or has pictures that data.framing=pad cannot take.
    """
    if data.streaming and isinstance(find_data(data), Folder):
        data = replace(data, streaming=False)
    if data.streaming:
        limited = [what_a_limit_takes(data)] if data.limit else []
        return [*limited, what_classes_leave_out(data)] if data.classes else limited

    train, test = open_source(data, train=True), open_source(data, train=False)
    for source in (train, test):
        check_padding(data, source)

    what = "clip" if data.source in OF_CLIPS else "picture"
    sentences = [
        f"train on {counts(train.labels_N, train.class_names, what)}",
        *train.remarks,
        *remarks_on_depth(train),
        few(train.labels_N, train.class_names, what),
        f"test on {counts(test.labels_N, test.class_names, what)}",
        *test.remarks,
    ]
    # What holds for both splits is said once.
    return list(dict.fromkeys(printable(sentence) for sentence in sentences if sentence))
