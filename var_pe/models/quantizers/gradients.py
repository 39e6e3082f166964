"""How a gradient passes the rounding: as if nothing were rounded, or turned as the rounding turns vectors."""

import torch
from torch import Tensor

SHORTEST = 1e-6  # a shorter vector has no direction to turn from


def straight_through(f_BZhw: Tensor, f_hat_BZhw: Tensor) -> Tensor:
    """`f_hat`, whose gradient reaches `f` unchanged (Bengio et al. 2013; van den Oord et al. 2017)."""
    return (f_hat_BZhw - f_BZhw).detach() + f_BZhw


def rotation(f_BZhw: Tensor, f_hat_BZhw: Tensor) -> Tensor:
    """`f_hat`, whose gradient reaches `f` turned back and scaled (Fifty et al. 2024, section 4.2).

    In every cell f_hat = s R f, with R the rotation that takes the direction of f to that of f_hat and s the
    ratio of their lengths. Both count as constants, so the gradient of f is s R^T times that of f_hat.
    """
    with torch.no_grad():
        from_B1hw = f_BZhw.norm(dim=1, keepdim=True).clamp(min=SHORTEST)
        to_B1hw = f_hat_BZhw.norm(dim=1, keepdim=True)
        before_BZhw = f_BZhw / from_B1hw
        after_BZhw = f_hat_BZhw / to_B1hw.clamp(min=SHORTEST)

        between_BZhw = before_BZhw + after_BZhw
        between_BZhw = between_BZhw / between_BZhw.norm(dim=1, keepdim=True).clamp(min=SHORTEST)

    # R = I - 2 m m^T + 2 b a^T, with a before, b after and m the direction midway between them
    turned_BZhw = (
        f_BZhw
        - 2 * between_BZhw * (between_BZhw * f_BZhw).sum(1, keepdim=True)
        + 2 * after_BZhw * (before_BZhw * f_BZhw).sum(1, keepdim=True)
    )
    return to_B1hw / from_B1hw * turned_BZhw


GRADIENTS = {"straight_through": straight_through, "rotation": rotation}
