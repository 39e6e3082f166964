"""The blocks of stages: attention on a map with feed-forward layers, and bottlenecks of convolutions."""

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from var_pe.models.hierarchy.attention import (
    DividedAttention,
    LinearAttention,
    LocalAttention,
    MapContext,
)
from var_pe.models.hierarchy.lines import AttentionShape, Convolution, Linear, Local
from var_pe.models.layers import GELUS, MLP, BlockSettings, as_map, as_tokens, layer_scale, with_gain
from var_pe.pyramid import Sides

# of all norms, as in Swin
EPSILON = 1e-5


class MapBlock(nn.Module):
    """A transformer block on a map, with its norms before the branches or after them.

    `x + branch(norm(x))`, or, as in Swin v2 (Liu et al. 2022, section 3.2), `x + norm(branch(x))`.
    """

    def __init__(self, shape: AttentionShape, settings: BlockSettings) -> None:
        super().__init__()
        dim, heads = shape.dim, shape.heads
        self.norms_first = shape.norm == "pre"
        self.norm1 = nn.LayerNorm(dim, eps=EPSILON)
        self.attn: nn.Module
        if isinstance(shape, Linear):
            self.attn = LinearAttention(dim, heads, settings.dropout)
        else:
            kind = LocalAttention if isinstance(shape, Local) else DividedAttention
            self.attn = kind(dim, heads, settings.qk_norm, settings.dropout)
        self.norm2 = nn.LayerNorm(dim, eps=EPSILON)
        self.mlp = MLP(dim, settings.mlp_ratio, settings.dropout, settings.gelu)
        self.scale1 = layer_scale(dim, settings.layer_scale)
        self.scale2 = layer_scale(dim, settings.layer_scale)

    def forward(
        self, x_BLC: Tensor, context: MapContext, layer: int, gains_2B11: Tensor | None = None
    ) -> Tensor:
        """`gains_2B11` are the factors of stochastic depth, if there is any."""
        if self.norms_first:
            attended_BLC = self.attn(self.norm1(x_BLC), context, layer)
            x_BLC = x_BLC + with_gain(self.scale1(attended_BLC), gains_2B11, 0)
            return x_BLC + with_gain(self.scale2(self.mlp(self.norm2(x_BLC))), gains_2B11, 1)

        attended_BLC = self.norm1(self.attn(x_BLC, context, layer))
        x_BLC = x_BLC + with_gain(self.scale1(attended_BLC), gains_2B11, 0)
        return x_BLC + with_gain(self.scale2(self.norm2(self.mlp(x_BLC))), gains_2B11, 1)


class ConvolutionBlock(nn.Module):
    """`x + project(squeeze(depthwise(expand(norm(x)))))`: MBConv as CoAtNet has it (Dai et al. 2021).

    A 1x1 convolution to `expansion` times the width, a 3x3 depthwise one, squeeze and excitation at a quarter
    of dim (Hu et al. 2018), a 1x1 one back. Norms are over a cell's channels, and not over the batch: no
    image's result depends on the others in its batch.
    """

    def __init__(self, shape: Convolution, settings: BlockSettings) -> None:
        super().__init__()
        dim, hidden = shape.dim, shape.dim * shape.expansion
        self.approximate = GELUS[settings.gelu]
        self.norm1 = nn.LayerNorm(dim, eps=EPSILON)
        self.expand = nn.Linear(dim, hidden)
        self.norm2 = nn.LayerNorm(hidden, eps=EPSILON)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.norm3 = nn.LayerNorm(hidden, eps=EPSILON)
        self.squeeze = nn.Linear(hidden, max(1, dim // 4))
        self.excite = nn.Linear(max(1, dim // 4), hidden)
        self.project = nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(settings.dropout)
        self.scale = layer_scale(dim, settings.layer_scale)

    def forward(
        self, x_BLC: Tensor, context: MapContext, layer: int, gains_2B11: Tensor | None = None
    ) -> Tensor:
        hidden_BLC = self._gelu(self.norm2(self.expand(self.norm1(x_BLC))))
        hidden_BLC = as_tokens(self.depthwise(as_map(hidden_BLC, context.grid)))
        hidden_BLC = self._gelu(self.norm3(hidden_BLC))

        # Squeeze and excitation: a gate for each channel, by its mean over the map
        squeezed_B1C = self._gelu(self.squeeze(hidden_BLC.mean(1, keepdim=True)))
        hidden_BLC = hidden_BLC * self.excite(squeezed_B1C).sigmoid()

        projected_BLC = self.dropout(self.project(hidden_BLC))
        return x_BLC + with_gain(self.scale(projected_BLC), gains_2B11, 0)

    def _gelu(self, x_BLC: Tensor) -> Tensor:
        return F.gelu(x_BLC, approximate=self.approximate)


class Merging(nn.Module):
    """`stride` x `stride` cells become one of another width: their channels in a row, a norm, a linear map.

    Swin's patch merging, in its order of cells (column by column); in Swin v2 the norm comes last. Moments of
    a clip stay apart, as in Video Swin.
    """

    def __init__(self, before: int, dim: int, stride: int, norms_first: bool) -> None:
        super().__init__()
        self.stride = stride
        self.norms_first = norms_first
        self.norm = nn.LayerNorm(before * stride**2 if norms_first else dim, eps=EPSILON)
        self.reduction = nn.Linear(before * stride**2, dim, bias=False)

    def forward(self, x_BLC: Tensor, grid: Sides) -> Tensor:
        """From a map of `grid`, whose rows and columns are multiples of the stride."""
        x_BLC = rearrange(
            x_BLC.unflatten(1, grid),
            "B ... (y p) (x q) C -> B (... y x) (q p C)",
            p=self.stride,
            q=self.stride,
        )
        if self.norms_first:
            return self.reduction(self.norm(x_BLC))
        return self.norm(self.reduction(x_BLC))
