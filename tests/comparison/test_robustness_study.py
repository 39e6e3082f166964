"""The study of robustness: what is measured of saved runs, how runs share columns, what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from var_pe import settings
from var_pe.comparison.robustness_study import (
    CLEAN,
    Questions,
    accuracy,
    as_markdown,
    bits_of,
    check_generator,
    outside_images,
    study_robustness,
    subjects_of,
    tensors_of,
)
from var_pe.data.sources import DataConfig
from var_pe.evaluation.defences import Defence, defended
from var_pe.models.vit import ClassifierConfig, ViTClassifier
from var_pe.sampling.likelihood import bits_of_set
from var_pe.sampling.pipeline import VARPipeline
from var_pe.stages.config import Config
from var_pe.stages.images import held_out_images
from var_pe.stages.models import build_generator, build_tokenizer
from var_pe.tasks.attack import Attack
from var_pe.tasks.classifier import ClassifierTraining

CONFIG = Config(
    run="run",
    tokenizer_run="tokenizer",
    data=DataConfig(shapes_train=200, shapes_test=8, height=16, width=16),
    classifier=ClassifierConfig(dim=16, depth=1, num_heads=2),
)
SMALL = [
    "run=run",
    "tokenizer_run=tokenizer",
    "generator.dim=16",
    "generator.depth=1",
    "generator.num_heads=2",
]
QUESTIONS = Questions(images=8, epsilons=(4.0,), steps=2, against=("noise",))


def saved(config: Config, run: Path) -> Config:
    """What training would leave behind."""
    model = ViTClassifier(image_size=(16, 16), num_classes=12, dim=16, depth=1, num_heads=2, seed=config.seed)
    model.save_pretrained(run / "classifier")
    return replace(config, run=str(run))


def test_every_question_is_asked_of_every_run(tmp_path):
    """Two seeds of an encoding share a column; the json has both, under the same changed images."""
    pytest.importorskip("art")
    pytest.importorskip("pytorch_ood")
    runs = [tmp_path / "a", tmp_path / "b"]
    configs = [saved(replace(CONFIG, seed=seed), run) for seed, run in enumerate(runs)]
    subjects = subjects_of(runs, configs)
    study = study_robustness(subjects, QUESTIONS, None, torch.device("cpu"), lambda line: None)

    images = tensors_of(held_out_images(CONFIG, 8))
    for subject, measured in zip(subjects, study.measured, strict=True):
        assert set(measured.tables) == {"places", "corruptions", "attacks", "other data"}
        clean = {measured.tables[table][CLEAN] for table in ("places", "corruptions", "attacks")}
        assert clean == {accuracy(subject.model, *images)}

    text = as_markdown(study)
    assert text.count("| `learned` |") == 4
    assert all(row in text for row in ("shift by 4 pixels", "all, severity 5", "PGD 4/255", "energy, noise"))
    assert "±" in text


def test_defences_have_a_price_and_two_attackers(tmp_path):
    """Rows of each, times of each, and the classifier without one as it stands in the table of attacks."""
    pytest.importorskip("art")
    pytest.importorskip("pytorch_ood")
    config = saved(CONFIG, tmp_path)
    asked = replace(QUESTIONS, defences=(Defence("bits", 2), Defence("median", 3)))
    study = study_robustness(
        subjects_of([tmp_path], [config]), asked, None, torch.device("cpu"), lambda line: None
    )
    tables = study.measured[0].tables
    assert list(tables["defences"])[:2] == [f"none: {CLEAN}", "none: PGD 4/255"]
    assert tables["defences"]["none: PGD 4/255"] == tables["attacks"]["PGD 4/255"]
    assert list(tables["defences"])[5:] == [
        f"median=3: {CLEAN}",
        "median=3: PGD 4/255, which does not know of it",
        "median=3: PGD 4/255, which knows of it",
    ]

    images_NCHW, labels_N = tensors_of(held_out_images(CONFIG, 8))
    model = subjects_of([tmp_path], [config])[0].model
    clean = accuracy(model, defended(images_NCHW, Defence("median", 3)), labels_N)
    assert tables["defences"][f"median=3: {CLEAN}"] == clean
    assert list(study.milliseconds) == ["answers of `learned`", "bits=2", "median=3"]
    assert min(study.milliseconds.values()) > 0
    assert "| median=3: PGD 4/255, which knows of it |" in as_markdown(study)


def test_other_data_have_the_size_and_channels_of_the_runs():
    config = replace(CONFIG, data=replace(CONFIG.data, channels=1, height=24))
    noise_NCHW = outside_images(config, "noise", QUESTIONS)
    assert noise_NCHW.shape == (8, 1, 24, 16)
    assert torch.equal(noise_NCHW, outside_images(config, "noise", QUESTIONS))
    with pytest.raises(ValueError, match="--against shapes: that is what the classifiers were trained on"):
        outside_images(config, "shapes", QUESTIONS)


def test_runs_that_cannot_share_a_table_are_refused(tmp_path):
    runs = [tmp_path / "a", tmp_path / "b"]
    first = saved(CONFIG, runs[0])
    with pytest.raises(ValueError, match="is not the folder of a finished run of a classifier"):
        subjects_of(runs, [first, first])

    second = saved(CONFIG, runs[1])
    with pytest.raises(ValueError, match="data sections must be equal"):
        subjects_of(runs, [first, replace(second, data=replace(CONFIG.data, shapes_test=9))])
    with pytest.raises(ValueError, match="differ in more than their seed"):
        subjects_of(runs, [first, replace(second, classifier_training=ClassifierTraining(batch=7))])

    # A seed counted twice would halve the spread
    with pytest.raises(ValueError, match="is given more than once"):
        subjects_of([runs[0], runs[0] / ".." / "a"], [first, first])
    with pytest.raises(
        ValueError, match="same settings and the same seed, 0: a spread over seeds would count"
    ):
        subjects_of(runs, [first, second])

    attacked = replace(second, classifier_training=ClassifierTraining(attack=Attack()))
    columns = [subject.column for subject in subjects_of(runs, [first, attacked])]
    assert columns == ["`learned`", "`learned`, trained against 8/255"]


def test_bits_are_those_of_all_tokens_without_a_class():
    """As scripts/likelihood.py counts them."""
    config = settings.load(Config, "shapes.yaml", SMALL)
    pipeline = VARPipeline(build_tokenizer(config), build_generator(config, 12), list("abcdefghijkl"))
    images = held_out_images(config, 3)
    images_NCHW, _ = tensors_of(images)
    wanted_NYK, _ = bits_of_set(pipeline.transformer.eval(), pipeline.tokenizer.eval(), images)
    torch.testing.assert_close(bits_of(pipeline, images_NCHW), wanted_NYK[:, -1].sum(1))


def test_a_generator_that_cannot_say_the_bits_is_refused():
    """Of another size, or never trained without a class; one without classes needs no such training."""
    config = settings.load(Config, "shapes.yaml", SMALL)
    for classes, drop in ((12, 0.1), (0, 0.0)):
        pipeline = VARPipeline(build_tokenizer(config), build_generator(config, classes))
        check_generator(pipeline, drop, config)
    grey = replace(config, data=replace(config.data, channels=1))
    with pytest.raises(
        ValueError, match=r"draws images of .* \(3, 32, 32\), but the classifiers' are \(1, 32"
    ):
        check_generator(pipeline, 0.1, grey)
    pipeline = VARPipeline(build_tokenizer(config), build_generator(config, 12))
    with pytest.raises(ValueError, match="label_drop=0, so it knows no image without a class"):
        check_generator(pipeline, 0.0, config)
