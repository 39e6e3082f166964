"""A second network, such as a discriminator, that is trained against the model in the same steps.

Every process holds the whole of it. Its gradients are averaged by hand: DDP would also wait for those of the
model's loss, and copy buffers between two passes.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, parameters_to_vector, vector_to_parameters

from var_pe.training.config import TrainingConfig
from var_pe.training.guard import Guard, GuardedAdamW
from var_pe.training.precision import autocast


class Opponent(Protocol):
    """The network that a task trains against its model; it is not averaged, nor in the finished model."""

    @property
    def module(self) -> nn.Module:
        """Its parameters and whatever a resumed run needs; alike on every process from the start."""

    @property
    def rate_ratio(self) -> float:
        """Its learning rate over the model's."""

    @property
    def betas(self) -> tuple[float, float]:
        """Of its AdamW, which has no weight decay."""

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]] | None:
        """Its loss on the micro-batch that `Task.loss` has just seen, and values to log; None: not now."""


class OpponentTraining:
    """The optimizer of an opponent."""

    def __init__(
        self, opponent: Opponent, config: TrainingConfig, accelerator: Accelerator, guard: Guard
    ) -> None:
        self.opponent, self.config, self.accelerator = opponent, config, accelerator
        self.module = opponent.module.to(accelerator.device)
        self.optimizer = GuardedAdamW(
            self.module.parameters(), betas=opponent.betas, weight_decay=0.0, fused=True
        )
        self.optimizer.found_inf = guard.found_inf

    def backward(self, step: int) -> dict[str, Tensor]:
        """Adds the gradient of the micro-batch just seen; returns values to log."""
        with autocast(self.config.precision, self.accelerator.device.type):
            found = self.opponent.loss(step)
        if found is None:
            return {}
        loss, values = found
        (loss / self.config.accumulate).backward()
        return values

    def gradient_norm(self) -> Tensor:
        """Averages the step's gradient over the processes and clips it; returns its norm, 0 at rest."""
        trained = [parameter for parameter in self.module.parameters() if parameter.grad is not None]
        if not trained:
            return torch.zeros((), device=self.accelerator.device)

        if self.accelerator.num_processes > 1:
            gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
            mean = self.accelerator.reduce(parameters_to_vector(gradients), "mean")
            vector_to_parameters(mean, gradients)
        return clip_grad_norm_(trained, self.config.max_grad_norm)

    def step(self, rate: float) -> None:
        """Updates the opponent, if it has gradients; `rate` is the model's learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * self.opponent.rate_ratio
        self.optimizer.step()
        self.optimizer.zero_grad()

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {"module": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, state: Mapping[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
