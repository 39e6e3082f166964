"""How much of a table of positions a fixed code explains."""

import torch
from torch import Tensor

from var_pe.encodings.base import PositionEncoding, TokenEncoding
from var_pe.encodings.machinery.codes import sinusoidal_code
from var_pe.encodings.machinery.coordinates import in_finest_cells
from var_pe.pyramid import Pyramid

# Directions of the code that are smaller than this share of its largest one count as none.
SMALLEST = 1e-3
TEMPERATURE = 10000.0  # of the sinusoid


def share_in_span(table_LC: Tensor, code_LC: Tensor) -> float:
    """The share of a table's square, about its mean over positions, that lies in the span of a code.

    The span is that of the code's channels as functions of the position: what any linear map of the code
    can be. A random table has a share of about the span's dimension over L - 1.
    """
    about_mean = [(each_LC - each_LC.mean(0)).double() for each_LC in (table_LC, code_LC)]
    left_LR, sizes_R, _ = torch.linalg.svd(about_mean[1], full_matrices=False)
    basis_LR = left_LR[:, sizes_R > SMALLEST * sizes_R[0]]
    whole = about_mean[0].square().sum()
    return float((basis_LR.T @ about_mean[0]).square().sum() / whole) if whole > 0 else 0.0


def span_dimensions(pyramid: Pyramid, dim: int) -> int:
    """The dimension of the sinusoid's span on a pyramid."""
    code_LC = sinusoidal_code(in_finest_cells(pyramid.positions()), dim, TEMPERATURE)
    sizes_R = torch.linalg.svdvals((code_LC - code_LC.mean(0)).double())
    return int((sizes_R > SMALLEST * sizes_R[0]).sum())


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
    code_LC = sinusoidal_code(in_finest_cells(positions), dim, TEMPERATURE)
    return share_in_span(table_LC.float(), code_LC)
