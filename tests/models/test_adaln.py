"""The generator's modulated norm is the formula, with less kept for its gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd.graph import saved_tensors_hooks

from var_pe.models.adaln import EPSILON, modulated


def test_modulated_tokens_and_their_gradients_are_the_formula_s():
    """Tokens far from zero, with other deviations: the gradient divides by each token's own."""
    given = [torch.randn(2, 5, 8) * 3 + 1, torch.randn(2, 1, 8), torch.randn(2, 1, 8)]
    weight_BLC = torch.randn(2, 5, 8)
    found = []
    for formula in (False, True):
        x_BLC, scale_B1C, shift_B1C = (one.double().requires_grad_() for one in given)
        if formula:
            y_BLC = F.layer_norm(x_BLC, (8,), eps=EPSILON) * (1 + scale_B1C) + shift_B1C
        else:
            y_BLC = modulated(x_BLC, scale_B1C, shift_B1C)
        of_given = torch.autograd.grad((y_BLC * weight_BLC).sum(), (x_BLC, scale_B1C, shift_B1C))
        found.append([y_BLC, *of_given])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_of_the_tokens_only_the_normed_ones_are_kept(dtype):
    """Two copies of them for each norm were a tenth of a step's memory."""
    kept = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    x_BLC = torch.randn(2, 50, 8, dtype=dtype, requires_grad=True)
    of_class_B1C = torch.randn(2, 1, 8, dtype=dtype, requires_grad=True)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        y_BLC = modulated(x_BLC, of_class_B1C, of_class_B1C)
    assert sum(tensor.numel() for tensor in kept) < 2 * x_BLC.numel()
    y_BLC.sum().backward()
    assert x_BLC.grad.dtype == dtype
