"""Fourier features of the token's centre under a learned linear map."""

from math import ceil, log2, pi

import torch
from torch import Tensor, nn

from var_pe.encodings.base import ModelShape, TokenEncoding, register
from var_pe.encodings.machinery.codes import standard_deviation
from var_pe.encodings.machinery.moments import moment_centres
from var_pe.pyramid import Positions
from var_pe.resampling.precision import full_precision

FEATURES = ("log_linear", "gaussian")


@register("fourier", has_time=True)
class Fourier(TokenEncoding):
    """`[sin(a), cos(a)] @ map`, with angles a of the centre v = (y, x) in [-1, 1] x [-1, 1].

    `log_linear`: a = 2^k pi y and 2^k pi x, k = 0 .. bands - 1 (NeRF, Mildenhall et al. 2020; axes apart).
    `gaussian`: a = 2 pi v @ B with entries of B (2, bands) from N(0, sigma^2), drawn from the seed, fixed and
    stored in the checkpoint (Tancik et al. 2020): oblique waves, so that axes mix before the map.

    A centre is a fraction of the picture: other grids of any size and level count read the same function at
    other points, and a picture twice as wide has cells half as far apart. The map starts normal, such that
    the code has `learned`'s root mean square sqrt(1 / (3 C)). Costs an addition to the tokens and a product
    of L x features x C per forward; attention's kernels stay.

    In clips a moment's centre t is a fraction of the clip, in [-1, 1]: clips of another length read the same
    function at other points. `log_linear` takes 2^k pi t as well, under a map of its own, whose code is as
    large as that of the place; `gaussian` takes v = (t, y, x) under a B of three rows.

    Args:
        features: `log_linear` or `gaussian`.
        bands: none takes as many as the finest grid can tell apart for `log_linear`, ceil(log2(longest
            side)), at which neighbours are half a turn apart, and along time ceil(log2(moments)); C / 2 for
            `gaussian`.
        sigma: of `gaussian`, in turns per unit of v: larger tells closer points apart, but carries less from
            one to the next. At 1, neighbours on a grid of 16 are 0.8 radians apart.
        scale: the code is multiplied by it.
    Raises:
        ValueError: an option is not known or out of its range.
    """

    direction_2F: Tensor
    time_direction_F: Tensor

    keeps_grids = True

    def __init__(
        self,
        shape: ModelShape,
        *,
        features: str = "log_linear",
        bands: int | None = None,
        sigma: float = 1.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__(shape, scale=scale)
        if features not in FEATURES:
            raise ValueError(f"fourier: features is one of {', '.join(FEATURES)}, got {features!r}")
        if bands is not None and (type(bands) is not int or not 1 <= bands <= 4096):
            raise ValueError(f"fourier: bands is a whole number from 1 to 4096, got {bands!r}")
        if not 0 < sigma < float("inf"):
            raise ValueError(f"fourier: sigma must be above 0 and finite, got {sigma}")
        self.features = features
        self.sigma = sigma
        self.time_bands = 0

        if features == "gaussian":
            self.bands = bands or max(1, shape.dim // 2)
            self.register_buffer("direction_2F", torch.zeros(2, self.bands))
            if shape.times > 1:
                self.register_buffer("time_direction_F", torch.zeros(self.bands))
            angles = self.bands
        else:
            self.bands = bands or max(1, ceil(log2(max(shape.pyramid.finest))))
            if self.bands > 16:  # 2^15 pi: float32 no longer resolves the angle of a larger one
                raise ValueError(f"fourier(features=log_linear) has at most 16 bands, got {self.bands}")
            if shape.times > 1:
                self.time_bands = bands or ceil(log2(shape.times))
            angles = 2 * self.bands  # of y and of x

        # sine and cosine of each angle
        self.map_FC = nn.Parameter(torch.zeros(2 * angles, shape.dim))
        time_map_FC = torch.zeros(2 * self.time_bands, shape.dim)
        self.time_map_FC = nn.Parameter(time_map_FC) if self.time_bands else None

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        features, dim = parameter.shape  # sine and cosine of an angle have a mean square of 1/2
        nn.init.normal_(parameter, std=standard_deviation(dim) / (features / 2) ** 0.5, generator=generator)

    def init_buffer(self, name: str, buffer: Tensor, generator: torch.Generator) -> None:
        nn.init.normal_(buffer, std=self.sigma, generator=generator)

    def prepare(self, positions: Positions) -> Tensor:
        if self.features == "gaussian" and positions.time_L is not None:
            return self.scale * self.code_LC(positions)  # oblique in time, too: no sum of place and moment
        return super().prepare(positions)

    def code_LC(self, positions: Positions) -> Tensor:
        yx_L2 = positions.yx_L2
        with full_precision(yx_L2):
            if self.features == "log_linear":
                return waves(octaves(yx_L2, self.bands)) @ self.map_FC.float()

            angle_LF = 2 * pi * yx_L2 @ self.direction_2F.float()
            if positions.time_L is not None:
                t_L1 = moment_centres(positions.time_L, positions.times)[:, None]
                angle_LF = angle_LF + 2 * pi * t_L1 * self.time_direction_F.float()
            return waves(angle_LF) @ self.map_FC.float()

    def time_TC(self, positions: Positions) -> Tensor:
        assert self.time_map_FC is not None, "built for clips"
        moment_T = torch.arange(positions.times, device=positions.yx_L2.device)
        with full_precision(moment_T):
            t_T1 = moment_centres(moment_T, positions.times)[:, None]
            return waves(octaves(t_T1, self.time_bands)) @ self.time_map_FC.float()


def octaves(v_LA: Tensor, bands: int) -> Tensor:
    """The angles 2^k pi v of each axis, (L, A bands)."""
    octave_F = 2.0 ** torch.arange(bands, device=v_LA.device)
    return (v_LA[:, :, None] * (pi * octave_F)).flatten(1)


def waves(angle_LF: Tensor) -> Tensor:
    """Sines, and then cosines."""
    return torch.cat([angle_LF.sin(), angle_LF.cos()], dim=1)
