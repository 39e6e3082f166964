"""What encodings know of the moments of a clip: a vector for each, where it lies, or a score for each
distance in time.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from var_pe.encodings.base import own
from var_pe.encodings.machinery.codes import amplitude, sinusoidal_time, standard_deviation
from var_pe.encodings.machinery.scores import by_levels, one_hot
from var_pe.pyramid import Positions


class MomentTable(nn.Module):
    """A free vector for each of `times` moments, as large at the start as a learned table of places.

    It belongs to clips of so many moments and does not move to others.

    Args:
        sinusoidal: it starts as the fixed code of moments, not at random.
    """

    def __init__(self, times: int, dim: int, *, trainable: bool = True, sinusoidal: bool = False) -> None:
        super().__init__()
        self.sinusoidal = sinusoidal
        self.table_TC = nn.Parameter(torch.zeros(times, dim), requires_grad=trainable)

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        times, dim = parameter.shape
        if self.sinusoidal:
            code_TC = sinusoidal_time(torch.arange(times, device=parameter.device), dim, 10000.0)
            parameter.copy_(code_TC * (standard_deviation(dim) / amplitude(code_TC)))
        else:
            nn.init.trunc_normal_(parameter, std=standard_deviation(dim), generator=generator)

    def forward(self, positions: Positions) -> Tensor:
        """Float32 (T, C).

        Raises:
            ValueError: the clip has another number of moments.
        """
        check_moments("a learned table of moments", len(self.table_TC), positions)
        return self.table_TC.float()


def moment_centres(moment_L: Tensor, times: int) -> Tensor:
    """Where moments lie in a clip of so many, float32 in [-1, 1], as the centres of cells do in a picture."""
    return (2 * moment_L.float() + 1) / times - 1


@dataclass(frozen=True)
class MomentPairs:
    """The terms of all distances in time, and of which moment each query and key is."""

    term_NHt: Tensor
    # one-hot, (L, T)
    query_QT: Tensor
    key_KT: Tensor
    moment_T: Tensor

    def at(self, layer: int) -> "MomentPairs":
        """With the term of this layer alone, where each has its own."""
        place = own(layer, len(self.term_NHt))
        return replace(self, term_NHt=self.term_NHt[place : place + 1])

    def scores(self, layer: int) -> Tensor:
        """(H, Lq, Lk)."""
        term_Ht = self.term_NHt[own(layer, len(self.term_NHt))].float()
        apart_TT = self.moment_T[:, None] - self.moment_T + len(self.moment_T) - 1
        return by_levels(term_Ht[:, apart_TT], self.query_QT, self.key_KT)


class MomentTerm(nn.Module):
    """`term[head, dt + T - 1]`, added to scores: 2 T - 1 numbers a head, normal with deviation 0.02 at first.

    dt is the query's moment minus the key's, so that before and after are told apart.

    Args:
        terms: 1, or as many as there are layers where each has its own.
    """

    def __init__(self, times: int, num_heads: int, terms: int) -> None:
        super().__init__()
        self.times = times
        self.term_NHt = nn.Parameter(torch.zeros(terms, num_heads, 2 * times - 1))

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        nn.init.trunc_normal_(parameter, std=0.02, generator=generator)

    def pairs(self, query: Positions, key: Positions) -> "MomentPairs | None":
        """What scores need to know of queries and keys; None where their moments are not told.

        Raises:
            ValueError: the clip has another number of moments.
        """
        if query.time_L is None or key.time_L is None:
            return None
        check_moments("a term of moments apart", self.times, query)
        moment_T = torch.arange(self.times, device=self.term_NHt.device)
        query_QT, key_KT = one_hot(query.time_L, self.times), one_hot(key.time_L, self.times)
        return MomentPairs(self.term_NHt, query_QT, key_KT, moment_T)


def check_moments(what: str, times: int, positions: Positions) -> None:
    """Refuses a clip of another length than parameters were made for.

    Raises:
        ValueError: it is.
    """
    if positions.times != times:
        raise ValueError(f"{what} was made for {times} moments, got a clip of {positions.times}")
