"""Keeps track of a training's validations: the best average so far, and how many came after it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from var_pe.processes import Processes
from var_pe.training.config import TrainingConfig

# Files of a checkpoint: its own average, and the best one so far if that is another
AVERAGE = "ema.safetensors"
BEST = "best.safetensors"

# Validations without a better one after which the log says so
SAID_AFTER = 3


@dataclass(frozen=True)
class Measure:
    """The validated value that says which of two averages is better."""

    # its name among the values of `Task.validate`
    name: str = "validation/loss"
    higher_is_better: bool = False

    def better(self, value: float, than: float) -> bool:
        """Whether `value` is better than `than`; one that is not finite is worse than every finite one."""
        if not math.isfinite(value):
            return False
        if not math.isfinite(than):
            return True
        return value > than if self.higher_is_better else value < than


class Validations:
    """Keeps the average of the best validation, if the config asks for it, and counts those since.

    The copy lies in the main process's memory and in every checkpoint, so what a resumed run ends with does
    not depend on where it was stopped.
    """

    def __init__(self, measure: Measure, config: TrainingConfig, processes: Processes) -> None:
        self.measure, self.config, self.processes = measure, config, processes
        # step and value of the last validation and of the best one; None: there was none, or none was finite
        self.last_step: int | None = None
        self.last_value = math.nan
        self.best_step: int | None = None
        self.best_value = math.nan
        # validations since the best one, and whether that has been said
        self.without_better = 0
        self.said = False
        self.best_weights: dict[str, Tensor] = {}

    @property
    def patience_is_over(self) -> bool:
        return 0 < self.config.patience <= self.without_better

    def add(self, step: int, found: Mapping[str, float], model: nn.Module) -> None:
        """Judges the average `model` after `step` steps by its validation."""
        # The main process's value, since all have to come to the same decision.
        value = self.processes.gather([found[self.measure.name]])[0]
        self.last_step, self.last_value = step, value

        if self.measure.better(value, self.best_value):
            self.best_step, self.best_value, self.without_better = step, value, 0
            if self.config.keep == "best" and self.processes.is_main:
                state = model.state_dict()
                self.best_weights = {
                    name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()
                }
            return

        self.without_better += 1
        if self.without_better >= SAID_AFTER and not self.said:
            self.said = True
            self.processes.say(self._no_better(step, value))

    def _no_better(self, step: int, value: float) -> str:
        name = self.measure.name
        if self.best_step is None:
            return f"{name} is {value} after step {step}: no validation so far was finite"

        advice = "keep=best would keep that average, patience=N would stop the training"
        if self.config.keep == "best":
            advice = f"the average of step {self.best_step} is kept"
        return (
            f"{name} has not been better than {self.best_value:.4g} after step {self.best_step} for "
            f"{self.without_better} validations and is {value:.4g} after step {step}; {advice}"
        )

    def value_of(self, step: int) -> float | None:
        """The value of the best or the last validation, if it was of the average after `step` steps."""
        if step == self.best_step:
            return self.best_value
        return self.last_value if step == self.last_step else None

    def start_counting_anew(self) -> None:
        """Gives a training that is extended beyond its end its whole patience; the best so far is kept."""
        self.without_better = 0

    def has_a_choice(self, steps: int) -> bool:
        """Whether a training of `steps` steps validates more than its last average, to keep the best."""
        return self.config.keep == "best" and 0 < self.config.validate_every < steps

    def say_if_there_is_no_choice(self, steps: int) -> None:
        """Prints a remark if a training that is to keep the best average validates only the last one."""
        every = self.config.validate_every
        if self.config.keep == "best" and not self.has_a_choice(steps):
            self.processes.say(
                f"keep=best has only the last average to choose from: validate_every={every} in {steps} steps"
            )

    @torch.no_grad()
    def put_best_into(self, model: nn.Module, step: int) -> int:
        """Gives `model`, the average after `step` steps, the weights to keep; returns their step.

        Only on the main process they are copied: it is the one that saves them.
        """
        if self.config.keep == "last":
            return step
        if self.best_step is None:
            self.processes.say("no validation was finite, so keep=best keeps the last average")
            return step

        if self.best_step != step and self.processes.is_main:
            model.load_state_dict(self.best_weights)
        return self.best_step

    def save(self, checkpoint: Path, step: int) -> dict[str, Any]:
        """Writes the best weights into the checkpoint of `step`; returns what its state has to hold.

        The average of the checkpoint itself is there already.
        """
        file = None
        if self.best_weights:
            file = AVERAGE if self.best_step == step else BEST
        if file == BEST:
            save_file(self.best_weights, checkpoint / BEST)

        return {
            "last_step": self.last_step,
            "last_value": self.last_value,
            "best_step": self.best_step,
            "best_value": self.best_value,
            "best_file": file,
            "without_better": self.without_better,
            "said": self.said,
            "images": self.config.validation_images,
        }

    def load(self, state: Mapping[str, Any] | None, best: dict[str, Tensor], step: int) -> None:
        """Restores what a checkpoint of `step` holds: `state` and the best weights.

        Values on other images, or of a version that kept none, do not count.
        """
        if state is None or state["images"] != self.config.validation_images:
            why = "validation_images has changed" if state else "an earlier version wrote the checkpoint"
            if self.config.keep == "best" or self.config.patience:
                self.processes.say(f"validations up to step {step} do not count for keep and patience: {why}")
            return

        self.last_step, self.last_value = state["last_step"], state["last_value"]
        self.best_step, self.best_value = state["best_step"], state["best_value"]
        self.without_better, self.said = state["without_better"], state["said"]
        if self.processes.is_main:
            self.best_weights = best
