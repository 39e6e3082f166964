"""From logits to tokens: guidance, temperature, top-k, top-p and a draw that belongs to the image alone."""

from collections.abc import Sequence
from math import isfinite
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from var_pe.settings.rules import RuleError

SCHEDULES = ("linear", "constant")


def _plain(given: Any) -> Any:
    """An array or a tensor, also one of a single number, as Python's lists and numbers."""
    return given.tolist() if hasattr(given, "tolist") else given


def _number(value: Any) -> bool:
    return isinstance(value, Real) and isfinite(value)


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
    scale, schedule = _plain(scale), _plain(schedule)
    if not (_number(scale) and scale >= 0):
        raise ValueError(f"guidance_scale must be finite and at least 0 (none), got {scale}")
    if schedule == "constant" or (schedule == "linear" and num_levels == 1):
        return [scale] * num_levels
    if schedule == "linear":
        return [scale * level / (num_levels - 1) for level in range(num_levels)]
    if not isinstance(schedule, list | tuple) or len(schedule) != num_levels:
        raise ValueError(
            f"guidance_schedule is one of {', '.join(SCHEDULES)} or {num_levels} factors, got {schedule!r}"
        )
    if not all(_number(factor) and factor >= 0 for factor in schedule):
        raise ValueError(f"guidance_schedule's factors must be finite and at least 0, got {schedule!r}")
    return [scale * factor for factor in schedule]


def temperature_per_level(temperature: float | Sequence[float] | Tensor, num_levels: int) -> list[float]:
    """Temperature of every level, from one for all or a list, array or tensor.

    Raises:
        ValueError: one is not above 0 or not finite, or there are not as many as levels.
    """
    given = _plain(temperature)
    each = list(given) if isinstance(given, list | tuple) else [given] * num_levels
    if len(each) != num_levels:
        raise ValueError(f"temperature is one number or one for each of {num_levels} levels, got {each}")
    for value in each:
        if not (_number(value) and value > 0):
            raise ValueError(
                f"temperature must be above 0 and finite, got {value}; top_k=1 takes the likeliest token"
            )
    return each


def check_choice(*, top_k: int, top_p: float) -> None:
    """Raises:
    ValueError: a setting is out of its range."""
    if top_k < 0:
        raise RuleError(f"top_k must be at least 0 (all tokens), got {top_k}")
    if not 0 <= top_p <= 1:
        raise RuleError(f"top_p must lie in [0, 1] (0 and 1: all tokens), got {top_p}")


def check_finite(all_finite: Tensor) -> None:
    """A draw from NaN would be the last code everywhere, and nothing would say so.

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
    if 0 < top_p < 1:
        ascending_BlV, order_BlV = logits_BlV.sort(dim=-1)
        outside_BlV = ascending_BlV.softmax(-1).cumsum(-1) <= 1 - top_p
        outside_BlV[..., -1] = False
        logits_BlV = logits_BlV.masked_fill(outside_BlV.scatter(-1, order_BlV, outside_BlV), float("-inf"))
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
    exponential_BlV = -torch.stack(uniform).clamp(min=torch.finfo(torch.float32).tiny).log()
    noisy_BlV = logits_BlV.float() * (1 + progress) - exponential_BlV.log()
    return (noisy_BlV / max(0.27 * (1 - 0.95 * progress), 0.005)).softmax(-1)
