"""The interface between the training loop and what it trains."""

from typing import Protocol

from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn

from var_pe.data.image_set import Batch, TrainingSet
from var_pe.training.groups import LayerRates
from var_pe.training.opponent import Opponent
from var_pe.training.validations import Measure


class Task(Protocol):
    """What the loop trains; the loop itself knows neither tokenizers nor generators."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def dataset(self) -> TrainingSet: ...

    @property
    def layers(self) -> LayerRates:
        """The share of the learning rate that each layer of `model` gets."""

    @property
    def measure(self) -> Measure:
        """The value of `validate` that says which of two averages is better."""

    @property
    def opponent(self) -> Opponent | None:
        """A second player that is trained against `model` in the same steps."""

    def start(self, model: nn.Module, batch: Batch, accelerator: Accelerator) -> None:
        """Called before the first step of a new run, with the first batch."""

    def loss(self, model: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one micro-batch, and values to log."""

    def after_step(
        self, model: nn.Module, step: int, accelerator: Accelerator, updates: Tensor
    ) -> dict[str, Tensor]:
        """Called after the update; returns values to log, the same on every process.

        It may read no number from the device, except in steps that are logged. What it changes stays as it is
        if `updates` is 0, not 1: the step's numbers were not finite, and the training will end.
        """

    def validate(self, model: nn.Module, accelerator: Accelerator) -> dict[str, float]:
        """Scores of the averaged weights, over all processes."""

    def preview(self, model: nn.Module) -> Image.Image:
        """A sheet that shows what the averaged weights do; called on the main process.

        Takes nothing from torch's own generators, so that a run's weights do not depend on its previews.
        """
