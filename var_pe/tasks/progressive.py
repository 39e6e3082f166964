"""Progressive training: a generator's training adds the levels of a pyramid one after another."""

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Gt, Lt

from var_pe.pyramid import Pyramid
from var_pe.settings.fields import Doc, Positive, section


@section
class Progressive:
    """Coarse levels first, as VAR's public code intends by its options `pg` and `pg0` (not finished there).

    Of K levels, `first` are in at step 0 and the others come in one by one, each stage as long as the others,
    until all are in from step m = floor(until * n) of n on, so at least in the last one:

        levels in at step i = min(K, first + floor((K - first) * i / m))

    The loss is the mean over the tokens of the levels that are in, and no other token is computed.
    """

    first: Annotated[Positive, Doc("number of coarsest levels that are trained from the first step")] = 1
    until: Annotated[float, Gt(0), Lt(1), Doc("share of the steps after which all levels are trained")] = 0.4

    def levels_at(self, step: int, steps: int, num_levels: int) -> int:
        """How many of `num_levels` levels are in at `step` of `steps`."""
        all_from = max(1, int(self.until * steps))
        later = max(0, num_levels - self.first)
        return min(num_levels, self.first + later * step // all_from)


def check_first(progressive: Progressive | None, pyramid: Pyramid) -> None:
    """Checks that some level of a run's own pyramid is added later.

    Raises:
        ValueError: all are trained from the first step on.
    """
    if progressive is not None and progressive.first >= pyramid.num_levels:
        raise ValueError(
            f"generator_training.progressive.first must be below {pyramid.num_levels}, the number of "
            f"levels of tokenizer.levels, got {progressive.first}: no level would be added later"
        )


def share_of_tokens(
    progressive: Progressive, steps: int, pyramids: Sequence[Pyramid], *, counted: int | None = None
) -> float:
    """The tokens that a training of so many steps computes, as a share of those with all levels always in.

    `counted` are the steps that its shares are of, if it was extended (None: all).
    """
    computed = 0
    for pyramid in pyramids:
        for step in range(steps):
            levels = progressive.levels_at(step, counted or steps, pyramid.num_levels)
            computed += pyramid.spans[levels - 1].stop
    return computed / (steps * sum(pyramid.num_tokens for pyramid in pyramids))
