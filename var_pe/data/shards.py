"""The parquet files of one split: those with rows, and whether all of them mean the same.

`datasets` reads a split by what its first file says of the columns, whatever the others say.
"""

from collections.abc import Mapping, Sequence
from itertools import zip_longest

from var_pe.data.pictures import DataError


def files_with_rows(files: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Those of a split's parquet files that hold rows; reads their headers only.

    Raises:
        DataError: none does, or two files have other columns or mean something else by one of `columns`.
    """
    # Imported here because they take 90 MB, which `shapes` does not need.
    from datasets import Features
    from pyarrow import parquet

    # `datasets` cannot read every file without rows.
    filled: dict[str, Mapping[str, object]] = {}
    for file in files:
        with parquet.ParquetFile(file) as opened:
            if opened.metadata.num_rows:
                filled[file] = Features.from_arrow_schema(opened.schema_arrow)
    if not filled:
        raise DataError(f"{', '.join(files[:3])}{' ...' if len(files) > 3 else ''}: no rows, so no images")

    first = next(iter(filled))
    for file, features in filled.items():
        _check_columns(first, filled[first], file, features, columns)
        for column in columns:
            _check_meaning(column, first, filled[first].get(column), file, features.get(column))
    return list(filled)


def _check_columns(
    first: str,
    known: Mapping[str, object],
    file: str,
    features: Mapping[str, object],
    columns: Sequence[str],
) -> None:
    """Checks that a file has the wanted columns that the first one has, and none that the first one lacks.

    Raises:
        DataError: it does not.
    """
    for column in columns:
        if column in known and column not in features:
            raise DataError(
                f"{file} has no column {column}, which {first} has: "
                "the files of a split need the same columns"
            )
    for column in features:
        if column not in known:
            raise DataError(
                f"{file} has a column {column}, which {first} lacks: "
                "the files of a split need the same columns"
            )


def _check_meaning(column: str, first: str, known: object, file: str, kind: object) -> None:
    """Checks that one value of a column means the same in two files.

    Raises:
        DataError: they list their classes differently, or store values of another sort.
    """
    from datasets import ClassLabel  # here for the same reason as above

    if isinstance(known, ClassLabel) and isinstance(kind, ClassLabel):
        for number, (there, here) in enumerate(zip_longest(known.names, kind.names)):
            if here != there:
                raise DataError(
                    f"column {column} of {file} lists other classes than that of {first}: {number} means "
                    f"{here or 'no class'} in the one, {there or 'no class'} in the other, but the files of "
                    f"a split need one list of classes"
                )
        return

    before, now = _sort_of(known), _sort_of(kind)
    if before and now and before != now:
        raise DataError(
            f"column {column} of {file} holds {now}, but that of {first} holds {before}: "
            f"the files of a split need to store it alike"
        )


def _sort_of(kind: object) -> str | None:
    """The kind of a column's values, to compare two files; None where the kind does not matter."""
    from datasets import ClassLabel, Value  # here for the same reason as above

    if isinstance(kind, ClassLabel):
        return "numbers with a list of classes"
    # A column without any value is of no sort.
    if not isinstance(kind, Value) or kind.dtype == "null":
        return None
    if kind.dtype.startswith(("int", "uint", "float")):
        return "numbers without a list of classes"
    return {"large_string": "text", "string": "text", "bool": "true and false"}.get(kind.dtype, kind.dtype)
