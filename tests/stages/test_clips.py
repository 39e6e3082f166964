"""A classifier of clips from its config to its scores: planned, trained, resumed, scored, refused."""

import json
import shutil

import pytest
from accelerate import Accelerator
from PIL import Image

from var_pe import settings
from var_pe.comparison.resolution_study import study_resolutions
from var_pe.diagnosis.opening import open_subject
from var_pe.models.hierarchy.clips import HierarchicalClipClassifier
from var_pe.settings.files import ConfigError
from var_pe.stages.config import Config
from var_pe.stages.features import feature_extractor
from var_pe.stages.models import load_classifier, weights_hash
from var_pe.stages.plan import plan
from var_pe.stages.score import score_classifier
from var_pe.stages.train import train_classifier


def config_in(folder, *more: str) -> Config:
    given = [
        f"run={folder}/run",
        f"tokenizer_run={folder}/tokenizer",
        *(
            f"data.{rest}"
            for rest in ("source=moving_shapes", "frames=4", "shapes_train=16", "shapes_test=8")
        ),
        *(f"data.{rest}" for rest in ("height=16", "width=16")),
        "classifier={}",
        *(f"classifier.{rest}" for rest in ("tubelet=2", "attention=divided", "encoding=learned + rope")),
        *(f"classifier.{rest}" for rest in ("dim=16", "depth=2", "num_heads=2", "patch_size=8")),
        *(f"classifier_training.{rest}" for rest in ("steps=4", "batch=4", "save_every=2", "warmup=0")),
        *(f"classifier_training.{rest}" for rest in ("trackers=[]", "validate_every=2", "preview_every=2")),
        *(f"classifier_training.{rest}" for rest in ("rand_augment=5", "layer_decay=0.8")),
    ]
    return settings.load(Config, None, [*given, *more])


def test_a_resumed_classifier_of_clips_is_the_one_that_was_never_stopped(tmp_path):
    """Bit for bit; it is scored, also at larger frames, and shown as rows of frames."""
    config, accelerator = config_in(tmp_path), Accelerator()
    said = plan(config)
    assert "clips: 4 frames, 2 moments of 2x2 tokens each" in said
    assert "data: 16 training clips, 8 classes" in said
    assert "attention: 2 tokens on cpu by" in said
    assert "train on 16 clips of 8 classes" in said
    train_classifier(config, accelerator)
    folder = tmp_path / "run"
    before = weights_hash(folder / "classifier")
    shutil.rmtree(folder / "classifier")
    shutil.rmtree(folder / "checkpoints" / "step_00000004")
    train_classifier(config, accelerator)
    assert weights_hash(folder / "classifier") == before

    found = score_classifier(config, accelerator)["classifier"]
    assert json.loads((folder / "metrics.json").read_text())["classifier"] == found
    assert found["num_images"] == 8
    assert list(score_classifier(config, accelerator, (32, 16))) == ["classifier/32x16/timm"]
    preview = next((folder / "samples").glob("*.png"))
    assert Image.open(preview).width > 4 * 16

    # What looks at single pictures says that it cannot.
    for look in (open_subject, lambda run: feature_extractor(str(run))):
        with pytest.raises(ValueError, match="a classifier of clips, which cannot take single images"):
            look(folder)

    with pytest.raises(ValueError, match="resolutions are compared on classifiers of pictures"):
        study_resolutions(config, ["rope"], [0], [(16, 16)], ["timm"], tmp_path, accelerator)

    # Another run may go on from it.
    more = config_in(tmp_path / "more", f"model.init_from={folder}")
    assert f"starts from {folder}" in plan(more)


STAGES = 'classifier.hierarchy=["windowed(blocks=2, window=2, moments=2)", "full(blocks=1, stride=1)"]'


def test_a_hierarchy_of_clips_is_planned_trained_and_scored(tmp_path):
    """Like any other classifier of clips; it is loaded as what it is, and takes no pictures."""
    more = ["classifier.attention=joint", "classifier.tubelet=1", "classifier.patch_size=4"]
    config, accelerator = config_in(tmp_path, *more, STAGES), Accelerator()
    said = plan(config)
    assert "clips: 4 frames, 4 moments of 4x4 tokens each" in said
    assert "stage 1, windowed: 4x4x4 cells, 16 wide, 2 blocks" in said
    assert "attention: 8 parts of 8 tokens on cpu by" in said

    trained = train_classifier(config, accelerator)
    folder = tmp_path / "run" / "classifier"
    again = load_classifier(folder)
    assert isinstance(again, HierarchicalClipClassifier)
    assert again.config["hierarchy"] == trained.config["hierarchy"]
    assert score_classifier(config, accelerator)["classifier"]["num_images"] == 8
    with pytest.raises(ValueError, match="a classifier of clips, which cannot take single images"):
        open_subject(tmp_path / "run")


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (
            ["classifier.tubelet=null"],
            "classifier.attention=divided is for clips: give tubelet=1 or more, too",
        ),
        (
            ["classifier=null"],
            "data.source=moving_shapes has clips, which need a classifier with classifier.tubelet",
        ),
        (
            ["data.source=shapes"],
            "classifier.tubelet=2 takes clips, which moving_shapes and videos have, got",
        ),
        (
            ["segmenter={}"],
            "classifier.tubelet=2 makes a classifier of clips, which cannot be trained as segmenter",
        ),
        (["classifier.registers=1"], "attention=divided has no part for tokens without a place"),
        (
            ["classifier.hierarchy=[full(blocks=1)]"],
            "classifier.attention=divided has no meaning in a hierarchy, whose stages say what a token sees",
        ),
        (
            ["classifier.hierarchy=[mobile(blocks=1)]", "classifier.attention=joint"],
            "classifier.hierarchy: stage 1, .* mobile is for pictures; stages of clips are full, windowed",
        ),
        (
            ["classifier_training.mixup=0.2"],
            "classifier_training.mixup works on pictures, but classifier.tubelet=2 takes clips",
        ),
    ],
)
def test_what_clips_cannot_have_is_said_when_the_config_is_read(tmp_path, more, sentence):
    with pytest.raises(ConfigError, match=sentence):
        config_in(tmp_path, *more)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["classifier.encoding=peg"], "classifier.encoding 'peg': peg has no time axis, which clips need"),
        (["data.frames=5"], "classifier.tubelet must divide the frames of a clip, got 2 for 5"),
        (["data.source=videos", "data.path=/nowhere"], "data.path=/nowhere does not exist|PyAV"),
    ],
)
def test_what_cannot_be_trained_is_said_before(tmp_path, more, sentence):
    with pytest.raises(ValueError, match=sentence):
        plan(config_in(tmp_path, *more))
    assert not (tmp_path / "run").exists()
