"""Sheets of pictures: pixels stay what they are, and every name can be read or at least told apart."""

import numpy as np
import pytest

from var_pe.pages.sheets import Cell, Section, class_name, sheet


def picture(rows: int, columns: int, channels: int = 3) -> np.ndarray:
    numbers = np.random.default_rng(0)
    return numbers.integers(0, 255, (rows, columns, channels), np.uint8)


def blocks_in(canvas: np.ndarray, shown: np.ndarray, factor: int) -> int:
    """How often `shown`, enlarged by `factor`, occurs in the canvas."""
    rgb = np.broadcast_to(shown, (*shown.shape[:2], 3)).repeat(factor, 0).repeat(factor, 1)
    windows = np.lib.stride_tricks.sliding_window_view(canvas, rgb.shape)[:, :, 0]
    corners = (windows[..., 0, 0, :] == rgb[0, 0]).all(-1)
    return sum(np.array_equal(windows[y, x], rgb) for y, x in np.argwhere(corners))


@pytest.mark.parametrize(
    ("rows", "columns", "channels", "factor"),
    [(28, 28, 1, 3), (32, 32, 3, 3), (64, 64, 3, 2), (128, 128, 3, 1), (8, 64, 3, 2), (64, 8, 1, 2)],
)
def test_pictures_are_enlarged_by_whole_factors(rows, columns, channels, factor):
    """A picture that is resampled shows faults that it does not have, and hides those that it has."""
    shown = [picture(rows, columns, channels), 255 - picture(rows, columns, channels)]
    canvas = np.asarray(sheet([Section("title", [Cell(shown, "name", "note")])]))
    assert [blocks_in(canvas, each, factor) for each in shown] == [1, 1]


def test_a_long_name_makes_no_sheet_wider():
    """Names are broken into two lines and cut; a word that is too long is cut, too."""
    pixels = picture(28, 28)
    short = sheet([Section("title", [Cell([pixels], "a b" * 9)] * 5)])
    for name in ("tench, Tinca tinca, golden fish, a fish of ponds and slow rivers", "Llanfair" * 9):
        assert sheet([Section("title", [Cell([pixels], name)] * 5)]).width == short.width


def test_a_name_changes_the_sheet_below_its_picture_only():
    """Text that ran into a picture would look like a fault of the model."""
    pixels = picture(28, 28)
    cells = [Cell([pixels], "a very long name of a class " * 3, "21.3 dB")] * 4
    canvas = np.asarray(sheet([Section("title", cells)]))
    assert blocks_in(canvas, pixels, 3) == 4


@pytest.mark.parametrize(
    ("names", "label", "said"),
    [
        (["cat"], 0, "cat"),
        (["naïve café"], 0, "naïve café"),
        (["Москва"], 0, "Москва"),
        (["<b>&"], 0, "<b>&"),
        (["new\nline\t here"], 0, "new line here"),
        (["日本", "中国"], 0, "0: ??"),
        (["日本", "中国"], 1, "1: ??"),
        (["fox 🫠"], 0, "0: fox ?"),
        (["", " \n"], 1, "class 1"),
        ([], 4, "class 4"),
        (["cat"], -1, "no class"),
    ],
)
def test_classes_are_told_apart_whatever_they_are_called(names, label, said):
    assert class_name(names, label) == said


def test_a_thousand_cells_and_none_make_a_sheet():
    pixels = picture(8, 8, 1)
    assert sheet([Section("many", [Cell([pixels], f"class {label}") for label in range(1000)])]).width <= 1300
    assert sheet([Section("none", [])]).size == (1, 1)
