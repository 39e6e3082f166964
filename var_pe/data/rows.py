"""Rows of a table as pictures and labels: their columns, and the names of the classes."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from var_pe.data.pictures import CorruptImage, DataError, open_picture
from var_pe.data.tables import Tables


def check_columns(
    tables: Tables, features: Mapping[str, Any], image_column: str, label_column: str | None
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
        f"data.label_column={label_column} is not a column of {tables.location}; it has {found} "
        f"(data.label_column=unlabelled does without)"
    )


def classes(
    tables: Tables, features: Mapping[str, Any], label_column: str | None, train_split: str
) -> tuple[tuple[str, ...], dict[Any, int]]:
    """Names of the classes, and the number of each stored label (empty if the labels are numbers already).

    The names are stored with the column; otherwise they are the labels in the training split, sorted.
    """
    # Imported here because it takes 90 MB, which `shapes` does not need.
    from datasets import ClassLabel, Value

    if label_column is None:
        return (), {}

    kind = features[label_column]
    numbers: dict[Any, int] = {}
    countable = isinstance(kind, Value) and (
        kind.dtype in ("string", "large_string", "bool") or "int" in kind.dtype
    )

    if isinstance(kind, ClassLabel):
        names = tuple(kind.names)
    elif countable:
        if tables.streaming:
            raise ValueError(
                f"data.label_column={label_column} stores no class names, which data.streaming=true needs"
            )

        found = tables.load(train_split).unique(label_column)
        labels = sorted(label for label in found if label is not None and label != -1)
        numbers = {label: number for number, label in enumerate(labels)}
        names = tuple(map(str, numbers))
    else:
        raise ValueError(f"data.label_column={label_column} must hold classes, numbers or names, got {kind}")

    if len(names) < 2:
        raise ValueError(
            f"data.label_column={label_column} of {tables.location} holds a single class, so there is "
            f"nothing to tell apart: add another, choose another column, or set data.label_column=unlabelled"
        )
    return names, numbers


class Rows:
    """Turns a row of a table into a picture and a label."""

    def __init__(
        self,
        tables: Tables,
        features: Mapping[str, Any],
        image_column: str,
        label_column: str | None,
        train_split: str,
    ) -> None:
        check_columns(tables, features, image_column, label_column)
        self.location, self.image_column, self.label_column = tables.location, image_column, label_column
        self.class_names, self.numbers = classes(tables, features, label_column, train_split)

    def columns(self) -> list[str]:
        return [self.image_column] + ([self.label_column] if self.label_column else [])

    def read(self, row: Mapping[str, Any], index: int) -> tuple[Image.Image, int]:
        """The picture and the label of a row.

        Raises:
            CorruptImage: the picture cannot be read; the message names its file or row.
        """
        label = self.label(row[self.label_column], index) if self.label_column else -1

        # Pictures are stored as {"path", "bytes"}, as a path, as bytes, or decoded.
        value = row[self.image_column]
        if isinstance(value, Mapping):
            path, content = value.get("path"), value.get("bytes")
        elif isinstance(value, str):
            path, content = value, None
        else:
            path, content = None, value

        if isinstance(content, Image.Image):
            return content, label

        where = path if path and content is None else f"number {index} of {self.location}"
        stored = path if content is None else content
        if stored is None:
            raise CorruptImage(f"corrupt image {where}: the row is empty")
        return open_picture(stored, where), label

    def label(self, value: Any, index: int) -> int:
        if value is None or value == -1:
            return -1
        label = self.numbers.get(value, -1) if self.numbers else int(value)
        if not 0 <= label < len(self.class_names):
            raise DataError(
                f"image {index} of {self.location} has label {value}, "
                f"which is not one of the {len(self.class_names)} classes of the training split"
            )
        return label


def undecoded(dataset: Any, image_column: str) -> Any:
    """The data set with its pictures undecoded: we open them ourselves, to name the one that is broken."""
    import datasets  # here for the same reason as in `classes`

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
    """One split of a table as an image source."""

    remarks: tuple[str, ...] = ()

    def __init__(
        self,
        tables: Tables,
        split: str,
        train_split: str,
        image_column: str,
        label_column: str | None,
    ) -> None:
        dataset = tables.load(split)
        if not len(dataset):
            raise ValueError(f"split {split} of {tables.location} holds no images")

        self.rows = Rows(tables, dataset.features, image_column, label_column, train_split)
        self.class_names = self.rows.class_names

        parts = repr((tables.fingerprint(split, dataset), self.rows.columns(), self.class_names))
        digest = hashlib.blake2b(parts.encode(), digest_size=8).hexdigest()
        self.fingerprint = f"{tables.kind}-{split}-{len(dataset)}-{digest}"
        chosen = dataset.select_columns(self.rows.columns())
        self.dataset = undecoded(chosen, image_column)

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def labels_N(self) -> NDArray[np.int64]:
        column = self.rows.label_column
        if column is None:
            return np.full(len(self), -1, np.int64)
        stored = self.dataset.select_columns([column])[:][column]
        labels = [self.rows.label(value, index) for index, value in enumerate(stored)]
        return np.array(labels, np.int64)

    def read(self, index: int) -> tuple[Image.Image, int]:
        return self.rows.read(self.dataset[index], index)
