"""Which pairs turn for which level, and how much slower on grids that are larger than the trained one."""

from math import log2, pi

import pytest
import torch
from torch import Tensor

from tests.encodings.test_alignment import scores
from tests.encodings.test_rope import LADDER, WIDTH, built, tables, vectors
from var_pe.encodings.machinery.bands import remapped
from var_pe.pyramid import Pyramid

TRAINED = Pyramid.square(1, 2, 4, 8)
LARGER = Pyramid.square(1, 2, 4, 8, 16)
WIDE = Pyramid(((1, 1), (2, 4), (8, 16)))
WAVES = [100 ** (-k / (WIDTH // 4)) for k in range(WIDTH // 4)]


def angles(line: str, pyramid: Pyramid, level: int) -> Tensor:
    """By which a level's own tokens are turned when they ask, (L, P)."""
    return tables(built(line, pyramid).prepare(pyramid.positions().only(level, level + 1)))[0]


@pytest.mark.parametrize("line", ["rope({})", "rope({}, directions=spiral)", "rope({}, directions=golden)"])
def test_on_the_trained_grid_and_on_smaller_ones_nothing_is_remapped(line):
    for pyramid in (TRAINED, Pyramid.square(1, 3, 6)):
        for remap in ("parts", "levels"):
            for level in range(pyramid.num_levels):
                found = angles(line.format(f"remap={remap}, trained=(8, 8)"), pyramid, level)
                plain = angles(line.format("base=100"), pyramid, level)
                torch.testing.assert_close(found, plain)


@pytest.mark.parametrize("remap", ["parts", "levels"])
@pytest.mark.parametrize("pyramid", [LARGER, WIDE], ids=["larger", "wide"])
def test_a_pair_is_slowed_down_by_the_ramp_of_its_wavelength(remap, pyramid):
    """The formula, pair by pair and axis by axis; of the wide grid one axis is as long as in training."""
    for level, grid in enumerate(pyramid.grids):
        found_LP = angles(f"rope(remap={remap}, trained=(8, 8))", pyramid, level)
        centre_L2 = ((pyramid.positions().yx_L2 + 1) / 2)[pyramid.spans[level]]
        for axis, (cells, finest) in enumerate(zip(grid, pyramid.grids[-1], strict=True)):
            stride = finest / cells if remap == "levels" else 1
            for pair, wave in enumerate(WAVES):
                ramp = min(1.0, max(0.0, log2(stride * 2 * pi / wave / 2) / log2(8 / 2)))
                speed = wave * (1 - ramp + ramp * 8 / finest)
                expected_L = centre_L2[:, axis] * finest * speed
                torch.testing.assert_close(found_LP[:, axis * len(WAVES) + pair], expected_L)


def test_the_coarser_a_level_the_more_of_its_waves_are_stretched():
    """From the finest one, which sees what `parts` gives it, to those whose layout grows with the grid."""
    encoding = built(
        "rope(base=10, remap=levels, trained=(64, 64))", Pyramid.square(2, 4, 8, 16, 32, 64, 128)
    )
    positions = Pyramid.square(2, 4, 8, 16, 32, 64, 128).positions()
    wave_2P = encoding.waves("cpu")
    share_KP = torch.stack(
        [encoding.bands.limited(wave_2P, positions.as_keys_of(level))[0].sum(0) for level in range(7)]
    ) / wave_2P.sum(0)
    assert (share_KP.diff(dim=0) >= 0).all()
    assert (share_KP[:2] == 0.5).all()
    assert len(share_KP[:, 0].unique()) > 3


def test_coarse_levels_of_a_larger_grid_meet_the_phases_that_were_trained():
    """Layout stays layout, whatever the grid."""
    for level in (0, 1, 2):
        found = angles("rope(remap=levels, trained=(8, 8))", LARGER, level)
        torch.testing.assert_close(found, angles("rope", TRAINED, level))
    fine = angles("rope(remap=levels, trained=(8, 8))", LARGER, 4)
    torch.testing.assert_close(fine, angles("rope(remap=parts, trained=(8, 8))", LARGER, 4))
    assert not torch.allclose(fine, angles("rope", LARGER, 4))


@pytest.mark.parametrize("line", ["rope(bands=resolved)", "rope(bands=resolved, directions=spiral)"])
def test_pairs_that_a_levels_grid_does_not_resolve_stand_still(line):
    pyramid = LARGER
    encoding = built(line, pyramid)
    wave_2P = encoding.waves("cpu")
    for level, (rows, _) in enumerate(pyramid.grids):
        resolved_P = (wave_2P.abs() * 16 / rows <= pi).all(dim=0)
        plain_LP = angles(line.replace("bands=resolved", "bands=all"), pyramid, level)
        torch.testing.assert_close(angles(line, pyramid, level), plain_LP * resolved_P)
    assert not (wave_2P.abs() * 16 <= pi).all()


@pytest.mark.parametrize("line", ["rope(bands=resolved)", "rope(remap=levels, trained=(12, 12))"])
def test_scores_of_every_level_depend_on_displacement_alone(line):
    """Queries and the keys that they meet turn at one speed, though another level's turn at another."""
    encoding = built(line, LARGER)
    q_BH1D, k_BH1D = vectors(1, seed=1), vectors(1, seed=2)
    for level, (rows, columns) in list(enumerate(LARGER.grids))[1:]:
        tokens, keys = rows * columns, LARGER.positions().only(0, level + 1).num_tokens
        given = q_BH1D.expand(-1, -1, tokens, -1), k_BH1D.expand(-1, -1, keys, -1)
        score_BHQK = scores(encoding, LARGER, level, *given)
        own = score_BHQK[..., -tokens:].unflatten(-1, (rows, columns)).unflatten(-3, (rows, columns))
        torch.testing.assert_close(own[..., 1:, 1:, 1:, 1:], own[..., :-1, :-1, :-1, :-1])
        # A step of one cell of the level, against the coarser one whose cell is two of these
        coarser = score_BHQK[..., -tokens - tokens // 4 : -tokens]
        coarser = coarser.unflatten(-1, (rows // 2, columns // 2)).unflatten(-3, (rows, columns))
        torch.testing.assert_close(coarser[..., 2:, 2:, 1:, 1:], coarser[..., :-2, :-2, :-1, :-1])


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("rope(bands=some)", "rope: bands is one of all, resolved, got 'some'"),
        ("rope(remap=ntk, trained=(4, 4))", "rope: remap is one of none, parts, levels, got 'ntk'"),
        ("rope(remap=levels)", r"goes with trained=\(rows, columns\).*remap=levels and trained=\(\)"),
        ("rope(trained=(4, 4))", r"goes with trained=\(rows, columns\).*remap=none and trained=\(4, 4\)"),
        ("rope(remap=parts, trained=(4,))", "trained is .rows, columns., both at least 1, got"),
        ("rope(remap=parts, trained=(4, 0))", "trained is .rows, columns., both at least 1, got"),
        ("rope(bands=resolved, unit=image)", "so they do not go with unit=image"),
        ("rope(bands=resolved, coordinates=index)", "so they do not go with coordinates=index"),
        ("rope(remap=levels, trained=(4, 4), jitter=2)", "shift, jitter and rescale are drawn once"),
        ("rope(bands=resolved, shift=0.5)", "shift, jitter and rescale are drawn once"),
    ],
)
def test_what_does_not_go_together_is_named(line, sentence):
    with pytest.raises(ValueError, match=sentence):
        built(line, LADDER)


def test_a_trained_line_is_remapped_where_it_is_rope_in_cells():
    where = "remap=levels, trained=(6, 12)"
    for line, expected in (
        ("rope", f"rope({where})"),
        ("sinusoidal(scale=0.1) + rope(base=10)", f"sinusoidal(scale=0.1) + rope(base=10, {where})"),
        (
            "rope(unit=image) + rope(directions=spiral)",
            f"rope(unit=image) + rope(directions=spiral, {where})",
        ),
    ):
        assert remapped(line, "levels", (6, 12)) == expected
    for line in ("learned", "rope(unit=query)", "rope(trained=())", "rope(coordinates=index)", "rope_mixed"):
        with pytest.raises(ValueError, match="remap=parts slows waves of rope"):
            remapped(line, "parts", (6, 6))
