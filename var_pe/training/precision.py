"""The precision of a training's matrix products, by a rule of settings and device.

Nothing here is timed: rounding depends on the choice, and weights must not depend on how busy a machine was.
"""

import platform
from typing import Literal

import torch

Settled = Literal["float32", "bf16"]
Precision = Literal["auto", "float32", "bf16"]


def has_bf16(device: str) -> bool:
    """Whether a device ("cuda", "cpu", ...) has instructions for bfloat16.

    A processor without them computes the same, but its products take up to fifty times as long as in float32.
    """
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device == "xpu":
        return torch.xpu.is_bf16_supported()
    if device != "cpu":
        return False
    if platform.machine().lower() in ("x86_64", "amd64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def settled(precision: Precision, device: str) -> Settled:
    """The precision on a device; `auto` is bf16 where the device has it, else float32."""
    if precision != "auto":
        return precision
    return "bf16" if has_bf16(device) else "float32"


def dtype_of(precision: Precision, device: str) -> torch.dtype:
    return torch.bfloat16 if settled(precision, device) == "bf16" else torch.float32


def autocast(precision: Precision, device: str) -> torch.autocast:
    """Computes products in the precision of a training; weights and optimizer stay float32."""
    return torch.autocast(device, torch.bfloat16, enabled=settled(precision, device) == "bf16")
