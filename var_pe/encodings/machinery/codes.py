"""Position codes that several encodings and the level embedding start from, and the amplitude of codes."""

import torch
from torch import Tensor

from var_pe.resampling.precision import full_precision

# Orders of the channels of a sinusoidal code, explained in `Sinusoidal`
ORDERS = ("timm", "mae", "big_vision")


def sinusoidal_code(yx_L2: Tensor, dim: int, temperature: float, order: str = "timm") -> Tensor:
    """The fixed 2-D code of the given coordinates, float32 (L, dim), in one of `ORDERS`."""
    with full_precision(yx_L2):
        last = dim // 4 - 1 if order == "big_vision" else dim // 4
        exponent_F = torch.arange(dim // 4, dtype=torch.float32, device=yx_L2.device) / last
        angle_L2F = yx_L2.float()[:, :, None] * temperature**-exponent_F

        if order == "timm":
            return torch.cat([angle_L2F.sin().flatten(1), angle_L2F.cos().flatten(1)], dim=1)

        # x first, and each axis's sines right before its cosines
        angle_L2F = angle_L2F.flip(1)
        return torch.stack([angle_L2F.sin(), angle_L2F.cos()], dim=2).flatten(1)


def sinusoidal_time(moment_T: Tensor, dim: int, temperature: float) -> Tensor:
    """The fixed code of moments, `[sin | cos]`, float32 (T, dim) (Vaswani et al. 2017, section 3.5)."""
    with full_precision(moment_T):
        exponent_F = torch.arange(dim // 2, dtype=torch.float32, device=moment_T.device) / (dim // 2)
        angle_TF = moment_T.float()[:, None] * temperature**-exponent_F
        return torch.cat([angle_TF.sin(), angle_TF.cos()], dim=1)


def standard_deviation(dim: int) -> float:
    """VAR's initial standard deviation of everything learned, sqrt(1 / (3 C)) (public code)."""
    return (1 / (3 * dim)) ** 0.5


def code_scale(dim: int) -> float:
    """What a sinusoidal code, whose mean square is 1/2, is multiplied by to be as large as a learned one."""
    return standard_deviation(dim) / 0.5**0.5


def amplitude(code_LC: Tensor) -> Tensor:
    """Root mean square about the mean over positions: the part of a code that depends on them at all.

    Where that is nothing (a single position, levels of one cell), it is the plain root mean square.
    """
    about_mean = (code_LC - code_LC.mean(0)).square().mean().sqrt()
    plain = code_LC.square().mean().sqrt()
    return about_mean if about_mean > 1e-6 * plain else plain
