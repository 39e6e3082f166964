"""From logits to tokens: guidance, temperature, top-k, top-p and a draw that belongs to the image alone."""

from collections.abc import Sequence
from math import isfinite
from numbers import Real
from typing import Literal, TypeGuard, cast, get_args

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from var_pe.settings.fields import NonNegative, NonNegativeFloat, PositiveFloat, Share

GuidanceSchedule = Literal["linear", "constant"]

# Ranges of what a drawing is asked for, by setting or by argument
Guidance = NonNegativeFloat
Temperature = PositiveFloat
TopK = NonNegative
TopP = Share


def _plain(given: object) -> object:
    """An array or a tensor, also one of a single number, as Python's lists and numbers."""
    return given.tolist() if hasattr(given, "tolist") else given


def _finite(value: object) -> TypeGuard[float]:
    return isinstance(value, Real) and isfinite(value)


def _within(value: float, setting: object) -> bool:
    """Whether a number is in the range that a setting's type states."""
    for bound in get_args(setting)[1:]:
        if isinstance(bound, Ge) and not value >= cast(float, bound.ge):
            return False
        if isinstance(bound, Gt) and not value > cast(float, bound.gt):
            return False
        if isinstance(bound, Le) and not value <= cast(float, bound.le):
            return False
    return True


def guidance_per_level(
    scale: float, schedule: str | Sequence[float] | Tensor, num_levels: int
) -> list[float]:
    """Guidance t of every level; logits become (1 + t) * conditional - t * unconditional, so 0 is none.

    `linear` grows from 0 at the first level to `scale` at the last (VAR; a level that is alone is the last),
    `constant` is `scale` everywhere, and a list, array or tensor gives one factor of `scale` per level. In
    the convention where 1 means none (diffusers), the weight is 1 + t.

    Raises:
        ValueError: scale or a factor is not finite or below 0, or there are not as many factors as levels.
    """
    largest = _plain(scale)
    if not _finite(largest) or not _within(largest, Guidance):
        raise ValueError(f"guidance_scale must be finite and at least 0 (none), got {largest}")

    # By name
    factors = _plain(schedule)
    if factors == "constant" or (factors == "linear" and num_levels == 1):
        return [largest] * num_levels
    if factors == "linear":
        return [largest * level / (num_levels - 1) for level in range(num_levels)]

    # One factor per level
    if not isinstance(factors, list | tuple) or len(factors) != num_levels:
        known = ", ".join(get_args(GuidanceSchedule))
        raise ValueError(f"guidance_schedule is one of {known} or {num_levels} factors, got {factors!r}")
    if not all(_finite(factor) and _within(factor, Guidance) for factor in factors):
        raise ValueError(f"guidance_schedule's factors must be finite and at least 0, got {factors!r}")
    return [largest * factor for factor in factors]


def temperature_per_level(temperature: float | Sequence[float] | Tensor, num_levels: int) -> list[float]:
    """Temperature of every level, from one for all or a list, array or tensor.

    Raises:
        ValueError: one is not above 0 or not finite, or there are not as many as levels.
    """
    given = _plain(temperature)
    each = list(given) if isinstance(given, list | tuple) else num_levels * [given]
    if len(each) != num_levels:
        raise ValueError(f"temperature is one number or one for each of {num_levels} levels, got {each}")

    for value in each:
        if not (_finite(value) and _within(value, Temperature)):
            raise ValueError(
                f"temperature must be above 0 and finite, got {value}; top_k=1 takes the likeliest token"
            )
    return [value for value in each if _finite(value)]


def check_choice(*, top_k: int, top_p: float) -> None:
    """Whether the cuts that a drawing makes are in their ranges.

    Raises:
        ValueError: one is not.
    """
    if not _within(top_k, TopK):
        raise ValueError(f"top_k must be at least 0 (all tokens), got {top_k}")
    if not _within(top_p, TopP):
        raise ValueError(f"top_p must lie in [0, 1] (0 and 1: all tokens), got {top_p}")


def check_finite(all_finite: Tensor) -> None:
    """Whether all that a drawing computed is finite: a draw from NaN would be the last code everywhere.

    Raises:
        FloatingPointError: the answer is no; asking for it waits for the device.
    """
    if not all_finite:
        raise FloatingPointError(
            "the logits or latent maps of a drawing are not finite: a weight of the generator or of the "
            "codebook is NaN or infinite, or guidance or temperature leaves the range of float32"
        )


def guided_logits(logits_2BlV: Tensor, guidance: float) -> Tensor:
    """Logits (B, l, V) from those under the labels and then those under none."""
    conditional_BlV, unconditional_BlV = logits_2BlV.chunk(2)
    return (1 + guidance) * conditional_BlV - guidance * unconditional_BlV


def kept_logits(logits_BlV: Tensor, *, top_k: int = 0, top_p: float = 0.0) -> Tensor:
    """Logits with the tokens outside top-k and then outside the nucleus of mass top_p set to -inf."""
    if 0 < top_k < logits_BlV.shape[-1]:
        least_Bl1 = logits_BlV.topk(top_k).values[..., -1:]
        logits_BlV = logits_BlV.masked_fill(logits_BlV < least_Bl1, float("-inf"))  # ties survive, as in VAR

    # Outside the nucleus are the least likely tokens, 1 - top_p of the mass together; the likeliest stays.
    if 0 < top_p < 1:
        ascending_BlV, order_BlV = logits_BlV.sort(dim=-1)
        outside_BlV = ascending_BlV.softmax(-1).cumsum(-1) <= 1 - top_p
        outside_BlV[..., -1] = False
        outside_BlV = outside_BlV.scatter(-1, order_BlV, outside_BlV)  # back in the codebook's order
        logits_BlV = logits_BlV.masked_fill(outside_BlV, float("-inf"))

    return logits_BlV


def given_logits(logits_BlV: Tensor, given_Bl: Tensor) -> Tensor:
    """Logits that leave no choice where a token is given, and are as they were where `given_Bl` is -1."""
    certain_BlV = torch.full_like(logits_BlV, float("-inf"))
    certain_BlV.scatter_(-1, given_Bl.clamp(min=0)[..., None], 0.0)
    return torch.where(given_Bl[..., None] < 0, logits_BlV, certain_BlV)


def draw(logits_BlV: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """One token per position, (B, l); image i draws its l numbers from `generators[i]`, whatever else is in
    the batch.

    The inverse of the cumulative distribution at a uniform number: one number a token, not one a code.
    """
    length = logits_BlV.shape[1]
    uniform = [torch.rand(length, generator=g, device=g.device, dtype=torch.float64) for g in generators]
    u_Bl = torch.stack([u.to(logits_BlV.device) for u in uniform])

    # Rounding leaves the whole mass a little off 1: the numbers are stretched to it.
    mass_BlV = logits_BlV.double().softmax(-1).cumsum(-1)
    token_Bl = torch.searchsorted(mass_BlV, (u_Bl * mass_BlV[..., -1])[..., None], right=True)[..., 0]
    return token_Bl.clamp(max=logits_BlV.shape[-1] - 1)


def gumbel_mix(logits_BlV: Tensor, generators: Sequence[torch.Generator], progress: float) -> Tensor:
    """Weights (B, l, V) with which codes are mixed in place of a draw, VAR's `more_smooth` (its public code).

    A Gumbel softmax of logits * (1 + r) at the temperature max(0.27 (1 - 0.95 r), 0.005), where `progress` r
    runs from 0 at the first level to 1 at the last. Image i takes its l V numbers from `generators[i]`.
    """
    shape = logits_BlV.shape[1:]
    uniform = [torch.rand(shape, generator=g, device=g.device).to(logits_BlV.device) for g in generators]

    # Gumbel noise is -log of an exponential number, which is -log of a uniform one.
    exponential_BlV = -torch.stack(uniform).clamp(min=torch.finfo(torch.float32).tiny).log()
    noisy_BlV = logits_BlV.float() * (1 + progress) - exponential_BlV.log()
    temperature = max(0.27 * (1 - 0.95 * progress), 0.005)
    return (noisy_BlV / temperature).softmax(-1)
