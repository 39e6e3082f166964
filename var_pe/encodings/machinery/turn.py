"""Turning pairs of channels by angles, with a gradient of its own that costs no more than the turning."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from var_pe.resampling.precision import is_exporting

LAYOUTS = ("half", "interleaved")


@dataclass(frozen=True)
class Angles:
    """Angles in radians, float32 (..., L, P), with their cosines and sines, which carry no gradient."""

    angle: Tensor
    cos: Tensor
    sin: Tensor

    @staticmethod
    def of(angle: Tensor) -> "Angles":
        return Angles(angle, angle.detach().cos(), angle.detach().sin())


def turn(x_BHLD: Tensor, angles: Angles, layout: str) -> Tensor:
    """Every channel pair (a, b) becomes (a cos - b sin, a sin + b cos): products in float32, rounded once.

    Differentiable once, in `x_BHLD` and in the angles.
    """
    turned: Tensor = _Turn.apply(x_BHLD, angles.angle, angles.cos, angles.sin, layout)
    return turned


class _Turn(torch.autograd.Function):
    """The gradient of x is turned back; that of an angle is the gradient along y turned by a right angle.

    Autograd would keep both halves in float32 and, for learned angles, sum over the batch four times.
    """

    @staticmethod
    def forward(ctx: Any, x_BHLD: Tensor, angle: Tensor, cos: Tensor, sin: Tensor, layout: str) -> Tensor:
        y_BHLD = _turned(x_BHLD, cos, sin, layout)

        learned = ctx.needs_input_grad[1]
        ctx.save_for_backward(cos, sin, y_BHLD if learned else None)
        ctx.layout = layout
        ctx.shape = angle.shape
        return y_BHLD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_BHLD: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        cos, sin, y_BHLD = ctx.saved_tensors
        g_angle = None
        if y_BHLD is not None:
            # d(ya, yb) / d angle = (-yb, ya)
            ga, gb = (part.to(cos.dtype) for part in _pairs(g_BHLD, ctx.layout))
            ya, yb = (part.to(cos.dtype) for part in _pairs(y_BHLD, ctx.layout))
            g_angle = torch.addcmul(gb * ya, ga, yb, value=-1).sum_to_size(ctx.shape)

        return _turned(g_BHLD, cos, -sin, ctx.layout), g_angle, None, None, None


def _pairs(x_BHLD: Tensor, layout: str) -> tuple[Tensor, Tensor]:
    """First and second channels of the pairs, as views (B, H, L, D / 2)."""
    if layout == "interleaved":
        return x_BHLD[..., ::2], x_BHLD[..., 1::2]
    a_BHLP, b_BHLP = x_BHLD.chunk(2, dim=-1)
    return a_BHLP, b_BHLP


def _turned(x_BHLD: Tensor, cos: Tensor, sin: Tensor, layout: str) -> Tensor:
    a, b = (part.to(torch.promote_types(x_BHLD.dtype, cos.dtype)) for part in _pairs(x_BHLD, layout))

    if is_exporting():  # a program may not write into views
        turned = (torch.addcmul(a * cos, b, sin, value=-1), torch.addcmul(b * cos, a, sin))
        y_BHLD = torch.cat(turned, -1) if layout == "half" else torch.stack(turned, -1).flatten(-2)
        return y_BHLD.to(x_BHLD.dtype)

    y_BHLD = torch.empty(x_BHLD.shape, dtype=x_BHLD.dtype, device=x_BHLD.device)
    ya, yb = _pairs(y_BHLD, layout)
    ya.copy_(torch.addcmul(a * cos, b, sin, value=-1))
    yb.copy_(torch.addcmul(b * cos, a, sin))
    return y_BHLD
