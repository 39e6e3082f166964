"""A segmenter from its config to its scores: trained, resumed, started from a classifier, refused."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from var_pe import settings
from var_pe.diagnosis.opening import open_subject
from var_pe.settings.files import ConfigError
from var_pe.stages.config import Config
from var_pe.stages.models import build_segmenter, load_classifier, weights_hash
from var_pe.stages.plan import plan
from var_pe.stages.score import is_scored, score_on_maps
from var_pe.stages.train import train_classifier, train_on_maps


def config_in(folder, *more: str) -> Config:
    given = [
        f"run={folder}/run",
        f"tokenizer_run={folder}/tokenizer",
        *(f"data.{rest}" for rest in ("height=16", "width=16", "shapes_train=16", "shapes_test=8")),
        "classifier={}",
        *(f"classifier.{rest}" for rest in ("dim=16", "depth=2", "num_heads=2", "encoding=learned + rope")),
        "segmenter={}",
        *(f"segmenter.{rest}" for rest in ("decoder=transformer", "width=8", "depth=1")),
        *(
            f"{kind}_training.{rest}"
            for kind in ("segmenter", "classifier")
            for rest in ("steps=4", "batch=4", "save_every=2", "warmup=0", "trackers=[]", "validate_every=2")
        ),
    ]
    return settings.load(Config, None, [*given, *more])


def test_a_resumed_segmenter_is_the_one_that_was_never_stopped(tmp_path):
    """Bit for bit; and what was trained is scored and shown."""
    config, accelerator = config_in(tmp_path), Accelerator()
    trained = train_on_maps(config, accelerator)
    folder = tmp_path / "run"
    before = weights_hash(folder / "segmenter")

    shutil.rmtree(folder / "segmenter")
    shutil.rmtree(folder / "checkpoints" / "step_00000004")
    train_on_maps(config, accelerator)
    assert weights_hash(folder / "segmenter") == before

    found = score_on_maps("segmenter", config, accelerator)["segmenter"]
    assert json.loads((folder / "metrics.json").read_text())["segmenter"] == found
    assert is_scored(config, folder, "segmenter")
    assert found["num_images"] == 8
    assert 0 <= found["values"]["mean_iou"] <= 1
    assert Image.open(folder / "results.png").width > 100
    names = json.loads((folder / "segmenter" / "training.json").read_text())["class_names"]
    assert len(names) == 13
    assert trained.config["num_classes"] == 13

    moved = score_on_maps("segmenter", config, accelerator, (32, 32))
    assert list(moved) == ["segmenter/32x32/timm"]
    assert torch.equal(open_subject(folder).model.patch_embed.weight, trained.encoder.patch_embed.weight)


def test_a_segmenter_starts_from_a_classifier_that_stays_as_it_is(tmp_path):
    """Its weights are the encoder's, and with all layers frozen to the end they still are."""
    of_classifier = config_in(tmp_path / "first", "segmenter=null")
    train_classifier(of_classifier, Accelerator())
    more = [f"model.init_from={tmp_path}/first/run", "segmenter_training.unfreeze_every=4"]
    config = config_in(tmp_path, *more)
    assert f"starts from {tmp_path}/first/run: all weights of the encoder" in plan(config)

    trained = train_on_maps(config, Accelerator())
    source = load_classifier(tmp_path / "first" / "run" / "classifier").state_dict()
    encoder = trained.encoder.state_dict()
    assert all(torch.equal(value, source[name]) for name, value in encoder.items())
    new = build_segmenter(config, 13).head.state_dict()
    assert any(not torch.equal(value, new[name]) for name, value in trained.head.state_dict().items())


def test_a_folder_with_masks_is_trained_on(tmp_path):
    """All pixels of a mask may be of no class."""
    for split in ("train", "test"):
        for name in ("images", "masks"):
            (tmp_path / "set" / split / name).mkdir(parents=True)
        for number in range(3):
            mask = np.full((20, 18), 255 if number else 1, np.uint8)
            Image.fromarray(np.stack([mask] * 3, 2)).save(
                tmp_path / "set" / split / "images" / f"{number}.jpg"
            )
            Image.fromarray(mask).save(tmp_path / "set" / split / "masks" / f"{number}.png")
    data = ["data.source=masks", f"data.path={tmp_path}/set", "data.classes=[sky, sea]"]
    config = config_in(tmp_path, *data)
    said = plan(config)
    assert "annotated: 2 classes of pixels; tested on 3 pictures" in said
    assert "decoder transformer: on maps of 1 pixels a cell, 4 wide; 2 pixels a cell" in said
    assert train_on_maps(config, Accelerator()).config["num_classes"] == 2

    # A changed file is known by its size and the second of its change.
    changed = tmp_path / "set" / "test" / "masks" / "0.png"
    Image.new("L", (18, 20), 7).save(changed)
    os.utime(changed, (0, changed.stat().st_mtime + 60))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"mask .*0.png has the value 7, but the 2 classes are 0 to 1"):
            plan(config)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("classifier=null", "segmenter needs a classifier section, which describes its encoder"),
        ("segmenter.decoder=fnp", "segmenter.decoder"),
        ("segmenter.depth=0", "segmenter.depth"),
        ("segmenter.width=1000000", "segmenter.width=1000000, .* would make a segmenter of about"),
    ],
)
def test_what_a_segmenter_cannot_be_is_said_when_the_config_is_read(tmp_path, setting, sentence):
    with pytest.raises(ConfigError, match=sentence):
        config_in(tmp_path, setting)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("segmenter.finer=3", "segmenter.finer=3 is too large: the finest map has cells of 4 pixels"),
        ("model.init_from=/nowhere", "model.init_from=/nowhere"),
    ],
)
def test_what_cannot_be_trained_is_said_before(tmp_path, setting, sentence):
    for action in (plan, lambda config: train_on_maps(config, Accelerator())):
        with pytest.raises(ValueError, match=sentence):
            action(config_in(tmp_path, setting))
    assert not (tmp_path / "run").exists()
