"""A weighted sum of token encodings, scaled so that every part has the share that its weight gives."""

from collections.abc import Callable
from typing import Self, cast

import torch
from torch import Tensor, nn

from var_pe.encodings.base import REGISTRY, BuildPart, ModelShape, PositionEncoding, TokenEncoding, register
from var_pe.encodings.machinery.codes import amplitude, standard_deviation
from var_pe.encodings.machinery.compose import move_all
from var_pe.pyramid import Positions, Pyramid
from var_pe.resampling.conventions import Convention
from var_pe.resampling.precision import full_precision
from var_pe.settings.line import Member, check_options


@register("mixed", has_time=True)
class Mixed(TokenEncoding):
    """`sum_i weight_i * factor_i * part_i`; `mixed(learned=0.7, sinusoidal=0.3)`.

    A sinusoidal code is sqrt(1.5 C) times as large as a learned table at its usual start, so the literal sum
    that articles print is nearly the sinusoid alone. `match_rms` therefore brings every part to the same
    amplitude, sqrt(1 / (3 C)) root mean square about the mean over positions, by a factor measured once on
    the initial values. At fixed grids the sum is a learned table that starts elsewhere and learns at another
    rate: `learned(init=sinusoidal)` is its control.

    In clips it is the sum of what the parts give each place at each moment, if all of them have a time axis.

    Costs what its parts cost and an addition to the tokens, with `gate` P products of L x C more; attention's
    kernels stay.

    Args:
        parts: token encodings, in the order of `weights`.
        weights: one finite number a part; not all zero.
        match_rms: false adds the parts as they are.
        trainable: the weights are parameters.
        gate: every token turns each part up or down by its own content x, between nothing and double:
            `weight_i * 2 sigmoid(x @ gate + bias)_i`. Both start at zero, so that it starts as the fixed mix.
            A gated mixture cannot be a part of another one.
    """

    weight_P: Tensor
    factor_P: Tensor

    @classmethod
    def from_line(cls, member: Member, shape: ModelShape, build_part: BuildPart) -> Self:
        """`mixed(learned=0.7, sinusoidal=0.3)` is short for parts in brackets and `weights=(0.7, 0.3)`.

        Raises:
            ValueError: weights are given twice, or an option does not fit.
        """
        options = dict(member.options)
        parts = member.parts

        # The short form: options that are named like encodings.
        weighted = {name: options.pop(name) for name in member.options if name in REGISTRY}
        if weighted and (parts or "weights" in options):
            raise ValueError(
                f"{member.name} gives weights twice: write name=weight or parts with weights=(...)"
            )
        if weighted:
            parts = tuple(Member(name) for name in weighted)
            options["weights"] = tuple(weighted.values())

        # A misspelt encoding is met with their names.
        check_options(member.name, options, cls.__init__, words=REGISTRY)
        weights = options.pop("weights", (1.0,) * len(parts))
        built = [build_part(part) for part in parts]
        make: Callable[..., Self] = cls  # with options whose types have been looked at
        return make(shape, built, weights=weights, **options)

    def __init__(
        self,
        shape: ModelShape,
        parts: list[PositionEncoding],
        *,
        weights: tuple[float, ...],
        match_rms: bool = True,
        trainable: bool = False,
        gate: bool = False,
        scale: float = 1.0,
    ) -> None:
        super().__init__(shape, scale=scale)
        if len(parts) < 2 or len(parts) != len(weights):
            raise ValueError(
                f"mixed needs two or more parts and a weight for each, got {len(parts)} and {weights}"
            )
        if not all(isinstance(part, TokenEncoding) for part in parts):
            raise ValueError("mixed takes encodings that are added to tokens; join others with +")
        if any(isinstance(part, Mixed) and part.gate for part in parts):
            raise ValueError("mixed: a mixture with gate=true depends on the token and cannot be a part")
        if not any(weights) or not all(abs(weight) < float("inf") for weight in weights):
            raise ValueError(f"mixed: the weights must be finite and not all zero, got {weights}")

        self.pyramid = shape.pyramid
        self.times = shape.times
        self.match_rms = match_rms
        self.target = standard_deviation(shape.dim)
        self.parts = nn.ModuleList(parts)
        self.start = tuple(float(weight) for weight in weights)

        weight_P = torch.tensor(self.start)
        if trainable:
            self.weight_P = nn.Parameter(weight_P)
        else:
            self.register_buffer("weight_P", weight_P)
        self.register_buffer("factor_P", torch.ones(len(parts)))

        self.gate: bool = gate
        if gate:
            self.gate_CP = nn.Parameter(torch.zeros(shape.dim, len(parts)))
            self.gate_bias_P = nn.Parameter(torch.zeros(len(parts)))

    def _each(self) -> list[TokenEncoding]:
        return cast(list[TokenEncoding], list(self.parts))

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        with torch.no_grad():
            if name == "weight_P":
                parameter.copy_(torch.tensor(self.start))
            else:
                parameter.zero_()

    @torch.no_grad()
    def calibrate(self) -> None:
        """Brings every part to the same amplitude, measured on the initial values."""
        if not self.match_rms:
            return

        # Weights that are about to be loaded cannot be measured, and the factors come with them.
        if self.factor_P.is_meta or any(parameter.is_meta for parameter in self.parameters()):
            return

        positions = self.pyramid.positions(times=self.times)
        for index, part in enumerate(self._each()):
            size = amplitude(part.prepare(positions))
            if not size > 0:
                raise ValueError(
                    f"mixed: part {index + 1} of {len(self.parts)} starts at zero everywhere, so no "
                    f"factor gives it its share; match_rms=false adds it as it is"
                )
            self.factor_P[index] = self.target / size

    def set_pyramid(self, pyramid: Pyramid, convention: str | Convention | None = None) -> None:
        move_all(self._each(), pyramid, convention)
        self.pyramid = pyramid  # the factors stay: they were measured where training started

    def codes_PLC(self, positions: Positions) -> Tensor:
        """The terms of the sum."""
        share_P = (self.weight_P * self.factor_P).float()
        codes = [share * part.prepare(positions) for share, part in zip(share_P, self._each(), strict=True)]
        return torch.stack(codes)

    def code_LC(self, positions: Positions) -> Tensor:
        return self.codes_PLC(positions).sum(0)

    def prepare(self, positions: Positions) -> Tensor:
        """(L, C), or with a gate the terms apart, (P, L, C)."""
        codes_PLC = self.codes_PLC(positions)
        return self.scale * codes_PLC if self.gate else self.scale * codes_PLC.sum(0)

    def embed(self, x_BLC: Tensor, context: Tensor) -> Tensor:
        if not self.gate:
            return super().embed(x_BLC, context)

        with full_precision(x_BLC):
            gate_BLP = 2 * torch.sigmoid(x_BLC.float() @ self.gate_CP.float() + self.gate_bias_P.float())
            terms = [
                share_BL1 * code_LC
                for share_BL1, code_LC in zip(gate_BLP.split(1, dim=-1), context, strict=True)
            ]
            return x_BLC + torch.stack(terms).sum(0)
