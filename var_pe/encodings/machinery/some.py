"""An encoding for some of an image's tokens, which stay at their own places; which ones, differs by image.

Every hook is the encoding's own on all tokens, zeros where one is left out, of which those kept are taken.
"""

from dataclasses import dataclass
from typing import Generic

from torch import Tensor

from var_pe.encodings.base import Context, PositionEncoding


@dataclass(frozen=True)
class Chosen(Generic[Context]):
    """What the encoding's `prepare` made of all tokens, and which of them are kept."""

    context: Context
    # numbers of an image's tokens that are here, int64, among `length`
    kept_Bl: Tensor
    length: int


class OfSome(PositionEncoding[Chosen[Context]]):
    """`encoding` where tokens are left out; `embed` has been called before, with all of them.

    Raises:
        ValueError: the encoding needs a token's neighbours.
    """

    def __init__(self, encoding: PositionEncoding[Context]) -> None:
        super().__init__()
        check_serves_some(encoding)
        self.encoding = encoding

    def remap(
        self, q_BHLD: Tensor, k_BHLD: Tensor, context: Chosen[Context], layer: int
    ) -> tuple[Tensor, Tensor]:
        all_q, all_k = among_all(q_BHLD, context), among_all(k_BHLD, context)
        all_q, all_k = self.encoding.remap(all_q, all_k, context.context, layer)
        return rows_of(all_q, context.kept_Bl), rows_of(all_k, context.kept_Bl)

    def width_of(self, head_dim: int) -> int:
        return self.encoding.width_of(head_dim)

    def rotate(self, x_BHLD: Tensor, context: Chosen[Context], layer: int) -> Tensor:
        turned = self.encoding.rotate(among_all(x_BHLD, context), context.context, layer)
        return rows_of(turned, context.kept_Bl)

    def relate(self, query: Chosen[Context], key: Chosen[Context]) -> None:
        self.encoding.relate(query.context, key.context)

    def bias(self, query: Chosen[Context], key: Chosen[Context], layer: int) -> Tensor | None:
        """(B, H, l, l): other images keep other tokens."""
        bias_HLL = self.encoding.bias(query.context, key.context, layer)
        if bias_HLL is None:
            return None
        kept_Bl = query.kept_Bl
        return bias_HLL[:, kept_Bl[:, :, None], kept_Bl[:, None, :]].transpose(0, 1)

    def products(
        self, q_BHQD: Tensor, k_BHKD: Tensor, query: Chosen[Context], key: Chosen[Context], layer: int
    ) -> Tensor | None:
        all_q, all_k = among_all(q_BHQD, query), among_all(k_BHKD, key)
        products_BHLL = self.encoding.products(all_q, all_k, query.context, key.context, layer)
        if products_BHLL is None:
            return None
        return rows_of(rows_of(products_BHLL, query.kept_Bl).mT, key.kept_Bl).mT

    def values(
        self, weights_BHQK: Tensor, query: Chosen[Context], key: Chosen[Context], layer: int
    ) -> Tensor | None:
        all_BHLL = among_all(among_all(weights_BHQK, query).mT, key).mT
        values_BHLD = self.encoding.values(all_BHLL, query.context, key.context, layer)
        return None if values_BHLD is None else rows_of(values_BHLD, query.kept_Bl)

    def at_layer(self, context: Chosen[Context], layer: int) -> Chosen[Context]:
        own = self.encoding.at_layer(context.context, layer)
        return Chosen(own, context.kept_Bl, context.length)

    def uses(self, hook: str) -> bool:
        return self.encoding.uses(hook)


def check_serves_some(encoding: PositionEncoding[Context]) -> None:
    """Checks that an encoding is the same for a token whether its neighbours are there or not.

    Raises:
        ValueError: it is a convolution over all of them.
    """
    if encoding.uses("refine"):
        raise ValueError(
            "a convolution between blocks (peg, pyramid_peg) has no neighbours to look at where tokens are "
            "left out or are padding"
        )


def rows_of(x_BXLD: Tensor, kept_Bl: Tensor) -> Tensor:
    """The rows of these numbers of each image, (B, ..., l, D)."""
    return x_BXLD.gather(-2, spread(kept_Bl, x_BXLD))


def among_all(x_BHlD: Tensor, context: Chosen[Context]) -> Tensor:
    """The tokens at their numbers among all, zeros elsewhere, (B, H, L, D)."""
    shape = (*x_BHlD.shape[:-2], context.length, x_BHlD.shape[-1])
    return x_BHlD.new_zeros(shape).scatter(-2, spread(context.kept_Bl, x_BHlD), x_BHlD)


def spread(kept_Bl: Tensor, like: Tensor) -> Tensor:
    """The numbers in the shape that `gather` and `scatter` take, for the last axis but one of `like`."""
    shape = (len(kept_Bl), *[1] * (like.dim() - 3), kept_Bl.shape[1], 1)
    return kept_Bl.reshape(shape).expand(*like.shape[:-2], kept_Bl.shape[1], like.shape[-1])
