"""Rows of a table as pictures and labels: their columns, and the names of the classes."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from var_pe.data.pictures import CorruptImage, DataError, check_range, open_picture
from var_pe.data.tables import Tables
from var_pe.progress import number_of


def check_columns(
    tables: Tables, features: Mapping[str, object], image_column: str, label_column: str | None
) -> None:
    """Checks that the table has both columns.

    Raises:
        ValueError: one of them is missing.
    """
    found = ", ".join(features)
    if image_column not in features:
        raise ValueError(
            f"data.image_column={image_column} is not a column of {tables.location}; it has {found}"
        )
    if label_column is None or label_column in features:
        return

    raise ValueError(
        f"data.label_column={label_column} is not a column of {tables.location}; it has {found} (to train "
        "without classes, set data.label_column=unlabelled)"
    )


def wanted(image_column: str, label_column: str | None) -> list[str]:
    """The columns that are read."""
    return [image_column] + ([label_column] if label_column else [])


def is_missing(label: object) -> bool:
    """Whether a stored label means none: empty, blank, NaN, or -1, as where labels are hidden."""
    if isinstance(label, str):
        return not label.strip()
    return label is None or label != label or (label == -1 and not isinstance(label, bool))


def name_of(label: object, kind: object) -> str | None:
    """The name of the class that a stored label of this kind of column means; None if it means none."""
    # Imported here because it takes 90 MB, which `shapes` does not need.
    from datasets import ClassLabel

    if isinstance(kind, ClassLabel):
        known = isinstance(label, int) and 0 <= label < len(kind.names)
        return kind.names[label] if known else None
    if isinstance(label, float):  # pandas makes floats of whole numbers where one of them is missing
        label = int(label) if label.is_integer() else -1
    return None if isinstance(label, int) and label < 0 else str(label)


def check_kind(label_column: str, kind: object, streaming: bool) -> None:
    """Checks that a column of this kind can hold classes.

    Raises:
        ValueError: it cannot, or it stores no names, which a stream needs.
    """
    from datasets import ClassLabel, Value  # here for the same reason as in `name_of`

    if isinstance(kind, ClassLabel):
        return
    dtype = kind.dtype if isinstance(kind, Value) else ""
    if dtype not in ("string", "large_string", "bool") and not dtype.startswith(("int", "uint", "float")):
        raise ValueError(f"data.label_column={label_column} must hold classes, numbers or names, got {kind}")
    if streaming:
        raise ValueError(
            f"data.label_column={label_column} stores no class names, which data.streaming=true needs"
        )


def stored_names(tables: Tables, label_column: str, split: str) -> tuple[str, ...]:
    """The names of a split's classes by label: those stored with the column, or its labels, sorted.

    Raises:
        ValueError: the split lacks the column, or there is a single class.
    """
    from datasets import ClassLabel  # here for the same reason as in `name_of`

    # Parquet files are first looked at without being copied, since names may stand in their headers.
    lazily = replace(tables, streaming=True) if tables.kind == "parquet" else tables
    kind = features_of(lazily.load(split, (label_column,))).get(label_column)
    if kind is None:
        raise ValueError(
            f"data.label_column={label_column} is not a column of split {split} of {tables.location}"
        )

    check_kind(label_column, kind, tables.streaming)
    if isinstance(kind, ClassLabel):
        names = tuple(kind.names)
    else:
        stored = tables.load(split, (label_column,)).unique(label_column)
        found = sorted(label for label in stored if not is_missing(label))
        names = tuple(named_number(label, kind, tables, label_column) for label in found)

    if len(names) < 2:
        raise ValueError(
            f"data.label_column={label_column} of {tables.location} holds a single class, so there is "
            f"nothing to tell apart: add another, choose another column, or set data.label_column=unlabelled"
        )
    return names


def named_number(label: object, kind: object, tables: Tables, label_column: str) -> str:
    """The name of a class without a stored name.

    Raises:
        ValueError: the label is a fraction, or negative and not -1.
    """
    name = name_of(label, kind)
    if name is None:
        raise ValueError(
            f"data.label_column={label_column} of {tables.location} holds {label}, but classes are names or "
            f"whole numbers from 0 (-1 and an empty cell mean that a picture has none)"
        )
    return name


def features_of(dataset: Any) -> Mapping[str, object]:
    """The types of a data set's columns."""
    known = dataset if dataset.features is not None else dataset._resolve_features()
    return known.features


class Rows:
    """Turns a row of one split into a picture and a label.

    Labels are the training split's: where the files of two splits number classes differently, their names
    decide.
    """

    def __init__(
        self,
        tables: Tables,
        features: Mapping[str, object],
        image_column: str,
        label_column: str | None,
        split: str,
        train_split: str,
    ) -> None:
        check_columns(tables, features, image_column, label_column)
        self.location, self.image_column, self.label_column = tables.location, image_column, label_column
        self.split = split

        self.kind = features[label_column] if label_column else None
        self.class_names: tuple[str, ...] = ()
        if label_column:
            check_kind(label_column, self.kind, tables.streaming)

            # Where only a test split was copied, it is asked itself.
            named_by = train_split if tables.has(train_split) else split
            self.class_names = stored_names(tables, label_column, named_by)
        self.numbers = {name: number for number, name in enumerate(self.class_names)}

    def columns(self) -> list[str]:
        return wanted(self.image_column, self.label_column)

    def read(self, row: Mapping[str, object], index: int) -> tuple[Image.Image, int]:
        """The picture and the label of a row.

        Raises:
            CorruptImage: the picture cannot be read; the message names its file or row.
        """
        label = self.label(row[self.label_column], f"image {index}") if self.label_column else -1
        return self.picture(row[self.image_column], index), label

    def picture(self, stored: object, index: int) -> Image.Image:
        """The picture in a cell: {"path", "bytes"}, a path, bytes, or decoded.

        Raises:
            CorruptImage: it cannot be read; the message names its file or row.
        """
        if isinstance(stored, Mapping):
            path, content = stored.get("path"), stored.get("bytes")
        elif isinstance(stored, str):
            path, content = stored, None
        else:
            path, content = None, stored

        where = f"number {index} of {self.location}"
        if isinstance(content, Image.Image):
            check_range(content, where)
            return content
        if content is not None:
            return open_picture(content, where)
        if path is None:
            raise CorruptImage(f"corrupt image {where}: the row is empty")
        return open_picture(self._place_of(path), path)

    def _place_of(self, path: str) -> Path:
        """Where a picture is whose path the table holds: from the table's folder if it is not here."""
        here, location = Path(path), Path(self.location)
        beside = (location if location.is_dir() else location.parent) / path
        return beside if not here.exists() and beside.exists() else here

    def label(self, stored: object, what: str) -> int:
        """The number of a stored label's class, -1 for none.

        Raises:
            DataError: the training split has no such class; `what` has that label.
        """
        if is_missing(stored):
            return -1
        name = name_of(stored, self.kind)
        if name not in self.numbers:
            raise DataError(
                f"{what} of split {self.split} of {self.location} has label {name or stored}, "
                f"which is not one of the {len(self.class_names)} classes of the training split"
            )
        return self.numbers[name]

    def labels(self, dataset: Any) -> NDArray[np.int64]:
        """The number of every row's class, -1 for none.

        Raises:
            DataError: the training split lacks the class of a row.
        """
        if self.label_column is None:
            return np.full(len(dataset), -1, np.int64)

        # Each different label is looked up once.
        table = dataset.select_columns([self.label_column]).with_format("arrow")[:]
        coded = table.column(0).combine_chunks().dictionary_encode()
        codes_N = coded.indices.fill_null(-1).to_numpy()
        counts = np.bincount(codes_N[codes_N >= 0], minlength=len(coded.dictionary))
        numbers = [
            self.label(stored, number_of(count, "image"))
            for stored, count in zip(coded.dictionary.to_pylist(), counts.tolist(), strict=True)
        ]
        return np.array([*numbers, -1], np.int64)[codes_N]


def undecoded(dataset: Any, image_column: str) -> Any:
    """The data set with its pictures undecoded: we open them ourselves, to name the one that is broken."""
    import datasets  # here for the same reason as in `name_of`

    feature = dataset.features[image_column]
    if isinstance(feature, datasets.Image):
        return dataset.cast_column(image_column, datasets.Image(decode=False))
    stored = isinstance(feature, datasets.Value) and feature.dtype.removeprefix("large_") in (
        "string",
        "binary",
    )
    if not stored and not (isinstance(feature, dict) and {"bytes", "path"} & set(feature)):
        raise ValueError(f"data.image_column={image_column} must hold pictures, got {feature}")
    return dataset


class TableSource:
    """One split of a table as an image source; rows without a label are left out, if labels are wanted.

    Raises:
        ValueError: the split is empty, no row has a label, or a label is not a class of the training split.
    """

    def __init__(
        self,
        tables: Tables,
        split: str,
        train_split: str,
        image_column: str,
        label_column: str | None,
    ) -> None:
        dataset = tables.load(split, wanted(image_column, label_column))
        if not len(dataset):
            raise ValueError(f"split {split} of {tables.location} holds no images")
        self.rows = Rows(tables, dataset.features, image_column, label_column, split, train_split)
        self.class_names = self.rows.class_names

        # The rows that have a label
        labels_N = self.rows.labels(dataset)
        chosen_N = labels_N >= 0 if label_column else np.ones(len(dataset), bool)
        self.places_N, self.labels_N = np.flatnonzero(chosen_N), labels_N[chosen_N]
        self.remarks = self._left_out(len(dataset))

        # Labels count too: two files may differ in them alone and end alike.
        def known_by(*, times: bool) -> str:
            stored = tables.fingerprint(split, dataset, times=times)
            parts = repr((stored, self.rows.columns(), self.class_names)).encode() + labels_N.tobytes()
            digest = hashlib.blake2b(parts, digest_size=8).hexdigest()
            return f"{tables.kind}-{split}-{len(self)}-{digest}"

        self.fingerprint, self.identity = known_by(times=True), known_by(times=False)
        self.dataset = undecoded(dataset.select_columns([image_column]), image_column)

    def _left_out(self, total: int) -> tuple[str, ...]:
        """Says how many rows have no label, if any."""
        rows, without = self.rows, total - len(self)
        if not without:
            return ()
        if not len(self):
            raise ValueError(
                f"none of the {total} images of split {rows.split} of {rows.location} has a label in "
                f"data.label_column={rows.label_column} (all are empty or -1): name another split, "
                f"or set data.label_column=unlabelled"
            )
        return (
            f"split {rows.split} of {rows.location}: left out {number_of(without, 'image')} of {total} "
            f"without a label (empty or -1)",
        )

    def __len__(self) -> int:
        return len(self.places_N)

    def read(self, index: int) -> tuple[Image.Image, int]:
        place = int(self.places_N[index])
        stored = self.dataset[place][self.rows.image_column]
        return self.rows.picture(stored, place), int(self.labels_N[index])
