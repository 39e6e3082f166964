"""The reports of a running training, and after which steps they are due: log, validation, preview."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic

import torch
from torch import Tensor

from var_pe.progress import StepProgress
from var_pe.training.config import TrainingConfig
from var_pe.training.precision import autocast
from var_pe.training.run import Run
from var_pe.training.state import State
from var_pe.training.stopping import AskedToStop, StopRequest
from var_pe.training.task import Task


@dataclass(frozen=True)
class Due:
    """What is due after a step."""

    # whether no step of the training is left
    last: bool
    log: bool
    validation: bool
    preview: bool
    checkpoint: bool

    @classmethod
    def after(cls, done: int, steps: int, config: TrainingConfig) -> "Due":
        """What is due when `done` of the `steps` are done: all of it at the end."""
        last = done == steps

        def every(number: int) -> bool:
            return last or (number > 0 and done % number == 0)

        return cls(
            last,
            # the first step, too
            log=last or (done - 1) % config.log_every == 0,
            validation=every(config.validate_every),
            preview=every(config.preview_every),
            checkpoint=every(config.save_every),
        )

    @property
    def anything(self) -> bool:
        return self.log or self.validation or self.preview or self.checkpoint


@dataclass(frozen=True)
class Reports:
    """Writes the log, validates the average and shows previews; steps are counted as they are done."""

    task: Task
    config: TrainingConfig
    run: Run
    state: State
    progress: StepProgress
    stop: StopRequest

    def make_up(self, done: int, due: Due) -> None:
        """Does what was due after the newest checkpoint's step, if the run was stopped before it was done."""
        with suppress(AskedToStop):
            if done and due.validation and self.state.validations.last_step != done:
                self._validate(done, logged=self.run.is_validated(done))
            if done and due.preview and not self.run.picture(done).exists():
                self._preview(done)

    def log(self, done: int, values: Mapping[str, Tensor], rate: float) -> None:
        """Logs the values of a step, means over the processes, all read from the device at once."""
        stacked = torch.stack([value.float() for value in values.values()])
        means = self.run.accelerator.reduce(stacked, "mean").tolist()
        entry = dict(zip(values, means, strict=True)) | {"learning_rate": rate}
        self._write(done, entry | self.progress.rates())

    def look(self, done: int, due: Due) -> None:
        """Validation and preview, each if it is due; a signal breaks them off."""
        with suppress(AskedToStop):
            if due.validation:
                self._validate(done)
            if due.preview or self.state.validations.patience_is_over:
                self._preview(done)

    def _write(self, done: int, values: Mapping[str, float]) -> None:
        """Writes an entry to the run's log, its trackers and the screen."""
        entry = {"step": done, **values}
        self.run.log(entry)
        self.run.accelerator.log(dict(values), step=done)
        self.progress.say(entry)

    def _validate(self, done: int, *, logged: bool = False) -> None:
        """Validates the average, which may be logged already, and hands its values on to be judged."""
        began = monotonic()
        found = self.task.validate(self.state.ema.model, self.run.accelerator)
        seconds = monotonic() - began
        if not logged:
            self._write(done, {**found, "validation_seconds": seconds})
        self.state.validations.add(done, found, self.state.ema.model)

    def _preview(self, done: int) -> None:
        """Shows the task's sheet, made in the precision of the training; scores are computed in float32."""
        with self.stop.breaking_off():
            if self.run.accelerator.is_main_process:
                with autocast(self.config.precision, self.run.accelerator.device.type):
                    sheet = self.task.preview(self.state.ema.model)
                self.run.show(sheet, done)
