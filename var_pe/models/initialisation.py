"""Initial weights that follow from (seed, parameter name): the same network around every encoding."""

import torch
from torch import nn

from var_pe.encodings import PositionEncoding
from var_pe.seeding import generator_for

Norm = nn.LayerNorm | nn.GroupNorm | nn.modules.batchnorm._BatchNorm


@torch.no_grad()
def initialise(model: nn.Module, seed: int, *, std: float | None = None) -> None:
    """Draws every parameter anew, each from its own generator, whatever else the model holds.

    A module may say how its own parameters start (`init_parameter(name, parameter, generator)`) and what its
    buffers hold that are drawn but not trained (`init_buffer`), and an encoding fix what depends on them
    afterwards (`calibrate()`). Of the rest, norms start as the identity, biases at zero, and weights
    truncated-normal with deviation `std`, or 1 / sqrt(3 fan_in) (torch's own variance) where it is None.
    """
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_meta:  # a checkpoint is about to be loaded
                continue

            generator = generator_for(seed, f"{path}.{name}")
            if hasattr(module, "init_parameter"):
                module.init_parameter(name, parameter, generator)
            else:
                _default(module, name, parameter, generator, std)

        for name, buffer in module.named_buffers(recurse=False):
            if hasattr(module, "init_buffer") and not buffer.is_meta:
                module.init_buffer(name, buffer, generator_for(seed, f"{path}.{name}"))

    # Children first: a mixture is calibrated from its finished parts.
    for module in reversed(list(model.modules())):
        if isinstance(module, PositionEncoding):
            module.calibrate()


def _default(
    module: nn.Module, name: str, parameter: nn.Parameter, generator: torch.Generator, std: float | None
) -> None:
    if isinstance(module, Norm):
        nn.init.constant_(parameter, 1.0 if name == "weight" else 0.0)
    elif parameter.dim() < 2:
        nn.init.zeros_(parameter)
    else:
        if std is None:
            fan_in = parameter[0].numel()
            std = (3 * fan_in) ** -0.5
        nn.init.trunc_normal_(parameter, std=std, generator=generator)
