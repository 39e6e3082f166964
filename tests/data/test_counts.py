"""What is said of a set before it is used: how many pictures of which classes, and what is left out."""

import numpy as np
import pytest
from PIL import Image

from var_pe.data.counts import counts, few, what_is_read
from var_pe.data.sources import DataConfig


@pytest.mark.parametrize(
    ("labels", "names", "said"),
    [
        ([0] * 50 + [1] + [2] * 3, ("a", "b", "c"), "54 pictures of 3 classes: a 50, b 1, c 3"),
        ([0, 0], tuple("abcdefghijklmnopqrstu"), "2 pictures of 21 classes, from 0 (b) to 2 (a)"),
        ([0, 1, 0, 1], ("a", "b"), "4 pictures of 2 classes, 2 of each"),
        ([1], ("a", "b"), "1 picture of 2 classes: a 0, b 1"),
        ([-1, -1], (), "2 pictures without labels"),
    ],
)
def test_numbers_of_all_classes_are_said_or_the_least_and_the_most(labels, names, said):
    assert counts(np.array(labels), names) == said


def test_classes_with_very_few_pictures_are_named_rarest_first():
    labels = np.array([0] * 50 + [1] * 3 + [2] * 19 + [3] + [4] * 20)
    assert few(labels, tuple("abcde")) == (
        "3 of 5 classes have fewer than 20 pictures to train on (d 1, b 3, c 19), which is very few"
    )
    assert few(labels[:50], ("a",)) == ""
    assert few(np.array([-1]), ()) == ""


def test_one_is_one_and_what_holds_for_both_splits_is_said_once(tmp_path):
    for number, file in enumerate(["a/0.png", "a/1.png", "a/2.png", "b/3.png", "b/4.png", "a/notes.txt"]):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        Image.new("L", (4, 4), number).save(tmp_path / file, format="PNG")
    said = what_is_read(DataConfig(source="imagefolder", path=str(tmp_path), hold_out=0.4))
    assert len(said) == len(set(said))
    assert sum("skipped 1 file: 1 .txt" in sentence for sentence in said) == 1
    assert few(np.array([0] * 20 + [1]), ("a", "b")).startswith("1 of 2 classes has fewer than 20 pictures")


@pytest.mark.parametrize("streaming", [False, True])
def test_both_splits_are_counted_with_what_is_left_out(tmp_path, streaming):
    for number, file in enumerate(["train/a/0.png", "train/b/1.png", "test/a/2.png", "test/c/3.png"]):
        (tmp_path / file).parent.mkdir(parents=True)
        Image.new("L", (4, 4), number).save(tmp_path / file)
    (tmp_path / "train" / "a" / "0.heic").write_text("x")
    data = DataConfig(source="imagefolder", path=str(tmp_path), streaming=streaming)
    assert what_is_read(data) == [
        "train on 2 pictures of 2 classes, 1 of each",
        f"{tmp_path}/train: skipped 1 file: 1 .heic",
        "2 of 2 classes have fewer than 20 pictures to train on (a 1, b 1), which is very few",
        "test on 1 picture of 2 classes: a 1, b 0",
        f"{tmp_path}/test: left out 1 picture of classes that training does not have: c",
        f"the test split, in {tmp_path}/test, has no pictures of 1 of the 2 classes: b",
    ]
