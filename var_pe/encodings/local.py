"""Local attention: within its level a token sees its surroundings only. Nothing is learned."""

import torch
from torch import Tensor

from var_pe.encodings.base import register
from var_pe.encodings.scores import ScoreEncoding
from var_pe.pyramid import Positions, Pyramid


@register("local")
class Local(ScoreEncoding):
    """`score += 0` within `radius` cells of the token and to all other levels, -infinity elsewhere.

    Sparse attention by position (as the neighbourhoods of Image Transformer, Parmar et al. 2018), with a
    round neighbourhood: the distance is Euclidean, between centres, in cells of the tokens' own level. Other
    levels are fully visible as far as the model shows them, and so are prefix tokens; a token always sees
    itself, so no row is empty. It tells of places through the border alone, so it is usually joined with
    another encoding: `sinusoidal + local(radius=2)`. Follows any pyramid.

    Cost: a bias loses the flash kernel, and hidden scores are computed all the same: nothing is saved.

    Args:
        radius: cells, at least 1 (the four next ones); 1.5 adds the diagonal ones.
    Raises:
        ValueError: the radius is below 1.
    """

    def __init__(
        self, *, dim: int, num_heads: int, depth: int, pyramid: Pyramid, radius: float = 3.0
    ) -> None:
        super().__init__()
        if not radius >= 1:
            raise ValueError(f"local: radius must be at least 1 cell, got {radius}")
        self.radius = radius

    def where(self, query: Positions, key: Positions) -> Tensor:
        """True (Lq, Lk) where a key of the query's own level is too far."""
        distance2_QK = (query.cell_L2[:, None] - key.cell_L2).square().sum(-1)
        return (query.level_L[:, None] == key.level_L) & (distance2_QK > self.radius**2)

    def scores(self, where: Tensor, layer: int) -> Tensor:
        return torch.zeros(where.shape, device=where.device).masked_fill(where, float("-inf"))[None]
