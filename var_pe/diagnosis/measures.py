"""Numbers about an encoding, asked through its hooks: codes, similarities, wavelengths, biases, shares."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import pi
from typing import cast

import torch
from torch import Tensor, nn

from var_pe.encodings import REGISTRY, PositionEncoding, TokenEncoding
from var_pe.pyramid import Grid, Pyramid

PLACES = set("Lhwyx")  # the legend's letters that count places: a parameter with one of them is a table


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

    Read off the angle between neighbours, so at least 2; a channel that does not turn along an axis gets inf,
    and so do all along a side of one cell, where nothing can be seen to turn.
    """
    rows, columns = asked.pyramid.finest
    if not asked.encoding.uses("rotate") or rows * columns < 2:
        return None
    first, width = asked.pyramid.spans[-1].start, asked.dim // asked.num_heads
    # the corner, below it, beside it: itself where there is no such cell
    cells = [first, first + columns * (rows > 1), first + (columns > 1)]
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
    cell_hw = torch.arange(rows * columns).reshape(rows, columns)
    here_M = torch.cat([cell_hw[:-1].flatten(), cell_hw[:, :-1].flatten()])
    there_M = torch.cat([cell_hw[1:].flatten(), cell_hw[:, 1:].flatten()])
    return float(similarity_LL[span, span][here_M, there_M].mean())


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
    parts = cast(list[TokenEncoding], list(cast(nn.ModuleList, encoding.parts)))
    found = []
    for name, part in zip(told_apart(parts), parts, strict=True):
        part_LC = about_mean(part.code_LC(positions))
        norms = whole_LC.norm() * part_LC.norm()
        along = float(((whole_LC * part_LC).sum() / norms.clamp(min=1e-30)) ** 2)
        found.append(Share(name, along))
    return found


def axes(name: str) -> str:
    """The letters that end a parameter's name, one an axis; none where it says nothing of its axes."""
    _, underscore, letters = name.rpartition(".")[2].rpartition("_")
    return letters if underscore else ""


def follows_places(name: str) -> bool:
    """Whether the parameter of this name is a table, with entries for places."""
    return bool(PLACES & set(axes(name)))


def name_of(encoding: PositionEncoding) -> str:
    """As a config line calls it."""
    return next(name for name, member in REGISTRY.items() if member is type(encoding))


def told_apart(parts: Sequence[PositionEncoding]) -> list[str]:
    """The names of parts, numbered where one is there more than once."""
    names = [name_of(part) for part in parts]
    several, so_far = Counter(names), Counter[str]()
    for index, name in enumerate(names):
        so_far[name] += 1
        names[index] = f"{name} {so_far[name]}" if several[name] > 1 else name
    return names


def about_mean(code_LC: Tensor) -> Tensor:
    """Most of a code's norm may not depend on the place; a single position keeps its code."""
    return code_LC - code_LC.mean(0) if len(code_LC) > 1 else code_LC


def mixtures(encoding: PositionEncoding) -> list[TokenEncoding]:
    return [one for one in encoding.modules() if isinstance(one, TokenEncoding) and hasattr(one, "parts")]
