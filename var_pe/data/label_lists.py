"""Labels that stand in a list beside the pictures: metadata.csv, .jsonl or .parquet, Tiny ImageNet's text.

The columns are those of `datasets`' image folders: `file_name`, a path from the list's folder, and the label.
"""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

METADATA = frozenset(("metadata.csv", "metadata.jsonl", "metadata.parquet"))
ANNOTATIONS = frozenset(("val_annotations.txt",))

Label = str | int | bool | None


def columns_of(file: Path) -> dict[str, list[object]]:
    """The columns of a list, each from top to bottom; a missing value is None.

    Raises:
        ValueError: the list cannot be read.
    """
    text = "" if file.suffix == ".parquet" else text_of(file)
    try:
        if file.suffix == ".parquet":
            # Imported here because it takes 40 MB, and few folders have such a list.
            from pyarrow import parquet

            return parquet.read_table(file).to_pydict()

        if file.suffix == ".csv":
            return columns_of_csv(text)

        entries = [json.loads(line) for line in text.splitlines() if line.strip()]
        names = dict.fromkeys(name for entry in entries for name in entry)
        return {name: [entry.get(name) for entry in entries] for name in names}
    except (OSError, ValueError, TypeError, AttributeError, csv.Error) as error:
        raise ValueError(f"{file} cannot be read: {' '.join(str(error).split())}") from error


def text_of(file: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Raises:
        ValueError: it cannot be read, or is in another encoding.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not text in UTF-8: save it as such") from error


def columns_of_csv(text: str) -> dict[str, list[object]]:
    """The columns by their names in the first line, without the spaces around these.

    Raises:
        ValueError: a line has more cells than the first.
    """
    rows = csv.reader(text.splitlines(keepends=True), strict=True)
    names = [name.strip() for name in next(rows, [])]
    cells: list[list[str]] = []
    for row in rows:
        if len(row) > len(names):
            raise ValueError(f"line {rows.line_num} has {len(row)} cells, the first line {len(names)}")
        if row:
            cells.append(row + [""] * (len(names) - len(row)))
    columns = enumerate(names) if cells else ()
    return {name: numbers_or_names([row[place] for row in cells]) for place, name in columns}


def numbers_or_names(cells: Sequence[str]) -> list[object]:
    """The cells of a column as whole numbers if all are, else as text; an empty one is None."""
    try:
        numbers = [int(cell) if cell else None for cell in cells]
    except ValueError:
        numbers = []
    # "007" is a name: as a number it would be another one.
    written = [str(number) for number in numbers if number is not None]
    if written and written == [cell for cell in cells if cell]:
        return list(numbers)
    return [cell or None for cell in cells]


def from_metadata(
    folder: Path, lists: Sequence[str], image_column: str, label_column: str
) -> dict[str, Label] | None:
    """The label of each picture by path from `folder`, in the order of the lists; None if none has labels.

    Raises:
        ValueError: a list cannot be read or holds no file names; a label is no class; a picture has two.
    """
    file_column = "file_name" if image_column == "image" else f"{image_column}_file_name"
    labels: dict[str, Label] = {}
    without: list[str] = []
    for path in lists:
        columns = columns_of(folder / path)
        files = columns.get(file_column)
        if files is None:
            raise ValueError(
                f"{folder / path} must have a column {file_column}, the pictures' paths from its folder; "
                f"it has {', '.join(columns) or 'none'}"
            )
        if label_column not in columns:
            without.append(path)
            continue

        for name, label in zip(files, columns[label_column], strict=True):
            add(labels, place_of(folder, path, name), checked(label, folder / path, label_column))

    if without and labels:
        raise ValueError(
            f"{folder / without[0]} has no column {label_column}, but other lists below {folder} do"
        )
    return labels or None


def place_of(folder: Path, path: str, name: object) -> str:
    """A picture's path from `folder`, for the name that the list at `path` gives it."""
    inside = [part for part in PurePosixPath(str(name)).parts if part != "."]
    if not isinstance(name, str) or ".." in inside or name.startswith("/"):
        raise ValueError(f"{folder / path}: file_name {name} must be a path from the list's own folder")
    return str(PurePosixPath(path).parent.joinpath(*inside))


def checked(label: object, file: Path, label_column: str) -> Label:
    if label is None or isinstance(label, str | int):
        return None if label == -1 else label
    raise ValueError(f"{file}: column {label_column} must hold classes, numbers or names, got {label}")


def add(labels: dict[str, Label], place: str, label: Label) -> None:
    if labels.setdefault(place, label) != label:
        raise ValueError(f"picture {place} has two labels, {labels[place]} and {label}")


def from_annotations(folder: Path, lists: Sequence[str]) -> dict[str, Label] | None:
    """Tiny ImageNet's labels of `val/images/`: lines of a file's name, its class and a box, split by tabs."""
    labels: dict[str, Label] = {}
    for path in lists:
        for line in text_of(folder / path).splitlines():
            name, _, rest = line.partition("\t")
            place = str(PurePosixPath(path).parent / "images" / name)
            add(labels, place, rest.partition("\t")[0] or None)
    return labels or None


def in_order(labels: Iterable[Label]) -> tuple[str, ...]:
    """The names of the classes, sorted: by value if all are numbers, else as text."""
    found = set(labels) - {None}
    numbers = sorted(label for label in found if isinstance(label, int))
    names = sorted(str(label) for label in found)
    return tuple(names if len(numbers) < len(names) else map(str, numbers))
