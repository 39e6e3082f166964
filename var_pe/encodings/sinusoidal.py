"""Fixed 2-D sinusoidal code in cells of the finest level, so that coarse and fine tokens agree."""

import torch
from torch import Tensor

from var_pe.encodings.base import TokenEncoding, register
from var_pe.pyramid import Positions, Pyramid


@register("sinusoidal")
class Sinusoidal(TokenEncoding):
    """`[sin y | sin x | cos y | cos x]` of the token's centre, a quarter of the channels each (timm's order).

    Vaswani et al. 2017 in two dimensions; frequencies temperature^(-k / (C / 4)), k = 0 .. C / 4 - 1, in
    radians per cell of the finest level. The centre of cell i of n is (i + 0.5) * n_finest / n: a level of
    the same size as the finest one counts 0.5, 1.5, ...; on [-1, 1] neighbours would be indistinguishable at
    temperature 10000.

    Args:
        temperature: ratio of the longest to the shortest wavelength, above 1.
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
        scale: float = 1.0,
    ) -> None:
        super().__init__(scale=scale)
        if dim % 4:
            raise ValueError(f"sinusoidal needs a width that is a multiple of 4, got {dim}")
        if not 1 < temperature < float("inf"):
            raise ValueError(f"sinusoidal: temperature must be above 1 and finite, got {temperature}")
        self.dim, self.temperature = dim, temperature

    def code_LC(self, positions: Positions) -> Tensor:
        return sinusoidal_code(in_finest_cells(positions), self.dim, self.temperature)


def in_finest_cells(positions: Positions) -> Tensor:
    """Centres in cells of the finest level, float32 (L, 2): from 0 to its height and to its width."""
    finest_2 = torch.tensor(positions.grids[-1], dtype=torch.float32, device=positions.yx_L2.device)
    return (positions.yx_L2 + 1) / 2 * finest_2


def sinusoidal_code(yx_L2: Tensor, dim: int, temperature: float) -> Tensor:
    """The code of the given coordinates, float32 (L, dim)."""
    with torch.autocast(yx_L2.device.type, enabled=False):  # bf16 angles would make neighbours coincide
        exponent_F = torch.arange(dim // 4, dtype=torch.float32, device=yx_L2.device) / (dim // 4)
        angle_L2F = yx_L2.float()[:, :, None] * temperature**-exponent_F
        return torch.cat([angle_L2F.sin().flatten(1), angle_L2F.cos().flatten(1)], dim=1)
