"""Rotations of several channels at once: exponentials of skew-symmetric matrices, and applying them."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from var_pe.resampling.precision import full_precision

# exp(A) = (1 + B + B^2 / 2 + ... + B^TERMS / TERMS!)^(2^n), B = A / 2^n: up to norms of 2^(n + 1) as exact as
# float32 is. torch's own chooses such numbers by looking at the matrix, for which a GPU has to wait.
TERMS = 14
SQUARINGS = 5


def skew(free_bb: Tensor) -> Tensor:
    """A skew-symmetric matrix, (..., b, b), from free numbers: what is below the diagonal is what counts."""
    lower_bb = free_bb.tril(-1)
    return lower_bb - lower_bb.mT


def exponential(matrix_bb: Tensor, squarings: int = SQUARINGS) -> Tensor:
    """exp of matrices (..., b, b) of norms up to 2^(squarings + 1); of skew-symmetric ones it is a rotation.

    Differentiable once. Keeps the matrices alone for that, not its steps.
    """
    result: Tensor = _Exponential.apply(matrix_bb, squarings)
    return result


class _Exponential(torch.autograd.Function):
    """The gradient is the upper right block of exp([[A^T, G], [0, A^T]]) (Al-Mohy & Higham 2009)."""

    @staticmethod
    def forward(ctx: Any, matrix_bb: Tensor, squarings: int) -> Tensor:
        ctx.save_for_backward(matrix_bb)
        ctx.squarings = squarings
        return _exponential(matrix_bb, squarings)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_bb: Tensor) -> tuple[Tensor, None]:
        (matrix_bb,) = ctx.saved_tensors
        b = matrix_bb.shape[-1]
        zeros_bb = torch.zeros_like(matrix_bb)
        above = torch.cat([matrix_bb.mT, g_bb], dim=-1)
        below = torch.cat([zeros_bb, matrix_bb.mT], dim=-1)
        both = torch.cat([above, below], dim=-2)
        return _exponential(both, ctx.squarings)[..., :b, b:], None


def _exponential(matrix_bb: Tensor, squarings: int) -> Tensor:
    one_bb = torch.eye(matrix_bb.shape[-1], dtype=matrix_bb.dtype, device=matrix_bb.device)
    small_bb = matrix_bb / 2**squarings

    # The series by Horner's rule, then squared as often as it was halved
    result_bb = one_bb + small_bb / TERMS
    for term in range(TERMS - 1, 0, -1):
        result_bb = one_bb + small_bb @ result_bb / term
    for _ in range(squarings):
        result_bb = result_bb @ result_bb
    return result_bb


def apply_blocks(x_BHLD: Tensor, matrix_HLGbb: Tensor) -> Tensor:
    """Every b channels in a row become R of them; products in float32, rounded once."""
    b = matrix_HLGbb.shape[-1]
    with full_precision(x_BHLD):
        dtype = torch.promote_types(x_BHLD.dtype, matrix_HLGbb.dtype)
        x_BHLGb = x_BHLD.to(dtype).unflatten(-1, (-1, b))
        y_BHLGb = torch.einsum("HLGij,BHLGj->BHLGi", matrix_HLGbb.to(dtype), x_BHLGb)
        return y_BHLGb.flatten(-2).to(x_BHLD.dtype)
