"""What is no table, no grid or no convention is named in one sentence, before torch says it in its own."""

import math
import re

import numpy as np
import pytest
import torch

from var_pe.resampling.conventions import Convention, resample_table


def noise(rows: int, width: int = 16, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda t: resample_table(t, (3, 6), (4, 4)), "table has 16 rows, 0 prefix .* grid of 3x6 need 18"),
        (lambda t: resample_table(t, (4, 4), (2, 2), prefix=1), "1 prefix tokens and a grid of 4x4 need 17"),
        (lambda t: resample_table(t / 0, (4, 4), (2, 2), name="pos_embed"), "pos_embed holds NaN or inf"),
        (
            lambda t: resample_table(t[None], (4, 4), (2, 2)),
            r"rows of floating-point codes, got \(1, 16, 16\)",
        ),
        (lambda t: resample_table(t.long(), (4, 4), (2, 2)), "floating-point codes, got .* torch.int64"),
        (lambda t: resample_table(t, (4, 4), (2, 2), "timn"), "convention is one of timm, .* got 'timn'"),
        (lambda t: Convention("nearest"), "mode is one of bilinear, bicubic, area, got 'nearest'"),
        (lambda t: Convention("area", antialias=True), "area takes no align_corners, antialias or offset"),
        (lambda t: Convention("area", align_corners=True), "area takes no align_corners, antialias or of"),
        (lambda t: Convention("area", offset=0.1), "area takes no align_corners, antialias or offset"),
        (lambda t: Convention("bicubic", offset=1.0), r"offset lies in \[0, 1\), got 1.0"),
        (lambda t: Convention("bicubic", offset=-0.1), r"offset lies in \[0, 1\), got -0.1"),
        (lambda t: Convention("bicubic", offset=math.nan), r"offset lies in \[0, 1\), got nan"),
        (lambda t: Convention("bicubic", True, offset=0.1), "align_corners goes by the size"),
    ],
)
def test_what_cannot_be_resampled_is_named(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(noise(16))


@pytest.mark.parametrize("grid", [(0, 3), (-1, 3), (2.0, 8.0), (4,), (1, 4, 4), 4, None, "44"], ids=str)
def test_a_grid_is_two_whole_numbers_of_at_least_one(grid):
    """Rows alone would fit -3x-4 as they fit 3x4; the sentence says which table and which of its grids."""
    rule = r"must be two whole numbers \(rows, columns\) of at least 1, got "
    for old, new, which in [(grid, (4, 4), "its grid"), ((4, 4), grid, "the grid that it moves to")]:
        with pytest.raises(ValueError, match=f"pos_embed: {which} {rule}{re.escape(repr(grid))}"):
            resample_table(noise(16), old, new, name="pos_embed")


def test_minus_times_minus_is_no_grid():
    with pytest.raises(ValueError, match=r"table: its grid must be two whole numbers .* got \(-3, -4\)"):
        resample_table(noise(12), (-3, -4), (2, 2))


@pytest.mark.parametrize("new", [(4, 4), (2, 2)], ids=str)
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"convention": "timn"}, "pos_embed: the resampling convention is one of timm, .* got 'timn'"),
        ({"convention": ["timm"]}, r"the resampling convention is one of timm, .* got \['timm'\]"),
        ({"convention": None}, "the resampling convention is one of timm, .* got None"),
        ({"prefix": -1}, "pos_embed: prefix is a whole number of rows of at least 0, got -1"),
        ({"prefix": 1.0}, "pos_embed: prefix is a whole number of rows of at least 0, got 1.0"),
    ],
    ids=str,
)
def test_equal_grids_excuse_no_argument(options, sentence, new):
    rows = 16 + int(options.get("prefix", 0))
    with pytest.raises(ValueError, match=sentence):
        resample_table(noise(rows), (4, 4), new, name="pos_embed", **options)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64], ids=str)
def test_a_table_has_numbers_that_torch_can_count_with(dtype):
    with pytest.raises(ValueError, match=f"pos_embed must be rows of floating-point codes, got .* {dtype} "):
        resample_table(noise(16, dtype=dtype), (4, 4), (2, 2), name="pos_embed")


def test_a_table_of_no_width_is_none():
    with pytest.raises(
        ValueError, match=r"pos_embed must be rows .* got \(16, 0\) .*at least a number a row"
    ):
        resample_table(noise(16, width=0), (4, 4), (2, 2), name="pos_embed")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_a_table_that_leaves_its_type_s_range_is_an_error(dtype):
    """Bicubic curves overshoot by a seventh: near the largest number that is infinity, and then NaN."""
    table_LC = torch.where(noise(16) > 0, 1.0, -1.0).to(dtype) * torch.finfo(dtype).max
    with pytest.raises(ValueError, match=f"pos_embed goes beyond {dtype} when it is resampled"):
        resample_table(table_LC, (4, 4), (9, 9), "swin", name="pos_embed")
    assert resample_table(table_LC, (4, 4), (4, 4), "swin") is table_LC


def test_a_grid_may_be_a_list_or_of_numpy_s_numbers():
    """As config files and shapes give them; equal ones are equal."""
    table_LC = noise(16)
    assert resample_table(table_LC, [2, 8], (2, 8)) is table_LC
    new = tuple(np.array([4, 4]))
    assert torch.equal(resample_table(table_LC, [2, 8], new), resample_table(table_LC, (2, 8), (4, 4)))
