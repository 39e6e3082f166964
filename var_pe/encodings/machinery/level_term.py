"""A learned score for every pair of levels, which displacements between tokens do not contain."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from var_pe.encodings.base import own
from var_pe.encodings.machinery.scores import by_levels, one_hot
from var_pe.pyramid import Positions, Pyramid
from var_pe.resampling.conventions import source_levels
from var_pe.resampling.grid_bound import GridBound


@dataclass(frozen=True)
class LevelPairs:
    """The terms of the pyramid asked for, and which of them each query and key get."""

    term_NHKK: Tensor
    # levels of queries and of keys, one-hot, (L, K)
    query_QK: Tensor
    key_QK: Tensor

    def at(self, layer: int) -> "LevelPairs":
        """With the term of this layer alone, where each has its own."""
        place = own(layer, len(self.term_NHKK))
        return replace(self, term_NHKK=self.term_NHKK[place : place + 1])


class LevelTerm(GridBound):
    """`term[head, query level, key level]`, 0 at the start; nothing if the pyramid has a single level.

    A level takes its term from the same level where another pyramid has as many, else from the one whose
    sides are nearest.

    Args:
        terms: 1, or as many as there are layers where each has its own.
    """

    what = "a term per pair of levels"

    def __init__(self, pyramid: Pyramid, num_heads: int, terms: int = 1) -> None:
        super().__init__()
        self.terms = terms
        self.num_heads = num_heads
        self._made_for(pyramid, keep=pyramid.num_levels > 1)
        self.term_NHKK = self._zeros(pyramid) if pyramid.num_levels > 1 else None

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        nn.init.zeros_(parameter)

    @torch.no_grad()
    def set_pyramid(self, pyramid: Pyramid, like: Tensor | None = None) -> None:
        """Moves the terms with their levels.

        `like` says device and type of terms that were not there before, and whether they are trained.
        """
        if pyramid.num_levels == 1:
            self.term_NHKK = None
        elif self.term_NHKK is None:
            self.term_NHKK = self._zeros(pyramid, like)
        elif pyramid != self.pyramid:
            moved_NHKK = self._moved(self.term_NHKK, pyramid).clone()
            self.term_NHKK = nn.Parameter(moved_NHKK, requires_grad=self.term_NHKK.requires_grad)
        self._made_for(pyramid, keep=pyramid.num_levels > 1)

    def pairs(self, query: Positions, key: Positions) -> LevelPairs | None:
        """What `add_to` needs to know of queries and keys; None where there is a single level."""
        if self.term_NHKK is None:
            return None

        num_levels = len(query.grids)
        term_NHKK = self._moved(self.term_NHKK, Pyramid(query.grids))
        return LevelPairs(term_NHKK, one_hot(query.level_L, num_levels), one_hot(key.level_L, num_levels))

    def add_to(self, bias_HQK: Tensor, pairs: LevelPairs | None, layer: int) -> Tensor:
        if pairs is None:
            return bias_HQK
        return bias_HQK + by_levels(
            pairs.term_NHKK[own(layer, len(pairs.term_NHKK))].float(), pairs.query_QK, pairs.key_QK
        )

    def _moved(self, term_NHKK: Tensor, pyramid: Pyramid) -> Tensor:
        if pyramid == self.pyramid:
            return term_NHKK
        # Level by level: a list of indices would be copied to the device, which waits for it.
        source = source_levels(self.pyramid, pyramid)
        rows_NHKK = torch.stack([term_NHKK[:, :, level] for level in source], dim=2)
        return torch.stack([rows_NHKK[..., level] for level in source], dim=-1)

    def _zeros(self, pyramid: Pyramid, like: Tensor | None = None) -> nn.Parameter:
        shape = (self.terms, self.num_heads, pyramid.num_levels, pyramid.num_levels)
        zeros = torch.zeros(shape) if like is None else like.new_zeros(shape)
        return nn.Parameter(zeros, requires_grad=like is None or like.requires_grad)
