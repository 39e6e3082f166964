"""Places by blocks: which row of which table a cell gets, and what moves to another size."""

import pytest
import torch

from var_pe.encodings import build_encoding
from var_pe.encodings.blocks import Blocks, blocks_of
from var_pe.models.initialisation import initialise
from var_pe.pyramid import Pyramid

LADDER = Pyramid(((1, 2), (3, 4), (5, 7)))


def blocks(line: str, pyramid: Pyramid = LADDER) -> Blocks:
    encoding = build_encoding(line, dim=8, num_heads=2, depth=1, pyramid=pyramid)
    assert isinstance(encoding, Blocks)
    initialise(encoding, 0)
    return encoding


@torch.no_grad()
def test_a_cell_gets_its_block_and_its_place_in_it():
    """Block by block and row by row: the last blocks of 5 x 7 cells are cut off."""
    encoding = blocks("blocks(learned, size=2, scale=3)")
    assert blocks_of(LADDER, 2).grids == ((1, 1), (2, 2), (3, 4))
    code_LC = encoding.prepare(LADDER.positions())

    of_blocks, inside = (part.table_LC for part in (encoding.of_blocks, encoding.inside))
    assert (len(of_blocks), len(inside)) == (1 + 4 + 12, 4)
    start = 2 + 12  # tokens before the finest level, whose blocks begin at 1 + 4
    for row, column, block, cell in ((0, 0, 5, 0), (0, 3, 6, 1), (3, 4, 11, 2), (4, 6, 16, 0)):
        expected_C = 3 * (of_blocks[block] + inside[cell]) / 2**0.5
        assert torch.allclose(code_LC[start + 7 * row + column], expected_C)

    # A level drawn alone reads the same rows.
    alone_lC = encoding.prepare(LADDER.positions().only(1, 2))
    assert torch.equal(alone_lC, code_LC[2:14])


@torch.no_grad()
@pytest.mark.parametrize(
    "part", ["blocks(learned, size=2)", "mixed(blocks(learned, size=2), learned, weights=(1, 1))"]
)
def test_blocks_of_blocks_are_cut_from_blocks(part):
    """A part that has parts gets the grids that its own ones are made from."""
    encoding = blocks(f"blocks({part}, size=2)")
    inner = encoding.of_blocks if part.startswith("blocks") else encoding.of_blocks.parts[0]
    assert inner.of_blocks.pyramid.grids == ((1, 1), (1, 1), (2, 2))
    assert encoding.prepare(LADDER.positions()).shape == (2 + 12 + 35, 8)


@torch.no_grad()
def test_blocks_move_and_places_in_them_stay():
    encoding = blocks("blocks(learned, size=2)")
    inside_SC = encoding.inside.table_LC.clone()
    with pytest.raises(ValueError, match="made for the grids"):
        encoding.prepare(Pyramid(((1, 2), (3, 4), (9, 7))).positions())

    wider = Pyramid(((1, 2), (3, 4), (5, 11)))
    encoding.set_pyramid(wider, "timm")
    assert encoding.of_blocks.table_LC.shape == (1 + 4 + 18, 8)
    assert torch.equal(encoding.inside.table_LC, inside_SC)
    assert encoding.prepare(wider.positions()).shape == (2 + 12 + 55, 8)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("blocks(rope)", "added to tokens"),
        ("blocks(learned, size=1)", "at least 2 cells, got 1"),
        ("blocks()", "takes one encoding"),
        ("blocks(mixed(learned=0.5, fourier=0.5, gate=true))", "cannot be a part"),
    ],
)
def test_what_has_no_blocks_is_refused(line, sentence):
    with pytest.raises(ValueError, match=sentence):
        blocks(line)
