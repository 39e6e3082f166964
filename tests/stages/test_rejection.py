"""Folders of images of which a trained classifier keeps one of several drawings."""

import json

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from var_pe import settings
from var_pe.sampling.config import SamplingConfig
from var_pe.sampling.rejection import children
from var_pe.seeding import generator_for
from var_pe.stages.config import Config
from var_pe.stages.draw import as_asked, draw_folder, sampling_of
from var_pe.training.notes import TrainingNotes


@pytest.fixture
def judge(tmp_path, make_vit, make_loud):
    """The run of a classifier of the pipeline's three classes."""

    def make(names=("ant", "bee", "cat"), name="judge"):
        vit = make_loud(make_vit(image_size=(8, 8)))
        vit.save_pretrained(tmp_path / name / "classifier")
        TrainingNotes(step=1, ema=True, class_names=names).write(tmp_path / name / "classifier")
        return vit, str(tmp_path / name)

    return make


def test_of_several_drawings_the_classifier_s_favourite_is_written(tmp_path, pipeline, judge):
    """Image by image, with the same seeds; the folder says how many there were, and by whose weights."""
    vit, run = judge()
    config = SamplingConfig(images_per_class=2, draws_per_image=5, classifier=run, guidance_scale=0.0)
    as_asked(pipeline, config)
    images = draw_folder(pipeline, config, tmp_path / "drawn", Accelerator())

    others = 0
    for number, path in enumerate(sorted(images.rglob("*.png"))):
        label = number // 2
        candidates = [
            pipeline(label, generator=[child], guidance_scale=0.0, output_type="pt").images[0]
            for child in children(generator_for(config.seed, "image", number), 5)
        ]
        with torch.no_grad():
            likely_n = vit(torch.stack(candidates) * 2 - 1).log_softmax(1)[:, label]
        kept_HWC = np.asarray(Image.open(path))
        torch.testing.assert_close(
            torch.from_numpy(kept_HWC.copy()).permute(2, 0, 1),
            (candidates[int(likely_n.argmax())] * 255).round().byte(),
            atol=1,
            rtol=0,
        )
        others += int(likely_n.argmax()) > 0
    assert number == 5
    assert others

    noted = json.loads((tmp_path / "drawn" / "sampling.json").read_text())
    assert noted["draws_per_image"] == 5
    assert "classifier" not in noted
    assert sampling_of(tmp_path / "drawn", config) == config


def test_a_folder_belongs_to_the_classifier_that_chose_its_images(tmp_path, pipeline, judge):
    """As to the generator: another one's choices, or pictures that nobody chose, are not put beside them."""
    config = SamplingConfig(images_per_class=1, draws_per_image=2, classifier=judge()[1])
    as_asked(pipeline, config)
    draw_folder(pipeline, config, tmp_path / "drawn", Accelerator())

    draw_folder(pipeline, config, tmp_path / "drawn", Accelerator())
    with torch.no_grad():
        next(pipeline.classifier.parameters()).add_(1)
    with pytest.raises(ValueError, match="by another model"):
        draw_folder(pipeline, config, tmp_path / "drawn", Accelerator())
    pipeline.classifier = None
    with pytest.raises(ValueError, match="by another model"):
        draw_folder(pipeline, SamplingConfig(images_per_class=1), tmp_path / "drawn", Accelerator())


def test_a_classifier_that_cannot_choose_is_refused(tmp_path, pipeline, judge):
    with pytest.raises(settings.ConfigError, match=r"sampling\.draws_per_image=3 needs sampling\.classifier"):
        settings.load(Config, "shapes_mixed.yaml", ["sampling.draws_per_image=3"])

    other = judge(("ant", "bee", "cow"), "other")[1]
    with pytest.raises(ValueError, match=r"sampling\.classifier=.*other was trained on other classes"):
        as_asked(pipeline, SamplingConfig(draws_per_image=2, classifier=other))
    with pytest.raises(ValueError, match="nowhere"):
        as_asked(pipeline, SamplingConfig(draws_per_image=2, classifier=str(tmp_path / "nowhere")))

    # One drawing leaves nothing to choose: no classifier is loaded.
    assert as_asked(pipeline, SamplingConfig(classifier=other)).classifier is None
