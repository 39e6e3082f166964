"""Linear biases in two dimensions: the farther a token, the lower its score. Nothing is learned."""

import torch
from torch import Tensor

from var_pe.encodings.base import register
from var_pe.encodings.scores import ScoreEncoding
from var_pe.pyramid import Pyramid


@register("alibi")
class ALiBi(ScoreEncoding):
    """`score -= slope_head * distance`, slope_head = 2^(-8 head / H), head = 1 .. H.

    ALiBi (Press et al. 2022) with the Euclidean distance between centres in cells of the finest level, as in
    CROMA (Fuller et al. 2023); within and across levels alike, so that a coarse token is as far as its
    middle. In (-infinity, 0], 0 for a token itself; symmetric, so it tells no left from right. The original
    takes these slopes for H a power of two; we take them for any H. Follows any pyramid; a finer grid has
    larger distances. There is no term for pairs of levels.

    Cost: a bias loses the flash kernel; the distances are computed once a forward.
    """

    def __init__(self, *, dim: int, num_heads: int, depth: int, pyramid: Pyramid) -> None:
        super().__init__()
        self.num_heads = num_heads

    def scores(self, where: Tensor, layer: int) -> Tensor:
        head_H = torch.arange(1, self.num_heads + 1, device=where.device)
        slope_H = 2.0 ** (-8 * head_H / self.num_heads)
        return -slope_H[:, None, None] * where.norm(dim=-1)
