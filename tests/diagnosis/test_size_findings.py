"""What diagnose says of another size: how far it is, and what a table loses on the way."""

import pytest
import torch

from tests.diagnosis.test_measures import SQUARE, placed, said
from var_pe.diagnosis import size_findings
from var_pe.diagnosis.diagnose import diagnose_subject
from var_pe.diagnosis.measures import code
from var_pe.diagnosis.moving import moved, round_trip, score_tables
from var_pe.diagnosis.subject import Subject
from var_pe.pyramid import Pyramid
from var_pe.resampling.conventions import interpolate_table
from var_pe.sampling.pipeline import VARPipeline


def test_a_size_far_from_training_is_told_with_what_to_do(make_vit):
    wide, wider = (
        diagnose_subject(Subject("vit", make_vit()), size, "timm", None, []) for size in ((8, 16), (8, 48))
    )
    near, far = wide.sections["At 8x16 pixels"][0], wider.sections["At 8x48 pixels"][0]
    assert [near.verdict, far.verdict] == ["fine", "problem"]
    assert "go on training at that size" in far.todo
    assert "from 4x6 to 4x8: 1.33 times" in near.said
    assert "from 4x6 to 4x24: 4 times in a side, 4 times in shape" in far.said
    with pytest.raises(ValueError, match="multiples of 2 pixels"):
        diagnose_subject(Subject("vit", make_vit()), (8, 9), "timm", None, [])


@pytest.mark.parametrize(
    ("line", "levels", "words"),
    [
        ("learned", "learned", "It cannot be drawn at 16x24 as it is: the learned table was made for"),
        ("sinusoidal", "sinusoidal", ""),
        ("learned(resample=timm)", "sinusoidal", ""),
        ("log_cpb", "none", ""),
    ],
)
def test_a_generator_that_cannot_be_drawn_at_the_size_is_said_to(
    line, levels, words, make_generator, make_tokenizer
):
    """A table could be moved there, but drawing does not move it: it must not sound as if all were well."""
    model = make_generator(line, level_embedding=levels)
    subject = Subject("run", model, tokenizer=make_tokenizer())
    found = diagnose_subject(subject, (16, 24), "timm", None, []).sections["At 16x24 pixels"][0]
    pipeline = VARPipeline(subject.tokenizer, model)
    if words:
        assert found.verdict == "problem"
        assert found.said.startswith(words)
        with pytest.raises(ValueError, match="made for the grids"):
            pipeline(0, height=16, width=24)
    else:
        assert found.verdict == "fine"
        assert "--size 16 24 can draw it" in found.said
        assert pipeline(0, height=16, width=24, output_type="pt").images.shape == (1, 3, 16, 24)


def test_what_cannot_follow_is_said_and_not_raised():
    (found,) = size_findings.at_size(
        placed("learned"), ValueError("the table was made for the grids 6"), "timm"
    )
    assert found.verdict == "problem"
    assert "cannot follow: the table was made" in found.said


def test_a_resampled_table_is_compared_after_the_way_back():
    """Noise does not survive being halved, a code that is computed loses nothing."""
    small = Pyramid(((3, 3),))
    for line, verdict, words in (
        ("learned", "note", "There and back"),
        ("sinusoidal", "fine", "resampling loses nothing"),
    ):
        one = placed(line)
        (found,) = size_findings.codes(one, moved(one, small, "timm"), "timm")
        assert found.verdict == verdict
        assert words in found.said


@pytest.mark.parametrize(
    ("grid", "verdict"),
    [((9, 9), "fine"), ((10, 10), "problem"), ((4, 4), "fine"), ((3, 3), "problem"), ((8, 5), "problem")],
)
def test_far_is_half_as_long_again_in_a_side_or_in_shape(grid, verdict):
    """8x5 is within 1.34 of 6x6 along either side, and 1.6 times as tall for its width."""
    one = placed("sinusoidal")
    found = size_findings.distance(one, moved(one, Pyramid((grid,)), "timm"))
    assert found.verdict == verdict
    assert bool(found.todo) == (verdict == "problem")


def test_its_own_size_moves_nothing():
    one = placed("learned")
    (found,) = size_findings.at_size(one, moved(one, SQUARE, "timm"), "timm")
    assert "its own size" in found.said


@pytest.mark.parametrize("side", [3, 9])
@pytest.mark.parametrize(("line", "mode"), [("learned_grid", "area"), ("factorized", "bilinear")])
def test_a_kept_table_loses_what_is_not_read_of_it(line, mode, side):
    """It stays whole, but the model there knows only what is read: reading that back tells how much."""
    one, small = placed(line), Pyramid(((side, side),))
    there = moved(one, small, "timm")
    before_LC, read_LC = code(one), code(there)
    options = {} if mode == "area" else {"align_corners": False}
    read_1Chw = read_LC.T.unflatten(1, (side, side))[None]
    back_LC = torch.nn.functional.interpolate(read_1Chw, size=(6, 6), mode=mode, **options)[0].flatten(1).T
    expected = float((back_LC - before_LC).norm() / before_LC.norm())
    assert round_trip(one, there, "timm") == pytest.approx(expected, rel=1e-4)
    (found,) = size_findings.codes(one, there, "timm")
    assert f"There and back changes the codes by {expected:.1%}" in found.said
    assert f"What {line} has learned stays as it is and is read at the new positions ({mode}" in found.said
    assert "computed" not in found.said
    assert torch.equal(code(one), before_LC)


def test_of_a_mixture_every_table_is_spoken_of():
    """A part that is computed must not vouch for the others."""
    one = placed("mixed(learned=0.4, learned_grid=0.4, sinusoidal=0.2)")
    found = said(size_findings.codes(one, moved(one, Pyramid(((3, 3),)), "timm"), "timm"))
    assert "The table of learned is resampled (timm)" in found
    assert "What learned_grid has learned stays" in found
    assert "sinusoidal" not in found


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("learned", "The table of learned is resampled (timm)"),
        (
            "factorized",
            "What factorized has learned stays as it is and is read at the new positions (bilinear)",
        ),
    ],
)
def test_of_blocks_only_what_moves_is_spoken_of(part, words):
    """Inside a block nothing changes with the size: blocks of a constant lose nothing on the way."""
    one = placed(f"blocks({part}, size=2)")
    there = moved(one, Pyramid(((8, 6),)), "timm")
    assert said(size_findings.codes(one, there, "timm")).count(words) == 1
    with torch.no_grad():
        for parameter in one.encoding.of_blocks.parameters():
            parameter.fill_(1.0)
    there = moved(one, Pyramid(((8, 6),)), "timm")
    assert round_trip(one, there, "timm") < 1e-6


def test_a_table_of_scores_is_compared_after_the_way_back():
    """It is added to no token, and is resampled all the same: 11x11 displacements to 5x5."""
    one = placed("relative_bias")
    there = moved(one, Pyramid(((3, 3),)), "timm")
    (table,) = score_tables(one, there, "timm")
    before_LR = one.encoding.table_NHyx.detach().flatten(2).flatten(0, 1).T
    back_LR = interpolate_table(interpolate_table(before_LR, (11, 11), (5, 5)), (5, 5), (11, 11))
    assert (table.member, table.here, table.there) == ("relative_bias", (11, 11), (5, 5))
    assert table.change == pytest.approx(float((back_LR - before_LR).norm() / before_LR.norm()), rel=1e-4)
    assert "from 11x11 displacements to 5x5" in said(size_findings.at_size(one, there, "timm"), "note")


@pytest.mark.parametrize("line", ["rope", "alibi", "peg", "none"])
def test_what_has_no_table_says_so(line):
    one = placed(line)
    assert "no table" in said(size_findings.at_size(one, moved(one, Pyramid(((7, 7),)), "timm"), "timm"))
