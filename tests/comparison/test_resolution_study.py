"""Classifiers measured at other sizes: the pictures they see there, and what is kept."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from var_pe.comparison import resolution_study
from var_pe.comparison.resolution_study import (
    FILE,
    Answer,
    ResolutionStudy,
    answers_of,
    as_markdown,
    images_at,
    parse_size,
    study_resolutions,
)
from var_pe.comparison.trials import trials
from var_pe.data.sources import DataConfig
from var_pe.files import write_json
from var_pe.models.vit import ClassifierConfig, ViTClassifier
from var_pe.stages.config import Config

CONFIG = Config(
    run="run",
    tokenizer_run="tokenizer",
    data=DataConfig(shapes_train=8, shapes_test=6, height=16, width=16),
    classifier=ClassifierConfig(dim=16, depth=1, num_heads=2),
)


def saved(config: Config) -> None:
    """What training would leave behind."""
    model = ViTClassifier(image_size=(16, 16), num_classes=12, dim=16, depth=1, num_heads=2)
    model.save_pretrained(Path(config.run) / "classifier")


def test_sizes_are_a_side_or_height_and_width():
    assert parse_size("48") == (48, 48)
    assert parse_size("32x64") == (32, 64)
    for word in ("", "0", "a", "1x2x3", "-4", "1.5"):
        with pytest.raises(ValueError, match="a size is SIDE or HEIGHTxWIDTH"):
            parse_size(word)


def test_shapes_are_drawn_anew_at_another_size():
    images_NCHW, labels_N = images_at(CONFIG, (16, 32))
    drawn = replace(CONFIG, data=replace(CONFIG.data, height=16, width=32))
    assert images_NCHW.shape == (6, 3, 16, 32)
    torch.testing.assert_close(images_NCHW, images_at(drawn, (16, 32))[0])
    assert torch.equal(labels_N, images_at(CONFIG, (16, 16))[1])


def test_other_pictures_keep_their_aspect_and_are_centred_on_black(monkeypatch):
    """Stretching would change what the picture shows; the margin must be black, not grey."""
    white = [{"image": torch.ones(1, 16, 16), "label": 3}]
    monkeypatch.setattr(resolution_study, "held_out_images", lambda *_: white)
    config = replace(CONFIG, data=replace(CONFIG.data, source="fashion_mnist", channels=1))
    (image_1HW,), _ = images_at(config, (32, 64))
    expected_HW = torch.full((32, 64), -1.0)
    expected_HW[:, 16:48] = 1
    torch.testing.assert_close(image_1HW[0], expected_HW)
    (same_1HW,), _ = images_at(config, (16, 16))
    assert torch.equal(same_1HW, white[0]["image"])


def test_answers_are_kept_until_images_or_weights_change(tmp_path, monkeypatch):
    (trial,) = trials(CONFIG, ["sinusoidal"], [0], tmp_path)
    saved(trial.config)
    first = answers_of(trial, [(16, 16), (16, 24)], ["timm"])
    assert [a.size for a in first] == [(16, 16), (16, 24)]
    assert all(a.count == 6 and 0 <= a.accuracy <= 1 for a in first)
    with monkeypatch.context() as patched:
        patched.setattr(resolution_study, "measure", lambda *_: pytest.fail("measured twice"))
        assert answers_of(trial, [(16, 24)], ["timm"]) == first[1:]
    kept = Path(trial.config.run) / "sizes.json"
    calls = []
    monkeypatch.setattr(resolution_study, "measure", lambda *args: calls.append(args) or first[0])

    # Other images to measure on, then other weights
    other = replace(trial.config, data=replace(trial.config.data, subset_seed=1))
    answers_of(replace(trial, config=other), [(16, 24)], ["timm"])
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "weights": "others"}))
    answers_of(trial, [(16, 24)], ["timm"])
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(CONFIG, classifier=None), "the config has no classifier section"),
        (CONFIG, "multiples of classifier.patch_size 4, got 18x16"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_training(config, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        study_resolutions(config, ["none"], [0], [(18, 16)], ["timm"], tmp_path, accelerator=None)
    assert not any(tmp_path.iterdir())


def test_a_further_call_adds_to_the_table(tmp_path, monkeypatch):
    """Hours of measuring are not to vanish from the page because one encoding more was asked for."""
    monkeypatch.setattr(resolution_study, "train_classifier", lambda config, _: saved(config))
    accelerator = Accelerator()
    for line, sizes, convention in (("sinusoidal", [(16, 16)], "timm"), ("none", [(24, 24)], "area")):
        study = study_resolutions(CONFIG, [line], [0], sizes, [convention], tmp_path, accelerator)
        write_json(tmp_path / FILE, asdict(study))
    assert [(a.encoding.partition("(")[0], a.size, a.convention) for a in study.answers] == [
        ("sinusoidal", (16, 16), "timm"),
        ("none", (24, 24), "area"),
    ]
    table = as_markdown(study, study.sizes, study.conventions)
    assert "| encoding | convention | parameters | 16x16 | 24x24 |" in table
    assert table.count("\n| `") == 2


def test_the_table_states_mean_and_spread():
    answers = [
        Answer("a", seed, (8, 8), "timm", accuracy, 10, 0.0, 0, 1234)
        for seed, accuracy in ((0, 0.5), (1, 0.7))
    ]
    assert "| `a` | 1,234 | 60.0 ± 14.1 |" in as_markdown(ResolutionStudy(answers, {}), [(8, 8)], ["timm"])


def test_conventions_are_told_with_what_moving_took():
    """The claim that one of them needs more memory than another has to meet a number."""
    answers = [
        Answer("learned", 0, (8, 8), convention, 0.5, 10, seconds, 4096, 99)
        for convention, seconds in (("timm", 0.002), ("area", 0.001))
    ]
    table = as_markdown(ResolutionStudy(answers, {}), [(8, 8)], ["timm", "area"])
    assert "| `learned` | timm | 99 | 50.0 | 2.00 | 4.1 |" in table
    assert "| `learned` | area | 99 | 50.0 | 1.00 | 4.1 |" in table
