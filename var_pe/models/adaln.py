"""The generator's transformer block, modulated by the class."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from var_pe.models.attention import PositionContext
from var_pe.models.keys import KeyChoice
from var_pe.models.layers import MLP, Attention, LayerCache, with_gain

EPSILON = 1e-6  # VAR's, added to variances


class AdaLNBlock(nn.Module):
    """A transformer block modulated by the class (Peebles & Xie 2023); chunks in VAR's order."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        dropout: float,
        qk_norm: bool,
        shared: bool,
        choose: KeyChoice | None = None,
    ) -> None:
        super().__init__()
        self.attn = Attention(dim, num_heads, qk_norm, dropout, choose)
        self.mlp = MLP(dim, mlp_ratio, dropout, gelu="tanh")  # VAR's
        if shared:
            self.modulation_6C = nn.Parameter(torch.zeros(6, dim))
        else:
            self.modulation = nn.Linear(dim, 6 * dim)

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5, generator=generator)

    def modulation_of(self, cond_BC: Tensor) -> Tensor:
        """What the class makes of the block, (B, 6, C)."""
        if hasattr(self, "modulation_6C"):
            return cond_BC.unflatten(1, (6, -1)) + self.modulation_6C
        modulation: Tensor = self.modulation(cond_BC)
        return modulation.unflatten(1, (6, -1))

    def forward(
        self,
        x_BLC: Tensor,
        position_context: PositionContext,
        layer: int,
        gains_2B11: Tensor | None,
        cond_BC: Tensor,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """`cond_BC` is SiLU of the class embedding, or (B, 6 C) the shared modulation of it.

        `gains_2B11` are the factors of stochastic depth, if there is any.
        """
        if cache is None:
            six_B6C = self.modulation_of(cond_BC)
        else:
            if cache.modulation_B6C is None:
                cache.modulation_B6C = self.modulation_of(cond_BC)
            six_B6C = cache.modulation_B6C

        # Two gates, two scales, two shifts: of attention and of the feed-forward layers.
        gates, scales, shifts = six_B6C[:, :, None].type_as(x_BLC).unflatten(1, (3, 2)).unbind(1)
        gate1_B1C, gate2_B1C = gates.unbind(1)
        scale1_B1C, scale2_B1C = scales.unbind(1)
        shift1_B1C, shift2_B1C = shifts.unbind(1)

        modulated_BLC = modulated(x_BLC, scale1_B1C, shift1_B1C)
        attended_BLC = self.attn(modulated_BLC, position_context, layer, cache)
        x_BLC = torch.addcmul(x_BLC, attended_BLC, with_gain(gate1_B1C, gains_2B11, 0))

        modulated_BLC = modulated(x_BLC, scale2_B1C, shift2_B1C)
        return torch.addcmul(x_BLC, self.mlp(modulated_BLC), with_gain(gate2_B1C, gains_2B11, 1))


def modulated(x_BLC: Tensor, scale_B1C: Tensor, shift_B1C: Tensor) -> Tensor:
    """`LayerNorm(x) (1 + scale) + shift`, normed over channels without weights of its own.

    In a training only the normed tokens are kept, from which all gradients follow, and not `x_BLC` as well.
    """
    modulated_BLC: Tensor = _Modulated.apply(x_BLC, scale_B1C, shift_B1C)
    return modulated_BLC


class _Modulated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BLC: Tensor, scale_B1C: Tensor, shift_B1C: Tensor) -> Tensor:
        normed_BLC, _, per_deviation_BL1 = torch.native_layer_norm(
            x_BLC, x_BLC.shape[-1:], None, None, EPSILON
        )
        ctx.save_for_backward(normed_BLC, per_deviation_BL1, scale_B1C)
        return torch.addcmul(shift_B1C, normed_BLC, 1 + scale_B1C)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BLC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        normed_BLC, per_deviation_BL1, scale_B1C = ctx.saved_tensors
        of_scale_B1C = (grad_BLC * normed_BLC).sum(1, keepdim=True)
        of_shift_B1C = grad_BLC.sum(1, keepdim=True)

        # Of what is normed already the mean is 0 and the deviation 1; the division by x's own comes after it.
        of_normed_BLC = grad_BLC * (1 + scale_B1C)
        of_x_BLC, _, _ = torch.ops.aten.native_layer_norm_backward(
            of_normed_BLC,
            normed_BLC,
            normed_BLC.shape[-1:],
            torch.zeros_like(per_deviation_BL1),
            torch.ones_like(per_deviation_BL1),
            None,
            None,
            [True, False, False],
        )
        return (of_x_BLC * per_deviation_BL1).type_as(of_x_BLC), of_scale_B1C, of_shift_B1C
