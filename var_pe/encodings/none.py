"""No position at all: attention sees a bag of tokens. The control that every comparison needs."""

from var_pe.encodings.base import ModelShape, PositionEncoding, register
from var_pe.pyramid import Positions


@register("none", has_time=True)
class NoEncoding(PositionEncoding[Positions]):
    """Leaves every hook as it is."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
