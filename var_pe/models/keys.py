"""Fewer keys for the queries of a level: a sample drawn once, or those that a learned score prefers."""

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn

from var_pe.encodings.machinery.codes import standard_deviation
from var_pe.seeding import generator_for

By = Literal["score", "sample"]


class KeyChoice(nn.Module):
    """Which of the keys in sight the queries of a level attend to, `most` at most, the same for all of them.

    Since the choice does not depend on the query, the chosen keys and values are gathered, and attention
    computes so many products and no more: no mask hides anything.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def forward(self, k_BHKD: Tensor, v_BHKD: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values that stay, (B, H, min(K, most), D) each."""
        raise NotImplementedError


class SampledKeys(KeyChoice):
    """A random sample without replacement, drawn once for each number of keys in sight from `seed`.

    All heads, layers and images share it. Random keys are one of BigBird's three kinds (Zaheer et al. 2020).
    """

    def __init__(self, most: int, seed: int) -> None:
        super().__init__(most)
        self.seed = seed

    def forward(self, k_BHKD: Tensor, v_BHKD: Tensor) -> tuple[Tensor, Tensor]:
        number = k_BHKD.shape[2]
        if number <= self.most:
            return k_BHKD, v_BHKD
        chosen_M = sample_of(number, self.most, self.seed, k_BHKD.device)
        return k_BHKD.index_select(2, chosen_M), v_BHKD.index_select(2, chosen_M)


class ScoredKeys(KeyChoice):
    """The keys with the highest s = key . w, a learned w for each head; values count 2 sigmoid(s) times.

    This weighing is what trains w, for which key is chosen has no gradient. Keys are scored as they are
    compared, normed and turned, so under a rotary encoding a score may depend on the place; w starts small,
    and the weights near 1.
    """

    def __init__(self, most: int, num_heads: int, width: int) -> None:
        super().__init__(most)
        self.score_HD = nn.Parameter(torch.zeros(num_heads, width))

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        nn.init.trunc_normal_(parameter, std=standard_deviation(parameter.numel()), generator=generator)

    def forward(self, k_BHKD: Tensor, v_BHKD: Tensor) -> tuple[Tensor, Tensor]:
        score_BHK = (k_BHKD * self.score_HD.type_as(k_BHKD)[:, None]).float().sum(-1)
        if k_BHKD.shape[2] > self.most:
            score_BHK, chosen_BHM = score_BHK.topk(self.most, dim=2, sorted=False)
            index_BHMD = chosen_BHM[..., None].expand(-1, -1, -1, k_BHKD.shape[3])
            k_BHKD, v_BHKD = k_BHKD.gather(2, index_BHMD), v_BHKD.gather(2, index_BHMD)
        return k_BHKD, v_BHKD * (2 * score_BHK.sigmoid()[..., None]).type_as(v_BHKD)


def key_choice(most: int | None, by: By, *, num_heads: int, width: int, seed: int) -> KeyChoice | None:
    """The choice of keys of a block's attention; None: it sees all keys. `width` is that of a key in a head.

    Raises:
        ValueError: fewer than one key would be left.
    """
    if most is None:
        return None
    if most < 1:
        raise ValueError(f"a generator's most_keys must be at least 1, got {most}")
    return SampledKeys(most, seed) if by == "sample" else ScoredKeys(most, num_heads, width)


@torch.compiler.assume_constant_result
def sample_of(number: int, most: int, seed: int, device: torch.device) -> Tensor:
    """`sample_on`, which a compiled graph takes as a constant."""
    return sample_on(number, most, seed, device)


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # kept for later calls, which may train
def sample_on(number: int, most: int, seed: int, device: torch.device) -> Tensor:
    """`most` of `number` indices, in order, int64. Kept per device: a copy to another one waits for it."""
    shuffled = torch.randperm(number, generator=generator_for(seed, "keys", number))
    return shuffled[:most].sort().values.to(device)
