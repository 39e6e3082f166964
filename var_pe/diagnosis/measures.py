"""Numbers about an encoding, measured through its hooks: codes, similarities, wavelengths, biases, shares."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import pi
from typing import cast

import torch
from torch import Tensor, nn

from var_pe.encodings import REGISTRY, PositionEncoding, TokenEncoding
from var_pe.encodings.blocks import Blocks, blocks_of
from var_pe.pyramid import Grid, Pyramid

POSITION_AXES = set("Lhwyx")  # the legend's letters that count positions: parameters with one are tables


@dataclass(frozen=True)
class PlacedEncoding:
    """An encoding, the grids it is looked at on, and the widths of the model it belongs to."""

    encoding: PositionEncoding
    pyramid: Pyramid
    dim: int
    num_heads: int

    @property
    def context(self) -> object:
        """What its hooks get beside the tokens."""
        return self.encoding.prepare(self.pyramid.positions())


@torch.no_grad()
def code(placed: PlacedEncoding) -> Tensor | None:
    """What is added to a token of zeros, float32 (L, C); None if nothing is added to tokens."""
    if not placed.encoding.uses("embed"):
        return None
    zeros_1LC = torch.zeros(1, placed.pyramid.num_tokens, placed.dim)
    return placed.encoding.embed(zeros_1LC, placed.context)[0]


def cosine(code_LC: Tensor) -> Tensor:
    """(L, L), of every position to every other; a position without a code is like none."""
    unit_LC = nn.functional.normalize(code_LC.float(), dim=1)
    return unit_LC @ unit_LC.T


@torch.no_grad()
def turned(placed: PlacedEncoding) -> Tensor | None:
    """(L, L): the inner product of one vector turned for two positions, mean over heads (first layer)."""
    if not placed.encoding.uses("rotate"):
        return None
    width = placed.dim // placed.num_heads
    ones_1HLD = torch.ones(1, placed.num_heads, placed.pyramid.num_tokens, width) * width**-0.5
    x_HLD = placed.encoding.rotate(ones_1HLD, placed.context, 0)[0]
    return (x_HLD @ x_HLD.transpose(1, 2)).mean(0)


def similarity(placed: PlacedEncoding) -> Tensor | None:
    """How alike positions are, (L, L): by what tokens get, else by how queries and keys are turned."""
    code_LC = code(placed)
    return turned(placed) if code_LC is None else cosine(code_LC)


@torch.no_grad()
def wavelengths(placed: PlacedEncoding) -> Tensor | None:
    """Cells of the finest level in which each channel of each head turns once, (2, H * D), along y and x.

    Read off the angle between neighbours, so at least 2; a channel that does not turn along an axis gets inf,
    and so do all along a side of one cell, where nothing can be seen to turn.
    """
    rows, columns = placed.pyramid.finest
    if not placed.encoding.uses("rotate") or rows * columns < 2:
        return None

    # The corner of the finest level, and the cells below and beside it: itself where there is none.
    corner = placed.pyramid.spans[-1].start
    below = corner + columns if rows > 1 else corner
    beside = corner + 1 if columns > 1 else corner

    # A channel of ones alone is turned by the angle that its chord between two cells spans.
    context = placed.context
    width = placed.dim // placed.num_heads
    angles = []
    for channel in range(width):
        x_1HLD = torch.zeros(1, placed.num_heads, placed.pyramid.num_tokens, width)
        x_1HLD[..., channel] = 1.0
        turned_HLD = placed.encoding.rotate(x_1HLD, context, 0)[0]
        chords = [(turned_HLD[:, cell] - turned_HLD[:, corner]).norm(dim=1) for cell in (below, beside)]
        angles.append(2 * torch.asin((torch.stack(chords) / 2).clamp(max=1.0)))

    angle_2HD = torch.stack(angles, dim=2)
    return torch.where(angle_2HD > 1e-5, 2 * pi / angle_2HD, float("inf")).flatten(1)


@torch.no_grad()
def bias(placed: PlacedEncoding) -> Tensor | None:
    """What the first layer's scores get, (H, L, L); None without a bias."""
    context = placed.context
    return placed.encoding.bias(context, context, 0) if placed.encoding.uses("bias") else None


def neighbours(similarity_LL: Tensor, pyramid: Pyramid) -> float | None:
    """The mean similarity of cells of the finest level that lie side by side."""
    rows, columns = pyramid.finest
    if rows * columns < 2:
        return None

    # Every cell but the last row's with the one below, every cell but the last column's with the one beside.
    cell_hw = torch.arange(rows * columns).reshape(rows, columns)
    here_M = torch.cat([cell_hw[:-1].flatten(), cell_hw[:, :-1].flatten()])
    there_M = torch.cat([cell_hw[1:].flatten(), cell_hw[:, 1:].flatten()])

    span = pyramid.spans[-1]
    return float(similarity_LL[span, span][here_M, there_M].mean())


def asked_grids(whole: nn.Module, name: str, pyramid: Pyramid) -> Pyramid | None:
    """The grids that the member called `name` in `whole`, which is asked for `pyramid`, is itself asked for.

    Those of the blocks for a part of `blocks`; None for its other part, which is the same at every size.
    """
    words = name.split(".")
    for number, word in enumerate(words):
        module = whole.get_submodule(".".join(words[:number]))
        if isinstance(module, Blocks):
            if word == "inside":
                return None
            pyramid = blocks_of(pyramid, module.size)
    return pyramid


def centre(grid: Grid) -> int:
    """The middle cell of a grid, counted row by row."""
    return grid[0] // 2 * grid[1] + grid[1] // 2


@dataclass(frozen=True)
class Share:
    """What one part of a mixture has in the whole."""

    part: str
    # of the whole's squared norm, what lies along this part
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
    for name, part in zip(numbered_names(parts), parts, strict=True):
        part_LC = about_mean(part.code_LC(positions))
        norms = whole_LC.norm() * part_LC.norm()
        along = float(((whole_LC * part_LC).sum() / norms.clamp(min=1e-30)) ** 2)
        found.append(Share(name, along))
    return found


def axes(name: str) -> str:
    """The letters that end a parameter's name, one an axis; none where it says nothing of its axes."""
    _, underscore, letters = name.rpartition(".")[2].rpartition("_")
    return letters if underscore else ""


def has_position_axis(name: str) -> bool:
    """Whether the parameter of this name is a table, with entries for positions."""
    return bool(POSITION_AXES & set(axes(name)))


def name_of(encoding: PositionEncoding) -> str:
    """An encoding's name, as a config's line has it."""
    return next(name for name, member in REGISTRY.items() if member is type(encoding))


def numbered_names(parts: Sequence[PositionEncoding]) -> list[str]:
    """The names of parts, numbered where one is there more than once."""
    names = [name_of(part) for part in parts]
    total = Counter(names)

    so_far = Counter[str]()
    numbered = []
    for name in names:
        so_far[name] += 1
        numbered.append(f"{name} {so_far[name]}" if total[name] > 1 else name)
    return numbered


def about_mean(code_LC: Tensor) -> Tensor:
    """The code without what all positions share, most of its norm perhaps; a single one keeps its code."""
    return code_LC - code_LC.mean(0) if len(code_LC) > 1 else code_LC


def mixtures(encoding: PositionEncoding) -> list[TokenEncoding]:
    """The weighted sums among an encoding's members, whose parts are token encodings."""
    return [one for one in encoding.modules() if isinstance(one, TokenEncoding) and hasattr(one, "parts")]
