"""Reads a run's checkpoints: finds the newest intact one, and says what is wrong with the others."""

import json
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from var_pe.processes import Processes

T = TypeVar("T")

# what `GuardedMuon` calls its average of gradients
AVERAGE_OF_MUON = "momentum"
NAME = re.compile(r"step_(\d+)")
OPPONENT = "opponent.pt"
PUT_ASIDE = ".damaged"  # ends the name of a checkpoint that cannot be read

# Errors that are raised by reading a file that is cut short, empty, or holds something else
UNREADABLE = (ValueError, LookupError, EOFError, RuntimeError, SafetensorError, pickle.UnpicklingError)


class DamagedError(ValueError):
    """A checkpoint is not whole; the sentence says which file and why."""


@dataclass(frozen=True)
class Checkpoint:
    """All that a checkpoint's folder holds, on the CPU."""

    folder: Path
    step: int
    # the step and the circumstances that it was saved under
    state: Mapping[str, Any]
    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    # the average of the best validation so far; empty if it is not kept
    best: dict[str, Tensor]
    optimizer: dict[str, Any]
    # what `OpponentTraining.state` gave; empty without an opponent
    opponent: dict[str, Any]


def steps_in(checkpoints: Path) -> list[int]:
    """The steps after which the checkpoints in a folder were saved, the oldest first."""
    found = [NAME.fullmatch(path.name) for path in checkpoints.glob("step_*")]
    return sorted(int(match[1]) for match in found if match)


def newest(
    checkpoints: Path,
    weights: Mapping[str, Tensor],
    processes: Processes,
    opponent: Mapping[str, Tensor] | None = None,
) -> Checkpoint | None:
    """The newest intact checkpoint of a model with such weights; damaged ones are named and moved aside.

    `opponent` is the state of its opponent's module, if it has one.

    Returns None if there is no checkpoint.

    Raises:
        ValueError: there are checkpoints, but none is whole.
    """
    found: list[Checkpoint] = []
    processes.on_main(lambda: found.extend(_newest_whole(checkpoints, weights, opponent)))
    (step,) = set(processes.gather([found[0].step] if found else []) or [0])
    if step and not found:
        found = [read(checkpoints / f"step_{step:08d}", weights, opponent)]
    return found[0] if found else None


def _newest_whole(
    checkpoints: Path, weights: Mapping[str, Tensor], opponent: Mapping[str, Tensor] | None
) -> list[Checkpoint]:
    """The newest intact checkpoint in a list; None if the list is empty."""
    for path in sorted(checkpoints.glob("step_*")):
        if not NAME.fullmatch(path.name) and path.suffix != PUT_ASIDE:
            print(
                f"{path} is ignored, since it is not named like a checkpoint; it may be a copy of one",
                flush=True,
            )

    damaged: list[str] = []
    for step in reversed(steps_in(checkpoints)):
        folder = checkpoints / f"step_{step:08d}"
        try:
            whole = read(folder, weights, opponent)
        except DamagedError as error:
            damaged.append(str(error))
            continue

        for sentence in damaged:
            print(f"{sentence}; moved aside as *{PUT_ASIDE}, resuming from step {step}", flush=True)
        for later in steps_in(checkpoints):
            if later > step:
                aside = checkpoints / f"step_{later:08d}"
                aside.rename(aside.with_name(aside.name + PUT_ASIDE))
        return [whole]

    if damaged:
        raise ValueError(
            f"no checkpoint in {checkpoints} is intact: {'; '.join(damaged)}; to start the training over, "
            "delete that folder"
        )
    return []


def read(
    folder: Path, weights: Mapping[str, Tensor], opponent: Mapping[str, Tensor] | None = None
) -> Checkpoint:
    """A checkpoint of a model with such weights, and of an opponent with such a state.

    Raises:
        DamagedError: a file is missing, cannot be read, or belongs to something else.
    """
    state = _opened(folder / "state.json", lambda file: json.loads(file.read_text(encoding="utf-8")))
    step = state.get("step") if isinstance(state, dict) else None
    if not isinstance(step, int) or folder.name != f"step_{step:08d}":
        raise DamagedError(f"{folder / 'state.json'} was not written at this step")

    model = _opened(folder / "model.safetensors", load_file)
    ema = _opened(folder / "ema.safetensors", load_file)
    _check_shapes(folder / "model.safetensors", model, weights)
    _check_shapes(folder / "ema.safetensors", ema, weights)

    # The state names the file of the best average, which may be the last one.
    best: dict[str, Tensor] = {}
    named = (state.get("validations") or {}).get("best_file")
    if named is not None:
        best = _opened(folder / named, load_file)
        _check_shapes(folder / named, best, weights)

    file = folder / "optimizer.pt"
    optimizer = _opened(file, lambda file: torch.load(file, map_location="cpu", weights_only=True))
    if not isinstance(optimizer, dict) or not {"state", "param_groups"} <= set(optimizer):
        raise DamagedError(f"{file} holds no state of an optimizer")
    # AdamW keeps two averages of a parameter's gradient, Muon one.
    for average in ("exp_avg", "exp_avg_sq", AVERAGE_OF_MUON):
        found = {
            name: values.get(average)
            for name, values in optimizer["state"].items()
            if (average == AVERAGE_OF_MUON) == (AVERAGE_OF_MUON in values)
        }
        _check_shapes(file, found, {name: weights[name] for name in found if name in weights})

    against: dict[str, Any] = {}
    if opponent is not None:
        file = folder / OPPONENT
        against = _opened(file, lambda file: torch.load(file, map_location="cpu", weights_only=True))
        if not isinstance(against, dict) or set(against) != {"module", "optimizer"}:
            raise DamagedError(f"{file} holds no state of a discriminator")
        _check_shapes(file, against["module"], opponent)
    return Checkpoint(folder, step, state, model, ema, best, optimizer, against)


def _opened(file: Path, read: Callable[[Path], T]) -> T:
    if not file.is_file():
        raise DamagedError(f"{file} is missing")
    if not file.stat().st_size:
        raise DamagedError(f"{file} is empty")
    try:
        return read(file)
    except UNREADABLE as error:
        raise DamagedError(f"{file} cannot be read") from error


def _check_shapes(file: Path, found: Mapping[str, Tensor | None], weights: Mapping[str, Tensor]) -> None:
    """Checks that a file's tensors are those of the model, by names and shapes."""
    if set(found) != set(weights):
        name = sorted(set(found) ^ set(weights))[0]
        raise DamagedError(f"{file} does not belong to this model: only one of them has {name}")
    for name, value in found.items():
        shape, expected = None if value is None else tuple(value.shape), tuple(weights[name].shape)
        if shape != expected:
            raise DamagedError(
                f"{file} does not belong to this model: {name} has the shape {shape}, not {expected}"
            )
