"""Smaller classifiers: integer weights by `torchao`, weights set to zero, hidden channels left out.

All work on a copy and need no data; nothing is trained after them.
"""

from collections.abc import Callable
from copy import deepcopy
from importlib.util import find_spec
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.utils import prune

from var_pe.models.layers import MLP

M = TypeVar("M", bound=nn.Module)
GROUP = 32  # inputs of a 4-bit weight that share a scale
INT4: torch.dtype = vars(torch)["int4"]  # torch's own types leave it out


def check_library(module: str, package: str) -> None:
    """Checks that a library, an optional dependency, is installed.

    Raises:
        ValueError: it is not.
    """
    if find_spec(module) is None:
        raise ValueError(
            f"{package} is not installed: pip install {package} (or var_pe with its extra: pip install -e "
            f"'.[compress]')"
        )


def linear_layers(model: nn.Module) -> list[nn.Linear]:
    return [module for module in model.modules() if type(module) is nn.Linear]


def with_int8(model: M) -> M:
    """The weights of linear layers as 8-bit numbers, a scale for each output; products stay float32."""
    check_library("torchao", "torchao")
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    small = deepcopy(model)
    quantize_(small, Int8WeightOnlyConfig())
    return small


def with_int4(model: M) -> M:
    """4-bit numbers, a scale for each 32 inputs of an output; layers of other widths stay as they are.

    torchao keeps them in a byte each on processors: `stored_bytes` counts what they need when packed.
    """
    check_library("torchao", "torchao")
    from torchao.quantization import IntxWeightOnlyConfig, quantize_
    from torchao.quantization.granularity import PerGroup

    def fits(module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Linear) and module.in_features % GROUP == 0

    small = deepcopy(model)
    config = IntxWeightOnlyConfig(weight_dtype=INT4, granularity=PerGroup(GROUP))
    quantize_(small, config, filter_fn=fits)
    return small


def with_zeros(model: M, share: float) -> M:
    """A share of all weights of linear layers, the smallest, set to zero; the arrays stay as large."""
    sparse = deepcopy(model)
    weights = [(layer, "weight") for layer in linear_layers(sparse)]
    prune.global_unstructured(weights, pruning_method=prune.L1Unstructured, amount=share)
    for layer, name in weights:
        prune.remove(layer, name)
    return sparse


def narrower(model: M, share: float) -> M:
    """A share of the hidden channels of every MLP left out, those of the smallest weights (L2, both layers).

    Widths of tokens and heads stay, so that position encodings do not change.
    """
    check_library("torch_pruning", "torch-pruning")
    import torch_pruning

    small = deepcopy(model)
    for mlp in small.modules():
        if not isinstance(mlp, MLP):
            continue
        into, out = mlp.fc1.weight, mlp.fc2.weight
        importance_F = into.square().sum(1) + out.square().sum(0)
        left_out = importance_F.argsort()[: round(share * len(importance_F))].tolist()
        torch_pruning.prune_linear_out_channels(mlp.fc1, left_out)
        torch_pruning.prune_linear_in_channels(mlp.fc2, left_out)
    return small


def stored_bytes(model: nn.Module) -> int:
    """The bytes of parameters and buffers in a file, integer weights with their scales."""
    return sum(map(_bytes_of, [*model.parameters(), *model.buffers()]))


def _bytes_of(tensor: torch.Tensor) -> int:
    names = getattr(tensor, "tensor_data_names", None)
    if names is None:
        return tensor.numel() * tensor.element_size()

    total = 0
    for name in names:
        part = getattr(tensor, name)
        bits = 8 * part.element_size()
        if name == "qdata" and getattr(tensor, "target_dtype", None) == INT4:
            bits = 4
        total += part.numel() * bits // 8
    return total


WAYS: dict[str, Callable[[Any], Any]] = {
    "as it is": deepcopy,
    "int8 weights": with_int8,
    "int4 weights": with_int4,
    "half of the weights zero": lambda model: with_zeros(model, 0.5),
    "four fifths of the weights zero": lambda model: with_zeros(model, 0.8),
    "a quarter of hidden channels out": lambda model: narrower(model, 0.25),
    "half of the hidden channels out": lambda model: narrower(model, 0.5),
}
