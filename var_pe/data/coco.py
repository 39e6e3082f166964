"""Pictures with boxes in COCO's format: a JSON file for each split, and the pictures that it names."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from var_pe.data.folders import composed, some
from var_pe.data.label_lists import text_of
from var_pe.data.mask_folder import size_of
from var_pe.data.pictures import DataError, open_picture
from var_pe.data.placement import Boxes
from var_pe.data.walk import hash_of_files
from var_pe.progress import number_of

# Where the file of a split lies: as COCO is unpacked, by the split's name, or beside the pictures
FILES = (
    "annotations/instances_{split}.json",
    "annotations/{split}.json",
    "{split}.json",
    "{split}/annotations.json",
    "{split}/_annotations.coco.json",
)
# Where its pictures may lie
FOLDERS = ("{split}", "{split}/images", "images/{split}", "images", ".")

Entry = dict[str, object]


class CocoFolder:
    """One split of a folder with annotations in COCO's format.

    Labels count the categories in the order of their ids or, where `classes` names some, in that order;
    boxes of others are left out.

    Raises:
        ValueError: a file is missing or not as it should be, or the training split has other categories.
    """

    class_names: tuple[str, ...] = ()

    def __init__(self, root: Path, split: str, *, train_split: str, classes: Sequence[str]) -> None:
        self.root, self.split = root, split
        self.file_of_split = file_of(root, split)
        listed = Listed.of(self.file_of_split)
        if split != train_split:
            of_training = Listed.of(file_of(root, train_split))
            if of_training.categories != listed.categories:
                raise ValueError(
                    f"{self.file_of_split} has other categories than {of_training.file}: "
                    f"{some(listed.categories.values())} and {some(of_training.categories.values())}"
                )

        unknown = [name for name in classes if name not in listed.categories.values()]
        if unknown:
            raise ValueError(
                f"data.classes names {unknown[0]}, which is not a category of {self.file_of_split}: it has "
                f"{some(listed.categories.values(), 10)}"
            )
        self.box_names = tuple(classes) or tuple(listed.categories.values())
        if not self.box_names:
            raise ValueError(f"{self.file_of_split} has no categories")

        # Arrays, since every data worker would copy lists little by little
        labels = {
            number: self.box_names.index(name)
            for number, name in listed.categories.items()
            if name in self.box_names
        }
        boxes = [box for box in listed.boxes if box.category in labels]
        if not boxes:
            of_these = " of data.classes" if classes else ""
            raise ValueError(f"{self.file_of_split} has no box{of_these}, so there is nothing to find")
        boxes.sort(key=lambda box: box.picture)
        self.places_M4 = np.array([box.place for box in boxes], np.float32).reshape(-1, 4)
        self.of_class_M = np.array([labels[box.category] for box in boxes], np.int64)
        self.crowds_M = np.array([box.crowd for box in boxes], np.bool_)
        numbers_M = np.array([box.picture for box in boxes], np.int64)
        self.starts_N = np.searchsorted(numbers_M, np.arange(len(listed.names) + 1))

        self.sizes_N2 = np.array(listed.sizes, np.int64)
        self.names_N = np.array(places_of(root, split, listed))
        self.labels_N: NDArray[np.int64] = np.full(len(self.names_N), -1, np.int64)
        self.remarks = tuple(listed.remarks)

    def __len__(self) -> int:
        return len(self.names_N)

    @property
    def most_boxes(self) -> int:
        return int(np.diff(self.starts_N).max())

    def file(self, index: int) -> Path:
        return self.root / str(self.names_N[index])

    def read(self, index: int) -> tuple[Image.Image, int]:
        file = self.file(index)
        return open_picture(file, str(file)), -1

    def boxes(self, index: int) -> Boxes:
        of_picture = slice(int(self.starts_N[index]), int(self.starts_N[index + 1]))
        height, width = self.sizes_N2[index].tolist()
        return Boxes(
            (height, width),
            torch.from_numpy(self.places_M4[of_picture].copy()),
            torch.from_numpy(self.of_class_M[of_picture].copy()),
            torch.from_numpy(self.crowds_M[of_picture].copy()),
        )

    def check_boxes(self, index: int) -> None:
        """Reads a picture's size.

        Raises:
            ValueError: it is not a picture, or has another size than the annotations say.
        """
        found, said = size_of(self.file(index)), tuple(self.sizes_N2[index].tolist())
        if found != said:
            raise DataError(
                f"{self.file_of_split} says that {self.names_N[index]} has {said[0]} x {said[1]} pixels "
                f"(height x width), but it has {found[0]} x {found[1]}"
            )

    @property
    def fingerprint(self) -> str:
        return self._hash(times=True)

    @property
    def identity(self) -> str:
        return self._hash(times=False)

    def _hash(self, *, times: bool) -> str:
        boxes = (self.places_M4, self.of_class_M, self.crowds_M, self.starts_N)
        what = repr(self.box_names).encode() + b"".join(array.tobytes() for array in boxes)
        files = [(name, self.file(index)) for index, name in enumerate(self.names_N.tolist())]
        return f"coco-{self.split}-{len(self)}-{hash_of_files(what, files, times=times)}"


def file_of(root: Path, split: str) -> Path:
    """The annotations of a split.

    Raises:
        ValueError: there are none.
    """
    names = [name.format(split=split) for name in FILES]
    found = [root / name for name in names if (root / name).is_file()]
    if not found:
        there = sorted(path.relative_to(root).as_posix() for path in root.glob("**/*.json"))
        also = f"; there are {some(there)} (data.train_split, data.test_split)" if there else ""
        raise ValueError(
            f"{root} has no annotations of split {split}, such as {names[0]} or {names[3]}{also}"
        )
    return found[0]


def places_of(root: Path, split: str, listed: "Listed") -> list[str]:
    """The path of every picture, from `root`.

    Raises:
        ValueError: one is not there.
    """
    folders = [name.format(split=split) for name in FOLDERS]
    folders = [name for name in folders if (root / name).is_dir()]
    places, missing = [], []
    for name in listed.names:
        found = [f"{folder}/{name}" for folder in folders if (root / folder / name).is_file()]
        places += found[:1]
        missing += [] if found else [name]
    if missing:
        looked = ", ".join(str(root / folder) for folder in folders)
        raise ValueError(
            f"{listed.file} names {number_of(len(missing))} not there: {some(missing)}; they are looked for "
            f"in {looked}"
        )
    return places


# ------------------------------------------------------------------------------------- what a file says


@dataclass(frozen=True)
class ListedBox:
    # number of its picture in the list
    picture: int
    # id of its category
    category: int
    # left, top, right and bottom in pixels
    place: tuple[float, float, float, float]
    crowd: bool


@dataclass(frozen=True)
class Listed:
    """What a file of annotations says, checked."""

    file: Path
    # names by id, in the order of the ids
    categories: dict[int, str]
    # of the pictures, with their rows and columns
    names: list[str]
    sizes: list[tuple[int, int]]
    boxes: list[ListedBox]
    remarks: list[str]

    @classmethod
    def of(cls, file: Path) -> "Listed":
        """Reads a file.

        Raises:
            ValueError: something in it is not as it should be; the sentence names it.
        """
        try:
            content = json.loads(text_of(file))
        except json.JSONDecodeError as error:
            raise ValueError(f"{file} is not JSON: {error}") from error

        categories: dict[int, str] = {}
        for entry in entries(content, "categories", file):
            where = f"{file}: category {entry.get('id')}"
            number = whole(entry, "id", where)
            name = composed(text(entry, "name", where))
            if number in categories or name in categories.values():
                raise ValueError(f"{where} ({name}) is listed twice")
            categories[number] = name

        names: list[str] = []
        sizes: list[tuple[int, int]] = []
        by_id: dict[int, int] = {}
        for entry in entries(content, "images", file):
            where = f"{file}: image {entry.get('id')}"
            number = whole(entry, "id", where)
            if number in by_id:
                raise ValueError(f"{where} is listed twice")
            by_id[number] = len(names)
            names.append(text(entry, "file_name", where))
            sizes.append((whole(entry, "height", where), whole(entry, "width", where)))
        if not names:
            raise ValueError(f"{file} lists no images")

        boxes, empty = [], 0
        for entry in entries(content, "annotations", file):
            where = f"{file}: annotation {entry.get('id')}"
            picture = whole(entry, "image_id", where)
            category = whole(entry, "category_id", where)
            if picture not in by_id:
                raise ValueError(f"{where} belongs to image {picture}, which is not listed")
            if category not in categories:
                raise ValueError(f"{where} has category {category}, which is not listed")
            number = by_id[picture]
            place = box_in(entry, sizes[number], where)
            if place is None:
                empty += 1
                continue
            boxes.append(ListedBox(number, category, place, bool(entry.get("iscrowd", 0))))

        remarks = [f"{file}: left out {number_of(empty, 'box', 'boxes')} without an area"] if empty else []
        return cls(file, dict(sorted(categories.items())), names, sizes, boxes, remarks)


def entries(content: object, key: str, file: Path) -> Iterable[Entry]:
    """The mappings of one of the file's lists."""
    found = content.get(key) if isinstance(content, dict) else None
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise ValueError(
            f"{file} is not in COCO's format: it needs the lists images, annotations and categories, but "
            f"{key} is not a list of mappings"
        )
    return found


def whole(entry: Entry, key: str, where: str) -> int:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{where} needs a whole number {key}, got {value!r}")
    return value


def text(entry: Entry, key: str, where: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{where} needs a text {key}, got {value!r}")
    return value


def box_in(entry: Entry, size: tuple[int, int], where: str) -> tuple[float, float, float, float] | None:
    """Left, top, right and bottom of a box within its picture; None if it has no area.

    Raises:
        ValueError: it is not a box, or lies outside its picture.
    """
    found = entry.get("bbox")
    numbers = found if isinstance(found, list) else []
    if len(numbers) != 4 or not all(
        isinstance(number, int | float) and math.isfinite(number) for number in numbers
    ):
        raise ValueError(f"{where} needs a bbox of four numbers (left, top, width, height), got {found!r}")

    left, top = map(float, numbers[:2])
    width, height = map(float, numbers[2:])
    if width <= 0 or height <= 0:
        return None
    rows, columns = size
    if left >= columns or top >= rows or left + width <= 0 or top + height <= 0:
        raise ValueError(f"{where}: bbox {found} lies outside its picture of {rows} x {columns} pixels")
    return max(0.0, left), max(0.0, top), min(columns, left + width), min(rows, top + height)
