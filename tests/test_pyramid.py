"""Geometry: tokens lie where every encoding, the tokenizer and a cached pass believe they lie."""

import pytest
import torch
import torch.nn.functional as F

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
    assert [token for piece in pieces for token in piece] == tokens


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
            tail = full.only(first, pyramid.num_levels)
            for part in (
                full.only(first, stop),
                full.only(0, stop).only(first, stop),
                tail.only(first, stop),
            ):
                for name in ("cell_L2", "level_L", "yx_L2"):
                    assert torch.equal(getattr(part, name), getattr(full, name)[span])
                assert part.grids == pyramid.grids
                assert part.grids_here == pyramid.grids[first:stop]


def test_levels_that_are_not_at_hand_are_refused():
    tail = Pyramid.square(1, 2, 3).positions().only(1, 3)
    with pytest.raises(ValueError, match=r"levels 0..1 are not among the levels range\(1, 3\)"):
        tail.only(0, 2)


@pytest.mark.parametrize(
    "pyramid", [Pyramid.square(1, 2, 3, 6), Pyramid(((1, 3), (2, 3), (4, 6), (8, 30)))], ids=str
)
def test_a_centre_is_the_mean_coordinate_of_the_area_it_covers(pyramid):
    """Averaging coordinates down as `area` does gives the coarse centres: coarse and fine agree.

    2 -> 3 is not nested: both are averages of 6, which weighs the cell that two of them share by its parts.
    """
    positions, (rows, columns) = pyramid.positions(), pyramid.finest
    finest = positions.only(pyramid.num_levels - 1, pyramid.num_levels).yx_L2
    map_12hw = finest.T.reshape(1, 2, rows, columns)
    for level, grid in enumerate(pyramid.grids):
        mean_L2 = F.interpolate(map_12hw, size=grid, mode="area").flatten(2)[0].T
        torch.testing.assert_close(mean_L2, positions.only(level, level + 1).yx_L2)


def test_for_size_scales_every_level():
    pyramid = Pyramid.square(1, 2, 3, 4)
    assert pyramid.for_size(4, 4) == pyramid
    assert pyramid.for_size(8, 16).grids == ((2, 4), (4, 8), (6, 12), (8, 16))
    assert pyramid.for_size(1, 4).grids == ((1, 1), (1, 2), (1, 3), (1, 4))  # at least 1, finest as asked
    assert Pyramid(((2, 3),)).for_size(5, 7).grids == ((5, 7),)
    with pytest.raises(
        ValueError, match=r"a finest grid is two whole numbers of at least 1, rows and columns, got \(0, 4\)"
    ):
        pyramid.for_size(0, 4)


@pytest.mark.parametrize(
    ("grids", "sentence"),
    [
        ((), "at least one level, got none"),
        ((1, 0), "a positive side or two of them .rows, columns., got 0"),
        (((1, 2, 3),), "got .1, 2, 3."),
        (((2, -1),), "got .2, -1."),
        ((1.5,), "got 1.5"),
        ((None,), "got None"),
        ((True,), "got True"),
        (("ab",), "got 'ab'"),
        ((3, 2), "level 0 of the pyramid is 3x3, larger than the last, 2x2"),
        (((1, 3), (2, 2)), "level 0 of the pyramid is 1x3, larger than the last, 2x2"),
    ],
)
def test_grids_that_make_no_pyramid_are_named(grids, sentence):
    with pytest.raises(ValueError, match=sentence):
        Pyramid(grids)


def test_lists_from_a_config_file_make_the_same_pyramid():
    """diffusers' config.json turns tuples into nested lists; both must be one key of every cache."""
    pyramid = Pyramid([[1, 1], 2, [2, 4]])
    assert pyramid == Pyramid(((1, 1), (2, 2), (2, 4)))
    assert hash(pyramid) == hash(Pyramid(((1, 1), (2, 2), (2, 4))))
    assert str(pyramid) == "1-2-2x4"


def test_positions_first_asked_for_in_inference_mode_can_train():
    """They are kept: a model that samples first and trains later would otherwise stop at `backward`."""
    pyramid = Pyramid(((1, 1), (3, 11)))  # nobody else's
    with torch.inference_mode():
        pyramid.positions()
    weight = torch.ones(2, requires_grad=True)
    (pyramid.positions().yx_L2 * weight).square().sum().backward()
    assert weight.grad is not None
