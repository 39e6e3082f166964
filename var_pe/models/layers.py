"""Attention and feed-forward layers of generator and ViT, and the cache of keys and values."""

from dataclasses import dataclass
from math import log

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from var_pe.models.attention import PositionContext, attend
from var_pe.models.keys import KeyChoice
from var_pe.pyramid import Sides
from var_pe.settings.fields import check_choice

GELUS = {"tanh": "tanh", "exact": "none"}  # torch's names for them


def as_map(x_BLC: Tensor, grid: Sides) -> Tensor:
    """Tokens row by row as a map, (B, C, h, w), or moment by moment as a clip's, (B, C, T, h, w)."""
    return x_BLC.transpose(1, 2).unflatten(2, grid)


def as_tokens(x_BChw: Tensor) -> Tensor:
    """A map as tokens row by row, (B, L, C), or a clip's moment by moment."""
    return x_BChw.flatten(2).transpose(1, 2)


class LayerCache:
    """The cache of one block while a pyramid is drawn.

    Keys (already turned, unless every level turns them anew) and values of all levels so far, and what it
    makes of the class, at every level the same.
    """

    def __init__(self, kv_2BHLD: Tensor) -> None:
        self.kv_2BHLD = kv_2BHLD
        # tokens of the level that is being stored: from `start` to `stop` - 1
        self.start = 0
        self.stop = 0
        self.modulation_B6C: Tensor | None = None

    def append(self, k_BHlD: Tensor, v_BHlD: Tensor) -> tuple[Tensor, Tensor]:
        """Stores the level's keys and values; gives those of all levels so far."""
        self.kv_2BHLD[0, :, :, self.start : self.stop] = k_BHlD
        self.kv_2BHLD[1, :, :, self.start : self.stop] = v_BHlD
        return self.kv_2BHLD[0, :, :, : self.stop], self.kv_2BHLD[1, :, :, : self.stop]


class LevelCache:
    """A `LayerCache` for each block, in one allocation for the whole pyramid."""

    def __init__(self, layers: int, batch: int, heads: int, length: int, width: int, like: Tensor) -> None:
        kv_N2BHLD = like.new_empty(layers, 2, batch, heads, length, width)
        self.layers = [LayerCache(kv_2BHLD) for kv_2BHLD in kv_N2BHLD]

    def open(self, num_tokens: int, kept: int | None = None) -> None:
        """Makes room for the next level; every layer then stores into it.

        Of the tokens before it the last `kept` stay (None: all); the others' room is free again.
        """
        for layer in self.layers:
            if kept is not None and kept < layer.stop:
                stay_2BHlD = layer.kv_2BHLD[:, :, :, layer.stop - kept : layer.stop].clone()
                layer.kv_2BHLD[:, :, :, :kept] = stay_2BHlD
                layer.stop = kept
            layer.start = layer.stop
            layer.stop += num_tokens


class AttentionHeads(nn.Module):
    """The parts of multi-head attention, of which a pass is put together.

    With `qk_norm` it is cosine attention with a temperature per head (Swin v2; VAR).

    A key bias would add the same number to every score of a query, so there is none. Norm first, then
    rotation: only a norm without weights commutes with a rotation.
    """

    max_log_scale = log(100.0)

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qk_norm: bool,
        dropout: float,
        choose: KeyChoice | None = None,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(
                f"the width must be a multiple of the number of heads, got {dim} and {num_heads}"
            )

        self.num_heads = num_heads
        self.dropout = dropout
        self.choose = choose
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.log_scale_H = nn.Parameter(torch.full((num_heads,), log(4.0))) if qk_norm else None
        self.proj = nn.Linear(dim, dim)

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        nn.init.constant_(parameter, log(4.0) if name == "log_scale_H" else 0.0)

    def projected(self, x_BLC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, which know nothing of places yet."""
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        if type(self.qkv) is nn.Linear:
            qkv_BLC = F.linear(x_BLC, self.qkv.weight, bias)
        else:  # an adapter in its place, whose weight is not all that it does
            qkv_BLC = self.qkv(x_BLC) + bias
        q_BHLD, k_BHLD, v_BHLD = rearrange(qkv_BLC, "B L (K H D) -> K B H L D", K=3, H=self.num_heads)
        return q_BHLD, k_BHLD, v_BHLD

    def placed(
        self, q_BHLD: Tensor, k_BHLD: Tensor, v_BHLD: Tensor, position_context: PositionContext, layer: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys as they are compared, normed and turned, and values as wide as they are.

        Keys that `attend` turns are not turned yet.
        """
        # Where the encoding makes queries and keys wider, values get zeros: all kernels take equal widths.
        head_dim = v_BHLD.shape[-1]
        q_BHLD, k_BHLD = position_context.remap(q_BHLD, k_BHLD, layer)
        if k_BHLD.shape[-1] > head_dim:
            v_BHLD = F.pad(v_BHLD, (0, k_BHLD.shape[-1] - head_dim))

        # Cosine attention: a temperature per head replaces the norms of queries and keys.
        if self.log_scale_H is not None:
            scale_H11 = self.log_scale_H.clamp(max=self.max_log_scale).exp()[:, None, None]
            q_BHLD = unit(q_BHLD, scale_H11)
            k_BHLD = unit(k_BHLD)

        q_BHLD = position_context.rotate(q_BHLD, layer).type_as(v_BHLD)
        if not position_context.turns_keys:
            k_BHLD = position_context.rotate(k_BHLD, layer).type_as(v_BHLD)
        return q_BHLD, k_BHLD, v_BHLD

    def attended(
        self, q_BHQD: Tensor, k_BHKD: Tensor, v_BHKD: Tensor, position_context: PositionContext, layer: int
    ) -> Tensor:
        """What each query reads from the values, (B, Q, H, D)."""
        # Products are scaled by the width that was projected, whatever was added to it.
        head_dim = self.proj.in_features // self.num_heads
        wider = k_BHKD.shape[-1] > head_dim
        scale = head_dim**-0.5 if wider else None
        y_BQHD = attend(
            q_BHQD,
            k_BHKD,
            v_BHKD,
            position_context,
            layer,
            dropout=self.dropout if self.training else 0.0,
            scale=scale if self.log_scale_H is None else 1.0,
            choose=self.choose,
        )
        return y_BQHD[..., :head_dim] if wider else y_BQHD


class Attention(AttentionHeads):
    """Multi-head attention of all tokens that are given."""

    def forward(
        self,
        x_BLC: Tensor,
        position_context: PositionContext,
        layer: int,
        cache: LayerCache | None = None,
    ) -> Tensor:
        q_BHLD, k_BHLD, v_BHLD = self.projected(x_BLC)
        q_BHLD, k_BHLD, v_BHLD = self.placed(q_BHLD, k_BHLD, v_BHLD, position_context, layer)
        if cache is not None:
            k_BHLD, v_BHLD = cache.append(k_BHLD, v_BHLD)
        y_BLHD = self.attended(q_BHLD, k_BHLD, v_BHLD, position_context, layer)
        return self.proj(y_BLHD.flatten(2))


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


def layer_scale(dim: int, start: float) -> nn.Module:
    """A `LayerScale` that starts at this gain; for 0 the identity."""
    return LayerScale(dim, start) if start else nn.Identity()


def with_gain(branch_BLC: Tensor, gains_2B11: Tensor | None, branch: int) -> Tensor:
    """A branch (0 or 1) times its images' factors of stochastic depth, (2, B, 1, 1), if there are any."""
    return branch_BLC if gains_2B11 is None else branch_BLC * gains_2B11[branch].type_as(branch_BLC)


@dataclass(frozen=True)
class BlockSettings:
    """What all blocks of a classifier have in common; see `ClassifierConfig`."""

    mlp_ratio: float
    dropout: float
    qk_norm: bool
    gelu: str
    layer_scale: float
    # learned tokens that every block has of its own
    prompts: int = 0


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
