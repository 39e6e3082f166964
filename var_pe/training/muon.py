"""Muon for the matrices inside a model's blocks, fused AdamW for everything else.

Muon (Jordan 2024, "Muon: an optimizer for hidden layers in neural networks") moves a matrix by the nearest
orthogonal one to its averaged gradient, so that all its directions are learned equally fast. The update is
scaled to the size that AdamW's has (Liu et al. 2025, arXiv 2502.16982, section 2.2), so both share one
learning rate and weight decay.
"""

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from var_pe.training.guard import GuardedAdamW

MOMENTUM = 0.95
# Jordan's quintic: five steps bring singular values to about 0.7 to 1.2
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
# times the root of its longer side, an orthogonal matrix is as large as an update of AdamW
LIKE_ADAMW = 0.2


class GuardedMuon(GuardedAdamW):
    """Groups whose `matrices` is true are updated by Muon; it, too, rests while `found_inf` is 1.

    A convolution's filters are one matrix: a row for each output.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        # AdamW passes over what has no gradient.
        gradients: list[tuple[dict[str, object], nn.Parameter, Tensor]] = []
        for group in self.param_groups:
            if not group["matrices"]:
                continue
            for parameter in group["params"]:
                if parameter.grad is not None:
                    gradients.append((group, parameter, parameter.grad))
                    parameter.grad = None
        loss = super().step(closure)

        for group, parameter, gradient in gradients:
            parameter.grad = gradient
            state = self.state[parameter]
            if not state:
                # torch's AdamW looks for a count of steps in every state that it loads.
                state["step"] = torch.zeros((), device=gradient.device)
                state["momentum"] = torch.zeros_like(gradient)

            rate, decay = cast(float, group["lr"]), cast(float, group["weight_decay"])
            if rate:
                self._move(parameter, gradient, rate, decay)
        return loss

    def _move(self, parameter: nn.Parameter, gradient: Tensor, rate: float, decay: float) -> None:
        momentum = self.state[parameter]["momentum"]

        # Nesterov's momentum: the average is looked ahead by one more step.
        average = momentum.lerp(gradient, 1 - MOMENTUM)
        ahead = gradient.lerp(average, MOMENTUM)
        matrix = ahead.flatten(1)
        size = LIKE_ADAMW * math.sqrt(max(matrix.shape))
        moved = parameter * (1 - rate * decay) - rate * size * orthogonal(matrix).view_as(parameter)

        stays = self.found_inf > 0
        momentum.copy_(torch.where(stays, momentum, average))
        parameter.copy_(torch.where(stays, parameter, moved))


def orthogonal(matrix: Tensor) -> Tensor:
    """About the orthogonal matrix nearest to one, (rows, columns), by Newton and Schulz's iteration in bf16.

    Its singular vectors stay; its singular values come near 1, those that are all but zero excepted.
    """
    first, second, third = COEFFICIENTS
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    found = (wide / wide.norm().clamp(min=1e-7)).bfloat16()
    for _ in range(STEPS):
        gram = found @ found.T
        found = first * found + (second * gram + third * gram @ gram) @ found
    return (found.T if matrix.shape[0] > matrix.shape[1] else found).to(matrix.dtype)
