"""Parameters that belong to certain grids keep them beside themselves, in every checkpoint."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from var_pe.pyramid import Pyramid
from var_pe.resampling.conventions import Convention
from var_pe.resampling.precision import is_exporting


class GridBound(nn.Module):
    """Keeps `pyramid` and, for checkpoints, its grids in `grids_K2` (int64, K levels); first among the bases.

    Shapes alone do not tell 2x8 from 4x4, or the levels 1-4 from 2-4.
    """

    what: ClassVar[str]  # for sentences: "a learned table"
    grids_K2: Tensor | None
    pyramid: Pyramid
    # how it follows other grids in the forward pass; None: they are an error
    resample: Convention | None = None
    # whether a program that is traced of it is to serve grids of every size, which are symbols in it
    any_size_in_programs = False

    def is_of_any_size(self) -> bool:
        """Whether the sides of grids are symbols, which a program of torch.export makes of them."""
        return self.any_size_in_programs and is_exporting()

    def _made_for(self, pyramid: Pyramid, keep: bool = True) -> None:
        """Called by the constructor and after every move; `keep` is false where no parameter needs them."""
        # on the device that the model has been moved to since
        before_K2: Tensor | None = getattr(self, "grids_K2", None)
        device = None if before_K2 is None else before_K2.device

        grids_K2 = torch.tensor(pyramid.grids, dtype=torch.int64, device=device)
        self.pyramid = pyramid
        self.register_buffer("grids_K2", grids_K2 if keep else None)

    def check_grids(self, stored_K2: Tensor | None = None) -> None:
        """Whether what was loaded was made for this pyramid; for diffusers' loader, which runs no load hooks.

        `stored_K2` are the grids in a file whose weights are not loaded.

        Raises:
            ValueError: what was loaded was made for other grids than this module was built for.
        """
        if self.grids_K2 is None:
            return
        error = self._other_grids(self.grids_K2 if stored_K2 is None else stored_K2)
        if error:
            raise ValueError(error)

    def _other_grids(self, stored_K2: Tensor) -> str | None:
        """The sentence about stored grids that are not this module's; on the meta device they are unknown."""
        if stored_K2.is_meta:
            return None
        grids = Pyramid.of(stored_K2.tolist())
        if grids == self.pyramid:
            return None
        return f"{self.what} is stored for the grids {grids}, this model's are {self.pyramid}"

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Tensor],
        prefix: str,
        local_metadata: dict[str, object],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        stored_K2 = state_dict.get(prefix + "grids_K2")
        error = None if stored_K2 is None else self._other_grids(stored_K2)
        if error:
            error_msgs.append(error)

        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
