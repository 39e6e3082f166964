"""Gradients through the rounding: unchanged, or turned as the rounding turned the vectors."""

import pytest
import torch
from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to

from var_pe.models.quantizers.gradients import GRADIENTS, rotation, straight_through


def two_maps(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(2, 5, 3, 4, generator=generator, dtype=torch.float64) for _ in range(2))


@pytest.mark.parametrize("name", GRADIENTS)
def test_the_value_is_what_was_rounded_to(name):
    """Only the gradient is another one: the decoder sees codes."""
    f_BZhw, f_hat_BZhw = two_maps()
    torch.testing.assert_close(GRADIENTS[name](f_BZhw, f_hat_BZhw), f_hat_BZhw)
    torch.testing.assert_close(GRADIENTS[name](f_BZhw, -f_BZhw), -f_BZhw)  # no direction lies midway


def test_straight_through_leaves_the_gradient_as_it_is():
    f_BZhw, f_hat_BZhw = two_maps()
    f_BZhw.requires_grad_()
    (grad,) = torch.autograd.grad(straight_through(f_BZhw, f_hat_BZhw).square().sum(), f_BZhw)
    torch.testing.assert_close(grad, 2 * f_hat_BZhw)


def test_a_rotated_gradient_equals_finite_differences_of_its_formula():
    """s R f with s and R held: R from the two directions, written as matrices, cell by cell."""
    f_BZhw, f_hat_BZhw = two_maps()
    into_BZhw, _ = two_maps(1)
    f_BZhw.requires_grad_()
    (grad_BZhw,) = torch.autograd.grad((rotation(f_BZhw, f_hat_BZhw) * into_BZhw).sum(), f_BZhw)

    f_MZ, q_MZ, into_MZ, grad_MZ = (
        one.detach().movedim(1, -1).reshape(-1, 5) for one in (f_BZhw, f_hat_BZhw, into_BZhw, grad_BZhw)
    )
    identity = torch.eye(5, dtype=torch.float64)
    for f, q, into, grad in zip(f_MZ, q_MZ, into_MZ, grad_MZ, strict=True):
        a, b = f / f.norm(), q / q.norm()
        m = (a + b) / (a + b).norm()
        turn = identity - 2 * torch.outer(m, m) + 2 * torch.outer(b, a)
        torch.testing.assert_close(turn @ turn.T, identity)

        def formula(vector, turn=turn, f=f, q=q, into=into):
            return float((q.norm() / f.norm() * turn @ vector) @ into)

        steps = [1e-6 * row for row in identity]
        differences = [(formula(f + step) - formula(f - step)) / 2e-6 for step in steps]
        torch.testing.assert_close(grad, torch.tensor(differences, dtype=torch.float64), atol=1e-6, rtol=1e-6)


def test_a_rotated_gradient_equals_the_other_library_s():
    f_BZhw, f_hat_BZhw = two_maps()
    into_BZhw, _ = two_maps(1)
    f_BZhw.requires_grad_()
    (ours,) = torch.autograd.grad((rotation(f_BZhw, f_hat_BZhw) * into_BZhw).sum(), f_BZhw)
    turned = rotate_to(f_BZhw.movedim(1, -1), f_hat_BZhw.movedim(1, -1)).movedim(-1, 1)
    (theirs,) = torch.autograd.grad((turned * into_BZhw).sum(), f_BZhw)
    torch.testing.assert_close(ours, theirs)


def test_a_map_of_zeros_has_a_finite_gradient():
    """The first step of a codebook of zeros, or of a black picture."""
    f_BZhw = torch.zeros(1, 4, 2, 2, requires_grad=True)
    (grad,) = torch.autograd.grad(rotation(f_BZhw, torch.zeros(1, 4, 2, 2)).sum(), f_BZhw)
    assert grad.isfinite().all()
