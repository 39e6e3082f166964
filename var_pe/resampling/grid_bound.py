"""Parameters that belong to certain grids keep them beside themselves, in every checkpoint."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from var_pe.pyramid import Pyramid


class GridBound(nn.Module):
    """Keeps `pyramid` and, in `grids_K2` (int64, K levels), what a checkpoint says of it; first among bases.

    Shapes alone do not tell 2x8 from 4x4, or the levels 1-4 from 2-4.
    """

    what: ClassVar[str]  # for sentences: "a learned table"
    grids_K2: Tensor | None
    pyramid: Pyramid

    def _made_for(self, pyramid: Pyramid, keep: bool = True) -> None:
        """Called by the constructor and after every move; `keep` is false where no parameter needs them."""
        before_K2: Tensor | None = getattr(self, "grids_K2", None)
        device = None if before_K2 is None else before_K2.device
        grids_K2 = torch.tensor(pyramid.grids, dtype=torch.int64, device=device)
        self.pyramid = pyramid
        self.register_buffer("grids_K2", grids_K2 if keep else None)

    def check_grids(self) -> None:
        """Called once after loading, since diffusers' loader runs no load hooks.

        Raises:
            ValueError: what was loaded was made for other grids than this module was built for.
        """
        if self.grids_K2 is not None and (error := self._other_grids(self.grids_K2)):
            raise ValueError(error)

    def _other_grids(self, stored_K2: Tensor) -> str | None:
        grids = Pyramid(tuple((h, w) for h, w in stored_K2.tolist()))
        if grids == self.pyramid:
            return None
        return f"{self.what} is stored for the grids {grids}, this model's are {self.pyramid}"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        stored_K2 = state_dict.get(prefix + "grids_K2")
        if stored_K2 is not None and (error := self._other_grids(stored_K2)):
            errors: list[str] = args[-1]
            errors.append(error)
        super()._load_from_state_dict(state_dict, prefix, *args)
