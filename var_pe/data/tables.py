"""Finds and opens tables of pictures: parquet files and the hub; errors become sentences."""

import glob
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.constants import HF_HOME
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from var_pe.data.pictures import DataError
from var_pe.data.shards import files_with_rows
from var_pe.data.walk import ending, kind_of, kind_of_entry, size_and_time, walk

SPLIT_WORDS = {"train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval"}


def split_of(file: Path, root: Path) -> str:
    """The split that a file belongs to: a usual split name in its own or its folders' names.

    Without one, the letters that the file's name begins with, or the name of its folder.
    """
    for part in (file.stem, *reversed(file.relative_to(root).parts[:-1])):
        if named := [word for word in re.split(r"[^A-Za-z]+", part) if word.lower() in SPLIT_WORDS]:
            return named[0]

    start = re.match(r"[A-Za-z]+", file.stem)
    return start[0] if start and start[0] not in ("part", "data") else file.parent.name


def parquet_files(path: Path) -> list[Path]:
    """The visible parquet files below a folder, or the one that `path` is; sorted, links followed."""
    if path.is_file():
        return [path] if kind_of(path.name) == ".parquet" else []
    return sorted(path / name for name, entry in walk(path) if kind_of_entry(entry) == ".parquet")


def parquet_splits(path: Path) -> dict[str, list[str]]:
    """Parquet files by split; `train-0-of-2.parquet`, `train.parquet`, `train/0.parquet` belong to train."""
    if path.is_file():
        return {"train": [str(path)]}

    splits: dict[str, list[str]] = {}
    for file in parquet_files(path):
        splits.setdefault(split_of(file, path), []).append(str(file))
    if not splits:
        raise ValueError(f"data.path={path} holds no parquet files")
    return splits


def reach_hub(hub_id: str) -> None:
    """Asks the hub once whether it has the data set; `load_dataset` would retry for 23 seconds.

    Raises:
        ValueError: the hub does not know the data set, or cannot be reached and the cache has no copy.
    """
    # The cache of `datasets`, found without importing `datasets`, which would take 90 MB.
    cache = Path(os.environ.get("HF_DATASETS_CACHE", Path(HF_HOME) / "datasets"))
    if (cache / hub_id.replace("/", "___")).is_dir():
        return

    try:
        HfApi().dataset_info(hub_id, timeout=10)
    except HFValidationError as error:
        raise ValueError(
            f"hub_id={hub_id} is not the name of a data set on the hub, such as uoft-cs/cifar10"
        ) from error
    except HfHubHTTPError as error:
        raise ValueError(f"the hub refuses data set {hub_id}: {first_line(error)}") from error
    except Exception as error:  # httpx and requests raise their own kinds, by version of huggingface_hub
        raise ValueError(
            f"data set {hub_id} is not in the cache and the hub cannot be reached ({type(error).__name__}); "
            f"go online once, or give data.path=FOLDER with its parquet files or class folders"
        ) from error


def first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@dataclass(frozen=True)
class Tables:
    """Where a data set's tables are."""

    # parquet or hub
    kind: str
    # path or hub id
    location: str
    # configuration of a hub data set that has several
    subset: str | None
    streaming: bool

    def has(self, split: str) -> bool:
        """Whether there are files of this split; of the hub that is not asked."""
        if self.kind != "parquet":
            return True
        return split.casefold() in map(str.casefold, parquet_splits(Path(self.location)))

    def load(self, split: str, columns: Sequence[str]) -> Any:
        """The split as `datasets.Dataset`, or as `IterableDataset` when streaming.

        Raises:
            ValueError: it is not there, cannot be read, is empty, or its files disagree about the `columns`
                that are wanted.
        """
        if self.kind == "parquet":
            # `datasets` would take brackets and stars in a name for a pattern.
            literal = [glob.escape(file) for file in self._filled_files(split, columns)]
            return self._load("parquet", data_files={split: literal})[split]

        reach_hub(self.location)
        splits = self._load(self.location, name=self.subset)
        self._check_split(split, splits)
        return splits[split]

    def _files(self, split: str) -> list[str]:
        """The parquet files of a split; its name may be written in upper or lower case."""
        splits = parquet_splits(Path(self.location))
        alike = [name for name in splits if name.casefold() == split.casefold()]
        if split not in splits and len(alike) == 1:
            split = alike[0]
        self._check_split(split, splits)
        return splits[split]

    def _filled_files(self, split: str, columns: Sequence[str]) -> list[str]:
        """The parquet files of a split that hold rows; they agree about their columns."""
        files = self._files(split)
        try:
            return files_with_rows(files, columns)
        except DataError as error:
            raise DataError(f"split {split} of {self.location} cannot be used: {error}") from error
        except Exception as error:  # pyarrow's own, of several kinds
            raise ValueError(f"parquet {self.location} cannot be read: {first_line(error)}") from error

    def _load(self, builder: str, **options: Any) -> Mapping[str, Any]:
        # Imported here because it takes 90 MB, which `shapes` does not need.
        import datasets
        from datasets.exceptions import DatasetNotFoundError

        # Every opening, also of files that lie here, would ask the internet first, and wait for an answer.
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
        try:
            if not self.streaming:
                return datasets.load_dataset(builder, streaming=False, **options)

            # Readers of parquet would wait 5 s at the end of each epoch, for threads to end that a program
            # must not exit beside (github.com/apache/arrow/issues/45214); a training goes on.
            maker = datasets.load_dataset_builder(builder, **options)
            maker.SLEEP_ON_THREADS_SHUTDOWNS = False
            return maker.as_streaming_dataset()
        except (ConnectionError, DatasetNotFoundError) as error:
            raise ValueError(f"data set {self.location} cannot be fetched: {first_line(error)}") from error
        except Exception as error:  # by builder: DatasetGenerationError, FileNotFoundError, pyarrow's own ...
            cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
            raise ValueError(f"{self.kind} {self.location} cannot be read: {first_line(cause)}") from error

    def _check_split(self, split: str, splits: Mapping[str, Any]) -> None:
        if split not in splits:
            found = ", ".join(splits)
            raise ValueError(
                f"{self.kind} {self.location} has no split {split}, only {found}; "
                f"set train_split and test_split to those it has, or add a folder or files named {split}"
            )

    def fingerprint(self, split: str, dataset: Any, *, times: bool) -> str:
        """A hash of the files' names, sizes, last bytes (parquet's index) and, if wanted, times of change."""
        # On the hub: of commit, configuration and split
        if self.kind == "hub":
            return f"{self.location}-{dataset._fingerprint}"

        root = Path(self.location)
        digest = hashlib.blake2b(digest_size=16)
        for file in map(Path, self._files(split)):
            name = file.name if file == root else file.relative_to(root).as_posix()
            size, time = size_and_time(file)
            digest.update(repr((name, size, time) if times else (name, size)).encode())
            digest.update(ending(file))
        return digest.hexdigest()
