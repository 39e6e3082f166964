"""Files below a folder: every visible one, by its literal path; and which of them are pictures."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from PIL import Image

from var_pe.progress import number_of

# What systems and programs leave beside a person's files; so do all names that begin with a dot.
LEFT_BEHIND = frozenset(
    (
        "__MACOSX", "__pycache__", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information",
        "Thumbs.db", "ehthumbs.db", "desktop.ini",
    )
)  # fmt: skip

OF_PROGRAMS = frozenset((".ipynb_checkpoints", ".git", ".thumbnails", ".cache", ".Trashes", ".AppleDouble"))
# Pillow knows the names of these formats but cannot decode them by itself.
NAMES_ONLY = frozenset((".bufr", ".emf", ".grib", ".h5", ".hdf", ".mpeg", ".mpg", ".wmf"))
# A format that Pillow opens as the JPEG that it begins with
OPENED_AS_OTHERS = frozenset((".mpo",))


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name in LEFT_BEHIND


def entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """All entries of a folder, hidden ones too.

    Raises:
        ValueError: the folder cannot be listed.
    """
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError as error:
        raise ValueError(f"folder {folder} cannot be listed: {error.strerror}") from error


def listed(folder: str | Path) -> list[os.DirEntry[str]]:
    """The visible entries of a folder.

    Raises:
        ValueError: the folder cannot be listed.
    """
    return [entry for entry in entries(folder) if not is_hidden(entry.name)]


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether the entry is a folder or a link to one; a link that leads to itself is not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def subfolders(folder: Path) -> list[str]:
    """The names of the visible folders right below a folder, sorted."""
    return sorted(entry.name for entry in listed(folder) if is_folder(entry))


def walk(folder: Path, passed_by: list[str] | None = None) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Every visible file below a folder and its path from there, in no order; links are followed.

    A link to a folder around it, even around `folder`, is left out: it would lead round in a circle, or from
    one split into the others. Hidden folders, but those of programs, are added to `passed_by`.

    Raises:
        ValueError: a folder cannot be listed.
    """
    around = [folder, *folder.absolute().parents, *folder.resolve().parents]
    start = tuple(identity(os.stat(place)) for place in around)
    waiting: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", start)]
    while waiting:
        inside, above = waiting.pop()
        for entry in entries(os.path.join(folder, inside)):
            if is_hidden(entry.name):
                persons = entry.name.startswith(".") and entry.name not in OF_PROGRAMS
                if passed_by is not None and persons and is_folder(entry):
                    passed_by.append(inside + entry.name)
                continue
            if not is_folder(entry):
                yield inside + entry.name, entry
                continue
            place = identity(entry.stat())
            if place not in above:
                waiting.append((f"{inside}{entry.name}/", (*above, place)))


def identity(status: os.stat_result) -> tuple[int, int]:
    """What two paths to the same folder have in common."""
    return status.st_dev, status.st_ino


@cache
def readable_suffixes() -> frozenset[str]:
    """The endings of the formats that Pillow reads, in lower case, with the dot."""
    Image.init()
    opened = frozenset(suffix for suffix, kind in Image.EXTENSION.items() if kind in Image.OPEN)
    return (opened | OPENED_AS_OTHERS) - NAMES_ONLY


def kind_of_entry(entry: os.DirEntry[str]) -> str:
    """The ending of a file's name, or what else the entry is: reading from a pipe would wait for ever."""
    try:
        if entry.is_file():
            return kind_of(entry.name) or "without an ending"
    except OSError:
        pass  # a link that leads to itself
    return "pipe or device" if os.path.exists(entry.path) else "broken link"


def kind_of(name: str) -> str:
    """The ending of a file's name in lower case, with its dot."""
    return os.path.splitext(name)[1].lower()


def hash_of_files(what: bytes, files: Iterable[tuple[str, Path]], *, times: bool) -> str:
    """A hash of `what` and of the names and sizes of files, and with `times` of when they were changed."""
    digest = hashlib.blake2b(what, digest_size=8)
    for name, file in files:
        size, time = size_and_time(file)
        digest.update(repr((name, size, time) if times else (name, size)).encode())
    return digest.hexdigest()


def size_and_time(file: Path | str) -> tuple[int, int]:
    """A file's bytes and the second of its last change, by which a changed file of the same size is known.

    Whole seconds, since archives and copies that keep the time keep no more.
    """
    status = os.stat(file)
    return status.st_size, int(status.st_mtime)


def ending(file: Path, size: int = 65536) -> bytes:
    """The last bytes of a file."""
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - size))
        return stream.read()


def holds_pictures(folder: Path, suffixes: frozenset[str] | None = None) -> bool:
    """Whether a picture, or a file of other `suffixes`, is below the folder; ends at the first one."""
    wanted = suffixes or readable_suffixes()
    return any(kind_of(entry.name) in wanted for _, entry in walk(folder))


@dataclass
class Found:
    """What is below a folder, by path from there."""

    # sorted as text
    pictures: list[str] = field(default_factory=list)
    # lists of labels: metadata.csv and its like
    lists: list[str] = field(default_factory=list)
    # how many other files there are, by the first folder that they are in ("": none) and their kind
    others: Counter[tuple[str, str]] = field(default_factory=Counter)
    # folders with a dot before their name that hold pictures, which are not read
    hidden: list[str] = field(default_factory=list)

    def kinds(self, folder: str | None = None) -> Counter[str]:
        """How many of the other files are of each kind, in all folders or in one of them."""
        kinds: Counter[str] = Counter()
        for (place, kind), count in self.others.items():
            if folder in (None, place):
                kinds[kind] += count
        return kinds


def find_pictures(
    folder: Path, lists: frozenset[str] = frozenset(), suffixes: frozenset[str] | None = None
) -> Found:
    """The pictures below a folder, known by their names' endings in upper or lower case.

    No picture is opened. `lists` are the names of files that are not pictures but wanted. With `suffixes`,
    files of these endings are looked for in place of pictures.

    Raises:
        ValueError: a folder cannot be listed.
    """
    found, wanted = Found(), suffixes or readable_suffixes()
    passed_by: list[str] = []
    for path, entry in walk(folder, passed_by):
        kind = kind_of_entry(entry)
        if kind in wanted:
            found.pictures.append(path)
        elif entry.name in lists and kind == kind_of(entry.name):
            found.lists.append(path)
        else:
            place = path.partition("/")[0] if "/" in path else ""
            found.others[place, kind] += 1

    found.pictures.sort()
    found.lists.sort()
    found.hidden = sorted(place for place in passed_by if holds_pictures(folder / place, wanted))
    return found


def in_words(kinds: Counter[str]) -> str:
    """`12 files: 10 .heic, 2 .txt`."""
    parts = [f"{count} {kind}" for kind, count in sorted(kinds.items(), key=lambda item: (-item[1], item[0]))]
    return f"{number_of(sum(kinds.values()), 'file')}: {', '.join(parts)}"


def printable(text: str) -> str:
    """The text in one line; bytes of a file's name that are not UTF-8 are written as `\\xe9`."""
    return " ".join(os.fsencode(text).decode("utf-8", "backslashreplace").split())
