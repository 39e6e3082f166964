"""What a generator loses, level by level, when the positions of one level are changed: what it relies on.

Of the code that its encoding adds to the tokens, the rows of one level are replaced; everything else stays.
The level's mean stays, too, which tells no places apart and acts like a level embedding.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from var_pe.diagnosis.measures import about_mean
from var_pe.encodings.base import ModelShape, TokenEncoding
from var_pe.encodings.machinery.compose import Composed
from var_pe.encodings.machinery.share import sinusoid, span_of
from var_pe.models.generator import VARTransformer
from var_pe.models.tokenizer import VQTokenizer
from var_pe.pyramid import Grid, Positions, Pyramid
from var_pe.resampling.conventions import interpolate_table
from var_pe.sampling.likelihood import bits_per_level
from var_pe.tasks.generator import known_labels

RANKS = (1, 2, 4, 8)
NO_PLACES = "no places"
SINUSOID = "sinusoid alone"
REST = "without the sinusoid"
RANDOM = "as many random functions"

# The rows of a level, and what stands in their place; None where that is the same or does not exist
Change = Callable[["LevelTable"], Tensor | None]


@dataclass(frozen=True)
class LevelTable:
    """The code of one level."""

    grid: Grid
    # about their mean over the level
    rows_lC: Tensor
    # those of the level before, about theirs; None for the first level
    before_lC: Tensor | None
    grid_before: Grid | None
    # the sinusoid at the level's places
    sinusoid_lC: Tensor

    @property
    def map_hwC(self) -> Tensor:
        return self.rows_lC.unflatten(0, self.grid)


def shifted(table: LevelTable) -> Tensor | None:
    """By one cell down and to the right; what leaves the grid comes in on the other side."""
    return _rolled(table, 1, 1)


def exchanged(table: LevelTable) -> Tensor | None:
    """Quarters crosswise: moved by half of each side."""
    return _rolled(table, table.grid[0] // 2, table.grid[1] // 2)


def _rolled(table: LevelTable, rows: int, columns: int) -> Tensor | None:
    if len(table.rows_lC) == 1:
        return None
    return table.map_hwC.roll((rows, columns), dims=(0, 1)).flatten(0, 1)


def of_level_before(table: LevelTable) -> Tensor | None:
    """The table of the level before, resampled to this one's grid."""
    if table.before_lC is None or table.grid_before is None or len(table.before_lC) == 1:
        return None
    return about_mean(interpolate_table(table.before_lC, table.grid_before, table.grid, "flexivit"))


def of_rank(rank: int, table: LevelTable) -> Tensor | None:
    """The best approximation of so many directions."""
    if rank >= min(len(table.rows_lC) - 1, table.rows_lC.shape[1]):
        return None
    left_lR, sizes_R, right_RC = torch.linalg.svd(table.rows_lC.double(), full_matrices=False)
    return ((left_lR[:, :rank] * sizes_R[:rank]) @ right_RC[:rank]).to(table.rows_lC.dtype)


def in_sinusoid(table: LevelTable) -> Tensor | None:
    """The part of the table in the span of the sinusoid on this level."""
    if len(table.rows_lC) == 1:
        return None
    basis_lR = span_of(table.sinusoid_lC)
    return (basis_lR @ (basis_lR.T @ table.rows_lC.double())).to(table.rows_lC.dtype)


def outside_sinusoid(table: LevelTable) -> Tensor | None:
    """The part of the table outside the span of the sinusoid on this level."""
    inside_lC = in_sinusoid(table)
    return None if inside_lC is None else table.rows_lC - inside_lC


def in_random_span(table: LevelTable) -> Tensor | None:
    """The table's part in the span of as many random functions of the place as the sinusoid has."""
    if len(table.rows_lC) == 1:
        return None
    number = span_of(table.sinusoid_lC).shape[1]
    drawn_lR = torch.randn(
        len(table.rows_lC), number, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    basis_lR = torch.linalg.qr(drawn_lR - drawn_lR.mean(0))[0].to(table.rows_lC.device)
    return (basis_lR @ (basis_lR.T @ table.rows_lC.double())).to(table.rows_lC.dtype)


def without_places(table: LevelTable) -> Tensor | None:
    """Every place gets the level's mean."""
    return None if len(table.rows_lC) == 1 else torch.zeros_like(table.rows_lC)


def changes() -> Mapping[str, Change]:
    """All interventions by their names."""

    def rank(number: int) -> Change:
        return lambda table: of_rank(number, table)

    return {
        NO_PLACES: without_places,
        "shifted by a cell": shifted,
        "quarters exchanged": exchanged,
        "table of the level before": of_level_before,
        SINUSOID: in_sinusoid,
        REST: outside_sinusoid,
        RANDOM: in_random_span,
        **{f"rank {number}": rank(number) for number in RANKS},
    }


# ------------------------------------------------------------------------------------------ in the model


class Added(TokenEncoding):
    """A fixed code on top of what an encoding adds."""

    def __init__(self, model: VARTransformer, code_LC: Tensor) -> None:
        depth = len(model.blocks)
        super().__init__(ModelShape(code_LC.shape[1], model.num_heads, depth, model.pyramid))
        self.fixed_LC = code_LC

    def code_LC(self, positions: Positions) -> Tensor:
        spans = Pyramid(positions.grids).spans
        return self.fixed_LC[spans[positions.levels.start].start : spans[positions.levels.stop - 1].stop]


@contextmanager
def added(model: VARTransformer, code_LC: Tensor) -> Iterator[None]:
    """In the `with` block the model's tokens get this code, too."""
    own = model.position_encoding
    model.position_encoding = Composed([own, Added(model, code_LC)])
    try:
        yield
    finally:
        model.position_encoding = own


def code_of(model: VARTransformer) -> Tensor:
    """What the encoding adds to every token, (L, C).

    Raises:
        ValueError: it adds nothing, or something that depends on the token.
    """
    encoding, line = model.position_encoding, model.config["encoding"]
    if not encoding.uses("embed"):
        raise ValueError(
            f"interventions change the table of a level, but encoding {line} adds nothing to tokens; "
            f"learned, sinusoidal and mixed do"
        )

    device, length = model.device, model.pyramid.num_tokens
    context = encoding.prepare(model.pyramid.positions(device))
    zeros_1LC = torch.zeros(1, length, int(model.config["dim"]), device=device)
    noise_1LC = torch.randn(zeros_1LC.shape, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad():
        code_LC = encoding.embed(zeros_1LC, context)[0]
        of_noise_LC = (encoding.embed(noise_1LC, context) - noise_1LC)[0]
    if not torch.allclose(of_noise_LC, code_LC, atol=1e-4):
        raise ValueError(
            f"interventions change the table of a level, but what encoding {line} adds to a token depends on "
            f"the token"
        )
    return code_LC


def tables_of(code_LC: Tensor, pyramid: Pyramid) -> list[LevelTable]:
    """The code, level by level."""
    sinusoid_LC = torch.zeros_like(code_LC)
    if code_LC.shape[1] % 4 == 0:
        sinusoid_LC = sinusoid(pyramid.positions(code_LC.device), code_LC.shape[1])
    tables: list[LevelTable] = []
    for grid, span in zip(pyramid.grids, pyramid.spans, strict=True):
        rows_lC = code_LC[span] - code_LC[span].mean(0)
        last = tables[-1] if tables else None
        tables.append(
            LevelTable(
                grid,
                rows_lC,
                None if last is None else last.rows_lC,
                None if last is None else last.grid,
                sinusoid_LC[span],
            )
        )
    return tables


# ------------------------------------------------------------------------------------------ measured


@dataclass(frozen=True)
class Effect:
    """What a change of one level's table does to the nats of every level, on average over images."""

    name: str
    level: int
    # of the change over that of the table, both about their means
    size: float
    # nats an image, by level; and their standard errors, paired over images
    change: list[float]
    error: list[float]


@dataclass(frozen=True)
class Interventions:
    """A generator's positions, changed level by level."""

    encoding: str
    grids: list[Grid]
    # of the unchanged model, nats an image by level
    nats: list[float]
    effects: list[Effect]
    images: int
    # dimensions of the sinusoid's span on each level, of so many that the level's table can have
    dimensions: list[tuple[int, int]]


@torch.no_grad()
def intervene(
    model: VARTransformer,
    tokenizer: VQTokenizer,
    tokens_NL: Tensor,
    labels_N: Tensor,
    *,
    batch: int = 100,
    on_progress: Callable[[int], object] = lambda number: None,
) -> Interventions:
    """Every change of every level, over the same images; -1 is the label of an image without a class.

    `on_progress(n)` is called after n more images under one change.

    Raises:
        ValueError: the encoding adds no table to tokens.
    """
    pyramid = model.pyramid
    device = model.device
    code_LC = code_of(model)
    tables = tables_of(code_LC, pyramid)
    labels_N = known_labels(labels_N, model.num_classes)

    def nats_NK() -> Tensor:
        parts = []
        for tokens_BL, labels_B in zip(tokens_NL.split(batch), labels_N.split(batch), strict=True):
            bits_B1K = bits_per_level(model, tokenizer, tokens_BL.to(device), labels_B[:, None].to(device))
            parts.append(bits_B1K[:, 0].double().cpu() * math.log(2))
            on_progress(len(tokens_BL))
        return torch.cat(parts)

    before_NK = nats_NK()
    effects = []
    for name, level, rows_lC in planned(tables):
        difference_LC = torch.zeros_like(code_LC)
        difference_LC[pyramid.spans[level]] = rows_lC - tables[level].rows_lC
        with added(model, difference_LC):
            change_NK = nats_NK() - before_NK
        size = float(difference_LC.norm() / tables[level].rows_lC.norm().clamp(min=1e-12))
        error_K = change_NK.std(0, correction=min(1, len(change_NK) - 1)) / len(change_NK) ** 0.5
        effects.append(Effect(name, level, size, change_NK.mean(0).tolist(), error_K.tolist()))

    dimensions = [
        (0 if len(table.rows_lC) == 1 else span_of(table.sinusoid_lC).shape[1], len(table.rows_lC) - 1)
        for table in tables
    ]
    return Interventions(
        str(model.config["encoding"]),
        list(pyramid.grids),
        before_NK.mean(0).tolist(),
        effects,
        len(tokens_NL),
        dimensions,
    )


def planned(tables: Sequence[LevelTable]) -> Iterator[tuple[str, int, Tensor]]:
    """Every change of every level that changes it: its name, the level, the rows in place of the old ones."""
    for name, change in changes().items():
        for level, table in enumerate(tables):
            rows_lC = change(table)
            if rows_lC is not None:
                yield name, level, rows_lC


def number_of_passes(model: VARTransformer) -> int:
    """How often `intervene` looks at every image."""
    return 1 + len(list(planned(tables_of(code_of(model), model.pyramid))))
