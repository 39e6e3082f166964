"""What `peg` and `pyramid_peg` share: convolutions between blocks, level by level."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from var_pe.encodings.base import ModelShape, PositionEncoding
from var_pe.pyramid import Positions
from var_pe.resampling.precision import without_autocast

INITS = ("random", "zero")


class ConvolutionEncoding(PositionEncoding[Positions]):
    """`x + sum over kernels of convolution(x)` after chosen blocks: depthwise, zero-padded, level by level.

    Position comes from the padding: away from the border, the result moves with the picture. No level sees
    another one; all levels share the kernels, of which every chosen block has its own; prefix tokens are
    left alone. Follows any pyramid. A kernel k starts normal with deviation 1 / sqrt(3 k^2), the variance
    that torch's convolutions start with, or at zero, which is the identity.

    Raises:
        ValueError: a block of `after` does not exist or is named twice, or `init` is not known.
    """

    def __init__(
        self, shape: ModelShape, *, kernels: tuple[int, ...], after: int | tuple[int, ...], init: str
    ) -> None:
        super().__init__()
        self.after = after if isinstance(after, tuple) else (after,)
        known = all(type(block) is int and 0 <= block < shape.depth for block in self.after)
        if not self.after or not known or len(set(self.after)) < len(self.after):
            raise ValueError(f"after takes blocks in 0..{shape.depth - 1}, each once, got {after}")
        if init not in INITS:
            raise ValueError(f"init is one of {', '.join(INITS)}, got {init!r}")

        self.init = init
        self.kernels = kernels
        for kernel in kernels:
            weight_NC1kk = torch.zeros(len(self.after), shape.dim, 1, kernel, kernel)
            self.register_parameter(f"kernel{kernel}_NC1kk", nn.Parameter(weight_NC1kk))

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        if self.init == "zero":
            nn.init.zeros_(parameter)
        else:
            fan_in = parameter[0, 0].numel()
            nn.init.trunc_normal_(parameter, std=(3 * fan_in) ** -0.5, generator=generator)

    def refine(self, x_BLC: Tensor, context: Positions, layer: int) -> Tensor:
        if layer not in self.after:
            return x_BLC

        index = self.after.index(layer)
        weights = [getattr(self, f"kernel{kernel}_NC1kk")[index] for kernel in self.kernels]
        weight_C1kk = as_one(weights)

        # No kernel reaches from one level into the next.
        moved = []
        grids = context.grids_here
        for x_BlC, grid in zip(x_BLC.split([h * w for h, w in grids], dim=1), grids, strict=True):
            map_BChw = x_BlC.unflatten(1, grid).permute(0, 3, 1, 2)
            # On processors oneDNN's gradient of such weights takes three times as long in bf16 as in float32.
            with without_autocast("cpu"):
                moved_BChw = same_size(map_BChw.to(weight_C1kk.dtype), weight_C1kk)
            moved.append(moved_BChw.to(x_BLC.dtype).flatten(2).transpose(1, 2))

        return x_BLC + torch.cat(moved, dim=1)


def as_one(weights: Sequence[Tensor]) -> Tensor:
    """The kernel, (C, 1, k, k), whose convolution is the sum of those of kernels of several sides."""
    side = max(weight_C1kk.shape[-1] for weight_C1kk in weights)
    total_C1kk = weights[0].new_zeros(len(weights[0]), 1, side, side)
    for weight_C1kk in weights:
        # As far before the token as `same_size` would have it reach.
        start = (side - 1) // 2 - (weight_C1kk.shape[-1] - 1) // 2
        stop = start + weight_C1kk.shape[-1]
        total_C1kk = total_C1kk + F.pad(weight_C1kk, (start, side - stop, start, side - stop))
    return total_C1kk


def same_size(map_BChw: Tensor, weight_C1kk: Tensor) -> Tensor:
    """A depthwise convolution, padded with zeros so that the grid keeps its size.

    An even kernel k has no middle: (k - 1) // 2 zeros come before and k // 2 behind. k // 2 on both sides,
    as often written, makes 15 x 15 of 14 x 14.
    """
    kernel = weight_C1kk.shape[-1]
    before = (kernel - 1) // 2
    behind = kernel // 2
    padded_BChw = F.pad(map_BChw, (before, behind, before, behind))
    return F.conv2d(padded_BChw, weight_C1kk, groups=len(weight_C1kk))
