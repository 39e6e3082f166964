"""Stages on the data that people bring: local parquet files, folders with a damaged picture, streams."""

import time
from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from datasets import ClassLabel, Features
from PIL import Image
from torch.utils.data import DataLoader

from tests.runs import train_both
from var_pe import settings
from var_pe.data.counts import what_is_read
from var_pe.data.part import drawn
from var_pe.data.streams import open_stream
from var_pe.models.tokenizer import VQTokenizer
from var_pe.stages.config import Config
from var_pe.stages.images import held_out_images, numbered_images
from var_pe.stages.models import load_model
from var_pe.stages.train import train_classifier, train_tokenizer

SMALL = [
    "tokenizer.levels=[[1, 1], [2, 2], [4, 4]]",
    "tokenizer.channels=8",
    "tokenizer.norm_groups=8",
    "tokenizer.blocks_per_resolution=1",
    "tokenizer.codebook_size=16",
    "tokenizer.latent_channels=4",
    "data.height=16",
    "data.width=16",
    "generator.dim=16",
    "generator.depth=1",
    "generator.num_heads=2",
    *[
        f"{kind}_training.{rule}"
        for kind in ("tokenizer", "generator")
        for rule in (
            "steps=2",
            "batch=4",
            "validation_images=4",
            "precision=float32",
            "trackers=[]",
            "workers=0",
        )
    ],
]


@pytest.fixture
def cifar(tmp_path) -> str:
    """Parquet files in CIFAR-100's format."""
    fine, coarse = ClassLabel(names=[f"fine {i}" for i in range(6)]), ClassLabel(names=["a", "b"])
    features = Features(img=datasets.Image(), fine_label=fine, coarse_label=coarse)
    (tmp_path / "set").mkdir()
    for split, count in (("train", 12), ("test", 6)):
        pixels = np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), np.uint8)
        columns = {
            "img": [Image.fromarray(picture) for picture in pixels],
            "fine_label": [i % 6 for i in range(count)],
            "coarse_label": [i % 2 for i in range(count)],
        }
        table = datasets.Dataset.from_dict(columns, features=features)
        table.to_parquet(str(tmp_path / "set" / f"{split}-00000-of-00001.parquet"))
    return str(tmp_path / "set")


def a_config(tmp_path, path: str, *more: str) -> Config:
    here = [f"run={tmp_path / 'run'}", f"tokenizer_run={tmp_path / 'tokenizer'}", f"data.path={path}"]
    return settings.load(Config, "cifar_mixed.yaml", [*SMALL, *here, *more])


def test_the_cifar_config_trains_from_local_parquet_files(tmp_path, cifar):
    """Without a network, a copied set must do all that the hub's does."""
    config = a_config(tmp_path, cifar)
    generator = train_both(config)
    assert generator.num_classes == 6
    (cache,) = (tmp_path / "tokenizer" / "tokens").iterdir()
    assert np.load(cache / "tokens-00000-of-00001.npy").shape == (2, 12, 21)


def test_a_stream_trains_tokenizer_and_generator(tmp_path, cifar):
    """A set too large for the disk is read in order; its generator encodes on the fly."""
    steps = "tokenizer_training.steps=4"  # into a second epoch
    config = a_config(tmp_path, cifar, "data.streaming=true", "generator_training.views=0", steps)
    generator = train_both(config)
    assert generator.num_classes == 6
    assert not (tmp_path / "tokenizer" / "tokens").exists()


def test_a_stream_without_steps_or_with_views_is_refused(tmp_path, cifar):
    streamed = ["data.streaming=true"]
    with pytest.raises(ValueError, match=r"set generator_training\.views=0"):
        train_both(a_config(tmp_path, cifar, *streamed))
    with pytest.raises(ValueError, match="a stream has no length"):
        train_tokenizer(a_config(tmp_path, cifar, *streamed, "tokenizer_training.steps=0"), Accelerator())


@pytest.fixture
def by_class(tmp_path, monkeypatch) -> str:
    """Four files a split, each of 30 pictures of one class; a picture's red is its number."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    features = Features(image=datasets.Image(), label=ClassLabel(names=["a", "b", "c", "d"]))
    (tmp_path / "sorted").mkdir()
    for split in ("train", "test"):
        for label in range(4):
            pictures = [Image.new("RGB", (16, 16), (30 * label + i, 0, 0)) for i in range(30)]
            table = datasets.Dataset.from_dict({"image": pictures, "label": [label] * 30}, features=features)
            table.to_parquet(str(tmp_path / "sorted" / f"{split}-{label:05d}-of-00004.parquet"))
    return str(tmp_path / "sorted")


def sorted_config(tmp_path, path: str, *more: str) -> Config:
    columns = ["data.source=parquet", "data.label_column=label", "data.random_crop=false", "data.limit=null"]
    return a_config(tmp_path, path, *columns, *more)


def numbers_of(images) -> set[int]:
    """The numbers of the pictures of `by_class`."""
    return {round(float(images[i]["image"][0, 0, 0] + 1) * 127.5) for i in range(len(images))}


@pytest.mark.parametrize("streaming", [False, True])
def test_images_to_validate_on_are_of_all_classes_and_the_same_for_every_run(tmp_path, by_class, streaming):
    """Two encodings, seeds or days must be measured on the same images, and not on the first class alone."""
    more = [f"data.streaming={str(streaming).lower()}", "generator_training.views=0"]
    config = sorted_config(tmp_path, by_class, *more)
    other = sorted_config(tmp_path, by_class, *more, "seed=7", "tokenizer_seed=7")
    few, again, many = held_out_images(config, 12), held_out_images(other, 12), held_out_images(config, 40)
    assert {few[i]["label"] for i in range(12)} == {0, 1, 2, 3}
    assert all(torch.equal(few[i]["image"], again[i]["image"]) for i in range(12))
    assert len(numbers_of(many)) == 40
    assert numbers_of(few) < numbers_of(many)
    another = replace(config, data=replace(config.data, subset_seed=1))
    assert numbers_of(held_out_images(another, 12)) != numbers_of(few)


def test_pictures_are_numbered_as_they_are_stored_or_in_the_part_that_was_drawn():
    """docs/data.md says so: another picture than the one that was named would be edited."""
    shapes = settings.load(Config, "shapes_sinusoidal", ["data.shapes_test=12"])
    limited = settings.load(Config, "shapes_sinusoidal", ["data.shapes_test=12", "data.limit=4"])
    whole, part = numbered_images(shapes, 3), numbered_images(limited, 3)
    assert (len(whole), len(part)) == (12, 4)
    places = [
        next(n for n in range(12) if torch.equal(whole[n]["image"], part[number]["image"]))
        for number in range(4)
    ]
    assert places == list(drawn(12, 4, shapes.data.subset_seed))


def test_a_limited_stream_reads_several_files_and_says_what_it_takes(tmp_path, by_class):
    config = sorted_config(tmp_path, by_class, "data.streaming=true", "data.limit=12")
    stream = open_stream(config.data, train=True)
    epochs = []
    for epoch in range(2):
        stream.set_epoch(epoch)
        epochs.append(sorted((item["label"], float(item["image"].sum())) for item in stream))
    assert epochs[0] == epochs[1]
    assert {label for label, _ in epochs[0]} == {0, 1, 2, 3}
    (remark,) = what_is_read(config.data)
    assert "data.limit=12 of a stream takes the first pictures of up to 10 files" in remark


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_of_several_files_goes_on_without_a_pause(tmp_path, by_class, workers):
    """The library's readers sleep for 5 s at the end of each epoch; a small set has many epochs."""
    config = sorted_config(tmp_path, by_class, "data.streaming=true", "data.shuffle_buffer=20")
    stream = open_stream(config.data, train=True, endless=True)
    loader = iter(DataLoader(stream, batch_size=4, num_workers=workers))
    next(loader)
    began = time.monotonic()
    for _ in range(70):  # more than two epochs
        next(loader)
    assert time.monotonic() - began < 4.5


def test_skipped_pictures_are_counted_where_a_person_sees_it(tmp_path, cifar, capsys):
    """A set that is half unreadable must not pass for whole, also for a run that finds its tokens cached."""
    folder = tmp_path / "folder"
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            (folder / split / name).mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (20, 30), (i * 60, 0, 99)).save(folder / split / name / f"{i}.png")
    (folder / "train" / "ant" / "2.png").write_bytes(b"no picture")
    more = ["data.source=imagefolder", "data.on_corrupt=skip"]
    said = "passed over 1 picture of training that cannot be read"
    with pytest.warns(UserWarning, match=r"passed over: corrupt image .*train/ant/2\.png: not a picture"):
        train_both(a_config(tmp_path, str(folder), *more))
    assert said in capsys.readouterr().out
    train_both(a_config(tmp_path, str(folder), *more, f"run={tmp_path / 'other'}"))
    assert said in capsys.readouterr().out


def test_a_shared_tokenizer_is_trained_once(tmp_path, cifar):
    """Encodings are compared on one tokenizer; the second run must take it as it is."""
    first = train_tokenizer(a_config(tmp_path, cifar), Accelerator())
    again = train_tokenizer(a_config(tmp_path, cifar, "generator.encoding=learned"), Accelerator())
    loaded = load_model(VQTokenizer, tmp_path / "tokenizer" / "tokenizer")
    for one, two, three in zip(
        *(model.state_dict().values() for model in (first, again, loaded)), strict=True
    ):
        assert torch.equal(one, two)
        assert torch.equal(one, three)


def test_the_cifar_classifier_trains_with_its_augmentation(tmp_path, cifar):
    small = ["dim=16", "depth=1", "num_heads=2"]
    rules = ["steps=2", "batch=4", "validation_images=4", "precision=float32", "trackers=[]", "workers=0"]
    overrides = [f"classifier.{rule}" for rule in small] + [f"classifier_training.{rule}" for rule in rules]
    here = [f"run={tmp_path / 'vit'}", f"data.path={cifar}", "data.height=16", "data.width=16"]
    config = settings.load(Config, "cifar_vit.yaml", [*overrides, *here])
    assert train_classifier(config, Accelerator()).head.out_features == 6


@pytest.mark.parametrize("data", ["cifar", "imagenet256"])
@pytest.mark.parametrize("encoding", ["learned", "sinusoidal", "mixed"])
def test_the_large_configs_differ_in_the_encoding_alone(data, encoding):
    """Otherwise their runs would compare more than encodings."""
    config = settings.load(Config, f"{data}_{encoding}.yaml")
    base = settings.load(Config, f"{data}.yaml")
    lines = settings.differences(
        yaml.safe_load(settings.to_yaml(base)), yaml.safe_load(settings.to_yaml(config))
    )
    assert {line.split(":")[0] for line in lines} <= {"run", "generator.encoding"}
    assert config.generator.encoding.startswith(encoding)
