"""Attention and feed-forward layers of generator and ViT, and what attention gets about positions."""

from contextlib import nullcontext
from dataclasses import dataclass
from math import log
from typing import Generic

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from var_pe.encodings import PositionEncoding
from var_pe.encodings.base import Context
from var_pe.settings.fields import check_choice

GELUS = {"tanh": "tanh", "exact": "none"}  # torch's names for them


@dataclass(frozen=True)
class PositionContext(Generic[Context]):
    """What attention is given in one forward pass: the encoding, its contexts, and who sees whom."""

    encoding: PositionEncoding[Context]
    # what the encoding's `prepare` made of the positions of queries and of keys
    query: Context
    key: Context
    # True where a query may look; None lets all queries see all keys
    visible_QK: Tensor | None = None
    # class token and registers, first among queries and keys; they are neither turned nor biased
    prefix: int = 0

    def rotate(self, x_BHLD: Tensor, layer: int) -> Tensor:
        if not self.encoding.uses("rotate"):
            return x_BHLD
        if not self.prefix:
            return self.encoding.rotate(x_BHLD, self.query, layer)

        before = x_BHLD[:, :, : self.prefix]
        after = x_BHLD[:, :, self.prefix :]
        return torch.cat([before, self.encoding.rotate(after, self.query, layer)], dim=2)

    def refine(self, x_BLC: Tensor, layer: int) -> Tensor:
        if not self.encoding.uses("refine"):
            return x_BLC

        before = x_BLC[:, : self.prefix]
        after = x_BLC[:, self.prefix :]
        return torch.cat([before, self.encoding.refine(after, self.query, layer)], dim=1)

    def mask(self, layer: int, dtype: torch.dtype) -> Tensor | None:
        """What SDPA takes: booleans, or scores to add where the encoding has a bias."""
        if not self.encoding.uses("bias"):
            return self.visible_QK
        bias_HQK = self.encoding.bias(self.query, self.key, layer)
        if bias_HQK is None:
            return self.visible_QK

        bias_HQK = F.pad(bias_HQK, (self.prefix, 0, self.prefix, 0))
        if self.visible_QK is not None:
            bias_HQK = bias_HQK.masked_fill(~self.visible_QK, float("-inf"))
        return bias_HQK.to(dtype)


class LevelCache:
    """Keys (already rotated) and values of all levels drawn so far; one allocation for the whole pyramid."""

    def __init__(self, layers: int, batch: int, heads: int, length: int, width: int, like: Tensor) -> None:
        self.kv_N2BHLD = like.new_empty(layers, 2, batch, heads, length, width)
        # tokens of the level that is being stored: from `start` to `stop` - 1
        self.start = 0
        self.stop = 0

    def open(self, num_tokens: int) -> None:
        """Makes room for the next level; every layer then stores into it."""
        self.start = self.stop
        self.stop += num_tokens

    def append(self, layer: int, k_BHlD: Tensor, v_BHlD: Tensor) -> tuple[Tensor, Tensor]:
        """Stores the level's keys and values; gives those of all levels so far."""
        kv_2BHLD = self.kv_N2BHLD[layer]
        kv_2BHLD[0, :, :, self.start : self.stop] = k_BHlD
        kv_2BHLD[1, :, :, self.start : self.stop] = v_BHlD
        return kv_2BHLD[0, :, :, : self.stop], kv_2BHLD[1, :, :, : self.stop]


class Attention(nn.Module):
    """Multi-head attention; with `qk_norm`, cosine attention with a temperature per head (Swin v2; VAR).

    A key bias would add the same number to every score of a query, so there is none. Norm first, then
    rotation: only a norm without weights commutes with a rotation.
    """

    max_log_scale = log(100.0)

    def __init__(self, dim: int, num_heads: int, qk_norm: bool, dropout: float) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(
                f"the width must be a multiple of the number of heads, got {dim} and {num_heads}"
            )

        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.log_scale_H = nn.Parameter(torch.full((num_heads,), log(4.0))) if qk_norm else None
        self.proj = nn.Linear(dim, dim)

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        nn.init.constant_(parameter, log(4.0) if name == "log_scale_H" else 0.0)

    def forward(
        self,
        x_BLC: Tensor,
        position_context: PositionContext,
        layer: int,
        cache: LevelCache | None = None,
    ) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv_BLC = F.linear(x_BLC, self.qkv.weight, bias)
        q_BHLD, k_BHLD, v_BHLD = rearrange(qkv_BLC, "B L (K H D) -> K B H L D", K=3, H=self.num_heads)

        # Cosine attention: a temperature per head replaces the norms of queries and keys.
        if self.log_scale_H is not None:
            scale_H11 = self.log_scale_H.clamp(max=self.max_log_scale).exp()[:, None, None]
            q_BHLD = unit(q_BHLD, scale_H11)
            k_BHLD = unit(k_BHLD)

        q_BHLD = position_context.rotate(q_BHLD, layer).type_as(v_BHLD)
        k_BHLD = position_context.rotate(k_BHLD, layer).type_as(v_BHLD)
        if cache is not None:
            k_BHLD, v_BHLD = cache.append(layer, k_BHLD, v_BHLD)

        # The CPU's fused kernel is slower than plain products if sequences are short and have gradients.
        plain = x_BLC.device.type == "cpu" and torch.is_grad_enabled()
        with sdpa_kernel(SDPBackend.MATH) if plain else nullcontext():
            y_BHLD = F.scaled_dot_product_attention(
                q_BHLD,
                k_BHLD,
                v_BHLD,
                attn_mask=position_context.mask(layer, q_BHLD.dtype),
                dropout_p=self.dropout if self.training else 0.0,
                scale=None if self.log_scale_H is None else 1.0,
            )

        return self.proj(rearrange(y_BHLD, "B H L D -> B L (H D)"))


def unit(x_BHLD: Tensor, length: float | Tensor = 1.0) -> Tensor:
    """Vectors of the given length; norms in float32 at least, the product in the vectors' own type."""
    dtype = torch.promote_types(x_BHLD.dtype, torch.float32)
    norm_BHL1 = torch.linalg.vector_norm(x_BHLD, dim=-1, keepdim=True, dtype=dtype)
    return x_BHLD * (length / norm_BHL1.clamp(min=1e-12)).type_as(x_BHLD)


class LayerScale(nn.Module):
    """A learned gain per channel, small at first: CaiT (Touvron et al. 2021)."""

    def __init__(self, dim: int, start: float) -> None:
        super().__init__()
        self.start = start
        self.gain_C = nn.Parameter(torch.full((dim,), start))

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        nn.init.constant_(parameter, self.start)

    def forward(self, x_BLC: Tensor) -> Tensor:
        return x_BLC * self.gain_C


class MLP(nn.Module):
    """Two layers with GELU between them: the tanh approximation as in VAR, or the exact one."""

    def __init__(self, dim: int, ratio: float, dropout: float, gelu: str) -> None:
        super().__init__()
        check_choice("gelu", gelu, GELUS)
        self.approximate = GELUS[gelu]
        self.fc1 = nn.Linear(dim, round(dim * ratio))
        self.fc2 = nn.Linear(round(dim * ratio), dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BLC: Tensor) -> Tensor:
        return self.dropout(self.fc2(F.gelu(self.fc1(x_BLC), approximate=self.approximate)))
