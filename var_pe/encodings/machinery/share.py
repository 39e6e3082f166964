"""How much of a table of positions a fixed code explains."""

import torch
from torch import Tensor

from var_pe.encodings.base import PositionEncoding, TokenEncoding
from var_pe.encodings.machinery.codes import sinusoidal_code
from var_pe.encodings.machinery.coordinates import in_finest_cells
from var_pe.pyramid import Positions, Pyramid

# Directions of the code that are smaller than this share of its largest one count as none.
SMALLEST = 1e-3
TEMPERATURE = 10000.0  # of the sinusoid


def share_in_span(table_LC: Tensor, code_LC: Tensor) -> float:
    """The share of a table's square, about its mean over positions, that lies in the span of a code.

    The span is that of the code's channels as functions of the position: what any linear map of the code
    can be. A random table has a share of about the span's dimension over L - 1.
    """
    about_mean_LC = (table_LC - table_LC.mean(0)).double()
    whole = about_mean_LC.square().sum()
    return float((span_of(code_LC).T @ about_mean_LC).square().sum() / whole) if whole > 0 else 0.0


def span_of(code_LC: Tensor) -> Tensor:
    """An orthonormal basis (L, R) of a code's channels about their means, as functions of the position."""
    about_mean_LC = (code_LC - code_LC.mean(0)).double()
    left_LR, sizes_R, _ = torch.linalg.svd(about_mean_LC, full_matrices=False)
    return left_LR[:, sizes_R > SMALLEST * sizes_R[0]]


def span_dimensions(pyramid: Pyramid, dim: int) -> int:
    """The dimension of the sinusoid's span on a pyramid."""
    return span_of(sinusoid(pyramid.positions(), dim)).shape[1]


def sinusoid(positions: Positions, dim: int) -> Tensor:
    """The sinusoid that tables are held against, float32 (L, dim)."""
    return sinusoidal_code(in_finest_cells(positions), dim, TEMPERATURE)


@torch.no_grad()
def share_in_sinusoid(encoding: PositionEncoding, pyramid: Pyramid, dim: int) -> float | None:
    """The share of the code that an encoding adds to tokens that lies in the span of the sinusoid.

    None for encodings that add no code that depends on the position alone, or have nothing to learn.
    """
    if not isinstance(encoding, TokenEncoding) or dim % 4:
        return None
    parameters = list(encoding.parameters())
    if not parameters:
        return None

    positions = pyramid.positions().to(parameters[0].device)
    table_LC = encoding.prepare(positions)
    if table_LC.dim() != 2:
        return None  # a gated mixture
    return share_in_span(table_LC.float(), sinusoid(positions, dim))
