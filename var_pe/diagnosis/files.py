"""What a saved model's files say before it is built: a table that does not fit would only fail to load."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from var_pe.diagnosis.findings import Finding
from var_pe.diagnosis.measures import axes
from var_pe.models.folder import in_words, read_config, stored, weight_files

POSITIONS = "position_encoding."
WIDTHS = {"C": "dim", "H": "num_heads"}  # the legend's letters that are settings of the model


def model_folder(path: Path) -> Path | None:
    """Where a run, a pipeline or a saved model keeps the weights with positions; None: it is none."""
    folders = [path / name for name in ("classifier", "generator", "transformer", ".")]
    return next((folder for folder in folders if (folder / "config.json").is_file()), None)


def misfits(folder: Path) -> Iterator[Finding]:
    """The stored shapes of positions against the model's width and heads, and the grids stored beside them.

    Raises:
        ValueError: a file cannot be read.
    """
    config = read_config(folder)
    for file in weight_files(folder):
        shapes, grids = stored(file)
        for name, shape in shapes.items():
            if name.startswith(POSITIONS) and axes(name):
                wrong = list(_against_config(f"{file.name}: {name}", axes(name), shape, config))
                yield from wrong or _against_grids(file.name, name, shape, grids)


def _against_config(
    what: str, letters: str, shape: tuple[int, ...], config: Mapping[str, Any]
) -> Iterator[Finding]:
    if len(letters) != len(shape):
        yield Finding(
            "problem",
            f"{what} must have {len(letters)} axes ({' '.join(letters)}), its shape is {shape}.",
            "It was changed after saving: take the weights as the training wrote them.",
        )
        return
    for letter, length in zip(letters, shape, strict=True):
        wanted = int(letter) if letter.isdecimal() else config.get(WIDTHS.get(letter, ""), length)
        if length != wanted:
            setting = WIDTHS.get(letter)
            yield Finding(
                "problem",
                f"{what} is {in_words(shape)}, "
                + (f"config.json has {setting} {wanted}." if setting else f"axis {letter} must be {wanted}."),
                "They belong to different models: look for the config that the weights came with.",
            )


def _against_grids(
    file: str, name: str, shape: tuple[int, ...], grids: Mapping[str, Tensor]
) -> Iterator[Finding]:
    start, _, own = name.rpartition(".")
    made_for = grids.get(f"{start}.grids_K2")
    if own != "table_LC" or made_for is None or made_for.dim() != 2:
        return
    cells = int(made_for.prod(1).sum())
    if shape[0] != cells:
        yield Finding(
            "problem",
            f"{file}: {name} has {shape[0]} rows, the grids stored beside it {cells} cells.",
            "Rows of prefix tokens belong into the tokens; another grid is stored as such.",
        )
