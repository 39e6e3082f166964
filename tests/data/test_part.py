"""Some of the images are some of all of them, the same ones whoever asks."""

import datasets
import numpy as np
import pytest
from PIL import Image

from var_pe.data.images import ImageDataset
from var_pe.data.part import drawn, part_of
from var_pe.data.sources import DataConfig, open_source

CLASSES = ("ant", "bee", "cat", "dog", "elk")


@pytest.fixture
def sorted_folder(tmp_path, monkeypatch) -> str:
    """Five classes of 20 pictures a split, sorted by class; a picture's grey is its number."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for split in ("train", "test"):
        for label, name in enumerate(CLASSES):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for i in range(20):
                grey = Image.new("L", (8, 8), 20 * label + i)
                grey.save(tmp_path / "set" / split / name / f"{i:02d}.png")
    return str(tmp_path / "set")


def opened(path: str, **options):
    return open_source(DataConfig(source="imagefolder", path=path, **options), train=False)


def greys(source) -> list[int]:
    return [source.read(index)[0].getpixel((0, 0)) for index in range(len(source))]


def test_fewer_images_are_among_more_of_them():
    """A study that grows keeps the images that it began with."""
    few, more = drawn(1000, 100, seed=0), drawn(1000, 200, seed=0)
    assert len(set(few)) == 100
    assert set(few) < set(more)
    assert list(few) == sorted(few) == list(drawn(1000, 100, seed=0)) != list(drawn(1000, 100, seed=1))
    assert list(drawn(5, 9, seed=0)) == [0, 1, 2, 3, 4]
    assert list(drawn(1000, 3, seed=None)) == [0, 1, 2]


def test_every_image_is_drawn_as_often_as_any_other():
    """A draw that favoured some numbers would favour their classes."""
    counts_N = np.bincount(np.concatenate([drawn(50, 10, seed=seed) for seed in range(2000)]), minlength=50)
    assert abs(counts_N - 400).max() < 5 * np.sqrt(400 * 0.8)


def test_a_limit_takes_from_all_classes_of_a_sorted_folder(sorted_folder):
    """The first 20 of 100 pictures are all ants."""
    source = opened(sorted_folder, limit=20)
    assert set(source.labels_N.tolist()) == {0, 1, 2, 3, 4}
    assert greys(source) == list(drawn(100, 20, seed=0))
    assert source.labels_N.tolist() == [grey // 20 for grey in greys(source)]
    assert source.class_names == CLASSES
    assert greys(opened(sorted_folder, limit=20, subset_seed=None)) == list(range(20))
    assert greys(opened(sorted_folder, limit=100)) == list(range(100))


def test_what_is_cached_knows_which_images_were_taken(sorted_folder):
    """Tokens of other pictures would be trained on silently."""
    options = (
        {},
        {"limit": 20},
        {"limit": 21},
        {"limit": 20, "subset_seed": 1},
        {"limit": 20, "subset_seed": None},
    )
    prints = [opened(sorted_folder, **given).fingerprint for given in options]
    assert len(set(prints)) == len(prints)
    assert opened(sorted_folder, limit=100).fingerprint == opened(sorted_folder).fingerprint


def test_a_part_of_arrays_gives_the_images_of_the_whole():
    """The fast path of pictures in memory must not read the whole's numbers."""
    config = DataConfig(shapes_test=40)
    whole, part = open_source(config, train=False), part_of(open_source(config, train=False), [3, 30])
    images = ImageDataset(part, config, train=False, seed=0)
    for index, number in enumerate((3, 30)):
        assert images[index]["label"] == whole.read(number)[1]
        assert np.array_equal(part.array(index)[0], whole.array(number)[0])
        assert np.array_equal(part.read(index)[0], whole.read(number)[0])
