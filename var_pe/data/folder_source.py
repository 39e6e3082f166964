"""One split of a folder of pictures as an image source, read from where the pictures are.

`folders.py` says what the pictures and classes of a split are. Here a split is found, or held out.
"""

import hashlib
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from var_pe.data.class_names import ChosenClasses
from var_pe.data.folders import HINT, Pictures, composed, instead, labels_by, read_pictures, some
from var_pe.data.pictures import open_picture
from var_pe.data.splits import find_split, means_a_split, splits_in
from var_pe.data.walk import (
    ending,
    find_pictures,
    holds_pictures,
    kind_of,
    size_and_time,
    subfolders,
)
from var_pe.progress import number_of

# Two pictures of one size in pixels have files of one size in these formats, so sizes do not tell them apart.
UNPACKED = frozenset(
    (".bmp", ".dib", ".pbm", ".pfm", ".pgm", ".pnm", ".ppm", ".ras", ".tga", ".tif", ".tiff")
)


@dataclass(frozen=True)
class Folder:
    """A folder of pictures and what is to be read of it."""

    root: Path
    train_split: str
    test_split: str
    image_column: str
    # None: no labels
    label_column: str | None
    # share of each class that is kept from training and is the test split, 0: none
    hold_out: float
    skip_unreadable: bool
    # the names of those that are used, in the order of their labels; empty: all
    classes: tuple[str, ...] = ()
    # endings of the files that are read in place of pictures; None: pictures
    suffixes: frozenset[str] | None = None

    def training(self) -> Pictures:
        """The pictures to train on.

        Raises:
            ValueError: there are none, or they are of fewer than two classes.
        """
        pictures = self._all_for_training()
        if self.hold_out:
            pictures.keep([not held for held in self._held_out(pictures)])
        return pictures

    def testing(self) -> tuple[Pictures, Pictures]:
        """The pictures to test on, and those to train on, whose classes count.

        Raises:
            ValueError: as `training`, or the pictures to test on are of none of the classes.
        """
        train = self._all_for_training()
        if self.hold_out:
            pictures = Pictures(
                train.folder, train.files, train.names, train.classes, train.listed, list(train.remarks)
            )
            pictures.keep(self._held_out(pictures))
            if not pictures.files:
                raise ValueError(
                    f"data.hold_out={self.hold_out} leaves nothing to test on: {train.folder} has only "
                    "one picture of each class"
                )
            return pictures, train

        folder = find_split(self.root, self.test_split)
        if folder is None:
            raise self._lacks(self.test_split, "data.test_split")

        pictures = self._read(folder, train.classes)
        if folder.samefile(train.folder):
            pictures.remarks.append(
                f"{folder} would be both trained on and tested on: the two splits are the same folder"
            )
        return pictures, train

    def _held_out(self, pictures: Pictures) -> list[bool]:
        """Which pictures are held out, with a remark on how many."""
        held, linked = held_out(pictures, self.hold_out)
        also = f", {linked} of them because links lead to or from others of these" if linked else ""
        pictures.remarks.append(
            f"data.hold_out={self.hold_out} holds out {sum(held)} of {number_of(len(held))} in "
            f"{pictures.folder} as the test split{also}"
        )
        return held

    def _all_for_training(self) -> Pictures:
        folder = find_split(self.root, self.train_split)
        if folder is None:
            raise self._lacks(self.train_split, "data.train_split")
        if self.hold_out and find_split(self.root, self.test_split) not in (None, folder):
            raise ValueError(
                f"data.hold_out={self.hold_out} is for folders without a test split, but {self.root} has a "
                f"folder for split {self.test_split}: set data.hold_out=0"
            )

        pictures = self._read(folder)
        if self.label_column is not None and len(pictures.classes) < 2:
            raise self._single_class(pictures)

        # Folders beside those of the two splits
        if folder != self.root:
            read = (folder, find_split(self.root, self.test_split))
            beside = [folder.parent / name for name in subfolders(folder.parent)]
            others = [
                place.name for place in beside if place not in read and holds_pictures(place, self.suffixes)
            ]
            if others:
                pictures.remarks.append(f"{folder.parent}: there, but not read: {some(others, 5)}")
        return pictures

    def _read(self, folder: Path, known: tuple[str, ...] = ()) -> Pictures:
        return read_pictures(
            folder,
            image_column=self.image_column,
            label_column=self.label_column,
            skip_unreadable=self.skip_unreadable,
            known=known,
            wanted=self.classes,
            suffixes=self.suffixes,
        )

    def _lacks(self, split: str, setting: str) -> ValueError:
        """The sentence that is said when a split has no folder."""
        found = find_pictures(self.root, suffixes=self.suffixes)
        if not found.pictures:
            return ValueError(f"{self.root} holds no pictures{instead(found)}; {HINT}")

        taken = {self.train_split, self.test_split}
        found_splits = splits_in(self.root, for_training=setting == "data.train_split")
        others = [name for name in found_splits if name not in taken]
        there = some(subfolders(self.root), 5) or "no folders"
        sentence = f"{self.root} has no folder for split {split}, it holds {there}: "
        if others:
            sentence += f"set {setting}={others[0]}, "
        if setting == "data.test_split":
            sentence += "set data.hold_out=0.1 to hold out a tenth of each class, "
        return ValueError(
            f"{sentence}or give the split a folder, {self.root / split}, with one for each class"
        )

    def _single_class(self, pictures: Pictures) -> ValueError:
        """The sentence that is said when all pictures belong to one class."""
        if pictures.classes:
            holds = f"holds a single class, {pictures.classes[0]}"
        else:
            holds = f"holds {number_of(len(pictures.files))} and no class folders"

        beside = [] if pictures.folder == self.root else subfolders(self.root)
        others = [name for name in beside if not means_a_split(name)]
        here = f" (other folders are beside it: {some(others)})" if others else ""
        also = "".join(f"; {remark}" for remark in pictures.remarks)
        return ValueError(
            f"{pictures.folder} {holds}{here}, so there is nothing to tell apart: put each class in a folder "
            f"of its own below it, list the classes in a metadata.csv there (columns file_name, label), or "
            f"set data.label_column=unlabelled to train without classes{also}"
        )


def held_out(pictures: Pictures, share: float) -> tuple[list[bool], int]:
    """Which pictures are held out: the share of each class, at least one of two, by the hash of their paths.

    So the choice is the same on every machine, and hardly changes when pictures are added. Paths that links
    make the same file are drawn as one, and held out together under whatever classes: a model is not tested
    on what it was trained on. A file that would take more of a class's share than is left is trained on, so
    that no single picture counts for many; only a class that would have none to test on gives the file with
    the fewest paths. The second answer counts the pictures by which such files exceed the share.
    """
    files: list[object] = [file_of(pictures.folder, name) for name in pictures.files]
    paths: dict[object, str] = {}
    places: dict[object, Counter[str | None]] = {}
    by_class: dict[str | None, list[object]] = {}
    for file, path, name in zip(files, map(composed, pictures.files), pictures.names, strict=True):
        paths[file] = min(path, paths.get(file, path))
        places.setdefault(file, Counter())[name] += 1
        by_class.setdefault(name, []).append(file)

    def draw(file: object) -> bytes:
        return hashlib.blake2b(os.fsencode(paths[file]), digest_size=8).digest()

    left = {
        name: min(max(1, round(share * len(of_class))), len(of_class) - 1)
        for name, of_class in by_class.items()
    }
    asked = sum(left.values())
    held: set[object] = set()
    for of_class in by_class.values():
        order = sorted(dict.fromkeys(of_class), key=draw)
        for file in order:
            if file not in held and all(left[name] >= number for name, number in places[file].items()):
                held.add(file)
                for name, number in places[file].items():
                    left[name] -= number
        if len(order) > 1 and held.isdisjoint(order):
            held.add(min(order, key=lambda file: places[file].total()))
    chosen = [file in held for file in files]
    return chosen, max(0, sum(chosen) - asked)


def file_of(folder: Path, name: str) -> tuple[int, int] | str:
    """A key that is the same for all paths to one file."""
    try:
        found = os.stat(folder / name)
    except OSError:
        return name  # that it cannot be read is said when it is read
    return (found.st_dev, found.st_ino) if found.st_ino else name


class FolderSource:
    """One split of a folder as an image source."""

    def __init__(self, folder: Folder, train: bool) -> None:
        if train:
            pictures = training = folder.training()
        else:
            pictures, training = folder.testing()

        self.class_names = training.classes
        labels = [-1] * len(pictures.files)
        if folder.label_column is not None:
            labels = labels_by(training, pictures, folder.classes)
            if max(labels) < 0:
                own = some(pictures.classes) or "no class folders"
                raise ValueError(
                    f"{pictures.folder} holds no picture of a class of training: there are {own}, and "
                    f"training has {some(training.classes)}; name another folder in data.test_split"
                )
            pictures.keep([label >= 0 for label in labels])
            labels = [label for label in labels if label >= 0]

        # Classes are chosen last, so that what is held out does not depend on them.
        if folder.classes:
            chosen, total = ChosenClasses.among(training.classes, folder.classes), len(labels)
            labels = chosen.labels_C[labels].tolist()
            pictures.keep([label >= 0 for label in labels])
            labels = [label for label in labels if label >= 0]
            chosen.check(len(labels), total, str(pictures.folder))
            self.class_names = chosen.names
            pictures.remarks += chosen.leaves_out(len(labels), total) if train else ()

        # An array, since every data worker would copy a list of a million names little by little.
        self.names_N = np.array([os.fsencode(file) for file in pictures.files])
        self.labels_N: NDArray[np.int64] = np.array(labels, np.int64)
        self.folder, self.below = folder, pictures.folder
        self.split = folder.train_split if train else folder.test_split
        self.listed, self.remarks = pictures.listed, tuple(pictures.remarks)

    @property
    def fingerprint(self) -> str:
        """A hash of the pictures' paths, sizes and times, of classes, and of a list's order and labels.

        It asks for the size of every file, so it is made when it is needed.
        """
        return self._hash(times=True)

    @property
    def identity(self) -> str:
        return self._hash(times=False)

    def _hash(self, *, times: bool) -> str:
        # Sorted as paths are, folder by folder
        inside = self.below.relative_to(self.folder.root).as_posix()
        inside = "" if inside == "." else f"{inside}/"
        names = [inside + os.fsdecode(name) for name in self.names_N.tolist()]

        digest = hashlib.blake2b(digest_size=16)
        for name in sorted(names, key=lambda name: name.split("/")):
            file = f"{self.folder.root}/{name}"
            size, time = size_and_time(file)
            digest.update(repr((name, size, time) if times else (name, size)).encode())
            if kind_of(name) in UNPACKED:
                digest.update(ending(Path(file)))

        columns = [self.folder.image_column]
        columns += [self.folder.label_column] if self.folder.label_column else []
        found: tuple[object, ...] = (digest.hexdigest(), columns, self.class_names)
        if self.listed:
            listed = repr(names).encode() + self.labels_N.tobytes()
            found += (hashlib.blake2b(listed, digest_size=16).hexdigest(),)
        short = hashlib.blake2b(repr(found).encode(), digest_size=8).hexdigest()
        return f"imagefolder-{self.split}-{len(self)}-{short}"

    def __len__(self) -> int:
        return len(self.names_N)

    def file(self, index: int) -> Path:
        return self.below / os.fsdecode(self.names_N[index])

    def read(self, index: int) -> tuple[Image.Image, int]:
        file = self.file(index)
        return open_picture(file, str(file)), int(self.labels_N[index])
