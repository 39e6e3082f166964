"""A person's folder from training to drawn images, with and without classes."""

import numpy as np
import pytest
from accelerate import Accelerator
from PIL import Image

from tests.runs import train_both
from var_pe import settings
from var_pe.stages.config import Config
from var_pe.stages.draw import draw_folder, load_pipeline
from var_pe.stages.plan import plan
from var_pe.stages.train import train_tokenizer

TINY = [
    "data.source=imagefolder",
    "data.framing=crop",
    "data.height=16",
    "data.width=16",
    "tokenizer.levels=[1, 2]",
    "tokenizer.channels=16",
    "tokenizer.patch=1",
    "tokenizer.channel_multipliers=[1, 1, 1, 1]",
    "tokenizer.norm_groups=8",
    "tokenizer.codebook_size=16",
    "generator.dim=16",
    "generator.depth=1",
    "generator.num_heads=2",
    *(
        f"{training}_training.{setting}"
        for training in ("tokenizer", "generator")
        for setting in ("steps=2", "batch=4", "trackers=[]", "validate_every=1", "precision=float32")
    ),
]


def write(folder, *files):
    for number, file in enumerate(files):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (18, 18, 3), np.uint8)
        Image.fromarray(pixels).save(folder / file)


def config(folder, *more):
    run = [f"run={folder / 'run'}", f"tokenizer_run={folder / 'tokenizer'}", f"data.path={folder / 'set'}"]
    return settings.load(Config, "shapes_mixed.yaml", [*TINY, *run, *more])


@pytest.mark.parametrize("streaming", [False, True])
def test_pictures_without_classes_are_trained_on_and_drawn(tmp_path, streaming):
    """Most collections have no classes: training, validation and drawing must not need any."""
    write(tmp_path / "set", *(f"train/{i}.png" for i in range(6)), *(f"test/{i}.png" for i in range(4)))
    more = ["data.streaming=true", "generator_training.views=0"] if streaming else []
    mine = config(tmp_path, "data.label_column=unlabelled", "sampling.images_per_class=3", *more)
    generator = train_both(mine)
    assert generator.num_classes == 0
    folder = draw_folder(load_pipeline(mine), mine.sampling, tmp_path / "drawn", Accelerator())
    assert len(list(folder.rglob("*.png"))) == 3


def test_a_training_says_what_it_reads_and_a_plan_does_too(tmp_path, capsys):
    files = [f"{name}/{i}.png" for name in ("cat", "dog") for i in range(5)]
    write(tmp_path / "set", *files, "cat/old.bmp")
    (tmp_path / "set" / "cat" / "notes.txt").write_text("x")
    mine = config(tmp_path, "data.hold_out=0.4")
    said = [
        "train on 7 pictures of 2 classes: cat 4, dog 3",
        "set: skipped 1 file: 1 .txt",
        "test on 4 pictures of 2 classes, 2 of each",
    ]
    planned = plan(mine)
    train_tokenizer(mine, Accelerator())
    trained = capsys.readouterr().out
    assert all(sentence in text for text in (planned, trained) for sentence in said)
    assert trained.index(said[2]) < trained.index("training the tokenizer")


def test_a_missing_test_split_is_said_before_anything_is_trained(tmp_path):
    write(tmp_path / "set", "train/cat/0.png", "train/dog/1.png")
    for action in (plan, train_both):
        with pytest.raises(ValueError, match=r"no folder for split test, it holds train: set data.hold_out"):
            action(config(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_plan_refuses_a_picture_that_padding_cannot_take_as_a_training_does(tmp_path, streaming):
    """What a dry run accepts must not end hours later, at the one picture that is too large."""
    files = [f"{split}/{i}.png" for split in ("train", "test") for i in range(4)]
    write(tmp_path / "set", *files)
    Image.new("RGB", (21, 17)).save(tmp_path / "set" / "train" / "2.png")
    words = ["data.framing=pad", "data.label_column=unlabelled", "generator_training.views=0"]
    asked = config(tmp_path, *words, f"data.streaming={str(streaming).lower()}", "data.zoom=0.8")
    said = r"^framing=pad needs pictures of at most height x width = 16 x 16, got one of 14 x 17 "
    for action in (plan, train_both):
        with pytest.raises(ValueError, match=said):
            action(asked)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]
