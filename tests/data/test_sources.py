"""Every kind of source gives the right pictures and labels, or says in one sentence what is wrong."""

import gzip
import os
import shutil
import struct
from itertools import islice

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Features
from PIL import Image
from torch.utils.data import DataLoader

from var_pe.data.images import ImageDataset
from var_pe.data.part import drawn
from var_pe.data.sources import BY_NAME, OF_CLIPS, SOURCES, DataConfig, open_source
from var_pe.data.streams import open_stream
from var_pe.processes import Processes
from var_pe.settings.files import ConfigError


def picture(number: int, size: tuple[int, int] = (32, 32)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8))


def write_idx(folder, train: bool = True, count: int = 5, zipped: bool = True) -> np.ndarray:
    folder.mkdir(exist_ok=True)
    prefix = "train" if train else "t10k"
    images = np.random.default_rng(0).integers(0, 256, (count, 28, 28), np.uint8)
    files = {
        f"{prefix}-images-idx3-ubyte": struct.pack(">IIII", 0x803, count, 28, 28) + images.tobytes(),
        f"{prefix}-labels-idx1-ubyte": struct.pack(">II", 0x801, count) + bytes(range(count)),
    }
    for name, content in files.items():
        (folder / f"{name}.gz" if zipped else folder / name).write_bytes(
            gzip.compress(content) if zipped else content
        )
    return images


def write_folder(folder, classes: tuple[str, ...] = ("cat", "dog"), count: int = 3) -> str:
    for split in ("train", "test"):
        for label, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                picture(10 * label + i).save(folder / split / name / f"{i}.png")
    return str(folder)


def write_cifar100(folder, splits: tuple[str, ...] = ("train", "test"), count: int = 12) -> str:
    folder.mkdir()
    names = [f"class {i}" for i in range(4)]
    features = Features(
        img=datasets.Image(), fine_label=ClassLabel(names=names), coarse_label=ClassLabel(names=["a", "b"])
    )
    for split in splits:
        columns = {
            "img": [picture(i) for i in range(count)],
            "fine_label": [i % 4 for i in range(count)],
            "coarse_label": [i % 2 for i in range(count)],
        }
        rows = datasets.Dataset.from_dict(columns, features=features)
        rows.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
    return str(folder)


def same(a: Image.Image, b: Image.Image) -> bool:
    return np.array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("zipped", [True, False])
def test_fashion_mnist_is_read_from_idx_files(tmp_path, zipped):
    images = write_idx(tmp_path, zipped=zipped)
    source = open_source(DataConfig(source="fashion_mnist", path=str(tmp_path)), train=True)
    picture_3, label = source.read(3)
    assert (len(source), label, source.class_names[9]) == (5, 3, "Ankle boot")
    assert np.array_equal(np.asarray(picture_3), images[3])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x00\x00\x0d\x03" + bytes(12), "not an IDX file of 3 axes of bytes: it begins with 00000d03"),
        (struct.pack(">IIII", 0x803, 5, 28, 28) + bytes(9), "must hold .5, 28, 28. bytes .* holds 9"),
        (struct.pack(">IIII", 0x803, 2, 1, 1) + bytes(2), "2 images, .* 5 labels"),
    ],
)
def test_a_broken_idx_file_is_refused(tmp_path, content, message):
    """Reading past a wrong header would train on shifted noise."""
    write_idx(tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match=message):
        open_source(DataConfig(source="fashion_mnist", path=str(tmp_path)), train=True)


@pytest.mark.parametrize("source", ["imagefolder", "cifar10"])
def test_an_image_folder_gives_classes_by_name(tmp_path, source):
    """Named sets, too, may lie in a folder of one's own."""
    path = write_folder(tmp_path / "pets")
    opened = open_source(DataConfig(source=source, path=path), train=False)
    assert opened.class_names == ("cat", "dog")
    assert len(opened) == 6
    image, label = opened.read(4)
    assert label == 1
    assert same(image, picture(11))


@pytest.mark.parametrize("source", ["cifar100", "parquet"])
def test_parquet_files_in_the_format_of_cifar_100_are_read(tmp_path, source):
    columns = {} if source == "cifar100" else {"image_column": "img", "label_column": "coarse_label"}
    config = DataConfig(source=source, path=write_cifar100(tmp_path / "c"), limit=10, **columns)
    opened = open_source(config, train=False)
    number = drawn(12, 10, seed=0)[7]
    image, label = opened.read(7)
    assert label == (number % 4 if source == "cifar100" else number % 2)
    assert same(image, picture(number))
    assert len(opened) == 10
    assert opened.class_names == (
        ("class 0", "class 1", "class 2", "class 3") if source == "cifar100" else ("a", "b")
    )


@pytest.mark.parametrize(
    ("train_labels", "names"), [([0, 2, 1], ("0", "1", "2")), (["b", "c", "a"], ("a", "b", "c"))]
)
def test_labels_without_stored_names_mean_the_same_in_both_splits(tmp_path, train_labels, names):
    """A test split that lacks a class must not renumber the others."""
    for split, labels in (("train", train_labels), ("test", train_labels[1:2])):
        columns = {"image": [picture(i) for i in range(len(labels))], "label": labels}
        rows = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
        (tmp_path / "set" / split).mkdir(parents=True)
        rows.to_parquet(str(tmp_path / "set" / split / "0000.parquet"))
    source = open_source(DataConfig(source="parquet", path=str(tmp_path / "set")), train=False)
    assert source.class_names == names
    assert source.read(0)[1] == 2


def test_the_fingerprint_follows_the_pictures_and_not_the_place(tmp_path):
    """A token cache stays good when its data move, and goes stale when they change."""

    def fingerprint(path, **options):
        return open_source(DataConfig(source="cifar100", path=path, **options), train=True).fingerprint

    one = write_cifar100(tmp_path / "one")
    copy = str(shutil.copytree(one, tmp_path / "copy"))
    other = write_cifar100(tmp_path / "other", count=11)
    assert fingerprint(one) == fingerprint(copy) != fingerprint(other)
    assert fingerprint(one) != fingerprint(one, limit=5)
    assert fingerprint(one) != fingerprint(one, label_column="coarse_label")

    # Another picture of the same size somewhere in the middle leaves no other trace than the time.
    before = fingerprint(one)
    os.utime(tmp_path / "one" / "train-00000-of-00001.parquet", (1e9, 1e9))
    assert fingerprint(one) != before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"image_column": "image"},
            "image_column=image is not a column .* it has img, fine_label, coarse_label",
        ),
        (
            {"label_column": "lable"},
            "label_column=lable is not a column .* it has img, fine_label, coarse_label",
        ),
        ({"test_split": "val"}, "no split val, only train; set train_split and test_split"),
        ({"image_column": "fine_label"}, "image_column=fine_label must hold pictures"),
        ({"label_column": "img"}, "label_column=img must hold classes"),
    ],
)
def test_a_wrong_column_or_split_is_answered_with_those_that_exist(tmp_path, options, message):
    config = DataConfig(source="cifar100", path=write_cifar100(tmp_path / "c", ("train",)), **options)
    with pytest.raises(ValueError, match=message):
        open_source(config, train="test_split" not in options)


def test_missing_and_empty_folders_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "pets" / "train").mkdir(parents=True)
    for source in ("imagefolder", "parquet", "cifar10", "fashion_mnist"):
        with pytest.raises(ValueError, match="nowhere does not exist"):
            open_source(DataConfig(source=source, path=str(tmp_path / "nowhere")), train=True)
        with pytest.raises(ValueError, match="is an empty folder"):
            open_source(DataConfig(source=source, path=str(tmp_path / "empty")), train=True)
        with pytest.raises(ValueError, match="pets"):
            open_source(DataConfig(source=source, path=str(tmp_path / "pets")), train=True)


@pytest.mark.parametrize("source", ["shapes", "fashion_mnist", "imagefolder", "cifar100", "unlabelled"])
def test_all_labels_are_known_without_reading_a_picture(tmp_path, source, monkeypatch):
    """Classes are counted, and images of all of them chosen, before anything is decoded."""
    options = {"shapes_train": 9}
    if source == "fashion_mnist":
        write_idx(tmp_path)
        options["path"] = str(tmp_path)
    elif source == "cifar100":
        options["path"] = write_cifar100(tmp_path / "c")
    elif source != "shapes":
        options["path"] = write_folder(tmp_path / "pets")
    if source == "unlabelled":
        source, options["label_column"] = "imagefolder", "unlabelled"

    opened = open_source(DataConfig(source=source, **options), train=True)
    labels = [opened.read(i)[1] for i in range(len(opened))]
    monkeypatch.setattr(Image, "open", None)
    assert opened.labels_N.tolist() == labels


def test_a_name_says_all_of_the_sources_that_a_command_takes_by_name():
    """Of every other source of pictures something else has to be said, such as its folder."""
    for name in set(SOURCES) - set(OF_CLIPS):
        if name in BY_NAME:
            assert DataConfig(source=name).source == name
        else:
            with pytest.raises(ConfigError, match=f"source={name} needs data"):
                DataConfig(source=name)


def test_a_single_class_is_refused_unless_no_labels_are_wanted(tmp_path):
    """Class-conditional training on one class is most often a wrong path."""
    path = write_folder(tmp_path / "pets", classes=("cat",))
    with pytest.raises(ValueError, match=r"a single class.* or set data.label_column=unlabelled"):
        open_source(DataConfig(source="imagefolder", path=path), train=True)
    source = open_source(DataConfig(source="imagefolder", path=path, label_column="unlabelled"), train=True)
    assert source.class_names == ()
    assert source.read(0)[1] == -1


def test_a_column_of_one_class_is_refused(tmp_path):
    rows = datasets.Dataset.from_dict({"image": [picture(0)] * 3, "label": ["cat"] * 3})
    rows.to_parquet(str(tmp_path / "train.parquet"))
    with pytest.raises(ValueError, match=r"label_column=label .* holds a single class"):
        open_source(DataConfig(source="parquet", path=str(tmp_path / "train.parquet")), train=True)


def test_an_unreachable_hub_is_one_sentence_at_once(monkeypatch):
    """`datasets` alone retries for 23 seconds and then speaks of LocalEntryNotFoundError."""

    def refuse(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr("var_pe.data.tables.HfApi.dataset_info", refuse)
    with pytest.raises(ValueError, match="uoft-cs/cifar10 is not in the cache and the hub cannot be reached"):
        open_source(DataConfig(source="cifar10"), train=True)


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_a_corrupt_image_stops_the_run_or_is_skipped_and_counted(tmp_path, content):
    """One bad file of a million should neither pass unseen nor, if one says so, end a run."""
    path = write_folder(tmp_path / "pets")
    bad = tmp_path / "pets" / "train" / "cat" / "2.png"
    bad.write_bytes(bad.read_bytes()[:200] if content is None else content)
    stop = DataConfig(source="imagefolder", path=path)
    with pytest.raises(ValueError, match=r"corrupt image .*cat/2\.png"):
        ImageDataset(open_source(stop, True), stop, True, seed=0)[2]
    skip = DataConfig(source="imagefolder", path=path, on_corrupt="skip", random_crop=False)
    dataset = ImageDataset(open_source(skip, True), skip, True, seed=0)
    item = dataset[2]
    assert torch.equal(item["image"], dataset[3]["image"])
    assert (item["label"], item["index"]) == (1, 2)
    read_by_worker = ImageDataset(open_source(skip, True), skip, True, seed=0)
    list(DataLoader(read_by_worker, num_workers=1))
    assert [images.passed_over(Processes()) for images in (dataset, read_by_worker)] == [1, 1]


def test_streams_of_all_processes_hold_each_image_once(tmp_path):
    """A picture seen twice or never would make a streamed run another experiment."""
    config = DataConfig(
        source="cifar100", path=write_cifar100(tmp_path / "c"), streaming=True, random_crop=False
    )
    stored = DataConfig(source="cifar100", path=config.path, random_crop=False)
    dataset = ImageDataset(open_source(stored, True), stored, True, seed=0)
    streams = [open_stream(config, True, Processes(rank, 2), seed=5) for rank in range(2)]
    items = [item for stream in streams for item in stream]
    expected = sorted((float(item["image"].sum()), item["label"]) for item in dataset)
    assert sorted((float(item["image"].sum()), item["label"]) for item in items) == expected
    assert len({item["draw_number"] for item in items}) == len(dataset)


def test_an_endless_stream_goes_through_epochs_and_never_repeats_a_place(tmp_path):
    """Label drop follows from the place; a place that came back would drop the same labels again."""
    config = DataConfig(source="cifar100", path=write_cifar100(tmp_path / "c"), streaming=True, limit=5)
    items = list(islice(open_stream(config, True, Processes(1, 2), endless=True), 8))
    assert [item["draw_number"] for item in items] == [2 * i + 1 for i in range(8)]
    assert [item["index"] for item in items[:4]] == [1, 3, 1, 3]


def test_a_stream_has_another_order_each_epoch_and_the_same_when_repeated(tmp_path):
    config = DataConfig(
        source="imagefolder", path=write_folder(tmp_path / "pets"), streaming=True, random_crop=False
    )
    stream = open_stream(config, train=True, seed=1)
    sums = []
    for epoch in (0, 1, 0):
        stream.set_epoch(epoch)
        sums.append([float(item["image"].sum()) for item in stream])
    assert sums[0] == sums[2] != sums[1]
    assert sorted(sums[0]) == sorted(sums[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "mnist"}, "source must be one of shapes, fashion_mnist.* got mnist"),
        ({"channels": 4}, "channels must be one of 1, 3, got 4"),
        ({"resize_factor": 0.9}, "resize_factor must be float, at least 1"),
        ({"source": "parquet"}, "source=parquet needs data.path"),
        ({"source": "hub"}, "source=hub needs data.hub_id"),
        ({"limit": 0}, "limit must be int or null, at least 1, got 0"),
        ({"streaming": True}, "source=shapes is generated, not read"),
    ],
)
def test_an_impossible_config_is_refused_when_it_is_made(options, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(**options)
