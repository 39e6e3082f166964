"""Stages on the data that people bring: local parquet files, folders with a damaged picture, streams."""

import datasets
import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from datasets import ClassLabel, Features
from PIL import Image

from tests.runs import train_both
from var_pe import settings
from var_pe.models.tokenizer import VQTokenizer
from var_pe.stages.config import Config
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
def cifar(tmp_path, monkeypatch) -> str:
    """Parquet files in CIFAR-100's format."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
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
    said = "1 pictures could not be read and were passed over"
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
