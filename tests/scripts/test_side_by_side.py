"""benchmarks/side_by_side.py trains every arm with its own settings, and counts what each trains."""

from pathlib import Path

import pytest
from accelerate import Accelerator

from var_pe import settings
from var_pe.comparison.costs import trainable
from var_pe.models.vit import ViTClassifier
from var_pe.stages.config import Config
from var_pe.stages.models import load_classifier, load_model

LINES = '["windowed(blocks=1, window=2)", full(blocks=1)]'
STAGES = f"stages: 'classifier.hierarchy={LINES}' classifier.patch_size=3"


@pytest.fixture
def side_by_side(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import side_by_side

    return side_by_side


def given_in(folder) -> list[str]:
    return [
        *(f"run={folder}/run", f"tokenizer_run={folder}/tokenizer", "data.source=shapes"),
        *("data.height=12", "data.width=12", "data.shapes_train=16", "data.shapes_test=8"),
        *("classifier={}", "classifier.pool=mean"),
        *(f"classifier.{rest}" for rest in ("dim=16", "depth=1", "num_heads=2", "encoding=sinusoidal")),
        *(f"classifier_training.{rest}" for rest in ("steps=2", "batch=4", "warmup=0", "trackers=[]")),
        *(f"classifier_training.{rest}" for rest in ("preview_every=0", "validation_images=8")),
    ]


def written_in(folder) -> str:
    """The same as a config file."""
    file = folder / "given.yaml"
    file.write_text(settings.to_yaml(settings.load(Config, None, given_in(folder))))
    return str(file)


def test_every_arm_has_a_row_over_all_seeds(side_by_side, tmp_path):
    """A head alone is 12 classes of 16 numbers and their biases; a second call trains nothing."""
    words = ["all:", "head: classifier_training.tuned=head", STAGES]
    arms = side_by_side.arms_of(written_in(tmp_path), [f"model.init_from={start(tmp_path)}"], words[:2])
    arms |= side_by_side.arms_of(written_in(tmp_path), [], words[2:])
    given = (arms, [0, 1], 2, tmp_path / "arms", Accelerator())
    everything, head, stages = side_by_side.measured(*given)

    assert head.trained == 12 * (16 + 1)
    assert everything.trained == everything.parameters == head.parameters
    saved = load_classifier(next((tmp_path / "arms" / "stages").rglob("classifier")))
    assert stages.trained == trainable(saved)
    assert all(len(one.accuracies) == len(one.seconds) == 2 for one in (everything, head, stages))
    assert f"| head | {head.parameters:,} | 204 |" in side_by_side.table([everything, head])

    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "arms").rglob("log.jsonl")}
    assert len(written) == 6
    again = side_by_side.measured(*given)
    assert [one.accuracies for one in again] == [one.accuracies for one in (everything, head, stages)]
    assert written == {path: path.stat().st_mtime_ns for path in written}


def start(folder) -> str:
    """A run to start from."""
    model = ViTClassifier(
        image_size=(12, 12), num_classes=12, dim=16, depth=1, num_heads=2, pool="mean", encoding="sinusoidal"
    )
    model.save_pretrained(folder / "start" / "classifier")
    assert load_model(ViTClassifier, folder / "start" / "classifier").config["dim"] == 16
    return str(folder / "start")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["classifier.dim=32"], "--arm is a name, a colon and settings, as in 'plain:', got"),
        (["one:", "one: classifier.dim=32"], "names of arms must differ, got one more than once"),
        (["one:", "large: data.height=24 data.width=24"], "--arm large: its pictures have another size"),
        (["one: classifier.dpth=2"], "unknown key classifier.dpth on the command line"),
    ],
)
def test_arms_that_cannot_be_compared_are_refused(side_by_side, tmp_path, words, sentence):
    with pytest.raises(ValueError, match=sentence):
        side_by_side.arms_of(written_in(tmp_path), [], words)
