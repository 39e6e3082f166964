"""Pictures from parquet files, image folders and the hub, all through `datasets`, its errors turned into sentences."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from datasets import ClassLabel, Value
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image

from var_pe.data.pictures import CorruptImage, open_picture


def parquet_splits(path: Path) -> dict[str, list[str]]:
    """Parquet files by split: that of `train-00000-of-00002.parquet`, `train.parquet` or `train/any.parquet` is train."""
    if path.is_file():
        return {"train": [str(path)]}
    splits: dict[str, list[str]] = {}
    for file in sorted(path.rglob("*.parquet")):
        start = re.match(r"[A-Za-z]+", file.stem)
        split = start[0] if start and start[0] not in ("part", "data") else file.parent.name
        splits.setdefault(split, []).append(str(file))
    if not splits:
        raise ValueError(f"path={path} holds no parquet files")
    return splits


def reach_hub(hub_id: str) -> None:
    """Asks the hub once whether it has the data set, where `load_dataset` would retry for 23 seconds.

    Raises:
        ValueError: the hub cannot be reached and no copy lies in the cache, or it does not know the data set.
    """
    cache = Path(datasets.config.HF_DATASETS_CACHE) / hub_id.replace("/", "___")
    if cache.is_dir():
        return
    try:
        HfApi().dataset_info(hub_id, timeout=10)
    except HfHubHTTPError as error:
        raise ValueError(f"the hub refuses data set {hub_id}: {first_line(error)}") from error
    except Exception as error:  # httpx and requests raise their own kinds, by version of huggingface_hub
        raise ValueError(
            f"data set {hub_id} is not in the cache and the hub cannot be reached ({type(error).__name__}); "
            f"go online once, or give path=FOLDER with its parquet files or class folders"
        ) from error


def first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@dataclass(frozen=True)
class Tables:
    """Where a data set's tables are: kind is parquet, imagefolder or hub; location its path or hub id."""

    kind: str
    location: str
    subset: str | None
    streaming: bool

    def load(self, split: str) -> Any:
        """The split as `datasets.Dataset`, or as `IterableDataset` when streaming."""
        if self.kind == "parquet":
            files = parquet_splits(Path(self.location))
            self._check_split(split, files)
            return self._load("parquet", data_files={split: files[split]})[split]
        if self.kind == "imagefolder":
            splits = self._load("imagefolder", data_dir=self.location)
        else:
            reach_hub(self.location)
            splits = self._load(self.location, name=self.subset)
        self._check_split(split, splits)
        return splits[split]

    def _load(self, builder: str, **options: Any) -> Mapping[str, Any]:
        try:
            return datasets.load_dataset(builder, streaming=self.streaming, **options)
        except (ConnectionError, DatasetNotFoundError) as error:
            raise ValueError(f"data set {self.location} cannot be fetched: {first_line(error)}") from error
        except (FileNotFoundError, datasets.exceptions.DatasetGenerationError, ValueError) as error:
            cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
            raise ValueError(f"{self.kind} {self.location} cannot be read: {first_line(cause)}") from error

    def _check_split(self, split: str, splits: Mapping[str, Any]) -> None:
        if split not in splits:
            found = ", ".join(splits)
            raise ValueError(
                f"{self.kind} {self.location} has no split {split}, only {found}; "
                f"set train_split and test_split to those it has, or add a folder or files named {split}"
            )

    def fingerprint(self, split: str, dataset: Any) -> str:
        """Of names, sizes and last bytes (parquet's own index of its contents) of the files, wherever they lie."""
        if self.kind == "hub":
            return f"{self.location}-{dataset._fingerprint}"  # of the hub's commit, configuration and split
        root = Path(self.location)
        if self.kind == "parquet":
            files = [Path(file) for file in parquet_splits(root)[split]]
        else:
            files = sorted(
                f for f in (root / split if (root / split).is_dir() else root).rglob("*") if f.is_file()
            )
        digest = hashlib.blake2b(digest_size=16)
        for file in files:
            size = file.stat().st_size
            digest.update(
                repr((file.relative_to(root).as_posix() if file != root else file.name, size)).encode()
            )
            if self.kind == "parquet":
                with file.open("rb") as stream:
                    stream.seek(max(0, size - 65536))
                    digest.update(stream.read())
        return digest.hexdigest()


def check_columns(
    tables: Tables, features: Mapping[str, Any], image_column: str, label_column: str | None
) -> None:
    """Both columns must be there."""
    found = ", ".join(features)
    if image_column not in features:
        raise ValueError(f"image_column={image_column} is not a column of {tables.location}; it has {found}")
    if label_column is None or label_column in features:
        return
    if tables.kind == "imagefolder":  # `datasets` makes no labels for fewer than two class folders
        raise ValueError(
            f"{tables.location} holds a single class or no class folders, so there is nothing to tell apart: put "
            f"each class in a folder of its own below the split's, or set label_column=unlabelled"
        )
    raise ValueError(
        f"label_column={label_column} is not a column of {tables.location}; it has {found} "
        f"(label_column=unlabelled does without)"
    )


def class_names(
    tables: Tables, features: Mapping[str, Any], label_column: str | None, train_split: str
) -> tuple[str, ...]:
    """Names of the classes: those stored with the column, else the labels that occur in the training split."""
    if label_column is None:
        return ()
    kind = features[label_column]
    if isinstance(kind, ClassLabel):
        names = tuple(kind.names)
    elif isinstance(kind, Value) and (kind.dtype == "string" or "int" in kind.dtype):
        if tables.streaming:
            raise ValueError(f"label_column={label_column} stores no class names, which streaming=true needs")
        labels = [label for label in tables.load(train_split).unique(label_column) if label is not None]
        if kind.dtype == "string":
            names = tuple(sorted(labels))
        else:
            names = tuple(map(str, range(max(labels, default=-1) + 1)))
    else:
        raise ValueError(f"label_column={label_column} must hold classes, numbers or names, got {kind}")
    if len(names) < 2:
        raise ValueError(
            f"label_column={label_column} of {tables.location} holds a single class, so there is nothing to tell "
            f"apart: add another, choose another column, or set label_column=unlabelled"
        )
    return names


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
        self.class_names = class_names(tables, features, label_column, train_split)
        by_name = label_column is not None and isinstance(features[label_column], Value)
        by_name = by_name and features[label_column].dtype == "string"
        self.label_of_name = {name: label for label, name in enumerate(self.class_names)} if by_name else {}

    def columns(self) -> list[str]:
        return [self.image_column] + ([self.label_column] if self.label_column else [])

    def read(self, row: Mapping[str, Any], index: int) -> tuple[Image.Image, int]:
        """Raises CorruptImage, naming the file or the row."""
        label = self.label(row[self.label_column], index) if self.label_column else -1
        value = row[self.image_column]
        if isinstance(value, Mapping):
            path, content = value.get("path"), value.get("bytes")
        else:
            path, content = (value, None) if isinstance(value, str) else (None, value)
        if isinstance(content, Image.Image):
            return content, label
        where = path if path and content is None else f"number {index} of {self.location}"
        if content is None and path is None:
            raise CorruptImage(f"corrupt image {where}: the row is empty")
        return open_picture(content if content is not None else path, where), label

    def label(self, value: Any, index: int) -> int:
        if value is None:
            return -1
        label = self.label_of_name.get(value, -2) if self.label_of_name else int(value)
        if not -1 <= label < len(self.class_names):
            raise ValueError(
                f"image {index} of {self.location} has label {value}, "
                f"which is none of the {len(self.class_names)} classes of the training split"
            )
        return label


def undecoded(dataset: Any, image_column: str) -> Any:
    """The data set with its pictures as stored, so that we open them and can say which one is broken."""
    feature = dataset.features[image_column]
    if isinstance(feature, datasets.Image):
        return dataset.cast_column(image_column, datasets.Image(decode=False))
    if isinstance(feature, Value) and feature.dtype not in (
        "string",
        "binary",
        "large_string",
        "large_binary",
    ):
        raise ValueError(f"image_column={image_column} must hold pictures, got {feature.dtype}")
    return dataset


class TableSource:
    """One split of a table as an image source."""

    def __init__(
        self,
        tables: Tables,
        split: str,
        train_split: str,
        image_column: str,
        label_column: str | None,
        limit: int | None,
    ) -> None:
        dataset = tables.load(split)
        self.rows = Rows(tables, dataset.features, image_column, label_column, train_split)
        self.class_names = self.rows.class_names
        count = min(len(dataset), limit or len(dataset))
        if not count:
            raise ValueError(f"split {split} of {tables.location} holds no images")
        parts = repr((tables.fingerprint(split, dataset), count, self.rows.columns(), self.class_names))
        self.fingerprint = (
            f"{tables.kind}-{split}-{count}-{hashlib.blake2b(parts.encode(), digest_size=8).hexdigest()}"
        )
        self.dataset = undecoded(
            dataset.select(range(count)).select_columns(self.rows.columns()), image_column
        )

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int) -> tuple[Image.Image, int]:
        return self.rows.read(self.dataset[index], index)
