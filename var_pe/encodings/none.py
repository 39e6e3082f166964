"""No position at all: attention sees a bag of tokens. The control that every comparison needs."""

from var_pe.encodings.base import PositionEncoding, register
from var_pe.pyramid import Pyramid


@register("none")
class NoEncoding(PositionEncoding):
    def __init__(self, *, dim: int, num_heads: int, depth: int, pyramid: Pyramid) -> None:
        super().__init__()
