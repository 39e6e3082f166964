"""Files that are written whole or not at all, even if the writer is killed; results kept in such files."""

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Generic, TypeVar

# What json writes and reads back: dictionaries, lists, text, numbers, null
Json = TypeVar("Json")


@contextmanager
def written_whole(path: Path, *, flushed: bool = True) -> Iterator[Path]:
    """A draft to write to: it becomes `path` when the block succeeds and is removed when the block fails.

    The draft has a unique name, since two programs may write the same file at once, and is locked while its
    writer lives, so that `remove_drafts` knows those of writers that were killed. With `flushed` the file
    survives a power cut, too; a flush takes milliseconds, which is too long for thousands of small files.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    with errors_name(path, draft), draft.open("wb") as held:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(held, fcntl.LOCK_EX)
        try:
            yield draft
            if flushed:
                flush(draft)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    if flushed:
        flush(path.parent)  # The new name reaches the disk with the folder.


@contextmanager
def errors_name(path: Path, draft: Path) -> Iterator[None]:
    """Lets the system's errors about `draft`, or about no file, as of a full disk, name `path` instead."""
    try:
        yield
    except OSError as error:
        about = None if error.filename is None else Path(os.fsdecode(error.filename))
        if about is None or about == draft or draft in about.parents:
            error.filename, error.filename2 = str(path), None
        raise


def reserve(path: Path) -> None:
    """Takes the disk space of a file that will be written through memory, where a full disk ends the process.

    Raises:
        OSError: there is not as much.
    """
    if sys.platform == "linux":
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def check_writable(folder: Path) -> None:
    """Checks that something can be written into a folder that is there, before the work that leads to it.

    Raises:
        ValueError: nothing can.
    """
    if folder.exists() and not os.access(folder, os.W_OK):
        raise ValueError(f"{folder} cannot be written to")


def remove_drafts(folder: Path) -> None:
    """Removes the drafts below a folder whose writers were killed."""
    for draft in folder.rglob(".*.partial"):
        with suppress(OSError), draft.open("rb") as found:  # locked by its writer, or just finished
            fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
            draft.unlink()


def write_text(path: Path, text: str) -> None:
    """Replaces a file's text; a reader or a crash finds the old text or the new one, never a part."""
    with written_whole(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object, *, allow_nan: bool = True) -> None:
    """`write_text` of JSON, indented for people; the format itself has no NaN and no infinity."""
    write_text(path, json.dumps(value, indent=2, allow_nan=allow_nan) + "\n")


def into_place(folder: Path, fill: Callable[[Path], None]) -> None:
    """Lets `fill` write into a new folder beside `folder`, flushes it and renames it to `folder`.

    Nothing is left of what cannot be written whole, which on a full disk would be in the way.
    """
    partial = folder.with_name(folder.name + ".partial")
    with errors_name(folder, partial):
        remove(partial)
        partial.mkdir(parents=True)
        try:
            fill(partial)
            for path in [*partial.rglob("*"), partial]:
                flush(path)
        except BaseException:
            with suppress(OSError):
                remove(partial)
            raise
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
    """Removes a file or a whole folder, if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class KeptResults(Generic[Json]):
    """Results by name in one JSON file, together with everything that they rest on.

    `rests_on` is what the results follow from: hashes of weights, settings, versions. Results in a file that
    cannot be read, or that rest on anything else, are ignored. Every addition is written at once, so a study
    that was stopped continues where it was.
    """

    def __init__(self, path: Path, rests_on: Mapping[str, object], name: str = "results") -> None:
        self.path = path
        self.rests_on = json.loads(json.dumps(rests_on))
        # the key of the results in the file
        self.name = name
        self.results: dict[str, Json] = self._read()

    def _read(self) -> dict[str, Json]:
        try:
            there = json.loads(self.path.read_text(encoding="utf-8"))
            results = there.pop(self.name)
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return {}  # no file, or not one of ours
        return results if there == self.rests_on and isinstance(results, dict) else {}

    def add(self, results: Mapping[str, Json]) -> None:
        """Keeps further results."""
        self.results |= results
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, {**self.rests_on, self.name: self.results})


def size_on_disk(path: Path) -> int:
    """The bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def no_weights(file: Path) -> str | None:
    """What a file is that only has the name of one with weights, in words; None: perhaps it has them."""
    with file.open("rb") as there:
        start = there.read(64)
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the weights; git lfs pull fetches them"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "is a web page, not weights; it was saved by a link to the page of the file"
    return None


def format_of_weights(file: Path) -> str | None:
    """What a file begins like, whatever its name: `.safetensors`, `.pth` (`torch.save`), or neither."""
    with file.open("rb") as there:
        start = there.read(9)
    if len(start) == 9 and start.endswith(b"{") and int.from_bytes(start[:8], "little") < file.stat().st_size:
        return ".safetensors"
    return ".pth" if start.startswith((b"PK\3\4", b"\x80")) else None


def hash_of_files(*files: Path) -> str:
    """SHA-256 of the contents of files, one after another."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
