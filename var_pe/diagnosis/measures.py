"""Numbers about an encoding, asked through its hooks: codes, similarities, wavelengths, biases, shares."""

from copy import deepcopy
from dataclasses import dataclass
from math import pi
from typing import cast

import torch
from torch import Tensor, nn

from var_pe.encodings import PositionEncoding, TokenEncoding
from var_pe.pyramid import Grid, Pyramid


@dataclass(frozen=True)
class Asked:
    """An encoding, the grids it is asked about, and the widths of the model it belongs to."""

    encoding: PositionEncoding
    pyramid: Pyramid
    dim: int
    num_heads: int

    @property
    def context(self) -> object:
        return self.encoding.prepare(self.pyramid.positions())


@torch.no_grad()
def code(asked: Asked) -> Tensor | None:
    """What is added to a token of zeros, float32 (L, C); None if nothing is added to tokens."""
    if not asked.encoding.uses("embed"):
        return None
    zeros_1LC = torch.zeros(1, asked.pyramid.num_tokens, asked.dim)
    return asked.encoding.embed(zeros_1LC, asked.context)[0]


def cosine(code_LC: Tensor) -> Tensor:
    """(L, L), of every position to every other; a position without a code is like none."""
    unit_LC = nn.functional.normalize(code_LC.float(), dim=1)
    return unit_LC @ unit_LC.T


@torch.no_grad()
def turned(asked: Asked) -> Tensor | None:
    """(L, L): the inner product of one vector turned for two places, mean over heads of the first layer."""
    if not asked.encoding.uses("rotate"):
        return None
    width = asked.dim // asked.num_heads
    ones_1HLD = torch.ones(1, asked.num_heads, asked.pyramid.num_tokens, width) * width**-0.5
    x_HLD = asked.encoding.rotate(ones_1HLD, asked.context, 0)[0]
    return (x_HLD @ x_HLD.transpose(1, 2)).mean(0)


def similarity(asked: Asked) -> Tensor | None:
    """How alike places are, (L, L): by what is added to tokens, else by how queries and keys are turned."""
    code_LC = code(asked)
    return turned(asked) if code_LC is None else cosine(code_LC)


@torch.no_grad()
def wavelengths(asked: Asked) -> Tensor | None:
    """Cells of the finest level in which each channel of each head turns once, (2, H * D), along y and x.

    Read off the angle between neighbours, so at least 2; a channel that does not turn along an axis gets inf.
    """
    rows, columns = asked.pyramid.finest
    if not asked.encoding.uses("rotate") or min(rows, columns) < 2:
        return None
    first, width = asked.pyramid.spans[-1].start, asked.dim // asked.num_heads
    cells = [first, first + columns, first + 1]  # the corner, below it, beside it
    context, found = asked.context, []
    for channel in range(width):
        x_1HLD = torch.zeros(1, asked.num_heads, asked.pyramid.num_tokens, width)
        x_1HLD[..., channel] = 1.0
        here_HD, below_HD, beside_HD = asked.encoding.rotate(x_1HLD, context, 0)[0, :, cells].unbind(1)
        chords = [(there_HD - here_HD).norm(dim=1) for there_HD in (below_HD, beside_HD)]
        found.append(2 * torch.asin((torch.stack(chords) / 2).clamp(max=1.0)))
    angle_2HD = torch.stack(found, dim=2)
    return torch.where(angle_2HD > 1e-5, 2 * pi / angle_2HD, float("inf")).flatten(1)


@torch.no_grad()
def bias(asked: Asked) -> Tensor | None:
    """What the first layer's scores get, (H, L, L); None without a bias."""
    context = asked.context
    return asked.encoding.bias(context, context, 0) if asked.encoding.uses("bias") else None


def neighbours(similarity_LL: Tensor, pyramid: Pyramid) -> float | None:
    """The mean similarity of cells of the finest level that lie side by side."""
    (rows, columns), span = pyramid.finest, pyramid.spans[-1]
    if rows * columns < 2:
        return None
    grid_hwhw = similarity_LL[span, span].reshape(rows, columns, rows, columns)
    down = torch.stack([grid_hwhw[y, x, y + 1, x] for y in range(rows - 1) for x in range(columns)] or [])
    over = torch.stack([grid_hwhw[y, x, y, x + 1] for y in range(rows) for x in range(columns - 1)] or [])
    return float(torch.cat([down, over]).mean())


def centre(grid: Grid) -> int:
    """The middle cell of a grid, counted row by row."""
    return grid[0] // 2 * grid[1] + grid[1] // 2


@dataclass(frozen=True)
class Share:
    """One part of a mixture: `along` is the part of the whole's squared norm that lies along this part."""

    part: str
    along: float


@torch.no_grad()
def shares(encoding: TokenEncoding, pyramid: Pyramid) -> list[Share]:
    """The whole projected on the direction of each part, both about their means over positions.

    Directions of parts need not be at right angles, so shares need not add up to 1.
    """
    positions = pyramid.positions()
    whole_LC = about_mean(encoding.code_LC(positions))
    found = []
    for part in cast(list[TokenEncoding], list(cast(nn.ModuleList, encoding.parts))):
        part_LC = about_mean(part.code_LC(positions))
        norms = whole_LC.norm() * part_LC.norm()
        along = float(((whole_LC * part_LC).sum() / norms.clamp(min=1e-30)) ** 2)
        found.append(Share(type(part).__name__.lower(), along))
    return found


def about_mean(code_LC: Tensor) -> Tensor:
    """Most of a code's norm may not depend on the place; a single position keeps its code."""
    return code_LC - code_LC.mean(0) if len(code_LC) > 1 else code_LC


def mixtures(encoding: PositionEncoding) -> list[TokenEncoding]:
    return [one for one in encoding.modules() if isinstance(one, TokenEncoding) and hasattr(one, "parts")]


def moved(asked: Asked, pyramid: Pyramid, convention: str) -> Asked:
    """The same encoding at other grids, what has a table resampled.

    Raises:
        ValueError: it cannot follow.
    """
    encoding = deepcopy(asked.encoding)
    encoding.set_pyramid(pyramid, convention)
    there = Asked(encoding, pyramid, asked.dim, asked.num_heads)
    for look in (code, turned, bias):  # a member may refuse in any of its hooks
        look(there)
    return there


def round_trip(asked: Asked, there: Asked, convention: str) -> float | None:
    """The relative change of what is added to tokens after a resampling there and back."""
    before_LC = code(asked)
    if before_LC is None or not before_LC.norm():
        return None
    after_LC = code(moved(there, asked.pyramid, convention))
    assert after_LC is not None, "an encoding keeps its hooks where it moves"
    return float((after_LC - before_LC).norm() / before_LC.norm())
