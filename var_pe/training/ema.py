"""Exponential moving average of a model's parameters; its buffers are copied."""

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class EMA:
    """Holds a full, averaged copy of the model, which can be evaluated, sampled from and saved like it.

    Under FSDP every process holds the whole copy, and an update gathers the shards.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = deepcopy(model).eval().requires_grad_(False)
        self._parameters = dict(self.model.named_parameters())

    @torch.no_grad()
    def update(self, model: nn.Module, decay: float, updates: Tensor) -> None:
        """Moves the average by 1 - `decay` of the way to the model; not at all if `updates` is 0, not 1."""
        new = {name: whole(value) for name, value in model.state_dict().items()}
        averages: list[Tensor] = list(self._parameters.values())
        values = [new.pop(name).to(old.device, old.dtype) for name, old in self._parameters.items()]
        torch._foreach_lerp_(averages, values, [(1 - decay) * updates] * len(averages))

        buffers = self.model.state_dict()
        for name, value in new.items():
            buffers[name].copy_(value)


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that FSDP keeps in shards; any other tensor unchanged."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
