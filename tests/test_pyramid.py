"""Geometry: tokens lie where every encoding, the tokenizer and a cached pass believe they lie."""

import pytest
import torch

from var_pe.pyramid import Pyramid

PYRAMIDS = [
    Pyramid.square(1, 2, 3, 4),
    Pyramid(((1, 1), (2, 3), (4, 6))),
    Pyramid(((5, 2),)),
    Pyramid(((2, 2), (1, 4), (3, 5))),
]


@pytest.mark.parametrize("pyramid", PYRAMIDS, ids=str)
def test_spans_cut_the_row_of_tokens_into_levels(pyramid):
    """A span that is off by one trains a level on another's tokens."""
    tokens = list(range(pyramid.num_tokens))
    pieces = [tokens[span] for span in pyramid.spans]
    assert [len(piece) for piece in pieces] == [h * w for h, w in pyramid.grids]
    assert sum(pieces, []) == tokens


@pytest.mark.parametrize("pyramid", PYRAMIDS, ids=str)
def test_positions_equal_a_plain_loop(pyramid):
    here = pyramid.positions()
    expected = [
        (level, row, column, (2 * row + 1) / h - 1, (2 * column + 1) / w - 1)
        for level, (h, w) in enumerate(pyramid.grids)
        for row in range(h)
        for column in range(w)
    ]
    level, row, column, y, x = (torch.tensor(part) for part in zip(*expected, strict=True))
    assert torch.equal(here.level_L, level)
    assert torch.equal(here.cell_L2, torch.stack([row, column], 1))
    torch.testing.assert_close(here.yx_L2, torch.stack([y, x], 1))
    assert here.num_tokens == pyramid.num_tokens


def test_the_middle_of_the_image_is_exactly_zero():
    """A 1x1 level sits at 0, 0 and not at some rounding beside it; so does the middle of an odd grid."""
    for level, h in enumerate((1, 3, 5, 7, 9)):
        positions = Pyramid.square(1, 3, 5, 7, 9).positions()
        middle = positions.yx_L2[(positions.level_L == level) & (positions.cell_L2 == h // 2).all(1)]
        assert middle.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("pyramid", PYRAMIDS, ids=str)
def test_sliced_positions_are_the_full_ones_sliced(pyramid):
    """A cached level must ask exactly what the full pass asked, also when cut twice."""
    full = pyramid.positions()
    for first in range(pyramid.num_levels):
        for stop in range(first + 1, pyramid.num_levels + 1):
            span = slice(pyramid.spans[first].start, pyramid.spans[stop - 1].stop)
            for part in (full.only(first, stop), full.only(0, stop).only(first, stop)):
                for name in ("cell_L2", "level_L", "yx_L2"):
                    assert torch.equal(getattr(part, name), getattr(full, name)[span])
                assert part.grids == pyramid.grids
                assert part.grids_here == pyramid.grids[first:stop]


def test_levels_that_are_not_at_hand_are_refused():
    tail = Pyramid.square(1, 2, 3).positions().only(1, 3)
    with pytest.raises(ValueError, match=r"levels 0..1 are not among the levels range\(1, 3\)"):
        tail.only(0, 2)


@pytest.mark.parametrize(("coarse", "fine"), [((2, 2), (4, 4)), ((2, 2), (3, 3)), ((3, 2), (7, 5)), ((1, 1), (3, 4))])
def test_a_coarse_centre_is_the_mean_of_the_fine_centres_it_covers(coarse, fine):
    """Weighted by covered area, which is what `area` interpolation weighs; 2 -> 3 is not nested and needs it."""
    positions = Pyramid((coarse, fine)).positions()
    coarse_yx, fine_yx = (positions.only(k, k + 1).yx_L2.double() for k in (0, 1))
    for (row, column), centre in zip(positions.only(0, 1).cell_L2.tolist(), coarse_yx, strict=True):
        shares = [
            max(0.0, min((row + 1) / coarse[0], (i + 1) / fine[0]) - max(row / coarse[0], i / fine[0]))
            * max(0.0, min((column + 1) / coarse[1], (j + 1) / fine[1]) - max(column / coarse[1], j / fine[1]))
            for i in range(fine[0])
            for j in range(fine[1])
        ]
        # Cells that are cut count with the centre of the part that is covered.
        cut = [
            (
                max(row / coarse[0], i / fine[0]) + min((row + 1) / coarse[0], (i + 1) / fine[0]) - 1,
                max(column / coarse[1], j / fine[1]) + min((column + 1) / coarse[1], (j + 1) / fine[1]) - 1,
            )
            for i in range(fine[0])
            for j in range(fine[1])
        ]
        mean = sum(share * torch.tensor(yx, dtype=torch.float64) for share, yx in zip(shares, cut, strict=True))
        torch.testing.assert_close(mean / sum(shares), centre)
        assert len(fine_yx) == len(shares)
