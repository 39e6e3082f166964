"""Files that are there whole or not at all, whenever their writer is killed; results kept in such files."""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

Json = TypeVar("Json")  # what json writes and reads back: dictionaries, lists, text, numbers, null


@contextmanager
def written_whole(path: Path, *, flushed: bool = True) -> Iterator[Path]:
    """A path to write to that becomes `path` when the block ends well, and vanishes when it does not.

    Its name is its own, since two programs may write the same file at once. With `flushed` it outlives a
    power cut, too; each flush takes milliseconds, too long for thousands of small files.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield draft
        if flushed:
            flush(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)

    if flushed:
        flush(path.parent)  # the new name is on the disk only once the folder is


def write_text(path: Path, text: str) -> None:
    """Replaces a file's text; a reader or a crash finds the old text or the new one, never a part."""
    with written_whole(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """`write_text` of JSON, indented for people; NaN and infinity are an error, as in the format."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def into_place(folder: Path, fill: Callable[[Path], None]) -> None:
    """Lets `fill` write into a new folder beside `folder`, flushes it and renames it: all or nothing."""
    partial = folder.with_name(folder.name + ".partial")
    remove(partial)
    partial.mkdir(parents=True)
    fill(partial)

    for path in [*partial.rglob("*"), partial]:
        flush(path)
    remove(folder)
    partial.rename(folder)
    flush(folder.parent)


def flush(path: Path) -> None:
    """Waits until a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Removes a file or a whole folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class KeptResults(Generic[Json]):
    """Results by name in one JSON file, beside everything that all of them rest on.

    `rests_on` is what the results follow from: hashes of weights, settings, versions. Results of a file that
    rests on anything else, or cannot be read, are not taken over. What is added is on the disk at once, so a
    study that is stopped goes on where it was.
    """

    def __init__(self, path: Path, rests_on: Mapping[str, object], name: str = "results") -> None:
        self.path = path
        self.rests_on = json.loads(json.dumps(rests_on))
        # under which the results stand in the file
        self.name = name
        self.results: dict[str, Json] = self._read()

    def _read(self) -> dict[str, Json]:
        try:
            there = json.loads(self.path.read_text(encoding="utf-8"))
            results = there.pop(self.name)
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return {}  # nothing there, or nothing that was written here
        return results if there == self.rests_on and isinstance(results, dict) else {}

    def add(self, results: Mapping[str, Json]) -> None:
        """Keeps further results."""
        self.results |= results
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, {**self.rests_on, self.name: self.results})


def hash_of_files(*files: Path) -> str:
    """SHA-256 of the contents of files, one after another."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
