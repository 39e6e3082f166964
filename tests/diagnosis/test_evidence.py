"""What diagnose says of tasks: what was measured and no more, and the table that holds it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from var_pe.comparison import heads_study as tasks
from var_pe.comparison.study import Trial
from var_pe.diagnosis import evidence, fit
from var_pe.diagnosis.evidence import TASKS, Measured, clearly_below, compare, read_evidence
from var_pe.stages.config import Config
from var_pe.stages.models import weights_hash


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
    row = dict(encoding="rope", task="detection", size=[8, 8], frozen=True, mean=0.5, spread=None, seeds=[0])
    wrong = [{"mean": None}, {"mean": "x"}, {"mean": True}, {"mean": float("nan")}, {"spread": "x"}]
    wrong += [{"size": [8]}, {"size": ["8", 8]}, {"seeds": []}, {"seeds": 3}, {"frozen": "no"}, {"task": 1}]
    lists = [json.dumps([row | change]) for change in wrong]
    for junk in ("junk", "{}", '{"a": 1}', "3", '[{"encoding": "rope"}]', "[[]]", *lists):
        (tmp_path / "junk.json").write_text(junk)
        with pytest.raises(ValueError, match=r"junk.json is no table of scripts/heads.py"):
            read_evidence(tmp_path / "junk.json")
    (tmp_path / "good.json").write_text(json.dumps([row]))
    assert [found.mean for found in read_evidence(tmp_path / "good.json")] == [0.5]
    monkeypatch.setattr(evidence, "EVIDENCE", tmp_path / "none.json")
    assert read_evidence() == []


def test_the_evidence_is_the_table_that_the_study_writes(tmp_path):
    """Two programs, one file: its fields must not drift apart."""
    from var_pe.comparison.heads_study import TASKS, Score
    from var_pe.comparison.heads_study import evidence as table_of

    scores = [Score("rope", seed, next(iter(TASKS)), True, (32, 32), 0.5 + seed / 10) for seed in (0, 1)]
    (tmp_path / "table.json").write_text(json.dumps(table_of(scores)))
    (row,) = read_evidence(tmp_path / "table.json")
    assert (row.encoding, row.frozen, row.size, row.seeds) == ("rope", True, (32, 32), (0, 1))
    assert row.mean == pytest.approx(0.55)


@pytest.mark.parametrize(("mean", "below"), [(0.60, False), (0.53, False), (0.51, True)])
def test_clearly_below_is_more_than_both_spreads_together(mean, below):
    """0.7 ± 0.08 and ± 0.1: where the two reach into each other, nothing is clear."""
    best = replace(rows()[1], spread=0.08)
    assert clearly_below(replace(rows()[0], mean=mean, spread=0.10), best) is below
    assert not clearly_below(replace(rows()[0], mean=0.1, spread=None), best)


def test_rivals_are_those_under_the_same_circumstances():
    """Better at another size, at another task or fine-tuned is no rival."""
    own, rival = rows()[0], rows()[1]
    easier = [replace(rival, mean=0.9, size=(64, 64)), replace(rival, mean=0.9, frozen=False)]
    easier += [replace(rival, mean=0.9, frozen=None), replace(rival, mean=0.9, task="detection")]
    assert compare("learned", "segmentation", [own, *easier]) == [(own, own)]
    assert compare("learned", "segmentation", [own, *easier, rival]) == [(own, rival)]


def test_an_encoding_is_found_however_its_line_is_spaced():
    (found,) = fit.for_task(
        "mixed(learned=0.7,sinusoidal=0.3)",
        "segmentation",
        [replace(rows()[0], encoding="mixed(learned=0.7, sinusoidal=0.3)")],
    )
    assert "the best that was measured" in found.said


def test_accuracies_kept_beside_a_classifier_become_evidence(tmp_path, make_vit):
    """Classification is measured by another study: its numbers are read, and none of other weights."""
    make_vit().save_pretrained(tmp_path / "run" / "classifier")
    answers = {
        f"{side}x{side} {convention}": dict(size=[side, side], convention=convention, accuracy=accuracy)
        for side, convention, accuracy in ((8, "timm", 0.5), (16, "timm", 0.25), (16, "area", 0.3))
    }
    trial = Trial("learned", 3, Config(run=str(tmp_path / "run"), tokenizer_run="none"))
    weights = weights_hash(tmp_path / "run" / "classifier")
    (tmp_path / "run" / "sizes.json").write_text(json.dumps({"weights": weights, "answers": answers}))
    table = tasks.evidence(tasks.accuracies(trial))
    (tmp_path / "table.json").write_text(json.dumps(table))
    found = [(row.size, row.mean, row.frozen, row.seeds) for row in read_evidence(tmp_path / "table.json")]
    assert found == [((8, 8), 0.5, None, (3,)), ((16, 16), 0.25, None, (3,))]
    assert "classification" not in tasks.as_markdown(table)
    (tmp_path / "run" / "sizes.json").write_text(json.dumps({"weights": "others", "answers": answers}))
    assert tasks.accuracies(trial) == []


def test_the_table_of_the_docs_judges_every_task():
    """Nothing about classification would leave the task that most people have without a word."""
    kept = read_evidence(Path(evidence.EVIDENCE))
    assert {row.task for row in kept} == set(TASKS)
    for task in TASKS:
        said = [finding.said for finding in fit.for_task("rope", task, kept)]
        assert any("rope reached" in sentence for sentence in said)
