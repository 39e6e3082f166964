"""Conditional encoding: a convolution between blocks tells tokens of their neighbours and of the border."""

from var_pe.encodings.base import ModelShape, register
from var_pe.encodings.machinery.convolution import ConvolutionEncoding


@register("peg")
class PEG(ConvolutionEncoding):
    """`x + convolution(x)`, 3 x 3, depthwise, zero-padded, after chosen blocks.

    Chu et al. 2021 (Conditional Positional Encodings for Vision Transformers), with the identity as in
    Twins, and level by level (see `ConvolutionEncoding`).

    Cost: 9 C weights and one convolution per level for each chosen block; attention is left as it is.

    Args:
        after: blocks after which it acts, counted from 0; 0 is the paper's best single choice,
            (0, 1, 2, 3, 4) its best one of several.
        init: `random` or `zero`.
    Raises:
        ValueError: a block does not exist or is named twice, or `init` is not known.
    """

    def __init__(self, shape: ModelShape, *, after: int | tuple[int, ...] = 0, init: str = "random") -> None:
        super().__init__(shape, kernels=(3,), after=after, init=init)
