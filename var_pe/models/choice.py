"""From logits to tokens: guidance, temperature, top-k, top-p and a draw that belongs to the image alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import isfinite, isqrt
from numbers import Real
from typing import Literal, TypeGuard, cast, get_args

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from var_pe.models.numbers import uniform
from var_pe.seeding import random_bits
from var_pe.settings.fields import NonNegative, NonNegativeFloat, PositiveFloat, Share

GuidanceSchedule = Literal["linear", "constant"]

# Ranges of the options of a drawing, whether they come from settings or arguments
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


def scale_guidance_per_level(strength: float | Sequence[float] | Tensor, num_levels: int) -> list[float]:
    """Guidance by scale of every level, from one for all or a list, array or tensor; 0 is none.

    The first level has no coarser one, so whatever is given for it, nothing happens there.

    Raises:
        ValueError: one is below 0 or not finite, or there are not as many as levels.
    """
    given = _plain(strength)
    each = list(given) if isinstance(given, list | tuple) else num_levels * [given]
    if len(each) != num_levels:
        raise ValueError(f"scale_guidance is one number or one for each of {num_levels} levels, got {each}")

    for value in each:
        if not (_finite(value) and _within(value, Guidance)):
            raise ValueError(f"scale_guidance must be finite and at least 0 (none), got {value}")
    return [value for value in each if _finite(value)]


def check_choice(*, top_k: int, top_p: float) -> None:
    """Checks that top-k and top-p are in their ranges.

    Raises:
        ValueError: one is not.
    """
    if not _within(top_k, TopK):
        raise ValueError(f"top_k must be at least 0 (all tokens), got {top_k}")
    if not _within(top_p, TopP):
        raise ValueError(f"top_p must lie in [0, 1] (0 and 1: all tokens), got {top_p}")


@dataclass(frozen=True)
class Choice:
    """How the tokens of every level are chosen."""

    # of each level, as `guidance_per_level` and `temperature_per_level` give them
    guidance: tuple[float, ...]
    temperature: tuple[float, ...]
    # 0 keeps all tokens
    top_k: int
    top_p: float
    # codes are mixed instead (`gumbel_mix`)
    smooth: bool
    # of each level, as `scale_guidance_per_level` gives it; empty: none
    by_scale: tuple[float, ...] = ()

    @property
    def guided(self) -> bool:
        """Whether the model is asked without a class as well."""
        return any(self.guidance)

    @property
    def guided_by_scale(self) -> bool:
        """Whether a level is pushed away from what the level before says of its cells."""
        return any(self.by_scale[1:])

    def of_class(self, logits_BlV: Tensor, level: int) -> Tensor:
        """Logits with the class's guidance, if there is any; the second half is then without a class."""
        return guided_logits(logits_BlV, self.guidance[level]) if self.guided else logits_BlV

    def tempered(self, logits_BlV: Tensor, level: int) -> Tensor:
        return logits_BlV if self.temperature[level] == 1 else logits_BlV / self.temperature[level]


def check_finite(sum_of_all: Tensor) -> None:
    """Whether all that a drawing computed is finite, by its sum: every draw from NaN would be the same code.

    Raises:
        FloatingPointError: it is not; asking for it waits for the device.
    """
    if not sum_of_all.isfinite():
        raise FloatingPointError(
            "the logits or latent maps of a drawing are not finite: a weight of the generator or of the "
            "codebook is NaN or infinite, or guidance or temperature leaves the range of float32"
        )


def guided_logits(logits_2BlV: Tensor, guidance: float) -> Tensor:
    """Logits (B, l, V) from those under the labels and then those under none."""
    conditional_BlV, unconditional_BlV = logits_2BlV.chunk(2)
    return torch.lerp(unconditional_BlV, conditional_BlV, 1 + guidance)


def kept_logits(logits_BlV: Tensor, *, top_k: int = 0, top_p: float = 0.0) -> Tensor:
    """Logits with the tokens outside top-k and then outside the nucleus of mass top_p set to -inf."""
    if 0 < top_k < logits_BlV.shape[-1]:
        least_Bl1 = largest(logits_BlV, top_k)
        logits_BlV = logits_BlV.masked_fill(logits_BlV < least_Bl1, float("-inf"))  # ties survive, as in VAR

    # Outside the nucleus are the least likely tokens, 1 - top_p of the mass together; the likeliest stays.
    if 0 < top_p < 1:
        ascending_BlV, order_BlV = logits_BlV.sort(dim=-1)
        outside_BlV = ascending_BlV.softmax(-1).cumsum(-1) <= 1 - top_p
        outside_BlV[..., -1] = False
        outside_BlV = outside_BlV.scatter(-1, order_BlV, outside_BlV)  # back in the codebook's order
        logits_BlV = logits_BlV.masked_fill(outside_BlV, float("-inf"))

    return logits_BlV


def largest(logits_BlV: Tensor, k: int) -> Tensor:
    """The k-th largest logit of every token, (B, l, 1)."""
    if k == 1:
        return logits_BlV.amax(-1, keepdim=True)  # a tenth of the time
    return logits_BlV.topk(k, sorted=False).values.amin(-1, keepdim=True)


def given_logits(logits_BlV: Tensor, given_Bl: Tensor) -> Tensor:
    """Logits that leave no choice where a token is given, and are as they were where `given_Bl` is -1."""
    certain_BlV = torch.full_like(logits_BlV, float("-inf"))
    certain_BlV.scatter_(-1, given_Bl.clamp(min=0)[..., None], 0.0)
    return torch.where(given_Bl[..., None] < 0, logits_BlV, certain_BlV)


def draw(logits_BlV: Tensor, number_Bl2: Tensor) -> Tensor:
    """One token per position, (B, l), by two numbers in [0, 1) each: the inverse of the sums of shares.

    First a group of neighbouring codes and then one of the group: a running sum over all codes takes longer
    and would lose small shares to the rounding of float32. A code without a share is never drawn.
    """
    share_BlV = logits_BlV.softmax(-1)
    share_BlGg = share_BlV.unflatten(-1, (group_count(share_BlV.shape[-1]), -1))
    group_Bl1 = _drawn(share_BlGg.sum(-1), number_Bl2[..., :1])

    size = share_BlGg.shape[-1]
    chosen_Bl1g = group_Bl1[..., None].expand(-1, -1, 1, size)
    code_Bl1 = _drawn(share_BlGg.gather(2, chosen_Bl1g).squeeze(2), number_Bl2[..., 1:])
    return (group_Bl1 * size + code_Bl1).squeeze(-1)


def _drawn(share_Bln: Tensor, number_Bl1: Tensor) -> Tensor:
    """The first of n whose running share of the whole is beyond the number, (B, l, 1)."""
    upto_Bln = share_Bln.cumsum(-1)
    at_Bl1 = number_Bl1 * upto_Bln[..., -1:]
    index_Bl1 = torch.searchsorted(upto_Bln, at_Bl1, right=True).clamp(max=share_Bln.shape[-1] - 1)

    # A GPU adds in another order for every sum: they may rise by a rounding where there is no share.
    without_Bl1 = share_Bln.gather(-1, index_Bl1) <= 0
    return torch.where(without_Bl1, share_Bln.argmax(-1, keepdim=True), index_Bl1)


@cache
def group_count(codes: int) -> int:
    """In how many groups of equal size codes are drawn: their number's largest divisor up to its root."""
    return max(count for count in range(1, isqrt(codes) + 1) if codes % count == 0)


def gumbel_mix(logits_BlV: Tensor, key_Bl: Tensor, progress: float) -> Tensor:
    """Weights (B, l, V) with which codes are mixed in place of a draw, VAR's `more_smooth` (its public code).

    A Gumbel softmax of logits * (1 + r) at the temperature max(0.27 (1 - 0.95 r), 0.005), where `progress` r
    runs from 0 at the first level to 1 at the last. Every token takes V numbers from its key.
    """
    code_V = torch.arange(logits_BlV.shape[-1], device=logits_BlV.device)
    number_BlV = uniform(random_bits(key_Bl[..., None], code_V))

    # Gumbel noise is -log of an exponential number, which is -log of a uniform one.
    exponential_BlV = -number_BlV.clamp(min=torch.finfo(torch.float32).tiny).log()
    noisy_BlV = logits_BlV.float() * (1 + progress) - exponential_BlV.log()
    temperature = max(0.27 * (1 - 0.95 * progress), 0.005)
    return (noisy_BlV / temperature).softmax(-1)
