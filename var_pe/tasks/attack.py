"""Adversarial training: a batch is changed, within bounds, so that the model errs, and is trained on so."""

from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor

from var_pe.settings.fields import Doc, Positive, PositiveFloat, section

UNIT = 2 / 255  # of images in [-1, 1]


@section
class Attack:
    """Projected gradient descent (Madry et al. 2018, equation 2.1 and section 2) in the maximum norm.

    From a random place within epsilon of the image x, in each step

        x' <- clip(x' + step_size * sign(gradient of the loss), to x +- epsilon and [-1, 1])

    One step of 1.25 epsilon is fast adversarial training (Wong, Rice & Kolter 2020).
    """

    epsilon: Annotated[PositiveFloat, Doc("largest change of a value, in 255ths of the range")] = 8.0
    step_size: Annotated[PositiveFloat, Doc("change of a value in each step, in 255ths of the range")] = 2.0
    steps: Annotated[Positive, Doc("steps of the attack; each costs a forward and a backward pass")] = 7


def attacked(loss_of: Callable[[Tensor], Tensor], images_BCHW: Tensor, attack: Attack) -> Tensor:
    """The images after `attack` on `loss_of`, whose random start comes from torch's own generator."""
    epsilon = attack.epsilon * UNIT
    start_BCHW = images_BCHW + epsilon * (2 * torch.rand_like(images_BCHW) - 1)
    return ascended(loss_of, images_BCHW, start_BCHW.clamp(-1, 1), attack)


def ascended(
    loss_of: Callable[[Tensor], Tensor], images_BCHW: Tensor, start_BCHW: Tensor, attack: Attack
) -> Tensor:
    """`attack` from a start; no gradient reaches the parameters."""
    epsilon, step_size = attack.epsilon * UNIT, attack.step_size * UNIT
    changed_BCHW = start_BCHW.detach()
    for _ in range(attack.steps):
        changed_BCHW.requires_grad_(True)
        (gradient_BCHW,) = torch.autograd.grad(loss_of(changed_BCHW), changed_BCHW)
        changed_BCHW = changed_BCHW.detach() + step_size * gradient_BCHW.sign()
        changed_BCHW = torch.minimum(
            torch.maximum(changed_BCHW, images_BCHW - epsilon), images_BCHW + epsilon
        )
        changed_BCHW = changed_BCHW.clamp(-1, 1)
    return changed_BCHW
