"""What a training shows of itself: named pictures of all classes, in the folder and in the trackers."""

import io
import json
import os
import sqlite3
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.runs import TINY
from var_pe import settings
from var_pe.data.shapes import CLASSES
from var_pe.pyramid import Pyramid
from var_pe.sampling.config import SamplingConfig
from var_pe.stages.config import Config
from var_pe.stages.session import session, start_accelerator
from var_pe.stages.train import train_classifier, train_generator, train_tokenizer
from var_pe.tasks import classifier, generator, tokenizer
from var_pe.tasks.generator import GeneratorTask, GeneratorTraining
from var_pe.tasks.tokenizer import TokenizerTask, TokenizerTraining
from var_pe.training.run import Run

RULES = ("steps=4", "batch=4", "validation_images=40", "precision=float32", "validate_every=2")
SMALL = [
    *TINY,
    "data.shapes_train=24",
    "data.shapes_test=40",
    *[f"{kind}_training.{rule}" for kind in ("tokenizer", "generator") for rule in RULES],
]
VIT = [
    "data.shapes_train=24",
    "data.shapes_test=80",
    "classifier.dim=16",
    "classifier.depth=1",
    "classifier.num_heads=2",
    *[f"classifier_training.{rule}" for rule in (*RULES, "validation_images=80")],
]


def a_config(folder, *more: str) -> Config:
    here = [f"run={folder / 'run'}", f"tokenizer_run={folder / 'tokenizer'}"]
    return settings.load(Config, "shapes_mixed.yaml", [*SMALL, *here, *more])


@pytest.fixture
def sheets(monkeypatch):
    """Every sheet that the tasks of a training make, as titles with cells, in order."""
    made = []
    for task in (tokenizer, generator, classifier):
        real = task.sheet

        def listening(sections, real=real):
            made.append(sections)
            return real(sections)

        monkeypatch.setattr(task, "sheet", listening)
    return made


def equal(one, other) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_tensorboard_shows_what_lies_in_the_folder(tmp_path):
    """Pictures by step beside the curves, pixel for pixel."""
    config = a_config(tmp_path, "tokenizer_training.preview_every=2", "generator_training.preview_every=2")
    with session(config.tokenizer_training, config.generator_training) as accelerator:
        train_generator(config, train_tokenizer(config, accelerator), accelerator)
    for folder in (tmp_path / "tokenizer", tmp_path / "run"):
        events = EventAccumulator(str(folder / "tracking"), size_guidance={"images": 0}).Reload()
        shown = events.Images("samples")
        assert [event.step for event in shown] == [2, 4]
        for event in shown:
            (tmp_path / "shown.png").write_bytes(event.encoded_image_string)
            there = Image.open(folder / "samples" / f"step_{event.step:08d}.png")
            assert np.array_equal(Image.open(tmp_path / "shown.png").convert("RGB"), there)


def test_previews_change_no_weights(tmp_path):
    """Who looks more often must get the same model."""
    weights = []
    for every in (0, 1):
        more = [f"{kind}_training.preview_every={every}" for kind in ("tokenizer", "generator")]
        config = a_config(tmp_path / str(every), *more, "generator.drop_path=0.5")
        accelerator = Accelerator()
        first = train_tokenizer(config, accelerator)
        weights.append([first, train_generator(config, first, accelerator)])
    assert all(equal(*pair) for pair in zip(*weights, strict=True))


def test_a_tokenizers_sheet_shows_every_class_and_the_worst(tmp_path, sheets):
    """The same pictures at every step; a good mean hides the pictures that fail."""
    train_tokenizer(a_config(tmp_path, "tokenizer_training.preview_every=2"), Accelerator())
    assert len(sheets) == 2
    for shown, worst in sheets:
        assert {cell.name for cell in shown.cells} == set(CLASSES)
        assert "with the lowest PSNR" in worst.title
        quality = [float(cell.note.removesuffix(" dB")) for cell in worst.cells]
        assert len(quality) == 8
        assert quality == sorted(quality)
        assert max(quality) <= min(float(cell.note.removesuffix(" dB")) for cell in shown.cells) + 3
    originals = [[cell.pictures[0].tobytes() for cell in shown.cells] for shown, _ in sheets]
    assert originals[0] == originals[1]


def test_a_classifiers_sheet_names_what_is_wrong(tmp_path, sheets):
    config = settings.load(Config, "shapes_vit.yaml", [*VIT, f"run={tmp_path / 'run'}"])
    train_classifier(config, Accelerator())
    ((shown, worst),) = sheets
    assert {cell.name for cell in shown.cells} == set(CLASSES)
    assert all(cell.note.removeprefix("→ ") in ("", *CLASSES) for cell in [*shown.cells, *worst.cells])
    assert any(cell.note for cell in worst.cells)


def held_out(number: int, classes: int, channels: int = 3, sides: tuple[int, int] = (8, 8)):
    """Random images, sorted by class; without classes if there are none."""

    class Images(list):
        class_names = tuple(f"name {label}" for label in range(classes))

    labels = [index * classes // number if classes else -1 for index in range(number)]
    return Images({"image": torch.rand(channels, *sides) * 2 - 1, "label": label} for label in labels)


@pytest.mark.parametrize(
    ("number", "classes", "shown"), [(40, 1, 16), (40, 0, 16), (1, 1, 1), (40, 5, 15), (1000, 1000, 64)]
)
def test_one_class_none_or_a_thousand_make_a_sheet(number, classes, shown, make_tokenizer, sheets):
    model = make_tokenizer()
    validation = {Pyramid.square(1, 2, 3, 4): (held_out(number, classes), (0, 0, 8, 8))}
    task = TokenizerTask(model, [], list(validation), validation, TokenizerTraining(batch=4), steps=1, seed=0)
    task.validate(model, Accelerator())
    task.preview(model)
    sections = sheets[0]
    assert len(sections[0].cells) == shown
    assert len(sections) == 1 + (number > shown)
    assert ("64 of 1000 classes" in sections[0].title) == (classes == 1000)
    assert len({cell.name for cell in sections[0].cells}) == min(max(1, classes), shown)


def test_very_wide_and_grey_pictures_make_a_sheet(make_tokenizer, sheets):
    model = make_tokenizer(levels=[(1, 4), (2, 16)], image_channels=1)
    validation = {model.pyramid: (held_out(3, 2, 1, (4, 32)), (0, 0, 4, 32))}
    task = TokenizerTask(model, [], list(validation), validation, TokenizerTraining(batch=4), steps=1, seed=0)
    assert task.preview(model).mode == "RGB"
    assert sheets[0][0].cells[0].pictures[0].shape == (4, 32, 1)


@pytest.mark.parametrize(("classes", "columns", "each"), [(0, 20, 1), (1, 1, 10), (12, 12, 8), (300, 100, 1)])
def test_a_generators_sheet_has_a_column_for_every_class(
    classes, columns, each, make_generator, make_tokenizer, sheets
):
    """A class that is drawn badly must not be one that is never shown."""
    model, names = make_generator(num_classes=classes), [f"name {label}" for label in range(classes)]
    task = GeneratorTask(
        model,
        make_tokenizer(),
        [],
        [model.pyramid],
        {},
        GeneratorTraining(),
        replace(SamplingConfig(), size=[16, 16]),
        steps=1,
        seed=0,
        class_names=names,
    )
    task.preview(model)
    ((section,),) = sheets
    assert len(section.cells) == columns
    assert {len(cell.pictures) for cell in section.cells} == {each}
    assert {cell.name for cell in section.cells} <= ({*names} or {""})
    assert len({cell.name for cell in section.cells}) == (columns if classes else 1)
    assert ("100 of 300 classes" in section.title) == (classes == 300)


def test_each_tracker_gets_a_sheet_in_the_form_that_it_takes(tmp_path):
    """TensorBoard has to be told where the colours stand; W&B takes no such word."""

    class Tracker:
        def __init__(self, name):
            self.name, self.tracker = name, io.StringIO()

        def log_images(self, values, step=None, **options):
            self.seen = {key: pixels.shape for key, pixels in values.items()}, step, options

    accelerator = Accelerator()
    accelerator.trackers = [Tracker("tensorboard"), Tracker("wandb")]
    run = Run(tmp_path, accelerator)
    run.show(Image.new("RGB", (6, 4)), 3)
    run.release()
    seen = {tracker.name: tracker.seen for tracker in accelerator.trackers}
    assert seen["tensorboard"] == ({"samples": (1, 4, 6, 3)}, 3, {"dataformats": "NHWC"})
    assert seen["wandb"] == ({"samples": (1, 4, 6, 3)}, 3, {})


def test_trackio_gets_values_and_sheets_and_goes_on_in_the_same_run(tmp_path):
    """Local and without a login: its files lie where TRACKIO_DIR says."""
    pytest.importorskip("trackio")
    code = """
import sys
from pathlib import Path
from accelerate import Accelerator
from PIL import Image
from var_pe.stages.run_folder import of_trackio
from var_pe.training.run import Run

folder, step = Path(sys.argv[1]), int(sys.argv[2])
accelerator = Accelerator(log_with=["trackio"])
accelerator.init_trackers("tracking", init_kwargs={"trackio": of_trackio(folder)})
run = Run(folder, accelerator)
accelerator.log({"loss": 0.5}, step=step)
run.show(Image.new("RGB", (6, 4)), step)
accelerator.end_training()
"""
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}
    for step in ("1", "2"):
        subprocess.run([sys.executable, "-c", code, tmp_path / "run", step], env=environment, check=True)
    with sqlite3.connect(tmp_path / "trackio" / "tracking.db") as there:
        rows = there.execute("select run_name, step, metrics from metrics order by step").fetchall()
    assert {name for name, *_ in rows} == {str(tmp_path / "run").strip("/").replace("/", " ")}
    assert [step for _, step, _ in rows] == [1, 1, 2, 2]
    assert json.loads(rows[0][2]) == {"loss": 0.5}
    assert len(list((tmp_path / "trackio" / "media").rglob("*.png"))) == 2


def test_a_tracker_that_is_not_installed_is_named_before_anything_is_trained():
    """With the command that installs it."""
    if find_spec("trackio") is not None:
        pytest.skip("it is installed")
    training = GeneratorTraining(trackers=["trackio"])
    with pytest.raises(ValueError, match=r"trackers: trackio is not installed \(pip install trackio\)"):
        start_accelerator(training)
