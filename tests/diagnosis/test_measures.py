"""What diagnose measures of an encoding and says of it: numbers known beforehand, planted faults."""

from math import pi

import pytest
import torch

from var_pe.diagnosis import model_findings
from var_pe.diagnosis.diagnose import diagnose_subject
from var_pe.diagnosis.measures import (
    PlacedEncoding,
    code,
    cosine,
    neighbours,
    shares,
    turned,
    wavelengths,
)
from var_pe.diagnosis.subject import Subject
from var_pe.encodings import PositionEncoding, build_encoding
from var_pe.pyramid import Pyramid

SQUARE = Pyramid(((6, 6),))


def placed(line: str, pyramid: Pyramid = SQUARE) -> PlacedEncoding:
    encoding = build_encoding(line, dim=32, num_heads=2, depth=1, pyramid=pyramid)
    torch.manual_seed(0)
    for parameter in encoding.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return PlacedEncoding(encoding, pyramid, 32, 2)


def said(found, verdict: str = "") -> str:
    return " ".join(finding.said for finding in found if finding.verdict.startswith(verdict))


def test_wavelengths_are_those_of_the_frequencies():
    """rope turns pair k by base^(-k / (D / 4)) a cell: a channel comes round after 2 pi over that."""
    found_2F = wavelengths(placed("rope(base=100)"))
    expected = [2 * pi * 100 ** (k / 4) for k in range(4)]
    for waves_F in found_2F:
        turning = waves_F[waves_F.isfinite()].sort().values
        torch.testing.assert_close(turning, torch.tensor(expected).repeat_interleave(4), rtol=1e-2, atol=0)
    assert wavelengths(placed("sinusoidal")) is None


class TurnsAlong(PositionEncoding):
    """One quarter of a turn a row, one eighth a column: every channel along one axis alone."""

    def prepare(self, positions):
        return positions

    def rotate(self, x_BHLD, context, layer):
        angle_L2 = context.cell_L2 * torch.tensor([pi / 2, pi / 4])
        a_BHL2, b_BHL2 = x_BHLD.unflatten(-1, (2, 2)).unbind(-1)
        turned = [a_BHL2 * angle_L2.cos() - b_BHL2 * angle_L2.sin()]
        turned.append(a_BHL2 * angle_L2.sin() + b_BHL2 * angle_L2.cos())
        return torch.stack(turned, dim=-1).flatten(-2)


@pytest.mark.parametrize("grid", [(6, 4), (1, 6), (6, 1), (1, 1)])
def test_wavelengths_belong_to_their_axis_and_a_side_of_one_does_not_hide_the_other(grid):
    """Four cells a turn down, eight across; swapped, they would look plausible on a square."""
    one = PlacedEncoding(TurnsAlong(), Pyramid((grid,)), 4, 1)
    found_2F = wavelengths(one)
    if grid == (1, 1):
        assert found_2F is None
        return
    inf = float("inf")
    down, across = ([4.0, 4.0, inf, inf] if grid[0] > 1 else [inf] * 4), [inf, inf, 8.0, 8.0]
    expected = torch.tensor([down, across if grid[1] > 1 else [inf] * 4])
    torch.testing.assert_close(found_2F, expected, rtol=1e-4, atol=0)
    said_of = said(model_findings.rotary(one))
    assert ("rows channels turn once in 4" in said_of) == (grid[0] > 1)
    assert ("columns channels turn once in 8" in said_of) == (grid[1] > 1)
    assert "Nothing turns" not in said_of


def test_a_vector_turned_for_two_places_is_as_alike_as_they_are_near():
    """Similarity depends on the displacement only, and is 1 at none."""
    turned_LL = turned(placed("rope"))
    torch.testing.assert_close(turned_LL.diagonal(), torch.ones(36))
    torch.testing.assert_close(turned_LL[0, 7], turned_LL[14, 21])
    assert turned_LL[0, 1] > turned_LL[0, 2]


def test_neighbours_are_cells_side_by_side():
    """Rows do not wrap: the last of one is no neighbour of the first of the next."""
    pyramid = Pyramid(((1, 1), (2, 3)))
    similarity_LL = torch.rand(7, 7, generator=torch.Generator().manual_seed(0))
    pairs = [(1, 2), (2, 3), (4, 5), (5, 6), (1, 4), (2, 5), (3, 6)]
    expected = sum(float(similarity_LL[a, b]) for a, b in pairs) / len(pairs)
    assert neighbours(similarity_LL, pyramid) == pytest.approx(expected)


@pytest.mark.parametrize("grid", [(1, 3), (3, 1)])
def test_neighbours_in_a_single_row_or_column(grid):
    """All neighbours lie along the other axis, and a single cell has none."""
    similarity_LL = torch.tensor([[1.0, 0.5, 9], [0, 1, 0.3], [9, 9, 1]])
    assert neighbours(similarity_LL, Pyramid((grid,))) == pytest.approx(0.4)
    assert neighbours(torch.ones(1, 1), Pyramid(((1, 1),))) is None


def test_shares_are_read_off_the_whole_and_not_off_the_weights():
    """A table that has learned the sinusoid away leaves none of it, whatever its weight says."""
    one = placed("mixed(learned=0.5, sinusoidal=0.5, match_rms=false)")
    table, fixed = one.encoding.parts
    code_LC = fixed.code_LC(SQUARE.positions())
    about = code_LC - code_LC.mean(0)
    with torch.no_grad():
        table.table_LC.zero_()
    assert [share.along for share in shares(one.encoding, SQUARE)] == pytest.approx([0, 1], abs=1e-5)
    with torch.no_grad():
        noise = torch.randn(36, 32, generator=torch.Generator().manual_seed(1))
        noise = noise - noise.mean(0)
        noise -= about * (noise * about).sum() / about.square().sum()
        table.table_LC.copy_(noise - about)
    assert [share.along for share in shares(one.encoding, SQUARE)][1] == pytest.approx(0, abs=1e-5)


def test_shares_are_of_squared_norms():
    """Parts at right angles, as long as 4 and 3: shares of 16 and 9 in 25, which add up."""
    one = placed("mixed(learned=0.5, sinusoidal=0.5, match_rms=false)")
    table, fixed = one.encoding.parts
    about = fixed.code_LC(SQUARE.positions())
    about = about - about.mean(0)
    noise = torch.randn(36, 32, generator=torch.Generator().manual_seed(1))
    noise = noise - noise.mean(0)
    noise -= about * (noise * about).sum() / about.square().sum()
    with torch.no_grad():
        table.table_LC.copy_(noise * (4 / 3 * about.norm() / noise.norm()))
    assert [share.along for share in shares(one.encoding, SQUARE)] == pytest.approx([0.64, 0.36], abs=1e-4)


def test_parts_of_a_mixture_are_called_as_in_the_config():
    """A person has to find them there, also where one name stands twice."""
    one = placed("mixed(learned_grid, sinusoidal, sinusoidal(temperature=20), weights=(0.4, 0.3, 0.3))")
    names = [share.part for share in shares(one.encoding, SQUARE)]
    assert names == ["learned_grid", "sinusoidal 1", "sinusoidal 2"]


@pytest.mark.parametrize(("amount", "verdict"), [(0.99, "note"), (0.9, "fine")])
def test_a_mixture_of_nearly_one_part_is_told(amount, verdict):
    """`ALONE` is a share of the whole: what lies beside it makes no difference any more."""
    one = placed(f"mixed(learned={1 - amount:.2f}, sinusoidal={amount}, match_rms=false)")
    with torch.no_grad():
        one.encoding.parts[0].table_LC.mul_(40)  # as long as the code beside it
    (found,) = model_findings.mixture(one)
    assert found.verdict == verdict
    assert ("nearly sinusoidal alone" in found.todo) == (verdict == "note")


@pytest.mark.parametrize(
    ("sizes", "verdict"),
    [((1.0, 1.0), "fine"), ((0.01, 1.0), "note"), ((1.0, 0.01), "note"), ((9, 1.0), "problem")],
)
def test_one_level_is_enough_to_be_told(sizes, verdict):
    """Faint or loud on a coarse level is nothing that the mean over the others may hide."""
    pyramid = Pyramid.square(1, 3)
    one = placed("learned", pyramid)
    tokens_BLC = torch.ones(2, 10, 32)
    with torch.no_grad():
        for span, size in zip(pyramid.spans, sizes, strict=True):
            one.encoding.table_LC[span] = size
    (found,) = model_findings.norms(one, tokens_BLC, "ones")
    assert found.verdict == verdict
    assert bool(found.todo) == (verdict != "fine")


@pytest.mark.parametrize(("size", "verdict"), [(1.0, "fine"), (40.0, "note")])
def test_a_prefix_row_that_stands_out_is_told(size, verdict, make_vit):
    """Such a norm is what people find in other libraries' tables and stumble over."""
    vit = make_vit(pool="class_token")
    table_LC = torch.cat([torch.full((1, 32), size), torch.ones(24, 32)])
    found = list(model_findings.prefix(Subject("vit", vit, absolute_LC=table_LC)))
    (norm,) = [finding for finding in found if "position of a prefix token" in finding.said]
    assert norm.verdict == verdict
    assert bool(norm.todo) == (verdict == "note")


def test_a_table_of_another_grid_is_said_to_be_read_and_not_to_be_wrong(make_vit, make_generator):
    """`learned_grid` is meant to be read at every size; only going on at one of them is worth a word."""
    (levels,) = model_findings.grids(Subject("model", make_generator("learned_grid")))
    assert (levels.verdict, levels.todo) == ("fine", "")
    vit = make_vit("learned_grid")
    vit.set_input_size((16, 24))
    (other,) = model_findings.grids(Subject("model", vit))
    assert (other.verdict, "grids 4x6" in other.said, bool(other.todo)) == ("note", True, True)


@pytest.mark.parametrize(
    "line", ["blocks(learned, size=2)", "blocks(blocks(learned, size=2), size=2) + rope"]
)
def test_tables_of_blocks_are_for_their_blocks(line, make_generator):
    """Neither their grids nor that of one block are the model's, and nothing is resampled for it."""
    model = make_generator(line, levels=(1, 2, (4, 6)))
    found = list(model_findings.grids(Subject("model", model)))
    assert len(found) == 2 * line.count("blocks")
    assert {(one.verdict, one.todo) for one in found} == {("fine", "")}
    assert all(one.said.endswith("as its blocks need.") for one in found)


@pytest.mark.parametrize("line", ["alibi", "peg", "relative_bias"])
def test_whoever_hears_of_places_between_tokens_hears_what_to_do(line):
    (found,) = model_findings.neighbourhood(placed(line))
    assert (found.verdict, bool(found.todo)) == ("note", True)


@pytest.mark.parametrize(("line", "verdict"), [("sinusoidal(scale=1)", "problem"), ("sinusoidal", "fine")])
def test_positions_that_drown_tokens_are_told(line, verdict):
    """At width 32 the fixed code has norm 4, tokens of 0.5 are lost in it."""
    tokens_BLC = torch.randn(4, 36, 32, generator=torch.Generator().manual_seed(0)) * 0.09
    (found,) = model_findings.norms(placed(line), tokens_BLC, "noise")
    assert found.verdict == verdict
    expected = float(code(placed(line)).norm(dim=1).mean() / tokens_BLC.norm(dim=2).mean())
    assert f"6x6: {expected:.3g}" in found.said


def test_neighbours_that_look_alike_are_told():
    """A table of equal rows has no places in it; where nothing is added or turned, cosines say nothing."""
    assert said(model_findings.neighbourhood(placed("sinusoidal")), "fine")
    assert "bag of tokens" in said(model_findings.neighbourhood(placed("none")), "problem")
    assert "bias of attention alone" in said(model_findings.neighbourhood(placed("alibi")), "note")
    one = placed("learned")
    with torch.no_grad():
        one.encoding.table_LC.copy_(one.encoding.table_LC[:1].expand(36, -1))
    assert "1.0000" in said(model_findings.neighbourhood(one), "problem")


@pytest.mark.parametrize(
    ("base", "verdict", "words"), [(100, "fine", ""), (1e6, "note", "stand still"), (1.0001, "problem", "")]
)
def test_rotary_wavelengths_are_held_against_the_grid(base, verdict, words):
    """Too slow is wasted, and nothing but fast makes far places look near."""
    pyramid = Pyramid(((8, 8),))
    found = list(model_findings.rotary(placed(f"rope(base={base:f})", pyramid)))
    assert [one.verdict for one in found] == [verdict] * 2
    assert all(words in one.todo for one in found)


def test_a_weight_of_nan_stops_the_diagnosis(make_vit):
    """Everything measured from NaN is NaN; the first finding is the last."""
    vit = make_vit()
    with torch.no_grad():
        vit.position_encoding.table_LC[3, 1] = float("nan")
    found = diagnose_subject(Subject("broken", vit), None, "timm", None, [])
    assert list(found.sections) == ["Weights"]
    assert "position_encoding.table_LC" in said(found.sections["Weights"], "problem")


def test_cosines_are_of_codes():
    code_LC = torch.tensor([[1.0, 0], [2, 0], [0, 3], [0, 0]])
    expected = [[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    torch.testing.assert_close(cosine(code_LC), torch.tensor(expected))
