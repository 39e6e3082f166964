"""A person's folders as they come: every picture is read once, under its class, or a sentence says why."""

import os
import shutil
import unicodedata
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from var_pe.data.counts import what_is_read
from var_pe.data.sources import DataConfig, open_source
from var_pe.data.streams import open_stream
from var_pe.processes import Processes


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "set"


def picture(path: Path, number: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
    kind = "PNG" if path.suffix.lower() not in Image.registered_extensions() else None
    Image.fromarray(pixels).save(path, kind)


def fill(root: Path, *files: str) -> Path:
    """Writes a picture at each path; one that ends with a slash stands for three of a folder."""
    for file in files:
        for name in [f"{file}{i}.png" for i in range(3)] if file.endswith("/") else [file]:
            picture(root / name, len(name))
    return root


def config(root: Path | str, **options) -> DataConfig:
    return DataConfig(source="imagefolder", path=str(root), **options)


def opened(root: Path | str, train: bool = True, **options):
    return open_source(config(root, **options), train)


def classes_of(source) -> dict[str, list[str]]:
    """The files that are read, by class."""
    found: dict[str, list[str]] = {name: [] for name in source.class_names}
    for index in range(len(source)):
        _, label = source.read(index)
        found[source.class_names[label]].append(source.file(index).name)
    return found


def refused(root: Path | str, message: str, train: bool = True, **options) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        opened(root, train, **options)
    assert "\n" not in str(caught.value)


THREE = ["0.png", "1.png", "2.png"]
PETS = ("train/cat/", "train/dog/", "test/cat/", "test/dog/")


# ------------------------------------------------------------------------------------------------ splits


@pytest.mark.parametrize(
    "classes", [("bus", "car", "train"), ("bottle", "test tube", "val_key", "dev-board"), ("eval", "test")]
)
def test_classes_may_be_named_like_splits(root, classes):
    """The split is the top folder; a class "test tube" must not bring training pictures into the test."""
    fill(root, *(f"{split}/{name}/" for split in ("train", "test") for name in classes))
    for train in (True, False):
        assert classes_of(opened(root, train)) == {name: THREE for name in sorted(classes)}


def test_files_may_be_named_like_splits(root):
    fill(root, *PETS, "train/cat/test_7.png", "train/dog/my-eval-photo.png", "test/cat/train.png")
    assert classes_of(opened(root)) == {"cat": [*THREE, "test_7.png"], "dog": [*THREE, "my-eval-photo.png"]}
    assert classes_of(opened(root, train=False)) == {"cat": [*THREE, "train.png"], "dog": THREE}


@pytest.mark.parametrize(
    ("folders", "options"),
    [
        (("train", "test"), {}),
        (("TRAIN", "Test"), {}),
        (("training", "testing"), {}),
        (("train2017", "test_2017"), {}),
        (("train", "val"), {"test_split": "validation"}),
        (("train", "valid"), {"test_split": "val"}),
        (("fold 1", "fold 2"), {"train_split": "fold 1", "test_split": "fold 2"}),
        (("pets/pets/train", "pets/pets/test"), {}),
    ],
)
def test_a_split_may_have_its_other_usual_names(root, folders, options):
    for folder in folders:
        fill(root, f"{folder}/cat/", f"{folder}/dog/")
    for train, folder in zip((True, False), folders, strict=True):
        source = opened(root, train, **options)
        assert source.file(0) == root / folder / "cat" / "0.png"
        assert len(source) == 6


@pytest.mark.parametrize(
    ("files", "train", "options", "message"),
    [
        (PETS[:2], False, {}, r"no folder for split test, it holds train: set data.hold_out=0.1"),
        ((*PETS[:2], "val/cat/"), False, {}, r"no folder for split test, .*: set data.test_split=val"),
        (
            ("Training_Set/cat/", "Training_Set/dog/", "Validation_Set/cat/"),
            False,
            {},
            r"it holds Training_Set, Validation_Set: set data.test_split=Validation_Set",
        ),
        (("cat/", "dog/"), False, {}, r"no folder for split test, it holds cat, dog: set data.hold_out=0.1"),
        (PETS[2:], True, {}, r"no folder for split train, it holds test"),
        (PETS, True, {"train_split": "extra"}, r"no folder for split extra, .* set data.train_split=|extra"),
        (
            (*PETS, "val/cat/", "dev/cat/"),
            False,
            {"test_split": "valid"},
            r"several folders .*: dev, val; name",
        ),
        (("cat/train/", "cat/test/", "dog/train/"), True, {}, r"cat holds a folder for training of its own"),
        ((*PETS,), True, {"hold_out": 0.5}, r"hold_out=0.5 is for folders without a test split"),
    ],
)
def test_a_missing_split_is_answered_with_what_to_do(root, files, train, options, message):
    refused(fill(root, *files), message, train, **options)


def test_folders_with_pictures_that_are_not_read_are_said(root):
    """Of train/ and Train/ only one is meant."""
    source = opened(fill(root, *PETS, "Train/zebra/", "val/cat/"))
    (root / "empty").mkdir()
    assert source.class_names == ("cat", "dog")
    assert source.remarks == (f"{root}: there, but not read: Train, val",)


def test_a_test_split_that_is_the_training_split_is_said(root):
    """A link that was meant to be a stopgap; scores on it say nothing about new pictures."""
    fill(root, *PETS[:2])
    (root / "test").symlink_to("train")
    assert opened(root, train=False).remarks == (
        f"{root}/test would be both trained on and tested on: the two splits are the same folder",
    )


def test_a_share_of_single_pictures_cannot_be_held_out(root):
    refused(fill(root, "a/0.png", "b/0.png"), "hold_out=0.5 leaves nothing to test on", False, hold_out=0.5)


def test_a_folder_without_splits_is_for_training(root):
    assert classes_of(opened(fill(root, "cat/", "dog/", "test tube/"))) == {
        name: THREE for name in ("cat", "dog", "test tube")
    }


def test_a_share_of_each_class_is_held_out(root):
    """The two parts make the whole, keep the classes' shares, and hardly change with more pictures."""
    files = [
        f"{name}/{i}.png" for name, count in (("cat", 20), ("dog", 10), ("fox", 1)) for i in range(count)
    ]
    fill(root, *files)

    def parts():
        sources = [opened(root, train, hold_out=0.2) for train in (True, False)]
        return sources, [
            {str(source.file(i).relative_to(root)) for i in range(len(source))} for source in sources
        ]

    (train, test), (kept, held) = parts()
    assert kept | held == set(files)
    assert not kept & held
    assert [np.bincount(source.labels_N, minlength=3).tolist() for source in (train, test)] == [
        [16, 8, 1],
        [4, 2, 0],
    ]
    assert any("no pictures of 1 of the 3 classes: fox" in remark for remark in test.remarks)
    assert train.fingerprint != opened(root, hold_out=0.3).fingerprint

    fill(root, "cat/new.png")
    assert held <= parts()[1][1] | {"cat/new.png"}


def test_what_links_make_the_same_picture_is_held_out_together(root):
    """Under whatever classes: a model must not be tested on what it was trained on."""
    fill(root, *(f"{name}/{i}.png" for name in ("cat", "dog") for i in range(20)))
    for i in range(0, 20, 2):
        (root / "cat" / f"copy {i}.png").symlink_to(root / "dog" / f"{i}.png")
        (root / "dog" / f"again {i}.png").symlink_to(f"{i}.png")
    train, test = (opened(root, train, hold_out=0.2) for train in (True, False))
    files = [{source.file(i).resolve() for i in range(len(source))} for source in (train, test)]
    assert not files[0] & files[1]
    assert len(train) + len(test) == 60
    assert 12 <= len(test) <= 20
    assert any(f"holds out {len(test)} of 60 pictures" in remark for remark in train.remarks)


def test_a_picture_of_many_paths_is_trained_on(root):
    """Held out it is a large part of the test: 118 of 701 pictures of Debian's clip art were one file."""
    fill(root, *(f"{name}/{i}.png" for name in ("cat", "dog") for i in range(20)))
    for i in range(20):
        (root / "cat" / f"copy {i}.png").symlink_to("7.png")
    for name in ("first", "second", "third"):
        (root / "fox").mkdir(exist_ok=True)
        (root / "fox" / f"{name}.png").symlink_to(root / "cat" / "7.png")
    fill(root, "fox/own.png")
    train, test = (opened(root, train, hold_out=0.2) for train in (True, False))
    assert len(test) == 8 + 4 + 1
    tested = [test.file(i).resolve() for i in range(len(test))]
    assert len(set(tested)) == len(tested)
    assert root / "fox" / "own.png" in tested
    assert sum(train.file(i).resolve() == root / "cat" / "7.png" for i in range(len(train))) == 24


# ------------------------------------------------------------------------------------------------ classes


def test_a_class_is_the_first_folder_below_the_split(root):
    """Years are no classes, and x of a is another class than x of b."""
    fill(root, "train/cat/2021/", "train/cat/2022/a/", "train/dog/2021/", "train/dog/")
    source = opened(root)
    assert {name: len(files) for name, files in classes_of(source).items()} == {"cat": 6, "dog": 6}
    assert "pictures also lie deeper, in cat/2021, cat/2022/a, dog/2021" in source.remarks[0]

    fill(root / "2", "train/a/x/", "train/b/x/")
    assert classes_of(opened(root / "2")) == {"a": THREE, "b": THREE}


def test_one_folder_around_all_classes_is_looked_into(root):
    fill(root, "train/photos/cat/", "train/photos/dog/", "test/dog/")
    source = opened(root)
    assert classes_of(source) == {"cat": THREE, "dog": THREE}
    assert "train holds one folder, photos, whose folders are the classes" in source.remarks[0]
    assert classes_of(opened(root, train=False)) == {"cat": [], "dog": THREE}


def test_a_class_alone_in_the_test_split_keeps_its_own_folder(root):
    """Its subfolders must not become classes because there is but one."""
    fill(root, *PETS[:2], "test/cat/2021/", "test/cat/2022/")
    assert classes_of(opened(root, train=False)) == {"cat": THREE * 2, "dog": []}


def test_tiny_imagenet_is_read_as_it_is_unpacked(root):
    """Its validation pictures lie in one folder, and a text file says their classes."""
    ids = ("n01443537", "n01629819")
    fill(root, *(f"train/{name}/images/{name}_{i}.JPEG" for name in ids for i in range(2)))
    fill(root, "test/images/", *(f"val/images/val_{i}.JPEG" for i in range(3)))
    lines = [f"val_{i}.JPEG\t{ids[i % 2]}\t0\t0\t62\t62\n" for i in range(3)]
    (root / "val" / "val_annotations.txt").write_text("".join(lines), encoding="utf-8-sig")

    assert classes_of(opened(root)) == {name: [f"{name}_{i}.JPEG" for i in range(2)] for name in ids}
    validation = opened(root, train=False, test_split="val")
    assert classes_of(validation) == {ids[0]: ["val_0.JPEG", "val_2.JPEG"], ids[1]: ["val_1.JPEG"]}
    refused(
        root, "test holds no picture of a class of training: there are images, and training has n0", False
    )


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ("train/", "test/"),
            r"train holds 3 pictures and no class folders, .* data.label_column=unlabelled",
        ),
        (("train/", "bus/", "car/"), r"no class folders \(other folders are beside it: bus, car\)"),
        (("train/cat/", "test/cat/"), r"train holds a single class, cat, so there is nothing to tell apart"),
        (("train/cat/", "train/.dog/"), r"a single class, cat, .*; .*: pictures in .dog are skipped, since"),
    ],
)
def test_fewer_than_two_classes_are_refused_with_what_is_there(root, files, message):
    refused(fill(root, *files), message)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_flat_folder_is_read_without_labels_if_one_says_so(root, streaming):
    fill(root, "train/", "train/more/", "test/")
    data = config(root, label_column="unlabelled", streaming=streaming)
    for train, number in ((True, 6), (False, 3)):
        items = (
            list(open_stream(data, train)) if streaming else opened(root, train, label_column="unlabelled")
        )
        labels = [item["label"] for item in items] if streaming else items.labels_N.tolist()
        assert labels == [-1] * number


def test_pictures_beside_the_class_folders_are_left_out_and_said(root):
    source = opened(fill(root, *PETS, "train/preview.png"))
    assert classes_of(source) == {"cat": THREE, "dog": THREE}
    assert source.remarks == (
        f"{root}/train: left out 1 picture beside the class folders, where there is no class, "
        f"such as preview.png",
    )


def test_accents_of_two_forms_are_one_class(root):
    """A folder unzipped on a Mac has NFD names."""
    composed, apart = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")
    fill(root, f"train/{composed}/", "train/tee/", f"test/{apart}/", "test/tee/")
    for train in (True, False):
        assert classes_of(opened(root, train)) == {composed: THREE, "tee": THREE}

    fill(root, f"train/{apart}/")
    source = opened(root)
    assert len(classes_of(source)[composed]) == 6
    assert (
        f"2 folders are class {composed}, since their names differ in Unicode's form alone"
        in source.remarks[0]
    )


def test_a_name_in_another_case_is_taken_for_the_class_and_said(root):
    source = opened(fill(root, *PETS[:2], "test/Cat/", "test/ dog /"), train=False)
    assert classes_of(source) == {"cat": THREE, "dog": THREE}
    assert source.remarks == (
        f"{root}/test:  dog  is taken for class dog of training",
        f"{root}/test: Cat is taken for class cat of training",
    )

    fill(root, "train/CAT/")
    assert "classes 'CAT', 'cat' differ in case or spaces alone" in opened(root).remarks[0]
    assert (
        "left out 3 pictures of classes that training does not have: Cat"
        in opened(root, train=False).remarks[1]
    )


def test_classes_of_one_split_alone_are_said(root):
    """The classes are those of the training split: a model could not learn another."""
    source = opened(fill(root, *PETS[:2], "test/dog/", "test/zebra/z.png"), train=False)
    assert source.class_names == ("cat", "dog")
    assert classes_of(source) == {"cat": [], "dog": THREE}
    assert source.remarks == (
        f"{root}/test: left out 1 picture of classes that training does not have: zebra",
        f"the test split, in {root}/test, has no pictures of 1 of the 2 classes: cat",
    )


# ------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize(
    "name", ["photos [2021]", "a*b", "what?", "x#1 50%20 ünï", "two\nlines", "🐈", "a/ b "]
)
@pytest.mark.parametrize("streaming", [False, True])
def test_paths_are_literal(root, name, streaming):
    """A bracket in a path is no pattern, in whatever source."""
    fill(
        root / name,
        *(f"{split}/{kind}/" for split in ("train", "test") for kind in ("cat [tabby]", "fox*{a}")),
    )
    if streaming:
        stream = open_stream(config(root / name, streaming=True), train=False)
        assert [item["label"] for item in stream] == [0, 0, 0, 1, 1, 1]
    else:
        assert classes_of(opened(root / name)) == {"cat [tabby]": THREE, "fox*{a}": THREE}


def test_a_name_that_is_no_unicode_becomes_one_that_can_be_printed(root):
    """Old archives hold Latin-1 names; print would fail on them after hours."""
    fill(root, *PETS)
    for split in (b"train", b"test"):
        os.rename(
            os.path.join(os.fsencode(root), split, b"cat"), os.path.join(os.fsencode(root), split, b"caf\xe9")
        )
    for train in (True, False):
        assert classes_of(opened(root, train)) == {"caf\\xe9": THREE, "dog": THREE}
    assert all(sentence.encode() for sentence in what_is_read(config(root)))


def test_links_are_followed_but_not_in_a_circle(root, tmp_path):
    """A class that is linked in from another disk must not vanish."""
    fill(tmp_path / "store", "train/fox/", "test/cat/", "test/fox/")
    fill(root, "train/cat/")
    (root / "train" / "fox").symlink_to(tmp_path / "store" / "train" / "fox")
    (root / "test").symlink_to(tmp_path / "store" / "test")
    (root / "train" / "cat" / "9.png").symlink_to(tmp_path / "store" / "test" / "cat" / "1.png")
    (root / "train" / "cat" / "up").symlink_to(root / "train")
    (root / "train" / "cat" / "top").symlink_to(root)
    (root / "train" / "cat" / "self").symlink_to(root / "train" / "cat" / "self")
    (root / "train" / "cat" / "gone.png").symlink_to(root / "nowhere.png")
    os.mkfifo(root / "train" / "cat" / "pipe.png")

    source = opened(root)
    assert classes_of(source) == {"cat": [*THREE, "9.png"], "fox": THREE}
    assert source.remarks == (f"{root}/train: skipped 3 files: 2 broken link, 1 pipe or device",)
    assert classes_of(opened(root, train=False)) == {"cat": THREE, "fox": THREE}


def test_a_link_that_makes_one_folder_two_classes_is_said(root, tmp_path):
    """A second name for a class is a second class, which nobody may have meant."""
    fill(root, "train/dog/", "train/dog/old/1.png", "train/weather/")
    (root / "train" / "Wetter").symlink_to(root / "train" / "weather")
    fill(tmp_path / "store", "fox/")
    for name in ("fox", "vulpes"):
        (root / "train" / name).symlink_to(tmp_path / "store" / "fox")

    advice = "to use only some of them, name them in data.classes"
    assert opened(root).remarks == (
        f"{root}/train: Wetter is a link to weather: the same 3 pictures count under 2 classes, "
        f"Wetter and weather; {advice}",
        f"{root}/train: fox, vulpes are links to one folder: the same 3 pictures count under 2 classes, "
        f"fox and vulpes; {advice}",
        f"{root}/train: pictures also lie deeper, in dog/old; their class is the first folder",
    )

    # A link inside a class, to the folders of another; classes that are not taken are nobody's concern.
    (root / "train" / "weather" / "more").symlink_to(root / "train" / "dog")
    (said,) = [remark for remark in opened(root, classes=["dog", "weather"]).remarks if "a link to" in remark]
    assert "weather/more is a link to dog: the same 4 pictures count under 2 classes, dog and" in said


def test_a_class_in_a_format_that_cannot_be_read_is_refused_or_said(root):
    """Without a word, a model would be trained on one class less."""
    fill(root, *PETS, *(f"train/fox/{i}.HEIC" for i in range(4)), "train/cat/x.heic")
    refused(root, r"train/fox holds no picture that can be read \(4 files: 4 .heic\): convert its pictures")
    source = opened(root, on_corrupt="skip")
    assert source.class_names == ("cat", "dog")
    assert source.remarks[0] == f"{root}/train: skipped 5 files: 5 .heic"
    assert "train/fox holds no picture that can be read" in source.remarks[1]


def test_every_ending_of_a_readable_format_counts_in_either_case(root):
    endings = ["JPG", "JPEG", "jfif", "webp", "bmp", "tif", "TIFF", "gif", "ppm", "PNG", "qoi", "jp2"]
    endings = [kind for kind in endings if f".{kind.lower()}" in Image.registered_extensions()]
    for kind in endings:
        Image.new("RGB", (8, 8)).save(root.parent / "x.png")
        fill(root, f"train/cat/pic.v1.{kind}", f"train/dog/pic.{kind}")
    assert len(opened(root)) == 2 * len(endings)
    assert opened(root).remarks == ()


def test_what_systems_leave_behind_is_not_read_and_the_rest_is_counted(root):
    fill(root, *PETS, "train/.ipynb_checkpoints/0.png", "train/cat/.ipynb_checkpoints/0-checkpoint.png")
    fill(root, "train/__MACOSX/cat/", "train/cat/@eaDir/", "train/.thumbnails/", "train/__background__/")
    for name in (
        ".DS_Store",
        "Thumbs.db",
        "desktop.ini",
        "._0.png",
        "readme.txt",
        "x.json",
        "y.txt",
        "LICENSE",
    ):
        (root / "train" / "cat" / name).write_bytes(b"\0junk")
    (root / "train" / "empty class").mkdir()
    fill(root, "train/cat/.trash/old.png")

    source = opened(root)
    assert classes_of(source) == {"__background__": THREE, "cat": THREE, "dog": THREE}
    assert source.remarks == (
        f"{root}/train: skipped 4 files: 2 .txt, 1 .json, 1 without an ending",
        f"{root}/train: pictures in cat/.trash are skipped, since their names are hidden (they begin with a "
        "dot)",
        f"{root}/train/empty class holds no picture that can be read, since it is empty; it is not a class",
    )


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("train.zip", r"holds no pictures but 1 file: 1 .zip; unpack the archive first"),
        ("notes.txt", r"holds no pictures but 1 file: 1 .txt; an image folder holds a folder for each split"),
        ("train/cat/clip.mpg", r"holds no pictures but 1 file: 1 .mpg"),
    ],
)
def test_a_folder_without_pictures_says_what_it_holds(root, file, message):
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_bytes(b"PK")
    refused(root, message)


def test_a_path_that_is_no_folder_is_named(root):
    fill(root, *PETS)
    refused(root / "train" / "cat" / "0.png", "0.png is a file, but pictures are read from a folder")
    shutil.make_archive(str(root / "pets"), "zip", root / "train")
    refused(root / "pets.zip", "pets.zip is a file, .*; unpack it and name the folder")
    shutil.rmtree(root / "test")
    (root / "test").write_text("not here")
    refused(root, "no folder for split test, it holds train", train=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_may_not_be_listed_is_named(root):
    fill(root, *PETS)
    (root / "train" / "cat").chmod(0)
    try:
        refused(root, "cat cannot be listed: Permission denied")
    finally:
        (root / "train" / "cat").chmod(0o755)


def test_a_path_may_be_written_in_any_way(root, monkeypatch):
    fill(root, *PETS)
    monkeypatch.chdir(root)
    monkeypatch.setenv("HOME", str(root.parent))
    sources = [opened(path) for path in (".", f"{root}/", "../set", "~/set", root)]
    assert len({source.fingerprint for source in sources}) == 1


# ------------------------------------------------------------------------------- lists of labels


def write_csv(folder: Path, rows: list[str], columns: str = "file_name,label") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.csv").write_text("\n".join([columns, *rows]) + "\n", encoding="utf-8-sig")


def test_a_list_says_the_classes_and_the_order(root):
    """Numbers are sorted as numbers, and both splits share the training split's."""
    fill(root, "train/", "test/")
    write_csv(root / "train", ["2.png,10", "0.png,9", "1.png,10"])
    write_csv(root / "test", ["1.png,10"])
    source = opened(root)
    assert source.class_names == ("9", "10")
    assert [source.file(i).name for i in range(3)] == ["2.png", "0.png", "1.png"]
    assert source.labels_N.tolist() == [1, 0, 1]

    test = opened(root, train=False)
    assert test.labels_N.tolist() == [1]
    assert "left out 2 pictures that no list names" in test.remarks[0]

    before = source.fingerprint
    write_csv(root / "train", ["2.png,10", "0.png,10", "1.png,9"])
    assert opened(root).fingerprint != before

    # The order alone, too
    write_csv(root / "train", ["1.png,10", "0.png,9", "2.png,10"])
    assert opened(root).fingerprint != before


def test_a_list_may_be_lines_of_json_or_parquet_and_name_other_columns(root):
    fill(root, "train/")
    lines = [
        f'{{"image_file_name": "x", "photo_file_name": "{i}.png", "kind": "k{i % 2}"}}' for i in range(3)
    ]
    (root / "train" / "metadata.jsonl").write_text("\n".join(lines))
    options = {"image_column": "photo", "label_column": "kind"}
    assert classes_of(opened(root, **options)) == {"k0": ["0.png", "2.png"], "k1": ["1.png"]}

    (root / "train" / "metadata.jsonl").unlink()
    rows = {"photo_file_name": THREE, "kind": ["b", None, "a"]}
    datasets.Dataset.from_dict(rows).to_parquet(str(root / "train" / "metadata.parquet"))
    source = opened(root, **options)
    assert classes_of(source) == {"a": ["2.png"], "b": ["0.png"]}
    assert "left out 1 picture that the list gives no label, such as 1.png" in source.remarks[0]


def test_a_list_of_captions_leaves_the_classes_to_the_folders(root):
    fill(root, *PETS)
    write_csv(root / "train", ["cat/0.png,a cat"], columns="file_name,caption")
    source = opened(root)
    assert classes_of(source) == {"cat": THREE, "dog": THREE}
    assert source.remarks == (f"{root}/train/metadata.csv has no column label: the classes are the folders",)
    refused(
        root, "data.label_column=kind is not a column of a metadata.csv below .*train", label_column="kind"
    )


def test_a_class_of_a_list_may_be_called_none(root):
    fill(root, "train/")
    write_csv(root / "train", ["0.png,None", "1.png,NA", "2.png,007"])
    assert opened(root).class_names == ("007", "NA", "None")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "file_name,label\n0.png,a\nnine.png,b\n",
            r"names 1 picture not there: nine.png \(data.on_corrupt=skip",
        ),
        ("file_name,label\n0.png,a\n0.png,b\n", r"picture 0.png has two labels, a and b"),
        ("file_name,label\n../x.png,a\n", r"file_name ../x.png must be a path from the list's own folder"),
        ("name,label\n0.png,a\n", r"must have a column file_name, .*; it has name, label"),
        ("file_name,label\n0.png,a\n1.png,a\n", r"holds a single class, a"),
        ('file_name,label\n"0.png,a\n', r"metadata.csv cannot be read"),
        (
            "file_name,label\n0.png,a, b\n",
            r"metadata.csv cannot be read: line 2 has 3 cells, the first line 2",
        ),
        (
            "file_name,label\n0.png,a\n".encode("utf-16"),
            r"metadata.csv is not text in UTF-8: save it as such",
        ),
    ],
)
def test_a_list_that_does_not_fit_is_refused(root, text, message):
    fill(root, "train/")
    (root / "train" / "metadata.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(root, message)


def test_spaces_around_the_names_of_columns_mean_nothing(root):
    """`file_name, label` has its labels; without them the classes would be the folders."""
    fill(root, *PETS[:2])
    write_csv(
        root / "train",
        [f"{kind}/{i}.png,{i}" for kind in ("cat", "dog") for i in range(3)],
        "file_name, label",
    )
    assert opened(root).class_names == ("0", "1", "2")
    write_csv(root / "train", [f"cat/{i}.png,{name}" for i, name in enumerate(("a", "a ", "b"))])
    assert "classes 'a', 'a ' differ in case or spaces alone" in opened(root).remarks[-1]


def test_accents_of_a_list_and_of_the_files_may_have_two_forms(root):
    fill(root, f"train/{unicodedata.normalize('NFD', 'é')}.png", "train/a.png")
    write_csv(root / "train", [f"{unicodedata.normalize('NFC', 'é')}.png,1", "a.png,2"])
    assert opened(root).labels_N.tolist() == [0, 1]


# -------------------------------------------------------------------- the same as before, and as others do


def test_order_and_labels_are_those_of_datasets(root, tmp_path):
    """Images are known by number: runs and caches made with that library's reader must stay true."""
    names = ("cat", "cat-x", "cat x", "cat.y", "Cat", "10", "9", "zz_top", "é")
    fill(
        root,
        *(
            f"{split}/{name}/{file}"
            for split in ("train", "test")
            for name in names
            for file in ("1.png", "10.png", "2.png", "x 1.png", "x-1.png", "x.1.png", "x_1.png", "B.JPG")
        ),
    )
    theirs = datasets.load_dataset("imagefolder", data_dir=str(root), cache_dir=str(tmp_path / "cache"))
    for train, split in ((True, "train"), (False, "test")):
        source = opened(root, train)
        rows = theirs[split].cast_column("image", datasets.Image(decode=False))
        assert list(source.class_names) == rows.features["label"].names
        assert [str(source.file(i)) for i in range(len(source))] == [row["path"] for row in rows["image"]]
        assert source.labels_N.tolist() == list(rows["label"])


def test_the_fingerprint_of_a_plain_folder_never_changes(root):
    """Token caches are found by it."""
    for split in ("train", "test"):
        for name, size in (("cat-x/1.png", 5), ("cat/2.png", 6), ("cat/10.jpg", 7)):
            (root / split / name).parent.mkdir(parents=True, exist_ok=True)
            (root / split / name).write_bytes(b"x" * size)
            os.utime(root / split / name, (1e9, 1e9))
    assert opened(root).fingerprint == "imagefolder-train-3-ae3bf829e06ad7d2"
    assert opened(root, label_column="unlabelled").fingerprint == "imagefolder-train-3-c1cf0117f460020d"


def test_the_fingerprint_knows_what_tokens_are_made_of(root):
    """A bitmap has the same size whatever it shows; what is not read does not count."""
    fill(root, "train/cat/0.bmp", "train/dog/0.png")
    before = opened(root).fingerprint
    (root / "train" / ".DS_Store").write_text("x")
    (root / "train" / "notes.txt").write_text("x")
    assert opened(root).fingerprint == before
    picture(root / "train" / "cat" / "0.bmp", number=99)
    assert opened(root).fingerprint != before

    # A packed picture that was changed may by chance have the size that it had.
    before = opened(root).fingerprint
    os.utime(root / "train" / "dog" / "0.png", (1e9, 1e9))
    assert opened(root).fingerprint != before


@pytest.mark.parametrize("workers", [0, 2])
def test_a_streamed_folder_is_shuffled_as_a_whole_and_shared(root, workers):
    """A folder lies class by class: a buffer would let whole batches be of one class."""
    fill(root, *(f"train/{name}/{i:02d}.png" for name in ("a", "b") for i in range(30)), "test/a/")
    data = config(root, streaming=True, shuffle_buffer=1)
    streams = [open_stream(data, True, Processes(rank, 2), seed=3) for rank in range(2)]
    labels = [
        [int(batch["label"]) for batch in DataLoader(stream, batch_size=1, num_workers=workers)]
        for stream in streams
    ]
    assert [len(part) for part in labels] == [30, 30]
    assert sorted(labels[0] + labels[1]) == [0] * 30 + [1] * 30
    assert 0 < sum(labels[0][:10]) < 10
