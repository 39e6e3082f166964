"""What the study of heads keeps beside the classifiers, and what it takes from the study of resolutions."""

import json
from dataclasses import asdict

import pytest

from var_pe.comparison import head_study
from var_pe.comparison.head_study import SeedScore, accuracies, as_markdown, head_scores, over_seeds
from var_pe.comparison.heads import HEADS, HeadTraining
from var_pe.comparison.resolution_study import Answer
from var_pe.comparison.trials import Trial
from var_pe.stages.config import Config
from var_pe.stages.images import fingerprint
from var_pe.stages.models import weights_hash


@pytest.fixture
def trial(tmp_path, make_vit) -> Trial:
    """A run with a classifier in its folder."""
    make_vit().save_pretrained(tmp_path / "run" / "classifier")
    return Trial("learned", 3, Config(run=str(tmp_path / "run"), tokenizer_run="none"))


def rests_on(trial: Trial) -> dict[str, str]:
    number = trial.config.classifier_training.validation_images
    images = fingerprint(trial.config, train=False, number=number)
    return {"weights": weights_hash(trial.run / "classifier"), "images": images}


def test_accuracies_kept_beside_a_classifier_become_evidence(trial):
    """Classification is measured by another study: its numbers are read, and none of other weights."""
    answers = [
        Answer("learned", 3, (side, side), convention, accuracy, 10, 0.0, 0, 0)
        for side, convention, accuracy in ((8, "timm", 0.5), (16, "timm", 0.25), (16, "area", 0.3))
    ]
    rows = {f"{a.size[0]}x{a.size[1]} {a.convention}": asdict(a) for a in answers}
    kept = trial.run / "sizes.json"
    kept.write_text(json.dumps({**rests_on(trial), "answers": rows}))
    table = over_seeds(accuracies(trial))
    found = [(row.size, row.mean, row.frozen, row.seeds) for row in table]
    assert found == [((8, 8), 0.5, None, (3,)), ((16, 16), 0.25, None, (3,))]
    assert "classification" not in as_markdown(table)
    kept.write_text(json.dumps({**rests_on(trial), "weights": "others", "answers": rows}))
    assert accuracies(trial) == []


def test_a_stopped_study_trains_only_the_heads_that_are_missing(trial, monkeypatch):
    """A head takes minutes, and there are four on every classifier."""
    trained = []

    def train_and_score(trial, task, heads, *, frozen):
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append((task, frozen))
        return [SeedScore("learned", 3, task, frozen, (8, 8), len(trained) / 10)]

    monkeypatch.setattr(head_study, "train_and_score", train_and_score)
    with pytest.raises(KeyboardInterrupt):
        head_scores(trial, HeadTraining())
    done = trained.copy()
    trained.clear()
    scores = head_scores(trial, HeadTraining())
    assert len(done) == 3
    assert len(trained) == 1
    assert {(score.task, score.frozen) for score in scores} == {
        (task, f) for task in HEADS for f in (True, False)
    }
    assert all(score.size == (8, 8) for score in scores)
    trained.clear()
    with pytest.raises(KeyboardInterrupt):
        head_scores(trial, HeadTraining(steps=7))  # other heads: nothing of it is known
