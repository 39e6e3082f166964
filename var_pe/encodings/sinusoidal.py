"""Fixed 2-D sinusoidal code in cells of the finest level, so that coarse and fine tokens agree."""

import torch
from torch import Tensor

from var_pe.encodings.base import TokenEncoding, register
from var_pe.pyramid import Positions, Pyramid

COORDINATES = ("center", "index")
ORDERS = ("timm", "mae", "big_vision")


@register("sinusoidal")
class Sinusoidal(TokenEncoding):
    """`[sin y | sin x | cos y | cos x]` of the token's centre, a quarter of the channels each (timm's order).

    Vaswani et al. 2017 in two dimensions; frequencies temperature^(-k / (C / 4)), k = 0 .. C / 4 - 1, in
    radians per cell of the finest level. The centre of cell i of n is (i + 0.5) * n_finest / n: a level of
    the same size as the finest one counts 0.5, 1.5, ...; on [-1, 1] neighbours would be indistinguishable at
    temperature 10000. Follows any pyramid, has nothing to learn and leaves attention's kernels alone.

    Args:
        temperature: above 1; wavelengths grow from 2 pi cells by temperature^(4 / C) a frequency, short of
            2 pi temperature (`big_vision`: up to it).
        coordinates: `center`, or `index`: rows and columns counted 0, 1, ... in the token's own level, as
            libraries do for one level. Token 0, 0 then has one code at all levels.
        order: `timm`; `mae`, `[sin x | cos x | sin y | cos y]` (also DiT's); `big_vision`, that order with
            frequencies temperature^(-k / (C / 4 - 1)): another set of values, the last exactly 1/temperature.
        scale: the code is multiplied by it; its values lie in [-scale, scale].
    Raises:
        ValueError: the width is not a multiple of 4, or an option is out of its range.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        depth: int,
        pyramid: Pyramid,
        temperature: float = 10000.0,
        coordinates: str = "center",
        order: str = "timm",
        scale: float = 1.0,
    ) -> None:
        super().__init__(scale=scale)
        if dim % 4:
            raise ValueError(f"sinusoidal needs a width that is a multiple of 4, got {dim}")
        if not 1 < temperature < float("inf"):
            raise ValueError(f"sinusoidal: temperature must be above 1 and finite, got {temperature}")
        if coordinates not in COORDINATES:
            raise ValueError(
                f"sinusoidal: coordinates is one of {', '.join(COORDINATES)}, got {coordinates!r}"
            )
        if order not in ORDERS:
            raise ValueError(f"sinusoidal: order is one of {', '.join(ORDERS)}, got {order!r}")
        if order == "big_vision" and dim < 8:
            raise ValueError(f"sinusoidal(order=big_vision) needs a width of at least 8, got {dim}")
        self.dim, self.temperature, self.coordinates, self.order = dim, temperature, coordinates, order

    def code_LC(self, positions: Positions) -> Tensor:
        yx_L2 = positions.cell_L2 if self.coordinates == "index" else in_finest_cells(positions)
        return sinusoidal_code(yx_L2, self.dim, self.temperature, self.order)


def in_finest_cells(positions: Positions) -> Tensor:
    """Centres in cells of the finest level, float32 (L, 2): from 0 to its height and to its width."""
    rows, columns = positions.grids[-1]
    y_L, x_L = ((positions.yx_L2 + 1) / 2).unbind(-1)
    return torch.stack([y_L * rows, x_L * columns], dim=-1)  # plain numbers: a tensor of them would be a copy


def sinusoidal_code(yx_L2: Tensor, dim: int, temperature: float, order: str = "timm") -> Tensor:
    """The code of the given coordinates, float32 (L, dim), in one of `ORDERS`."""
    with torch.autocast(yx_L2.device.type, enabled=False):  # bf16 angles would make neighbours coincide
        last = dim // 4 - 1 if order == "big_vision" else dim // 4
        exponent_F = torch.arange(dim // 4, dtype=torch.float32, device=yx_L2.device) / last
        angle_L2F = yx_L2.float()[:, :, None] * temperature**-exponent_F
        if order == "timm":
            return torch.cat([angle_L2F.sin().flatten(1), angle_L2F.cos().flatten(1)], dim=1)
        angle_L2F = angle_L2F.flip(1)  # x first, and each axis's sines right before its cosines
        return torch.stack([angle_L2F.sin(), angle_L2F.cos()], dim=2).flatten(1)
