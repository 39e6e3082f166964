"""Pictures of any sides are trained on and measured where the config pads them, and refused elsewhere."""

import pytest
import torch
from accelerate import Accelerator

from var_pe import settings
from var_pe.comparison.resolution_study import study_resolutions
from var_pe.settings.files import ConfigError
from var_pe.stages.config import Config
from var_pe.stages.models import build_segmenter
from var_pe.stages.plan import plan


def config_in(folder, *more: str) -> Config:
    given = [
        *(f"run={folder}/run", f"tokenizer_run={folder}/tokenizer", "data.source=shapes"),
        *("data.height=13", "data.width=15", "data.shapes_train=16", "data.shapes_test=8"),
        *(f"classifier.{rest}" for rest in ("patch_size=4", "dim=16", "depth=1", "num_heads=2")),
        "classifier.encoding=sinusoidal",
        *(f"classifier_training.{rest}" for rest in ("steps=2", "batch=4", "warmup=0", "trackers=[]")),
        *(f"classifier_training.{rest}" for rest in ("preview_every=0", "validation_images=8")),
    ]
    return settings.load(Config, None, ["classifier={}", *given, *more])


def test_such_pictures_are_trained_on_and_measured(tmp_path):
    config = config_in(tmp_path, "classifier.padding=end")
    assert "attention: 16 tokens on " in plan(config)
    sizes = [(13, 15), (14, 17)]
    study = study_resolutions(config, ["sinusoidal"], [0], sizes, ["timm"], tmp_path / "study", Accelerator())
    assert [answer.size for answer in study.answers] == sizes
    assert all(torch.isfinite(torch.tensor(answer.accuracy)) for answer in study.answers)


def test_they_are_refused_without(tmp_path):
    with pytest.raises(
        ValueError, match=r"classifier.patch_size must divide .* got 4 for 13x15; padding=end"
    ):
        plan(config_in(tmp_path))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["classifier.hierarchy=['full(blocks=1)']"],
            "padding has no meaning in a hierarchy: leave it at none",
        ),
        (["classifier.tubelet=1", "data.source=moving_shapes"], "padding=end is for pictures"),
        (["encoder={}"], "classifier.padding=end is for classifiers"),
        (
            ["classifier.padding=same"],
            "classifier.padding on the command line must be one of none, end, got same",
        ),
    ],
)
def test_what_has_no_padding_says_so(tmp_path, words, sentence):
    with pytest.raises(ConfigError, match=sentence):
        config_in(tmp_path, "classifier.padding=end", *words)


def test_models_that_draw_whole_patches_say_so(tmp_path):
    config = config_in(tmp_path, "classifier.padding=end", "segmenter={}")
    with pytest.raises(ValueError, match=r"leave classifier.padding at none, got end"):
        build_segmenter(config, 3)
