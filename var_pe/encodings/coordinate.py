"""A small network of the token's coordinates."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from var_pe.encodings.base import ModelShape, TokenEncoding, register
from var_pe.encodings.machinery.codes import standard_deviation
from var_pe.encodings.machinery.moments import moment_centres
from var_pe.pyramid import Positions
from var_pe.resampling.precision import full_precision


@register("coordinate", has_time=True)
class Coordinate(TokenEncoding):
    """`gelu(v @ in + bias) @ out` of the centre v = (y, x) in [-1, 1] x [-1, 1]: a network of two layers.

    A smooth function of the centre: it starts by telling halves of the picture apart and takes long to learn
    neighbours (Tancik et al. 2020), unlike `fourier`. A centre is a fraction of the picture, so any pyramid
    reads the same function.

    The first layer starts normal, weights with deviation 1.5 and biases with 0.75, so that most units bend
    within the picture; the second such that the code's root mean square is about sqrt(1 / (3 C)), that of
    `learned`. Costs an addition to the tokens and a network on L coordinates per forward; attention's kernels
    stay.

    In clips v = (t, y, x), with the moment's centre t in [-1, 1], a fraction of the clip: one network of all
    three, so that what a moment adds depends on the place. Clips of another length read the same function.

    Args:
        hidden: units between the two layers, at least 1; none takes the width.
        scale: the code is multiplied by it.
    """

    def __init__(self, shape: ModelShape, *, hidden: int | None = None, scale: float = 1.0) -> None:
        super().__init__(shape, scale=scale)
        if hidden is not None and (type(hidden) is not int or not 1 <= hidden <= 65536):
            raise ValueError(f"coordinate: hidden is a whole number from 1 to 65536, got {hidden!r}")

        units = hidden or shape.dim
        self.in_2U = nn.Parameter(torch.zeros(2, units))
        self.bias_U = nn.Parameter(torch.zeros(units))
        self.in_time_1U = nn.Parameter(torch.zeros(1, units)) if shape.times > 1 else None
        self.out_UC = nn.Parameter(torch.zeros(units, shape.dim))

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        if name in ("in_2U", "in_time_1U"):
            std = 1.5
        elif name == "bias_U":
            std = 0.75
        else:  # GELU of what the first layer starts with has a mean square near 1
            std = standard_deviation(self.dim) / len(parameter) ** 0.5
        nn.init.normal_(parameter, std=std, generator=generator)

    def prepare(self, positions: Positions) -> Tensor:
        if positions.time_L is not None:
            return self.scale * self.code_LC(positions)  # of place and moment together, which is no sum
        return super().prepare(positions)

    def code_LC(self, positions: Positions) -> Tensor:
        yx_L2 = positions.yx_L2
        with full_precision(yx_L2):
            bent_LU = yx_L2 @ self.in_2U.float() + self.bias_U.float()
            if positions.time_L is not None:
                assert self.in_time_1U is not None, "built for clips"
                t_L1 = moment_centres(positions.time_L, positions.times)[:, None]
                bent_LU = bent_LU + t_L1 * self.in_time_1U.float()

            hidden_LU = F.gelu(bent_LU, approximate="tanh")
            return hidden_LU @ self.out_UC.float()
