"""Findings in a saved model's files before it is built: a table that does not fit would only fail to load."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from var_pe.diagnosis.finding import Finding
from var_pe.diagnosis.measures import axes
from var_pe.models.folder import in_words, read_config
from var_pe.models.weight_files import stored, weight_files

POSITIONS = "position_encoding."  # how the names of an encoding's parameters begin
SETTINGS = {"C": "dim", "H": "num_heads"}  # the legend's letters that are settings of the model


def model_folder(path: Path) -> Path | None:
    """Where a run, a pipeline or a saved model keeps the weights with positions; None where nothing is."""
    for name in ("classifier", "generator", "transformer", "."):
        if (path / name / "config.json").is_file():
            return path / name
    return None


def misfits(folder: Path) -> Iterator[Finding]:
    """The stored shapes of positions against the model's width and heads, and the grids stored beside them.

    Raises:
        ValueError: a file cannot be read.
    """
    config = read_config(folder)
    for file in weight_files(folder):
        shapes, grids = stored(file)
        for name, shape in shapes.items():
            if not name.startswith(POSITIONS) or not axes(name):
                continue
            wrong = list(_against_config(f"{file.name}: {name}", axes(name), shape, config))
            yield from wrong or _against_grids(file.name, name, shape, grids)


def _against_config(
    what: str, letters: str, shape: tuple[int, ...], config: Mapping[str, object]
) -> Iterator[Finding]:
    if len(letters) != len(shape):
        yield Finding(
            "problem",
            f"{what} must have {len(letters)} axes ({' '.join(letters)}), its shape is {shape}.",
            "It was changed after saving: take the weights as the training wrote them.",
        )
        return

    for letter, length in zip(letters, shape, strict=True):
        setting = SETTINGS.get(letter)
        if letter.isdecimal():
            wanted: object = int(letter)
        elif setting is not None:
            wanted = config.get(setting, length)
        else:
            continue

        if length != wanted:
            rule = (
                f"axis {letter} must be {wanted}"
                if setting is None
                else f"config.json has {setting} {wanted}"
            )
            yield Finding(
                "problem",
                f"{what} is {in_words(shape)}, {rule}.",
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
