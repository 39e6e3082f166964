"""Run folders: resolved config, checkpoints that survive a kill at any moment, log, finished weights."""

import contextlib
import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.optim import Optimizer

from var_pe.files import into_place, remove, remove_drafts, write_json, write_text, written_whole
from var_pe.processes import Processes
from var_pe.training.checkpoints import OPPONENT, newest, steps_in
from var_pe.training.state import State

# the newest one, and the one before it in case the newest is damaged
CHECKPOINTS_KEPT = 2


class Run:
    """The folder of one training run, locked while the run lives.

    A checkpoint is written beside the older ones, flushed to the disk and renamed into place.

    Raises:
        ValueError: another process holds the folder.
    """

    def __init__(self, folder: str | Path, accelerator: Accelerator) -> None:
        self.folder, self.accelerator = Path(folder), accelerator
        self.processes = Processes.of(accelerator)
        self.checkpoints = self.folder / "checkpoints"
        self.log_file = self.folder / "log.jsonl"
        self.processes.on_main(self._take)

    def _take(self) -> None:
        """Locks the folder, and removes what a killed run left half written."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)

        # The lock is held until the process ends, however it ends.
        self._lock = open(self.folder / ".lock", "w")  # noqa: SIM115
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{self.folder} is in use by another process; wait for it or choose another run"
            ) from None

        write_json(self.folder / "circumstances.json", circumstances(self.accelerator))

        # What a killed process of this run left. Hidden drafts may belong to a process that is alive.
        remove_drafts(self.folder)
        for folder in (self.folder, self.checkpoints):
            for leftover in folder.glob("[!.]*.partial"):
                remove(leftover)

    def release(self) -> None:
        if self.accelerator.is_main_process:
            self._lock.close()

    def steps_saved(self) -> list[int]:
        return steps_in(self.checkpoints)

    def kept(self) -> str:
        """The end of a sentence that says which state is saved, if the training ends here."""
        saved = self.steps_saved()
        return (
            f"the last good state is step {saved[-1]} in {self.checkpoints}"
            if saved
            else "nothing was saved yet"
        )

    def load(self, state: State) -> int:
        """Restores the newest checkpoint that is whole; returns the number of steps done, 0 if there is none.

        Raises:
            ValueError: there are checkpoints, but none is whole.
        """
        of_opponent = None if state.opponent is None else state.opponent.module.state_dict()
        found = newest(self.checkpoints, state.ema.model.state_dict(), self.processes, of_opponent)
        if found is None:
            self.processes.on_main(lambda: self._cut_log(0))
            return 0

        # Only the same circumstances give the same bits; if some differ, the run prints them and goes on.
        here, before = circumstances(self.accelerator), found.state
        known = [key for key in here if key in before]
        changed = [f"{key} {before[key]} -> {here[key]}" for key in known if before[key] != here[key]]
        if changed:
            self.accelerator.print(
                "resuming under other circumstances, so the weights will not be the same bit for bit: "
                f"{'; '.join(changed)}"
            )

        # torch's own functions, which gather and scatter the shards of FSDP.
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        set_state_dict(
            state.model,
            state.optimizer.optimizer,
            model_state_dict=dict[str, Any](found.model),
            optim_state_dict=found.optimizer,
            options=options,
        )
        state.ema.model.load_state_dict(found.ema)
        if state.opponent is not None:
            state.opponent.load(found.opponent)
        state.validations.load(found.state.get("validations"), found.best, found.step)
        self.processes.on_main(lambda: self._cut_log(found.step))
        return found.step

    def save(self, step: int, state: State) -> None:
        """Writes a checkpoint with everything that the next step depends on, then removes old ones."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        model_state, optimizer_state = get_state_dict(state.model, state.optimizer.optimizer, options=options)

        def write(partial: Path) -> None:
            save_file(_contiguous(model_state), partial / "model.safetensors")
            save_file(_contiguous(state.ema.model.state_dict()), partial / "ema.safetensors")
            torch.save(optimizer_state, partial / "optimizer.pt")
            if state.opponent is not None:
                torch.save(state.opponent.state(), partial / OPPONENT)
            notes = {"step": step, "validations": state.validations.save(partial, step)}
            (partial / "state.json").write_text(json.dumps(notes | circumstances(self.accelerator)))

        def write_and_prune() -> None:
            try:
                into_place(self.checkpoints / f"step_{step:08d}", write)
            except (
                RuntimeError,
                SafetensorError,
            ) as error:  # how torch and safetensors say that a disk is full
                raise ValueError(
                    f"the checkpoint of step {step} cannot be written into {self.checkpoints} ({error}); "
                    f"{self.kept()}"
                ) from error
            for old in self.steps_saved()[:-CHECKPOINTS_KEPT]:
                remove(self.checkpoints / f"step_{old:08d}")

        self.processes.on_main(write_and_prune)

    def log(self, entry: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            with open(self.log_file, "a") as file:
                file.write(json.dumps(entry) + "\n")

    def picture(self, step: int) -> Path:
        """The file of the sheet after `step`."""
        return self.folder / "samples" / f"step_{step:08d}.png"

    def show(self, sheet: Image.Image, step: int) -> None:
        """Writes a sheet of pictures into the folder and hands it to the trackers; on the main process."""
        path = self.picture(step)
        path.parent.mkdir(exist_ok=True)
        with written_whole(path) as draft:
            sheet.save(draft, format="PNG")

        pixels_1HWC = np.asarray(sheet)[None]
        for tracker in self.accelerator.trackers:
            if tracker.name == "tensorboard":
                tracker.log_images({"samples": pixels_1HWC}, step=step, dataformats="NHWC")
                tracker.tracker.flush()  # a training ends with a sheet, and nothing else would write it out
            elif tracker.name == "trackio":
                from trackio import Image as TrackedImage  # an extra; Accelerate's tracker knows no pictures

                tracker.tracker.log({"samples": TrackedImage(path)}, step=step)
            else:
                tracker.log_images({"samples": pixels_1HWC}, step=step)

    def is_validated(self, step: int) -> bool:
        """Whether the log has a validation of the weights after `step`; the same on every process."""
        here = self.processes.is_main and any(
            entry["step"] == step and any(name.startswith("validation/") for name in entry)
            for entry in self._logged()
        )
        return any(self.processes.gather([here]))

    def _logged(self) -> list[dict[str, Any]]:
        """The entries of the log; a line that a kill cut short is passed over."""
        entries = []
        if self.log_file.exists():
            for line in self.log_file.read_text(errors="replace").splitlines():
                with contextlib.suppress(ValueError):
                    entry = json.loads(line)
                    if isinstance(entry, dict) and isinstance(entry.get("step"), int):
                        entries.append(entry)
        return entries

    def _cut_log(self, step: int) -> None:
        """Removes log entries after the checkpoint, whose steps will be done again."""
        if self.log_file.exists():
            kept = [entry for entry in self._logged() if entry["step"] <= step]
            write_text(self.log_file, "".join(json.dumps(entry) + "\n" for entry in kept))


def checkpoint_bytes(model: nn.Module, optimizer: Optimizer, *, with_best: bool) -> int:
    """The size of a checkpoint: weights, their average, and what the optimizer keeps of all that is trained.

    AdamW keeps two moments of a parameter, Muon one. `with_best`: the best average so far, too.
    """
    kept = 0
    for group in optimizer.param_groups:
        moments = 1 if group.get("matrices") else 2
        kept += sum(moments * p.numel() * p.element_size() for p in group["params"])
    state = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    return (2 + with_best) * state + kept


def circumstances(accelerator: Accelerator) -> dict[str, Any]:
    """What has to be the same for a resumed run to give the same bits."""
    return {
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": accelerator.device.type,
        "spread": spread(accelerator),
    }


def spread(accelerator: Accelerator) -> str:
    """How the processes share the model, as Accelerate names it, with the options of FSDP."""
    kind = accelerator.distributed_type.value
    options = sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith("FSDP_"))
    return f"{kind} {' '.join(options)}" if accelerator.distributed_type == DistributedType.FSDP else kind


def _contiguous(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
