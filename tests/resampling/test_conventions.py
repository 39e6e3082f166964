"""Tables of position codes in another size: each library's own numbers, and nothing stale or guessed."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import zoom
from timm.layers import resample_abs_pos_embed
from torchvision.models.vision_transformer import interpolate_embeddings

from var_pe.encodings import build_encoding
from var_pe.pyramid import Pyramid
from var_pe.resampling.conventions import (
    CONVENTIONS,
    Convention,
    interpolate_table,
    resample_table,
    source_levels,
)

MOVES = [((14, 14), (24, 24)), ((14, 14), (7, 28)), ((6, 10), (9, 4)), ((5, 9), (9, 5)), ((7, 3), (7, 4))]


def noise(rows: int, width: int = 16, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0)).to(dtype)


def smooth(side: int, width: int = 64) -> torch.Tensor:
    """A table as training makes them: neighbours alike (waves of at least one and a half pictures)."""
    line = build_encoding("sinusoidal", dim=width, num_heads=4, depth=1, pyramid=Pyramid.square(14))
    centres_L2 = Pyramid.square(side).positions()
    return (
        line.code_LC(centres_L2) if side == 14 else resample_table(smooth(14, width), (14, 14), (side, side))
    )


# the libraries' own numbers


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize(("old", "new"), MOVES, ids=str)
def test_timm_is_timm(old, new, prefix, dtype):
    table_LC = noise(prefix + math.prod(old), dtype=dtype)
    theirs = resample_abs_pos_embed(table_LC[None], list(new), list(old), num_prefix_tokens=prefix)[0]
    ours = resample_table(table_LC, old, new, "timm", prefix)
    assert ours.dtype == dtype
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("side", [7, 24])
def test_torchvision_is_torchvision(side, mode):
    """Squares and one class token are all it takes."""
    table_LC, key = noise(1 + 14 * 14), "encoder.pos_embedding"
    theirs = interpolate_embeddings(side * 16, 16, {key: table_LC[None]}, mode)[key][0]
    convention = "torchvision" if mode == "bicubic" else Convention("bilinear", align_corners=True)
    assert torch.equal(resample_table(table_LC, (14, 14), (side, side), convention, prefix=1), theirs)


@pytest.mark.parametrize(("old", "new"), MOVES, ids=str)
def test_big_vision_is_scipy_s_zoom_of_order_one(old, new):
    table_LC = noise(math.prod(old))
    factors = (new[0] / old[0], new[1] / old[1], 1)
    theirs = torch.from_numpy(zoom(table_LC.unflatten(0, old).numpy(), factors, order=1)).flatten(0, 1)
    torch.testing.assert_close(resample_table(table_LC, old, new, "big_vision"), theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("new", [(n, n) for n in (16, 39, 43, 64, 78, 86, 115, 123)] + [(16, 60)], ids=str)
def test_dinov2_gives_the_scale_a_little_too_large(new):
    """Its formula: at these sides n / 37 alone floors to n - 1, hence the 0.1, which moves every sample."""
    table_LC = noise(1 + 37 * 37, width=4)
    map_1Chw = table_LC[1:].reshape(1, 37, 37, 4).permute(0, 3, 1, 2)
    factors = ((new[0] + 0.1) / 37, (new[1] + 0.1) / 37)
    theirs = F.interpolate(map_1Chw, scale_factor=factors, mode="bicubic").permute(0, 2, 3, 1).reshape(-1, 4)
    ours = resample_table(table_LC, (37, 37), new, "dinov2", prefix=1)
    assert torch.equal(ours, torch.cat([table_LC[:1], theirs]))
    by_size = resample_table(table_LC, (37, 37), new, "swin", prefix=1)
    assert (ours - by_size).norm() > 0.01 * by_size.norm()


@pytest.mark.parametrize("n", [39, 43, 78, 86, 115, 123])
def test_without_the_offset_the_scale_floors_to_one_cell_less(n):
    """Why DINO's convention exists: the sides above are the ones that would go wrong."""
    table_1Chw = noise(37 * 37, width=1).T.reshape(1, 1, 37, 37)
    assert F.interpolate(table_1Chw, scale_factor=(n / 37, n / 37), mode="bicubic").shape[-1] == n - 1


@pytest.mark.parametrize(
    ("convention", "options"),
    [
        ("flexivit", dict(mode="bilinear", antialias=True)),
        ("dinov2_reg", dict(mode="bicubic", antialias=True)),
        ("swin", dict(mode="bicubic")),
        ("area", dict(mode="area")),
    ],
)
@pytest.mark.parametrize(("old", "new"), MOVES, ids=str)
def test_the_other_conventions_are_what_their_code_asks_torch_for(convention, options, old, new):
    table_LC = noise(math.prod(old))
    theirs = F.interpolate(table_LC.T.reshape(1, -1, *old), size=new, **options)[0].flatten(1).T
    torch.testing.assert_close(resample_table(table_LC, old, new, convention), theirs)


def test_no_two_conventions_agree():
    """Taking one for another costs as much as a percent of accuracy and raises no error."""
    table_LC = noise(14 * 14)
    same = [{"timm", "dinov2_reg"}]  # one formula, two names
    for a in CONVENTIONS:
        for b in CONVENTIONS:
            ours, theirs = (resample_table(table_LC, (14, 14), (7, 20), name) for name in (a, b))
            alike = (ours - theirs).norm() < 1e-3 * ours.norm()
            assert alike == (a == b or {a, b} in same), (a, b)


# what no library does


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_as_many_tokens_in_another_grid_are_resampled(convention):
    for old, new in [((2, 8), (4, 4)), ((14, 14), (7, 28)), ((4, 4), (16, 1))]:
        table_LC = noise(math.prod(old))
        moved_LC = resample_table(table_LC, old, new, convention)
        assert moved_LC.shape == table_LC.shape
        assert not torch.allclose(moved_LC, table_LC)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_an_equal_grid_gives_back_the_table_itself(convention):
    table_LC = noise(5 + 2 * 8)
    assert resample_table(table_LC, (2, 8), (2, 8), convention, prefix=5) is table_LC


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_prefix_rows_and_dtype_are_kept(convention, dtype):
    table_LC = noise(3 + 4 * 6, dtype=dtype)
    moved_LC = resample_table(table_LC, (4, 6), (7, 5), convention, prefix=3)
    assert moved_LC.dtype == dtype
    assert moved_LC.shape == (3 + 35, 16)
    assert torch.equal(moved_LC[:3], table_LC[:3])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(resample_table(table_LC, (4, 6), (7, 5), convention, prefix=3), moved_LC)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_float64_table_is_resampled_in_float64(convention):
    """Through float32 and back its dtype would be kept as well, at half the digits."""
    fine_LC = noise(4 * 6).double() / 3
    coarse_LC = resample_table(fine_LC.float(), (4, 6), (7, 5), convention).double()
    difference = (resample_table(fine_LC, (4, 6), (7, 5), convention) - coarse_LC).abs().max()
    assert 1e-9 < difference < 1e-6


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_rows_are_rows(convention):
    """A table that knows only its row still does, in every rectangle: no axis is taken for the other."""
    row_L1 = torch.arange(4.0).repeat_interleave(6)[:, None]
    moved_hw = resample_table(row_L1, (4, 6), (8, 3), convention).view(8, 3)
    torch.testing.assert_close(moved_hw, moved_hw[:, :1].expand(8, 3))
    assert (moved_hw[1:] > moved_hw[:-1] - 1e-5).all()
    assert moved_hw[-1, 0] > moved_hw[0, 0] + 2


@pytest.mark.parametrize(("there", "bound"), [(28, 0.02), (7, 0.12)])
def test_a_smooth_table_survives_a_round_trip(there, bound):
    """1.2 % and 9.3 % were measured on such tables; white noise loses 40 to 90 % and proves nothing."""
    table_LC = smooth(14)
    moved_LC = resample_table(table_LC, (14, 14), (there, there))
    back_LC = resample_table(moved_LC, (there, there), (14, 14))
    assert (back_LC - table_LC).norm() < bound * table_LC.norm()


def test_gradients_reach_every_row():
    for convention in CONVENTIONS:
        table_LC = noise(2 + 4 * 6).requires_grad_()
        resample_table(table_LC, (4, 6), (7, 13), convention, prefix=2).square().sum().backward()
        assert table_LC.grad.abs().sum(1).all(), convention


# levels


def test_other_level_counts_take_the_nearest_level():
    old = Pyramid.square(1, 2, 3, 4)
    assert source_levels(old, Pyramid.square(1, 2, 5, 6)) == (0, 1, 2, 3)  # as many: level by level
    assert source_levels(old, Pyramid.square(1, 3, 4, 6, 8)) == (0, 2, 3, 3, 3)
    assert source_levels(old, Pyramid.square(2, 4)) == (1, 3)
    assert source_levels(Pyramid.square(2, 4, 8), Pyramid(((3, 5), (4, 6)))) == (1, 1)
    assert source_levels(Pyramid.square(2, 8, 8), Pyramid.square(4)) == (2,)  # as near: the finer one


def test_a_level_is_near_in_both_sides():
    """2x8 is a flat grid, not a small square: 4x4 has as many cells and none of its rows or columns."""
    old = Pyramid(((4, 4), (2, 9), (8, 16)))
    assert source_levels(old, Pyramid(((2, 8),))) == (1,)
    assert source_levels(old, Pyramid(((4, 5), (8, 15)))) == (0, 2)
    assert source_levels(Pyramid(((3, 2), (8, 8))), Pyramid(((2, 3),))) == (0,)


@pytest.mark.parametrize(("columns", "nearest"), [(7, 1), (5, 0)])
def test_two_sides_count_as_euclid_counts_them(columns, nearest):
    """8x8 is a half of 16x16 each way: farther than one side cut to 7, nearer than one cut to 5."""
    old = Pyramid(((8, 8), (16, columns), (40, 40)))
    assert source_levels(old, Pyramid.square(16)) == (nearest,)


@torch.no_grad()
def test_grids_of_as_many_tokens_are_remembered_apart():
    """4x4, 2x8 and 1x16: a memory by number of tokens would hand out another picture's positions."""
    encoding = build_encoding(
        "learned(resample=timm)", dim=16, num_heads=4, depth=1, pyramid=Pyramid.square(5)
    )
    encoding.table_LC.copy_(noise(25))
    for grid in ((4, 4), (2, 8), (1, 16), (4, 4)):
        expected_LC = interpolate_table(encoding.table_LC, (5, 5), grid, "timm")
        assert torch.equal(encoding.code_LC(Pyramid((grid,)).positions()), expected_LC)
