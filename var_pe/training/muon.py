"""Muon for the matrices inside a model's blocks, fused AdamW for everything else.

Muon (Jordan 2024, "Muon: an optimizer for hidden layers in neural networks") moves a matrix by the nearest
orthogonal one to its averaged gradient, so that all its directions are learned equally fast. The update is
scaled to the size that AdamW's has (Liu et al. 2025, arXiv 2502.16982, section 2.2), so both share one
learning rate and weight decay.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from var_pe.training.guard import GuardedAdamW
from var_pe.training.precision import dtype_of

MOMENTUM = 0.95
# Jordan's quintic: five steps bring singular values to about 0.7 to 1.2
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
# times the root of its longer side, an orthogonal matrix is as large as an update of AdamW
LIKE_ADAMW = 0.2


class GuardedMuon(GuardedAdamW):
    """Groups whose `matrices` is true are updated by Muon; it, too, rests while `found_inf` is 1.

    A convolution's filters are one matrix: a row for each output. Matrices of one shape are updated together.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        # AdamW passes over what has no gradient.
        taken: list[tuple[nn.Parameter, Tensor]] = []
        together: dict[tuple[float, float, torch.Size], list[nn.Parameter]] = defaultdict(list)
        for group in self.param_groups:
            for parameter in group["params"] if group["matrices"] else ():
                if parameter.grad is not None:
                    taken.append((parameter, parameter.grad))
                    together[group["lr"], group["weight_decay"], parameter.shape].append(parameter)
                    parameter.grad = None
        loss = super().step(closure)

        for parameter, gradient in taken:
            parameter.grad = gradient
            state = self.state[parameter]
            if not state:
                # torch's AdamW looks for a count of steps in every state that it loads.
                state["step"] = torch.zeros((), device=gradient.device)
                state["momentum"] = torch.zeros_like(gradient)

        for (rate, decay, _), parameters in together.items():
            if rate:
                self._move(parameters, rate, decay)
        return loss

    def _move(self, parameters: Sequence[nn.Parameter], rate: float, decay: float) -> None:
        """Updates parameters of one shape."""
        momenta = [self.state[parameter]["momentum"] for parameter in parameters]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]

        # Nesterov's momentum: the average is looked ahead by one more step.
        averages = [old.lerp(new, 1 - MOMENTUM) for old, new in zip(momenta, gradients, strict=True)]
        ahead = [new.lerp(mean, MOMENTUM).flatten(1) for new, mean in zip(gradients, averages, strict=True)]
        size = LIKE_ADAMW * math.sqrt(max(ahead[0].shape))
        updates = size * orthogonal(torch.stack(ahead))

        stays = self.found_inf > 0
        for parameter, momentum, average, update in zip(parameters, momenta, averages, updates, strict=True):
            moved = parameter * (1 - rate * decay) - rate * update.view_as(parameter)
            momentum.copy_(torch.where(stays, momentum, average))
            parameter.copy_(torch.where(stays, parameter, moved))


def orthogonal(matrices: Tensor) -> Tensor:
    """Approximately the nearest orthogonal matrix to each of a stack of matrices, (number, rows, columns).

    Computed by the Newton-Schulz iteration, in bf16 where the device has it: singular vectors stay, and
    singular values come near 1, except for those that are almost zero.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    wide = matrices.mT if tall else matrices
    unit = wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    found = unit.to(dtype_of("auto", unit.device.type))

    # x <- a x + (b g + c g g) x, where g is x with itself
    first, second, third = COEFFICIENTS
    for _ in range(STEPS):
        gram = found @ found.mT
        factor = torch.baddbmm(gram, gram, gram, beta=second, alpha=third)
        found = torch.baddbmm(found, factor, found, beta=first)
    return (found.mT if tall else found).to(matrices.dtype)
