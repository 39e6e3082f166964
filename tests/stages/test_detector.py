"""A detector from its config to its scores: trained, resumed, on COCO's files, refused."""

import json
import shutil

import numpy as np
import pytest
from accelerate import Accelerator
from PIL import Image

from var_pe import settings
from var_pe.settings.files import ConfigError
from var_pe.stages.config import Config
from var_pe.stages.models import weights_hash
from var_pe.stages.plan import plan
from var_pe.stages.score import score_on_maps
from var_pe.stages.train import train_on_maps


def config_in(folder, *more: str) -> Config:
    given = [
        f"run={folder}/run",
        f"tokenizer_run={folder}/tokenizer",
        *(f"data.{rest}" for rest in ("height=16", "width=16", "shapes_train=16", "shapes_test=8")),
        "classifier={}",
        *(f"classifier.{rest}" for rest in ("dim=16", "depth=2", "num_heads=2", "encoding=learned + rope")),
        "detector={}",
        *(f"detector.{rest}" for rest in ("width=32", "convolutions=1")),
        *(
            f"detector_training.{rest}"
            for rest in ("steps=4", "batch=4", "save_every=2", "warmup=0", "trackers=[]", "validate_every=2")
        ),
    ]
    return settings.load(Config, None, [*given, *more])


def test_a_resumed_detector_is_the_one_that_was_never_stopped(tmp_path):
    """Bit for bit; and what was trained is scored and shown."""
    config, accelerator = config_in(tmp_path), Accelerator()
    train_on_maps(config, accelerator)
    folder = tmp_path / "run"
    before = weights_hash(folder / "detector")

    shutil.rmtree(folder / "detector")
    shutil.rmtree(folder / "checkpoints" / "step_00000004")
    assert train_on_maps(config, accelerator).config["num_classes"] == 12
    assert weights_hash(folder / "detector") == before

    found = score_on_maps("detector", config, accelerator)["detector"]
    assert json.loads((folder / "metrics.json").read_text())["detector"] == found
    assert {"ap", "ap50", "ap75", "recall"} <= set(found["values"])
    assert Image.open(folder / "results.png").width > 100


def test_files_of_coco_are_trained_on(tmp_path):
    """Pictures with two boxes, with one and with none are stacked."""
    for split in ("train", "test"):
        (tmp_path / "set" / split).mkdir(parents=True)
        for number in range(3):
            pixels = np.full((20, 24, 3), 80 * number, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / split / f"{number}.jpg")
        sizes = {"height": 20, "width": 24}
        images = [{"id": number, "file_name": f"{number}.jpg"} | sizes for number in range(3)]
        places = [(0, [2, 3, 9, 8]), (0, [5, 5, 12, 9]), (1, [0, 0, 10, 10])]
        boxes = [{"id": 1, "image_id": image, "category_id": 1, "bbox": place} for image, place in places]
        content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "dog"}]}
        (tmp_path / "set" / f"{split}.json").write_text(json.dumps(content))

    config = config_in(tmp_path, "data.source=coco", f"data.path={tmp_path}/set", "data.flip=true")
    said = plan(config)
    assert "annotated: 1 classes of boxes; tested on 3 pictures" in said
    assert "FCOS: on maps of 1 pixels a cell, 4 wide; 2 pixels a cell" in said
    assert train_on_maps(config, Accelerator()).config["num_classes"] == 1


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("detector.width=48", "detector.width must be a multiple of 32, the groups of FCOS's norms, got 48"),
        ("detector.convolutions=5000", "would make a detector of about .* in 5,000 layers"),
        ("segmenter={}", "a run trains a segmenter or a detector, but the config has both sections"),
        ("data.hold_out=0.1", "data.hold_out=0.1 is for folders of pictures"),
    ],
)
def test_what_a_detector_cannot_be_is_said_when_the_config_is_read(tmp_path, setting, sentence):
    with pytest.raises(ConfigError, match=sentence):
        config_in(tmp_path, setting)


def test_data_without_boxes_are_refused_before_anything_is_trained(tmp_path):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            Image.new("RGB", (18, 18)).save(tmp_path / "set" / split / name / "0.png")
    config = config_in(tmp_path, "data.source=imagefolder", f"data.path={tmp_path}/set")
    for action in (plan, lambda config: train_on_maps(config, Accelerator())):
        with pytest.raises(ValueError, match=r"needs boxes, which data.source=shapes and coco have"):
            action(config)
    assert not (tmp_path / "run").exists()
