"""A retrofit's schedule: the share of the new encoding in every step."""

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from var_pe.models.resizable import Resizable
from var_pe.models.transfer import Retrofit, blend_of


@dataclass(frozen=True)
class Fading:
    """Sets the share of the new encoding before each step; it follows from the step alone."""

    model: Resizable
    retrofit: Retrofit
    # those first asked of the run: an extension goes on with the new encoding alone
    steps: int

    @classmethod
    def of(cls, model: Resizable, retrofit: Retrofit | None, steps: int) -> Self | None:
        """The schedule of a model; None for a model that is not being retrofitted."""
        return None if retrofit is None else cls(model, retrofit, steps)

    def set(self, step: int) -> dict[str, Tensor]:
        """Sets the share of this step in the model; returns the values to log."""
        blended = blend_of(self.model)
        assert blended is not None, "a retrofit trains a blend"
        blended.share.fill_(self.retrofit.share_at(step, self.steps))
        return {"share_of_new_encoding": blended.share.clone()}
