"""What a saved model's files say before it is built: a table that does not fit would only fail to load."""

import json
from collections.abc import Iterator
from pathlib import Path

from safetensors import safe_open

from var_pe.diagnosis.findings import Finding


def model_folder(path: Path) -> Path | None:
    """Where a run, a pipeline or a saved model keeps the weights with positions; None: it is none."""
    folders = [path / name for name in ("classifier", "generator", "transformer", ".")]
    return next((folder for folder in folders if (folder / "config.json").is_file()), None)


def stored_tables(folder: Path) -> Iterator[Finding]:
    """The shapes of stored tables against the model's width, and against the grids stored beside them."""
    width = json.loads((folder / "config.json").read_text()).get("dim")
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            names = list(tensors.keys())
            for name in [name for name in names if name.endswith("table_LC")]:
                rows, columns = tensors.get_slice(name).get_shape()
                if width is not None and columns != width:
                    yield Finding(
                        "problem",
                        f"{name} has codes of width {columns}, the model's width is {width}.",
                        "They belong to different models: look for the config that the weights came with.",
                    )
                grids = name.removesuffix("table_LC") + "grids_K2"
                cells = int(tensors.get_tensor(grids).prod(1).sum()) if grids in names else rows
                if rows != cells:
                    yield Finding(
                        "problem",
                        f"{name} has {rows} rows, the grids stored beside it {cells} cells.",
                        "Rows of prefix tokens belong into the tokens; another grid is stored as such.",
                    )
