"""A code for the level that a token belongs to, apart from its position: `level_embedding` of a config."""

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn

from var_pe.encodings.machinery.codes import code_scale, sinusoidal_code, standard_deviation
from var_pe.pyramid import Grid, Positions, Pyramid
from var_pe.settings.fields import check_choice

LevelKind = Literal["learned", "sinusoidal", "none"]


class LevelEmbedding(nn.Module):
    """Adds one code per level: `learned` (VAR's `lvl_embed`), `sinusoidal` (of the log of the sides), `none`.

    The sinusoidal code knows levels it has not seen; a learned one is an error beyond the trained levels.
    """

    def __init__(self, kind: LevelKind, *, dim: int, pyramid: Pyramid) -> None:
        super().__init__()
        check_choice("level_embedding", kind, LevelKind)
        if kind == "sinusoidal" and dim % 4:
            raise ValueError(f"level_embedding sinusoidal needs a width that is a multiple of 4, got {dim}")

        self.kind = kind
        self.dim = dim
        self.num_levels = pyramid.num_levels
        if kind == "learned":
            self.table_KC = nn.Parameter(torch.zeros(pyramid.num_levels, dim))

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        nn.init.trunc_normal_(parameter, std=standard_deviation(self.dim), generator=generator)

    def check_levels(self, pyramid: Pyramid) -> None:
        """Whether this embedding serves `pyramid`: a learned code belongs to each level.

        Raises:
            ValueError: it has more levels or fewer than were learned.
        """
        if self.kind == "learned" and pyramid.num_levels != self.num_levels:
            raise ValueError(
                f"level_embedding learned has {self.num_levels} levels, cannot be moved to the "
                f"{pyramid.num_levels} of {pyramid}; level_embedding: sinusoidal also serves levels that "
                "were not trained"
            )

    def forward(self, positions: Positions) -> Tensor | None:
        """float32 (L, C), or None for `none`."""
        if self.kind == "none":
            return None

        if self.kind == "learned":
            if len(positions.grids) > self.num_levels:
                raise ValueError(
                    f"level_embedding learned has {self.num_levels} levels, asked for "
                    f"{len(positions.grids)}; level_embedding: sinusoidal also serves levels that were "
                    "not trained"
                )
            return self.table_KC[positions.level_L].float()

        # An octave is ten units: neighbours in any usual pyramid stay apart, 1x1 and 64x64 do not wrap.
        sides_K2 = _sides(positions.grids, positions.level_L.device)
        code_KC = sinusoidal_code(10 * sides_K2.log2(), self.dim, 10000.0)
        return code_scale(self.dim) * code_KC[positions.level_L]


@torch.compiler.assume_constant_result
def _sides(grids: tuple[Grid, ...], device: torch.device) -> Tensor:
    """`sides_on`, which a compiled graph takes as a constant."""
    return sides_on(grids, device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # kept for later calls, which may train
def sides_on(grids: tuple[Grid, ...], device: torch.device) -> Tensor:
    """float32 (K, 2). Kept per device: a copy to another one waits for it."""
    return torch.tensor(grids, dtype=torch.float32, device=device)
