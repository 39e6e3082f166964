"""Run folders: resolved config, checkpoints that survive a kill at any moment, log, finished weights."""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from var_pe.training.ema import EMA


class Run:
    """One training run's folder. A checkpoint is written beside the older ones, flushed, renamed into place.

    Raises:
        ValueError: another process holds the folder.
    """

    def __init__(self, folder: str | Path, accelerator: Accelerator) -> None:
        self.folder, self.accelerator = Path(folder), accelerator
        self.checkpoints = self.folder / "checkpoints"
        self.log_file = self.folder / "log.jsonl"
        on_main(accelerator, self._take)

    def _take(self) -> None:
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.folder / ".lock", "w")  # noqa: SIM115  # held until the process ends, however it ends
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{self.folder} is in use by another process; wait for it or choose another run"
            ) from None
        for leftover in self.folder.rglob("*.partial"):
            remove(leftover)

    def release(self) -> None:
        if self.accelerator.is_main_process:
            self._lock.close()

    def steps_saved(self) -> list[int]:
        return sorted(int(path.name.removeprefix("step_")) for path in self.checkpoints.glob("step_*[0-9]"))

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer, ema: EMA) -> int:
        """Restores the newest checkpoint; returns the number of steps done, 0 if there is none."""
        steps = self.steps_saved()
        if not steps:
            on_main(self.accelerator, lambda: self._cut_log(0))
            return 0
        folder = self.checkpoints / f"step_{steps[-1]:08d}"
        state = json.loads((folder / "state.json").read_text())
        here = circumstances(self.accelerator)
        if changed := [f"{key} {state[key]} -> {here[key]}" for key in here if state.get(key) != here[key]]:
            self.accelerator.print(
                f"resuming under other circumstances, not bit for bit: {'; '.join(changed)}"
            )
        saved = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        set_state_dict(
            model,
            optimizer,
            model_state_dict=dict[str, Any](load_file(folder / "model.safetensors")),
            optim_state_dict=saved,
            options=options,
        )
        ema.model.load_state_dict(load_file(folder / "ema.safetensors"))
        on_main(self.accelerator, lambda: self._cut_log(int(state["step"])))
        return int(state["step"])

    def save(
        self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, ema: EMA, keep: int = 2
    ) -> None:
        """Writes a checkpoint of all that the next step depends on; older ones go once it is complete."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        model_state, optimizer_state = get_state_dict(model, optimizer, options=options)

        def write(partial: Path) -> None:
            save_file(_contiguous(model_state), partial / "model.safetensors")
            save_file(_contiguous(ema.model.state_dict()), partial / "ema.safetensors")
            torch.save(optimizer_state, partial / "optimizer.pt")
            (partial / "state.json").write_text(json.dumps({"step": step, **circumstances(self.accelerator)}))

        def write_and_prune() -> None:
            into_place(self.checkpoints / f"step_{step:08d}", write)
            for old in self.steps_saved()[:-keep]:
                remove(self.checkpoints / f"step_{old:08d}")

        on_main(self.accelerator, write_and_prune)

    def log(self, entry: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            with open(self.log_file, "a") as file:
                file.write(json.dumps(entry) + "\n")

    def _cut_log(self, step: int) -> None:
        """Drops what was logged after the checkpoint: those steps are about to be done again."""
        if not self.log_file.exists():
            return
        entries = []
        for line in self.log_file.read_text().splitlines():
            try:
                entries.append(json.loads(line))
            except json.JSONDecodeError:  # the line that a kill cut short
                break
        text = "".join(json.dumps(entry) + "\n" for entry in entries if entry["step"] <= step)
        write_text(self.log_file, text)


def circumstances(accelerator: Accelerator) -> dict[str, Any]:
    """What has to be the same for a resumed run to give the same bits."""
    return {
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": accelerator.device.type,
    }


def on_main(accelerator: Accelerator, action: Callable[[], None]) -> None:
    """Runs `action` on the main process; every process waits for it, and raises if it failed there."""
    failure: Exception | None = None
    if accelerator.is_main_process:
        try:
            action()
        except Exception as error:
            failure = error
    said = [None if failure is None else str(failure)]
    if accelerator.num_processes > 1:
        broadcast_object_list(said)
    if failure is not None:
        raise failure
    if said[0] is not None:
        raise ValueError(said[0])


def into_place(folder: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` fill a new folder beside `folder`, flushes it to disk and renames it; all or nothing."""
    partial = folder.with_name(folder.name + ".partial")
    remove(partial)
    partial.mkdir(parents=True)
    write(partial)
    for path in [*partial.rglob("*"), partial]:
        flush(path)
    remove(folder)
    os.rename(partial, folder)
    flush(folder.parent)


def write_text(path: Path, text: str) -> None:
    """Replaces a file's text; a reader or a crash finds the old text or the new one, never a part."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text)
        flush(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _contiguous(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
