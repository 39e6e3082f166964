"""`training.json`, the notes that a run leaves beside its finished weights."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from var_pe.files import write_text
from var_pe.training.history import Start, StepsAsked

FILE = "training.json"


@dataclass(frozen=True)
class TrainingNotes:
    """How a folder's weights were trained; None means unknown."""

    # number of optimizer steps behind the weights
    step: int | None = None
    # whether the weights are the moving average of the trained ones
    ema: bool | None = None
    # seed of the initial weights and of the order of images
    seed: int | None = None
    # names of the classes by label; empty if they have no names
    class_names: tuple[str, ...] | None = None
    # whether the weights are those of the best validation or of the last step, and their validated value
    keep: str | None = None
    validated: float | None = None
    # optimizer steps done in all; what was asked for, and from which step on
    steps_done: int | None = None
    asked: tuple[StepsAsked, ...] | None = None
    # SHA-256 of the tokenizer whose codes a generator learned
    tokenizer: str | None = None
    # the trained model that the training started from; None also if it started anew
    start: Start | None = None

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
            names, asked, start = (found.get(name) for name in ("class_names", "asked", "start"))
            if not isinstance(names, list | None):
                raise TypeError("class_names is not a list")

            return cls(
                step=found.get("step"),
                ema=found.get("ema"),
                seed=found.get("seed"),
                class_names=None if names is None else tuple(names),
                keep=found.get("keep"),
                validated=found.get("validated"),
                steps_done=found.get("steps_done"),
                asked=None if asked is None else tuple(StepsAsked(**entry) for entry in asked),
                tokenizer=found.get("tokenizer"),
                start=None if start is None else Start(**start),
            )
        except (ValueError, TypeError, AttributeError):
            raise ValueError(f"{path} is damaged: it does not hold the notes of a training") from None

    def write(self, folder: Path) -> None:
        write_text(folder / FILE, json.dumps(asdict(self)))
