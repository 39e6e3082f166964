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

    @torch.no_grad()
    def update(self, model: nn.Module, decay: float) -> None:
        new = model.state_dict()
        parameters = dict(self.model.named_parameters())
        for name, old in self.model.state_dict().items():
            value = whole(new[name]).to(old.device)
            if name in parameters:
                old.lerp_(value.to(old.dtype), 1 - decay)
            else:
                old.copy_(value)


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that FSDP keeps in shards; any other tensor unchanged."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
