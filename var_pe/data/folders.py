"""The pictures below a folder and their classes: the first folder that each lies in, or a list beside them.

docs/data.md says which layouts are read. A remark names whatever is left out.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from var_pe.data.label_lists import (
    ANNOTATIONS,
    METADATA,
    Label,
    from_annotations,
    from_metadata,
    in_order,
)
from var_pe.data.walk import Found, find_pictures, identity, in_words, subfolders
from var_pe.progress import number_of

HINT = (
    "an image folder holds a folder for each split, such as train and test, and in these one for each class"
)
# Formats of pictures that Pillow cannot read
OF_OTHER_PROGRAMS = frozenset(
    (
        ".heic", ".heif", ".jxl", ".svg", ".exr", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf",
        ".raf", ".rw2",
    )
)  # fmt: skip
ARCHIVES = frozenset((".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"))


@dataclass
class Pictures:
    """The pictures of one split: their files by path from `folder`, and the name of each one's class."""

    folder: Path
    files: list[str]
    # None: it has no class
    names: list[str | None]
    # all classes, in the order of their labels
    classes: tuple[str, ...] = ()
    # whether a list says the classes, and not the folders
    listed: bool = False
    remarks: list[str] = field(default_factory=list)

    def keep(self, chosen: Sequence[bool]) -> None:
        """Keeps only the chosen pictures."""
        self.files = [file for file, wanted in zip(self.files, chosen, strict=True) if wanted]
        self.names = [name for name, wanted in zip(self.names, chosen, strict=True) if wanted]


def read_pictures(
    folder: Path,
    *,
    image_column: str = "image",
    label_column: str | None = "label",
    skip_unreadable: bool = False,
    known: Sequence[str] = (),
    wanted: Sequence[str] = (),
    suffixes: frozenset[str] | None = None,
) -> Pictures:
    """The pictures below the folder of a split, or files of other `suffixes`, as paths or a list order them.

    Without a `label_column` none has a class. `known` are the classes of the training split, if this is
    another. With `skip_unreadable`, pictures that cannot be read are remarked on; else they may be an error.
    All classes are read; what is wrong with others than those `wanted` (if any) does not matter.

    Raises:
        ValueError: there are none, a list of labels is not right, or a class has no picture that can be read.
    """
    found = find_pictures(folder, METADATA | ANNOTATIONS, suffixes)
    if not found.pictures:
        raise ValueError(f"{folder} holds no pictures{instead(found)}; {HINT}")

    remarks = [f"{folder}: skipped {in_words(found.kinds())}"] if found.others else []
    if found.hidden:
        remarks.append(
            f"{folder}: pictures in {some(found.hidden)} are skipped, since their names are hidden (they "
            "begin with a dot)"
        )
    if label_column is None:
        return Pictures(folder, found.pictures, [None] * len(found.pictures), remarks=remarks)

    # A list goes before the folders.
    metadata = [path for path in found.lists if path.rpartition("/")[2] in METADATA]
    annotations = [path for path in found.lists if path not in metadata]
    labels = from_metadata(folder, metadata, image_column, label_column) if metadata else None
    labels = labels or from_annotations(folder, annotations)
    if labels:
        pictures = by_list(folder, found, labels, skip_unreadable)
    elif label_column != "label":
        raise ValueError(
            f"data.label_column={label_column} is not a column of a metadata.csv below {folder}; "
            f"without data.label_column the classes are the folders"
        )
    else:
        pictures = by_folder(folder, found, known, skip_unreadable, wanted)
        if metadata:
            remarks.append(f"{folder / metadata[0]} has no column label: the classes are the folders")

    pictures.remarks[:0] = remarks
    return pictures


def instead(found: Found) -> str:
    """What is there in place of pictures."""
    if not found.others:
        return ""
    packed = set(found.kinds()) & ARCHIVES
    return f" but {in_words(found.kinds())}" + ("; unpack the archive first" if packed else "")


def composed(name: str) -> str:
    """The name with its accents in Unicode's form NFC, whatever the system that stored it prefers.

    Bytes that are not UTF-8, from archives of old, are written as `\\xe9`.
    """
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "backslashreplace"))


def some(names: Iterable[str], most: int = 3) -> str:
    """The first names, and how many others there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


# ---------------------------------------------------------------------------------- classes of a list


def by_list(folder: Path, found: Found, labels: dict[str, Label], skip_unreadable: bool) -> Pictures:
    """The pictures that the lists name, in their order."""
    files = {composed(file): file for file in found.pictures}
    missing = [place for place in labels if composed(place) not in files]
    there = {place: label for place, label in labels.items() if composed(place) in files}

    sentence = f"the list in {folder} names {number_of(len(missing))} not there: {some(missing)}"
    if missing and not (skip_unreadable and there):
        raise ValueError(f"{sentence} (data.on_corrupt=skip leaves them out)")

    pictures = Pictures(
        folder,
        [files[composed(place)] for place in there],
        [None if label is None else str(label) for label in there.values()],
        in_order(there.values()),
        listed=True,
        remarks=[sentence] if missing else [],
    )
    if len(there) < len(files):
        pictures.remarks.append(f"{folder}: left out {number_of(len(files) - len(there))} that no list names")
    leave_out_nameless(pictures, "that the list gives no label")
    pictures.remarks += remarks_on_spelling(pictures)
    return pictures


def leave_out_nameless(pictures: Pictures, which: str) -> None:
    """Forgets the pictures without a class, with a remark; `which` says what they are."""
    nameless = [file for file, name in zip(pictures.files, pictures.names, strict=True) if name is None]
    if nameless and len(nameless) < len(pictures.files):
        pictures.keep([name is not None for name in pictures.names])
        pictures.remarks.append(
            f"{pictures.folder}: left out {number_of(len(nameless))} {which}, such as {nameless[0]}"
        )


# -------------------------------------------------------------------------------- classes of the folders


def by_folder(
    folder: Path, found: Found, known: Sequence[str], skip_unreadable: bool, wanted: Sequence[str]
) -> Pictures:
    """The pictures with the first folder below the split's as their class."""
    places = [file.rpartition("/")[0] for file in found.pictures]
    parts = {place: place.split("/") if place else [] for place in set(places)}
    depth = depth_of_classes(parts.values(), known)

    # The classes are sorted as their folders are stored; one class may be stored in several forms.
    forms: dict[str, set[str]] = {}
    for part in parts.values():
        for stored in part[depth : depth + 1]:
            forms.setdefault(composed(stored), set()).add(stored)
    classes = tuple(sorted(forms, key=lambda name: min(forms[name])))

    class_of = {place: composed(part[depth]) if len(part) > depth else None for place, part in parts.items()}
    pictures = Pictures(folder, found.pictures, [class_of[place] for place in places], classes)
    remarks = pictures.remarks
    if depth:
        around = min(part[0] for part in parts.values())
        remarks.append(f"{folder} holds one folder, {around}, whose folders are the classes")
    remarks += [
        f"{folder}: {len(stored)} folders are class {name}, since their names differ in Unicode's form alone"
        for name, stored in forms.items()
        if len(stored) > 1
    ]
    remarks += remarks_on_spelling(pictures)
    remarks += remarks_on_links(folder, Counter(places), class_of, wanted)

    deeper = sorted(place for place, part in parts.items() if len(part) > depth + 1)
    if deeper:
        remarks.append(
            f"{folder}: pictures also lie deeper, in {some(deeper)}; their class is the first folder"
        )

    if not depth:
        there = {part[0] for part in parts.values() if part}
        remarks += lost_classes(folder, found, there, skip_unreadable, wanted)
    leave_out_nameless(pictures, "beside the class folders, where there is no class")
    return pictures


def depth_of_classes(parts: Collection[Sequence[str]], known: Sequence[str]) -> int:
    """0: the first folders are the classes; 1: there is but one, without pictures of its own, around them.

    `parts` are the folders that hold pictures, each as the names on the way to it.
    """
    tops = {part[0] if part else "" for part in parts}
    inside = {part[1] for part in parts if len(part) > 1}
    wrapped = len(tops) == 1 and len(inside) > 1 and all(len(part) > 1 for part in parts)
    return int(wrapped and composed(min(tops)) not in known)


def spelt(name: str) -> str:
    """What names have in common that differ in upper and lower case or in spaces alone."""
    return " ".join(name.casefold().split())


def alike(classes: Sequence[str]) -> list[list[str]]:
    """Groups of classes whose names differ in upper and lower case or in spaces alone."""
    groups: dict[str, list[str]] = {}
    for name in classes:
        groups.setdefault(spelt(name), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def remarks_on_spelling(pictures: Pictures) -> list[str]:
    """A sentence for every such group, which a person may have meant as one class."""
    return [
        f"{pictures.folder}: classes {', '.join(map(repr, names))} differ in case or spaces alone"
        for names in alike(pictures.classes)
    ]


def remarks_on_links(
    folder: Path, number_in: Counter[str], class_of: dict[str, str | None], wanted: Sequence[str]
) -> list[str]:
    """A sentence for classes that hold the same folder because of a link: its pictures count for each.

    `number_in` counts the pictures right in each folder, `class_of` has its class. If some are `wanted`, the
    others are nobody's concern.
    """
    paths: dict[tuple[int, int], list[str]] = {}
    for place in sorted(number_in):
        if class_of[place] is not None and (not wanted or class_of[place] in wanted):
            paths.setdefault(identity(os.stat(folder / place)), []).append(place)

    # Folders below the one that is linked are of the same classes.
    shared: dict[tuple[str, ...], list[list[str]]] = {}
    for same in paths.values():
        classes = tuple(sorted({str(class_of[place]) for place in same}))
        if len(classes) > 1:
            shared.setdefault(classes, []).append(same)

    remarks = []
    for classes, groups in shared.items():
        real = os.path.realpath(folder)
        uppermost = min(groups, key=lambda same: len(same[0]))
        linked = [place for place in uppermost if os.path.realpath(folder / place) != f"{real}/{place}"]
        stored = [place for place in uppermost if place not in linked]
        how = f"{some(linked)} and {some(stored)} are one folder"
        if len(linked) == len(stored) == 1:
            how = f"{linked[0]} is a link to {stored[0]}"
        elif not stored:
            how = f"{some(linked)} are links to one folder"
        remarks.append(
            f"{folder}: {how}: the same {number_of(sum(number_in[same[0]] for same in groups))} count "
            f"under {len(classes)} classes, {' and '.join(classes)}; to use only some of them, name them "
            "in data.classes"
        )
    return remarks


def lost_classes(
    folder: Path, found: Found, classes: set[str], skip_unreadable: bool, wanted: Sequence[str]
) -> list[str]:
    """Remarks on the folders that would be classes if they held a picture that can be read.

    Raises:
        ValueError: one of them holds pictures in another format, unless these may be skipped.
    """
    remarks = []
    for name in subfolders(folder):
        if name in classes or (wanted and composed(name) not in wanted):
            continue
        kinds = found.kinds(name)
        sentence = f"{folder / name} holds no picture that can be read" + (
            f" ({in_words(kinds)})" if kinds else ", since it is empty"
        )
        if set(kinds) & OF_OTHER_PROGRAMS and not skip_unreadable:
            raise ValueError(
                f"{sentence}: convert its pictures, move the folder away, or set data.on_corrupt=skip to "
                "leave this class out"
            )
        remarks.append(f"{sentence}; it is not a class")
    return remarks


def labels_by(train: Pictures, pictures: Pictures, wanted: Sequence[str] = ()) -> list[int]:
    """The label of each picture of another split in the training split's classes, -1 where it has none.

    Remarks on the classes that are in one split alone (of those `wanted`, if any), and on names that differ
    in case or spaces.
    """
    numbers = {name: number for number, name in enumerate(train.classes)}
    by_spelling: dict[str, list[str]] = {}
    for name in train.classes:
        by_spelling.setdefault(spelt(name), []).append(name)

    meant: dict[str, str] = {}
    present = set(pictures.names)
    for name in pictures.classes:
        if name not in present:
            continue
        candidates = by_spelling.get(spelt(name), [])
        if name in numbers:
            meant[name] = name
        elif len(candidates) == 1:
            meant[name] = candidates[0]
            pictures.remarks.append(
                f"{pictures.folder}: {name} is taken for class {candidates[0]} of training"
            )

    unknown = Counter(name for name in pictures.names if name not in meant)
    if unknown:
        number = number_of(sum(unknown.values()))
        pictures.remarks.append(
            f"{pictures.folder}: left out {number} of classes that training does not have: "
            f"{some(map(str, unknown))}"
        )
    asked = [name for name in train.classes if not wanted or name in wanted]
    missing = [name for name in asked if name not in meant.values()]
    if missing and len(missing) < len(asked):
        pictures.remarks.append(
            f"the test split, in {pictures.folder}, has no pictures of {len(missing)} of the {len(asked)} "
            f"classes: {some(missing)}"
        )
    return [numbers[meant[name]] if name in meant else -1 for name in pictures.names]
