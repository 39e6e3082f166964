"""What the study of heads trains on classifiers and keeps, and what it takes from another study."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from accelerate import Accelerator

from var_pe import settings
from var_pe.comparison import head_study
from var_pe.comparison.head_study import SeedScore, accuracies, as_markdown, over_seeds, study_heads
from var_pe.comparison.resolution_study import Answer
from var_pe.comparison.trials import Trial
from var_pe.models.dense.segmenter import Segmenter
from var_pe.stages.config import Config
from var_pe.stages.images import fingerprint
from var_pe.stages.models import load_classifier, load_model, weights_hash


def config_in(folder, *more: str) -> Config:
    short = ("steps=2", "batch=4", "warmup=0", "trackers=[]", "validate_every=0", "preview_every=0")
    given = [
        f"run={folder}/run",
        f"tokenizer_run={folder}/tokenizer",
        *(f"data.{rest}" for rest in ("height=16", "width=16", "shapes_train=16", "shapes_test=8")),
        "classifier={}",
        *(f"classifier.{rest}" for rest in ("dim=16", "depth=1", "num_heads=2", "registers=2")),
        *(
            f"{kind}_training.{rest}"
            for kind in ("classifier", "segmenter", "detector")
            for rest in (*short, "precision=float32")
        ),
    ]
    return settings.load(Config, None, [*given, *more])


def heads_in(folder) -> list[Config]:
    return [
        config_in(folder, "segmenter={}", "segmenter.width=8"),
        config_in(folder, "detector={}", "detector.width=32", "detector.convolutions=1"),
    ]


def encoder_of(folder) -> dict[str, torch.Tensor]:
    weights = load_model(Segmenter, folder / "segmenter").encoder.state_dict()
    return {name: value for name, value in weights.items() if not name.startswith(("head.", "norm"))}


def test_heads_start_from_the_classifier_and_are_kept(tmp_path, monkeypatch):
    """Every row is of a model that began as the trained classifier; what is finished is done once."""
    config, output = config_in(tmp_path), tmp_path / "study"
    table = study_heads(config, heads_in(tmp_path), ["rope"], [0], output, Accelerator())
    rows = {(row.task, row.score, row.frozen, row.size) for row in table}
    assert rows == {
        (task.name, task.score, frozen, (side, side))
        for task in head_study.TASKS.values()
        for frozen in (True, False)
        for side in (16, 32)
    }

    run = output / "rope_seed_0"
    classifier = load_classifier(run / "classifier").state_dict()
    for way, same in (("frozen", True), ("tuned", False)):
        encoder = encoder_of(run / f"segmenter_{way}")
        assert encoder
        assert all(torch.equal(value, classifier[name]) for name, value in encoder.items()) == same

    def score(*_):
        raise AssertionError("scored again")

    monkeypatch.setattr(head_study, "score_on_maps", score)
    kept = study_heads(config, heads_in(tmp_path), ["rope"], [0], output, Accelerator())
    assert kept == table

    # Scores of other weights are none of this model's.
    file = run / "segmenter_tuned" / "sizes.json"
    there = json.loads(file.read_text())
    assert there["weights"] == weights_hash(file.parent / "segmenter")
    file.write_text(json.dumps(there | {"weights": "others"}))
    with pytest.raises(AssertionError, match="scored again"):
        study_heads(config, heads_in(tmp_path), ["rope"], [0], output, Accelerator())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["segmenter={}"], "and data.channels=3, got one of a segmenter"),
        (
            ["data.source=fashion_mnist", "data.channels=1"],
            "classifier with data.source=fashion",
        ),
        (["classifier.padding=end"], "leave classifier.padding at none"),
    ],
)
def test_what_has_no_heads_says_so_before_any_training(tmp_path, words, sentence):
    with pytest.raises(ValueError, match=sentence):
        study_heads(config_in(tmp_path, *words), heads_in(tmp_path), ["rope"], [0], tmp_path, Accelerator())
    assert not (tmp_path / "rope_seed_0").exists()


def test_a_config_of_something_else_is_no_task(tmp_path):
    config = config_in(tmp_path)
    with pytest.raises(ValueError, match="segmenters and detectors, got one of a classifier"):
        study_heads(config, [config], ["rope"], [0], tmp_path, Accelerator())


def test_accuracies_kept_beside_a_classifier_become_evidence(tmp_path, make_vit):
    """Classification is measured by another study: its numbers are read, and none of other weights."""
    make_vit().save_pretrained(tmp_path / "run" / "classifier")
    trial = Trial("learned", 3, Config(run=str(tmp_path / "run"), tokenizer_run="none"))
    number = trial.config.classifier_training.validation_images
    images = fingerprint(trial.config, train=False, number=number)
    rests_on = {"weights": weights_hash(trial.run / "classifier"), "images": images}

    answers = [
        Answer("learned", 3, (side, side), convention, accuracy, 10, 0.0, 0, 0)
        for side, convention, accuracy in ((8, "timm", 0.5), (16, "timm", 0.25), (16, "area", 0.3))
    ]
    rows = {f"{a.size[0]}x{a.size[1]} {a.convention}": asdict(a) for a in answers}
    kept = trial.run / "sizes.json"
    kept.write_text(json.dumps({**rests_on, "answers": rows}))
    table = over_seeds(accuracies(trial))
    found = [(row.size, row.mean, row.frozen, row.seeds) for row in table]
    assert found == [((8, 8), 0.5, None, (3,)), ((16, 16), 0.25, None, (3,))]
    assert "classification" not in as_markdown(table)
    kept.write_text(json.dumps({**rests_on, "weights": "others", "answers": rows}))
    assert accuracies(trial) == []


def test_evidence_is_mean_and_spread_over_seeds():
    first = SeedScore("rope", 0, "detection", "AP", True, (8, 8), 0.2)
    (row,) = over_seeds([first, replace(first, seed=1, value=0.4)])
    assert row.mean == pytest.approx(0.3)
    assert row.spread == pytest.approx(0.1414, abs=1e-4)
    assert row.seeds == (0, 1)
    assert row.score == "AP"
    assert "| `rope` | 30.0 ± 14.1 |" in as_markdown([row])
