"""What a saved model's files say before it is built: a table that does not fit would only fail to load."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from var_pe.diagnosis.findings import Finding
from var_pe.diagnosis.measures import axes

POSITIONS = "position_encoding."
WIDTHS = {"C": "dim", "H": "num_heads"}  # the legend's letters that are settings of the model


def in_words(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"


def model_folder(path: Path) -> Path | None:
    """Where a run, a pipeline or a saved model keeps the weights with positions; None: it is none."""
    folders = [path / name for name in ("classifier", "generator", "transformer", ".")]
    return next((folder for folder in folders if (folder / "config.json").is_file()), None)


def read_config(folder: Path) -> dict[str, Any]:
    """Raises:
    ValueError: config.json holds no settings."""
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text())
    except ValueError as error:  # no JSON, or no text at all
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file} must hold a model's settings by name, got a {type(config).__name__}")
    return config


def weight_files(folder: Path) -> list[Path]:
    """Raises:
    ValueError: there are none."""
    files = sorted(folder.glob("diffusion_pytorch_model*.safetensors"))
    if not files:
        raise ValueError(f"{folder} has no weights: there is no diffusion_pytorch_model.safetensors in it")
    return files


def stored(file: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, Tensor]]:
    """The shapes of all tensors in a file, and the grids that are stored beside tables.

    Raises:
        ValueError: it is damaged or something else.
    """
    try:
        with safe_open(file, framework="pt") as tensors:
            shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
            grids = {name: tensors.get_tensor(name) for name in shapes if name.endswith("grids_K2")}
    except SafetensorError as error:
        raise ValueError(f"{file} is not a safetensors file, or a damaged one: {error}") from error
    return shapes, grids


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
        wanted = int(letter) if letter.isdigit() else config.get(WIDTHS.get(letter, ""), length)
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
