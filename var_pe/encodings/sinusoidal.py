"""Fixed 2-D sinusoidal code in cells of the finest level, so that coarse and fine tokens agree."""

from types import MappingProxyType

import torch
from torch import Tensor

from var_pe.encodings.base import ModelShape, TokenEncoding, register
from var_pe.encodings.machinery.codes import ORDERS, code_scale, sinusoidal_code, sinusoidal_time
from var_pe.encodings.machinery.coordinates import in_finest_cells
from var_pe.pyramid import Positions

COORDINATES = ("center", "index")


def starting_scale(dim: int) -> float:
    """`code_scale`, sqrt(2 / (3 C)), to three digits, for lines are read by people."""
    return float(f"{code_scale(dim):.3g}")


@register("sinusoidal", has_time=True)
class Sinusoidal(TokenEncoding):
    """`[sin y | sin x | cos y | cos x]` of the token's centre, a quarter of the channels each (timm's order).

    Vaswani et al. 2017 in two dimensions; frequencies temperature^(-k / (C / 4)), k = 0 .. C / 4 - 1, in
    radians per cell of the finest level. The centre of cell i of n is (i + 0.5) * n_finest / n: a level of
    the same size as the finest one counts 0.5, 1.5, ...; on [-1, 1] neighbours would be indistinguishable at
    temperature 10000. Follows any pyramid, has nothing to learn and leaves attention's kernels alone.

    In clips the code of the moment t = 0, 1, ... is added: `[sin t | cos t]` over all channels, Vaswani's
    own, with frequencies temperature^(-k / (C / 2)). It is as large as that of the place, and follows clips
    of any length.

    Args:
        temperature: above 1; wavelengths grow from 2 pi cells by temperature^(4 / C) a frequency, short of
            2 pi temperature (`big_vision`: up to it).
        coordinates: `center`, or `index`: rows and columns counted 0, 1, ... in the token's own level, as
            libraries do for one level. Token 0, 0 then has one code at all levels.
        order: `timm`; `mae`, `[sin x | cos x | sin y | cos y]` (also DiT's); `big_vision`, that order with
            frequencies temperature^(-k / (C / 4 - 1)): another set of values, the last exactly 1/temperature.
        scale: the code is multiplied by it; its values lie in [-scale, scale]. In a line without it the
            scale is sqrt(2 / (3 C)), to three digits: the code is then as large as a learned table at its
            start, and trains as well (docs/encodings.md). As a part of a mixture, which scales its parts
            itself, the code has scale 1.
    Raises:
        ValueError: the width is not a multiple of 4, or an option is out of its range.
    """

    from_width = MappingProxyType({"scale": starting_scale})

    def __init__(
        self,
        shape: ModelShape,
        *,
        temperature: float = 10000.0,
        coordinates: str = "center",
        order: str = "timm",
        scale: float = 1.0,
    ) -> None:
        super().__init__(shape, scale=scale)
        if shape.dim % 4:
            raise ValueError(f"sinusoidal needs a width that is a multiple of 4, got {shape.dim}")
        if not 1 < temperature < float("inf"):
            raise ValueError(f"sinusoidal: temperature must be above 1 and finite, got {temperature}")
        if coordinates not in COORDINATES:
            raise ValueError(
                f"sinusoidal: coordinates is one of {', '.join(COORDINATES)}, got {coordinates!r}"
            )
        if order not in ORDERS:
            raise ValueError(f"sinusoidal: order is one of {', '.join(ORDERS)}, got {order!r}")
        if order == "big_vision" and shape.dim < 8:
            raise ValueError(f"sinusoidal(order=big_vision) needs a width of at least 8, got {shape.dim}")

        self.temperature = temperature
        self.coordinates = coordinates
        self.order = order

    def code_LC(self, positions: Positions) -> Tensor:
        yx_L2 = positions.cell_L2 if self.coordinates == "index" else in_finest_cells(positions)
        return sinusoidal_code(yx_L2, self.dim, self.temperature, self.order)

    def time_TC(self, positions: Positions) -> Tensor:
        moment_T = torch.arange(positions.times, device=positions.yx_L2.device)
        return sinusoidal_time(moment_T, self.dim, self.temperature)
