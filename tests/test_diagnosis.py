"""What diagnose says is so: numbers known beforehand, planted faults, every encoding, every kind of file."""

import json
import runpy
import sys
from math import pi
from pathlib import Path

import pytest
import torch
from conftest import MEMBERS
from safetensors.torch import load_file, save_file

from var_pe.diagnosis import evidence, findings, fit
from var_pe.diagnosis.evidence import Measured, compare, read_evidence
from var_pe.diagnosis.measures import (
    Asked,
    bias,
    code,
    cosine,
    neighbours,
    shares,
    turned,
    wavelengths,
)
from var_pe.diagnosis.opening import Checkpoint, open_subject
from var_pe.diagnosis.page import as_text, diagnose, of_subject, write_page
from var_pe.diagnosis.resampling import moved
from var_pe.diagnosis.subject import Subject, tokens_before_positions
from var_pe.encodings import build_encoding
from var_pe.pyramid import Pyramid

SQUARE = Pyramid(((6, 6),))


def asked(line: str, pyramid: Pyramid = SQUARE) -> Asked:
    encoding = build_encoding(line, dim=32, num_heads=2, depth=1, pyramid=pyramid)
    torch.manual_seed(0)
    for parameter in encoding.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return Asked(encoding, pyramid, 32, 2)


def said(found, verdict: str = "") -> str:
    return " ".join(finding.said for finding in found if finding.verdict.startswith(verdict))


def test_wavelengths_are_those_of_the_frequencies():
    """rope turns pair k by base^(-k / (D / 4)) a cell: a channel comes round after 2 pi over that."""
    found_2F = wavelengths(asked("rope(base=100)"))
    expected = [2 * pi * 100 ** (k / 4) for k in range(4)]
    for waves_F in found_2F:
        turning = waves_F[waves_F.isfinite()].sort().values
        torch.testing.assert_close(turning, torch.tensor(expected).repeat_interleave(4), rtol=1e-2, atol=0)
    assert wavelengths(asked("sinusoidal")) is None


def test_a_vector_turned_for_two_places_is_as_alike_as_they_are_near():
    """Similarity depends on the displacement only, and is 1 at none."""
    turned_LL = turned(asked("rope"))
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


def test_shares_are_read_off_the_whole_and_not_off_the_weights():
    """A table that has learned the sinusoid away leaves none of it, whatever its weight says."""
    one = asked("mixed(learned=0.5, sinusoidal=0.5, match_rms=false)")
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


@pytest.mark.parametrize(("line", "verdict"), [("sinusoidal", "problem"), ("sinusoidal(scale=0.05)", "fine")])
def test_positions_that_drown_tokens_are_told(line, verdict):
    """At width 32 the fixed code has norm 4, tokens of 0.5 are lost in it."""
    tokens_BLC = torch.randn(4, 36, 32, generator=torch.Generator().manual_seed(0)) * 0.09
    (found,) = findings.norms(asked(line), tokens_BLC, "noise")
    assert found.verdict == verdict
    expected = float(code(asked(line)).norm(dim=1).mean() / tokens_BLC.norm(dim=2).mean())
    assert f"6x6: {expected:.3g}" in found.said


def test_neighbours_that_look_alike_are_told():
    """A table of equal rows has no places in it; where nothing is added or turned, cosines say nothing."""
    assert said(findings.places(asked("sinusoidal")), "fine")
    assert "bag of tokens" in said(findings.places(asked("none")), "problem")
    assert "bias alone" in said(findings.places(asked("alibi")), "note")
    one = asked("learned")
    with torch.no_grad():
        one.encoding.table_LC.copy_(one.encoding.table_LC[:1].expand(36, -1))
    assert "1.0000" in said(findings.places(one), "problem")


@pytest.mark.parametrize(
    ("base", "verdict", "words"), [(100, "fine", ""), (1e6, "note", "stand still"), (1.0001, "problem", "")]
)
def test_rotary_wavelengths_are_held_against_the_grid(base, verdict, words):
    """Too slow is wasted, and nothing but fast makes far places look near."""
    pyramid = Pyramid(((8, 8),))
    found = list(findings.rotary(asked(f"rope(base={base:f})", pyramid)))
    assert [one.verdict for one in found] == [verdict] * 2
    assert all(words in one.todo for one in found)


def test_numbers_that_are_none_stop_the_diagnosis(make_vit):
    """Everything measured from NaN is NaN; the first finding is the last."""
    vit = make_vit()
    with torch.no_grad():
        vit.position_encoding.table_LC[3, 1] = float("nan")
    found = of_subject(Subject("broken", vit), None, "timm", None, [])
    assert list(found.sections) == ["Weights"]
    assert "position_encoding.table_LC" in said(found.sections["Weights"], "problem")


def test_a_size_far_from_training_is_told_with_what_to_do(make_vit):
    wide, wider = (
        of_subject(Subject("vit", make_vit()), size, "timm", None, []) for size in ((8, 16), (8, 48))
    )
    near, far = wide.sections["At 8x16 pixels"][0], wider.sections["At 8x48 pixels"][0]
    assert [near.verdict, far.verdict] == ["fine", "problem"]
    assert "go on training at that size" in far.todo
    assert "from 4x6 to 4x8: 1.33 times" in near.said
    assert "from 4x6 to 4x24: 4 times in a side, 4 times in shape" in far.said
    with pytest.raises(ValueError, match="multiples of 2 pixels"):
        of_subject(Subject("vit", make_vit()), (8, 9), "timm", None, [])


def test_what_cannot_follow_is_said_and_not_raised():
    (found,) = fit.at_size(asked("learned"), ValueError("the table was made for the grids 6"), "timm")
    assert found.verdict == "problem"
    assert "cannot follow: the table was made" in found.said


def test_a_resampled_table_is_compared_after_the_way_back():
    """Noise does not survive being halved, a code that is computed loses nothing."""
    small = Pyramid(((3, 3),))
    for line, verdict, words in (
        ("learned", "note", "there and back"),
        ("sinusoidal", "fine", "nothing is lost"),
    ):
        one = asked(line)
        (found,) = fit.codes(one, moved(one, small, "timm"), "timm")
        assert found.verdict == verdict
        assert words in found.said


@pytest.mark.parametrize("line", MEMBERS)
def test_every_encoding_is_diagnosed_in_both_models(line, make_vit, make_generator):
    """Hooks are asked, not names: a member of tomorrow is diagnosed as well."""
    for model in (make_vit(line), make_generator(line, levels=(1, 2, 4))):
        subject = Subject("model", model)
        tokens_BLC, what = tokens_before_positions(subject)
        assert "noise" in what
        assert tokens_BLC.shape[1:] == (model.pyramid.num_tokens, 32)
        assert "embed" not in vars(model.position_encoding)
        one = Asked(model.position_encoding, model.pyramid, 32, 4)
        there = moved(one, Pyramid(tuple((2 * h, w) for h, w in model.pyramid.grids)), "timm")
        for each in (one, there):
            found = [code(each), turned(each), bias(each), wavelengths(each)]
            assert any(value is not None for value in found) or "peg" in line or line == "none"
            for value in found[:2]:
                assert value is None or value.isfinite().all()
        list(findings.places(one)), list(findings.rotary(one)), list(findings.mixture(one))
        list(findings.norms(one, tokens_BLC, what)), list(fit.at_size(one, there, "timm"))


def rows() -> list[Measured]:
    common = dict(task="segmentation", size=(32, 32), frozen=True, seeds=(0, 1, 2))
    return [
        Measured("learned", mean=0.60, spread=0.02, **common),
        Measured("rope", mean=0.70, spread=0.02, **common),
        Measured("alibi", mean=0.69, spread=0.02, **common),
        Measured("rope", mean=0.50, spread=0.02, **(common | {"frozen": False})),
    ]


def test_tasks_are_spoken_of_by_what_was_measured_alone(tmp_path):
    """A difference within the spreads is none, and what was not measured is not guessed."""
    (worse,) = fit.for_task("learned", "segmentation", rows())
    assert worse.verdict == "problem"
    assert "learned reached 60.0 ± 2.0 % (3 seeds); the best, rope, 70.0" in worse.said
    (even,) = fit.for_task("alibi", "segmentation", rows())
    assert even.verdict == "fine"
    (unknown,) = fit.for_task("sinusoidal", "segmentation", rows())
    assert "nothing was measured of sinusoidal" in unknown.said
    assert "measured: learned, rope, alibi" in unknown.said
    (nothing,) = fit.for_task("learned", "detection", [])
    assert "nothing was measured" in nothing.said
    assert [own.frozen for own, _ in compare("rope", "segmentation", rows())] == [True, False]


def test_a_table_that_was_named_must_be_one(tmp_path, monkeypatch):
    """Only the one of docs/ may be missing, as it is where the package alone is installed."""
    with pytest.raises(ValueError, match=r"none.json cannot be read: No such file"):
        read_evidence(tmp_path / "none.json")
    for junk in ("junk", '{"a": 1}', '[{"encoding": "rope"}]'):
        (tmp_path / "junk.json").write_text(junk)
        with pytest.raises(ValueError, match=r"junk.json is no table of scripts/tasks.py"):
            read_evidence(tmp_path / "junk.json")
    monkeypatch.setattr(evidence, "EVIDENCE", tmp_path / "none.json")
    assert read_evidence() == []


def test_the_evidence_is_the_table_that_the_study_writes(tmp_path):
    """Two programs, one file: its fields must not drift apart."""
    from var_pe.comparison.tasks import TASKS, Score
    from var_pe.comparison.tasks import evidence as table_of

    scores = [Score("rope", seed, next(iter(TASKS)), True, (32, 32), 0.5 + seed / 10) for seed in (0, 1)]
    (tmp_path / "table.json").write_text(json.dumps(table_of(scores)))
    (row,) = read_evidence(tmp_path / "table.json")
    assert (row.encoding, row.frozen, row.size, row.seeds) == ("rope", True, (32, 32), (0, 1))
    assert row.mean == pytest.approx(0.55)


def test_a_saved_model_and_a_pipeline_are_opened(tmp_path, pipeline, make_vit):
    make_vit().save_pretrained(tmp_path / "vit")
    pipeline.save_pretrained(tmp_path / "pipeline")
    assert "ViTClassifier" in diagnose(tmp_path / "vit").intro
    found = diagnose(tmp_path / "pipeline", size=(8, 16))
    assert "VARTransformer" in found.intro
    assert "At 8x16 pixels" in found.sections
    with pytest.raises(ValueError, match="neither a run, nor a saved model"):
        open_subject(tmp_path)
    pipeline.transformer.save_pretrained(tmp_path / "generator")
    with pytest.raises(ValueError, match="needs its tokenizer"):
        diagnose(tmp_path / "generator", size=(8, 16))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table[:, :16], "codes of width 16, the model's width is 32"),
        (lambda table: torch.cat([table[:1], table]), "has 25 rows, the grids stored beside it 24 cells"),
    ],
)
def test_a_table_that_does_not_fit_is_found_before_loading_fails(tmp_path, make_vit, change, words):
    """The loader can only say that shapes differ."""
    make_vit().save_pretrained(tmp_path)
    file = next(tmp_path.glob("*.safetensors"))
    state = load_file(file)
    state["position_encoding.table_LC"] = change(state["position_encoding.table_LC"]).contiguous()
    save_file(state, file, {"format": "pt"})
    found = diagnose(tmp_path)
    assert words in said(found.sections["Files"], "problem")


@pytest.mark.parametrize("prefix", [0, 1])
def test_a_checkpoint_of_timm_tells_of_its_prefix_rows(tmp_path, prefix):
    """Our model has none: they were folded into the class token, which the stored table still shows."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.models.VisionTransformer(
        img_size=(32, 48), patch_size=16, embed_dim=32, depth=1, num_heads=2, no_embed_class=not prefix
    )
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    found = diagnose(tmp_path / "vit.pth", Checkpoint("timm", (32, 48), 2), size=(48, 48))
    assert f"has {6 + prefix} rows for 6 patches, {prefix} of them" in said(found.sections["Weights"])
    assert ("The position of a prefix token" in said(found.sections["Weights"])) == bool(prefix)
    with pytest.raises(ValueError, match="say --source, --image-size and --num-heads"):
        diagnose(tmp_path / "vit.pth")


def test_the_page_needs_nothing_beside_it(tmp_path, make_vit):
    """It is sent to people: pictures are in it, and nothing is fetched."""
    vit = make_vit("mixed(learned=0.7, sinusoidal=0.3) + rope + log_cpb")
    found = of_subject(Subject("vit <b>", vit), (16, 12), "timm", "segmentation", [])
    write_page(found, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/png;base64,") == len(found.pictures) == 5
    assert "http" not in page
    assert "vit &lt;b&gt;" in page
    assert all(finding.said in as_text(found) for part in found.sections.values() for finding in part)


def test_the_script_says_and_writes(tmp_path, make_vit, monkeypatch, capsys):
    """One line of arguments, findings on the screen, the page beside the model; mistakes are one sentence."""
    make_vit().save_pretrained(tmp_path)
    script = str(Path(__file__).parents[1] / "scripts" / "diagnose.py")
    line = [script, str(tmp_path), "--size", "8", "16", "--task", "detection"]
    monkeypatch.setattr(sys, "argv", line)
    runpy.run_path(script, run_name="__main__")
    assert "ViTClassifier, encoding learned" in capsys.readouterr().out
    assert (tmp_path / "diagnosis.html").exists()
    there = sorted(tmp_path.iterdir())
    for more, sentence in (
        (["--num-heads", "0"], "go together"),
        (["--size", "-8", "8"], "--size must be positive multiples of 2 pixels, got -8x8"),
        (["--output", str(tmp_path)], "is a folder; name the page, such as"),
    ):
        monkeypatch.setattr(sys, "argv", [*line, *more])
        with pytest.raises(SystemExit, match="2"):
            runpy.run_path(script, run_name="__main__")
        assert sentence in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == there


def test_cosines_are_of_codes():
    code_LC = torch.tensor([[1.0, 0], [2, 0], [0, 3], [0, 0]])
    expected = [[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    torch.testing.assert_close(cosine(code_LC), torch.tensor(expected))
