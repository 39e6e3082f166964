"""The generator's transformer block, modulated by the class."""

import torch
from torch import Tensor, nn

from var_pe.models.attention import PositionContext
from var_pe.models.keys import KeyChoice
from var_pe.models.layers import MLP, Attention, LayerCache, with_gain


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
        self.norm1 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
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

        modulated_BLC = self.norm1(x_BLC) * (1 + scale1_B1C) + shift1_B1C
        attended_BLC = self.attn(modulated_BLC, position_context, layer, cache)
        x_BLC = x_BLC + with_gain(gate1_B1C * attended_BLC, gains_2B11, 0)

        modulated_BLC = self.norm2(x_BLC) * (1 + scale2_B1C) + shift2_B1C
        return x_BLC + with_gain(gate2_B1C * self.mlp(modulated_BLC), gains_2B11, 1)
