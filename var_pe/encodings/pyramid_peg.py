"""Conditional encoding with kernels of several sizes side by side."""

from var_pe.encodings.base import ModelShape, register
from var_pe.encodings.machinery.convolution import ConvolutionEncoding


@register("pyramid_peg")
class PyramidPEG(ConvolutionEncoding):
    """`x + sum over kernels of convolution(x)`: `peg` with surroundings of several sizes at once.

    What articles call PyramidPE, with the identity and the padding that they leave out.

    Cost: the sum of k^2 C weights and one convolution per kernel and level for each chosen block; attention
    is left as it is.

    Args:
        kernels: sides of the kernels in tokens, each once; even ones reach one token farther right and down.
        after: blocks after which it acts, counted from 0.
        init: `random` or `zero`.
    Raises:
        ValueError: as in `peg`, or a side is not a whole number from 1 to 255 or is named twice.
    """

    def __init__(
        self,
        shape: ModelShape,
        *,
        kernels: int | tuple[int, ...] = (3, 4, 5),
        after: int | tuple[int, ...] = 0,
        init: str = "random",
    ) -> None:
        sides = kernels if isinstance(kernels, tuple) else (kernels,)
        fit = all(type(side) is int and 1 <= side <= 255 for side in sides)
        if not sides or not fit or len(set(sides)) < len(sides):
            raise ValueError(f"pyramid_peg: kernels are sides from 1 to 255, each once, got {kernels}")
        super().__init__(shape, kernels=sides, after=after, init=init)
