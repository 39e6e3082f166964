"""What is computed in float32, whatever precision the model around it computes in."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

# torch 2.6 has none
is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", bool)


def full_precision(like: Tensor) -> AbstractContextManager[object]:
    """Autocast off on the device of `like`: in bf16 the angles of neighbouring positions would coincide.

    The meta device, where a plan computes shapes alone, has no autocast to switch off.
    """
    return nullcontext() if like.is_meta else without_autocast(like.device.type)


def without_autocast(device: str) -> AbstractContextManager[object]:
    """Autocast off on this kind of device.

    A program of torch.export has none, and torch cannot load what it traces of switching it off.
    """
    return nullcontext() if is_exporting() else torch.autocast(device, enabled=False)
