"""Where learned coordinates of rotary encodings end, read off a study's numbers."""

import pytest

from tests.comparison.made_up import results
from var_pe.comparison.learned_maps import PREFIX, ended
from var_pe.comparison.report import report_of

# Of 2x2 in cells of 4x4: scale and offset along y, then along x
MAPS = {"center": [[2, 0.5, 2, 0.5], [1, 0, 1, 0]], "corner": [[3, 0, 3, 0], [1, 0, 1, 0]]}
LINE = "rope(coordinates=learned, learned_from=corner)"


def with_maps(*ends):
    """A study whose learned arm ends at these maps, one for each seed, having been at the corner before."""
    found = results(rope=[3.0] * len(ends), **{LINE: [2.9] * len(ends)})
    found["shared"] |= {"grids": [[2, 2], [4, 4]], "maps": MAPS}
    learned = [cell for cell in found["cells"] if cell["arm"] == LINE]
    for cell, end in zip(learned, ends, strict=True):
        for level, row in enumerate(end):
            names = [f"{PREFIX}level_{level}/{name}_{axis}" for axis in "yx" for name in ("scale", "offset")]
            for name, before, value in zip(names, MAPS["corner"][level], row, strict=True):
                cell["values"][name] = value
                cell["curves"][name] = {"steps": [2, 3, 4], "values": [before, before, value]}
    return found


def test_a_map_is_known_whatever_shift_all_its_levels_share():
    """Rotary scores depend on displacements: such a shift would make the nearest map a matter of chance."""
    moved = [[scale_y, y + 0.7, scale_x, x - 0.2] for scale_y, y, scale_x, x in MAPS["center"]]
    first, second = ended(with_maps(moved, MAPS["corner"]), LINE, MAPS)
    assert (first.nearest, second.nearest) == ("center", "corner")
    assert first.distances["center"] == pytest.approx(0, abs=1e-9)
    assert first.moved == pytest.approx(first.distances["corner"])
    assert first.moved_late == pytest.approx(first.moved)
    assert (second.moved, second.moved_late) == (0, 0)

    # By hand: one level differs by 0.5 - x there and 0 elsewhere, x in {0, 1}: both have a mean of 0.
    assert first.distances["corner"] == pytest.approx((0.25 / 2) ** 0.5)


def test_the_report_has_distances_and_numbers_where_coordinates_are_learned():
    """And says nothing of them where none are."""
    tables = {table.title: table for table in report_of(with_maps(MAPS["center"], MAPS["corner"])).tables}
    (row,) = tables["Where learned coordinates end"].rows
    assert row[-1] == "center in 1 of 2, corner in 1 of 2"
    (said,) = report_of(with_maps(MAPS["center"], MAPS["corner"])).findings
    assert said.endswith("center in 1 of 2, corner in 1 of 2.")
    names = [row[0] for row in tables["Learned coordinates by level"].rows]
    assert names[:2] == [f"{LINE}, 2x2", f"{LINE}, 4x4"]
    assert "corner, 4x4" in names
    without = {table.title for table in report_of(results(learned=[3.0, 3.1])).tables}
    assert not [title for title in without if "coordinates" in title]
