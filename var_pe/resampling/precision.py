"""What is computed in float32, whatever precision the model around it computes in."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(like: Tensor) -> AbstractContextManager[object]:
    """Autocast off on the device of `like`: in bf16 the angles of neighbouring positions would coincide.

    The meta device, where a plan computes shapes alone, has no autocast to switch off.
    """
    return nullcontext() if like.is_meta else torch.autocast(like.device.type, enabled=False)
