"""`training.json`, the notes that a run leaves beside its finished weights."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from var_pe.files import write_text

FILE = "training.json"


@dataclass(frozen=True)
class TrainingNotes:
    """How a folder's weights were trained; None means unknown."""

    # number of optimizer steps
    step: int | None = None
    # whether the weights are the moving average of the trained ones
    ema: bool | None = None
    # seed of the initial weights and of the order of images
    seed: int | None = None
    # names of the classes by label; empty if they have no names
    class_names: tuple[str, ...] | None = None

    @classmethod
    def read(cls, folder: Path) -> "TrainingNotes":
        """The notes beside the weights in `folder`; what is missing there is unknown.

        Raises:
            ValueError: the file is damaged.
        """
        path = folder / FILE
        if not path.exists():
            return cls()

        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        names = found.get("class_names") if isinstance(found, dict) else None
        if not isinstance(found, dict) or not isinstance(names, list | None):
            raise ValueError(f"{path} is damaged: it does not hold the notes of a training")

        return cls(
            step=found.get("step"),
            ema=found.get("ema"),
            seed=found.get("seed"),
            class_names=None if names is None else tuple(names),
        )

    def write(self, folder: Path) -> None:
        write_text(folder / FILE, json.dumps(asdict(self)))
