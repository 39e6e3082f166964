"""What the training loop asks of whatever it trains."""

from typing import Any, Protocol

from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset

from var_pe.training.groups import LayerRates


class Task(Protocol):
    """What is trained: the loop knows nothing of tokenizers or generators."""

    model: nn.Module
    dataset: Dataset[Any]
    layers: LayerRates  # of `model`

    def start(self, model: nn.Module, batch: dict[str, Any], accelerator: Accelerator) -> None:
        """Before the first step of a new run, with the first batch."""

    def loss(self, model: nn.Module, batch: dict[str, Any], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Of one micro-batch, with values to log."""

    def after_step(self, model: nn.Module, step: int, accelerator: Accelerator) -> dict[str, float]:
        """After the update."""

    def validate(self, model: nn.Module, accelerator: Accelerator) -> dict[str, float]:
        """Of the averaged weights, over all processes."""

    def preview(self, model: nn.Module, path: str) -> None:
        """Writes a picture of what the averaged weights do; on the main process."""
