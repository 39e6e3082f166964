"""Changes of one level's positions: each is what its name says, and costs what the model relied on."""

import json
import runpy
import sys

import pytest
import torch

from tests.runs import TINY, train_both
from var_pe import settings
from var_pe.diagnosis.intervention_report import answer
from var_pe.diagnosis.interventions import NO_PLACES, REST, SINUSOID, changes, intervene, tables_of
from var_pe.encodings.machinery.share import sinusoid
from var_pe.pyramid import Pyramid
from var_pe.sampling.pipeline import VARPipeline
from var_pe.stages.config import Config

PYRAMID = Pyramid.of([1, 2, 4, (4, 6)])


def tables(code_LC):
    return tables_of(code_LC, PYRAMID)


@pytest.fixture
def random_table():
    return tables(torch.randn(PYRAMID.num_tokens, 16, generator=torch.Generator().manual_seed(0)))[3]


def test_every_change_is_what_its_name_says(random_table):
    """A heat map of something else would be read as the model's reliance on places."""
    made = {name: change(random_table) for name, change in changes().items()}
    before_lC = random_table.rows_lC
    assert not made[NO_PLACES].any()
    for name in ("shifted by a cell", "quarters exchanged"):
        assert sorted(made[name].tolist()) == sorted(before_lC.tolist())
        assert not (made[name] == before_lC).all(1).any()
    shifted_hwC = made["shifted by a cell"].unflatten(0, (4, 6))
    assert torch.equal(shifted_hwC[2, 3], random_table.map_hwC[1, 2])
    exchanged_hwC = made["quarters exchanged"].unflatten(0, (4, 6))
    assert torch.equal(exchanged_hwC[0, 0], random_table.map_hwC[2, 3])
    for rank in (1, 2, 4, 8):
        assert torch.linalg.matrix_rank(made[f"rank {rank}"]) == rank
    torch.testing.assert_close(made[SINUSOID] + made[REST], before_lC)
    assert abs((made[SINUSOID] * made[REST]).sum()) < 1e-3


def test_the_sinusoid_lies_in_its_own_span_and_a_single_cell_has_no_places():
    """The measure's two ends."""
    found = tables(sinusoid(PYRAMID.positions(), 16))
    torch.testing.assert_close(changes()[SINUSOID](found[3]), found[3].rows_lC, atol=1e-4, rtol=0)
    assert all(change(found[0]) is None for change in changes().values())
    assert changes()["table of the level before"](found[1]) is None  # of one cell
    assert changes()["rank 4"](found[1]) is None  # four cells have three directions about their mean


def test_a_level_changes_itself_and_finer_ones_and_the_model_is_left_as_it_was(
    make_generator, make_tokenizer, make_loud
):
    """Coarser levels see nothing of finer ones: a change there would be a leak of the mask."""
    model, tokenizer = make_loud(make_generator()), make_tokenizer()
    tokens_NL = torch.randint(16, (6, 30), generator=torch.Generator().manual_seed(0))
    own = model.position_encoding
    done = intervene(model, tokenizer, tokens_NL, torch.tensor([0, 1, 2, 0, 1, -1]), batch=4)
    assert model.position_encoding is own
    assert {effect.name for effect in done.effects} == set(changes())
    for effect in done.effects:
        before, after = effect.change[: effect.level], effect.change[effect.level :]
        assert max(map(abs, before), default=0.0) < 1e-5
        assert min(map(abs, after)) > 1e-5
    again = intervene(model, tokenizer, tokens_NL, torch.tensor([0, 1, 2, 0, 1, -1]), batch=6)
    assert again.nats == pytest.approx(done.nats)


@pytest.mark.parametrize(
    ("encoding", "sentence"),
    [("rope", "adds nothing"), ("mixed(learned=1, sinusoidal=1, gate=true)", "depends")],
)
def test_an_encoding_without_a_table_is_refused(
    make_generator, make_tokenizer, make_loud, encoding, sentence
):
    """There is nothing to change, or nothing that one table could stand for."""
    model = make_loud(make_generator(encoding))
    with pytest.raises(ValueError, match=sentence):
        intervene(
            model, make_tokenizer(), torch.zeros(1, 30, dtype=torch.long), torch.zeros(1, dtype=torch.long)
        )


def test_all_ranks_are_shares_of_the_same_whole():
    """Shares of different levels would stand beside each other, and a higher rank could seem to keep less."""

    def effect(name, level, change):
        return {"name": name, "level": level, "size": 1.0, "change": change, "error": [0.0, 0.0]}

    effects = [effect("no places", 0, [6.0, 0.0]), effect("no places", 1, [0.0, 4.0])]
    effects += [effect(name, 1, [0.0, 4.0]) for name in ("sinusoid alone", "without the sinusoid")]
    effects += [effect("as many random functions", 1, [0.0, 4.0])]
    # of the 2x2 level, whose table has three directions, none is left out by rank 4
    effects += [effect("rank 2", 0, [1.0, 0.0]), effect("rank 2", 1, [0.0, 2.0])]
    effects += [effect("rank 4", 1, [0.0, 2.0])]
    found = {"grids": [[2, 2], [4, 4]], "nats": [10.0, 10.0], "effects": effects}
    assert "by rank, 2: 70%, 4: 80% (all levels count" in answer(found)[-1]


def run(monkeypatch, *words) -> None:
    monkeypatch.setattr(sys, "argv", ["scripts/interventions.py", *map(str, words)])
    runpy.run_path("scripts/interventions.py", run_name="__main__")


def test_help_tells_every_option(monkeypatch, capsys):
    """What stands in the text alone is not found where options are listed."""
    with pytest.raises(SystemExit):
        run(monkeypatch, "--help")
    assert "[--report JSON]" in capsys.readouterr().out.partition("\n\n")[0]


def test_one_command_serves_a_run_and_a_converted_model(tmp_path, monkeypatch, golden, capsys):
    """A pipeline without data is measured on what it draws itself; pages are made again from the file."""
    VARPipeline(golden.tokenizer, golden.transformer).save_pretrained(tmp_path / "var")
    run(monkeypatch, "--pipeline", tmp_path / "var", "--images", 4)
    files = {path.name: path for path in (tmp_path / "var").glob("interventions.*")}
    assert len(files) == 4
    found = json.loads(files["interventions.json"].read_text())
    assert found["of"] == "pictures that the model drew itself"
    before = {name: path.read_bytes() for name, path in files.items()}
    run(monkeypatch, "--report", files["interventions.json"])
    assert {name: path.read_bytes() for name, path in files.items()} == before

    folders = [f"run={tmp_path / 'run'}", f"tokenizer_run={tmp_path / 'tokenizer'}"]
    short = [
        f"{kind}_training.{rule}" for kind in ("tokenizer", "generator") for rule in ("steps=1", "batch=4")
    ]
    data = ["data.shapes_train=24", "data.shapes_test=8"]
    train_both(settings.load(Config, "shapes_learned.yaml", [*TINY, *data, *folders, *short]))
    run(monkeypatch, "--run", tmp_path / "run", "--images", 8)
    assert json.loads((tmp_path / "run/interventions.json").read_text())["of"].endswith(
        "test split of shapes"
    )
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run(monkeypatch, "--run", tmp_path / "run", "--model", tmp_path / "var")
    assert "--model needs --config" in capsys.readouterr().err
