"""Boxes follow their pictures, and annotations that are not right are refused in one sentence."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from var_pe.data.boxes import BoxedImages
from var_pe.data.images import ImageDataset
from var_pe.data.sampler import Draw
from var_pe.data.sources import DataConfig, open_source

SIZE = (40, 60)  # rows and columns
BOX = (12, 8, 30, 20)  # left, top, width and height


def annotations(**changed):
    """One picture with a box of a dog, another with none, and a box around many cats."""
    content = {
        "images": [
            {"id": 7, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]},
            {"id": 3, "file_name": "b.png", "height": SIZE[0], "width": SIZE[1]},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 18, "bbox": list(BOX), "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 17, "bbox": [0, 0, 5, 5], "iscrowd": 1},
        ],
    }
    return content | changed


def write(root, content=None, split="train"):
    """Pictures that are white within the box."""
    pixels = np.zeros(SIZE, np.uint8)
    left, top, width, height = BOX
    pixels[top : top + height, left : left + width] = 255
    (root / split).mkdir()
    for name in ("a", "b"):
        Image.fromarray(pixels).save(root / split / f"{name}.png")
    (root / split / "annotations.json").write_text(json.dumps(content or annotations()))


def config(root, **more):
    return DataConfig(source="coco", path=str(root), channels=1, **more)


def test_what_a_file_says_is_read(tmp_path):
    """Labels count the categories by their ids; a picture without boxes is one, too."""
    write(tmp_path)
    source = open_source(config(tmp_path), train=True)
    assert source.box_names == ("cat", "dog")
    assert source.most_boxes == 2
    source.check_boxes(0)
    found = source.boxes(0)
    assert found.places_M4.tolist() == [[12, 8, 42, 28], [0, 0, 5, 5]]
    assert found.labels_M.tolist() == [1, 0]
    assert found.crowds_M.tolist() == [False, True]
    assert len(source.boxes(1).labels_M) == 0

    some = open_source(config(tmp_path, classes=["dog"]), train=True)
    assert some.boxes(0).labels_M.tolist() == [0]
    assert some.identity != source.identity


@pytest.mark.parametrize(
    "framing",
    [
        {"framing": "crop", "height": 24, "width": 32, "flip": True, "resize_factor": 1.5},
        {"framing": "fit", "height": 50, "width": 45, "flip": True},
        {"framing": "pad", "height": 91, "width": 131, "zoom": 2.0, "flip": True},
    ],
)
def test_a_box_follows_its_picture(tmp_path, framing):
    """What is white lies in the box, and the box ends where the white does, or at the image's border."""
    write(tmp_path)
    mine = config(tmp_path, classes=["dog"], **framing)
    images = BoxedImages(ImageDataset(open_source(mine, train=True), mine, train=True, seed=0))
    for epoch in range(6):
        item = images[Draw(epoch, 0, epoch)]
        y, x = torch.nonzero(item["image"][0] > 0, as_tuple=True)
        white = [x.min(), y.min(), x.max() + 1, y.max() + 1]
        assert (item["boxes"][0] - torch.tensor(white)).abs().max() <= 1
        assert item["box_labels"].tolist() == [0]
    assert images[1]["box_labels"].tolist() == [-1]


def test_a_box_outside_of_a_crop_is_left_out(tmp_path):
    content = annotations()
    content["annotations"][0]["bbox"] = [0, 0, 2, 2]
    write(tmp_path, content)
    mine = config(tmp_path, classes=["dog"], height=20, width=20, random_crop=False)
    images = BoxedImages(ImageDataset(open_source(mine, train=True), mine, train=True, seed=0))
    assert images[0]["box_labels"].tolist() == [-1]


def test_boxes_of_shapes_are_tight():
    """The box is the shape's, to the pixel."""
    mine = DataConfig(height=24, width=32, limit=6)
    source = open_source(mine, train=False)
    images = BoxedImages(ImageDataset(source, mine, train=False, seed=0))
    for number in range(6):
        item = images[number]
        mask = torch.from_numpy(source.source.describe(source.numbers[number]).mask)
        left, top, right, bottom = item["boxes"][0].int().tolist()
        inside = torch.zeros_like(mask)
        inside[top:bottom, left:right] = True
        assert not (mask & ~inside).any()
        for edge in (mask[top], mask[bottom - 1], mask[:, left], mask[:, right - 1]):
            assert edge.any()
        assert item["box_labels"].tolist() == [item["label"]]


BOX_OF = {"id": 1, "image_id": 7, "category_id": 18}


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"annotations": None}, "needs the lists images, .* but annotations is not a list"),
        ({"annotations": [BOX_OF | {"bbox": [1, 2, 3]}]}, r"needs a bbox of four numbers .*\[1, 2, 3\]"),
        ({"annotations": [BOX_OF | {"bbox": [70, 0, 5, 5]}]}, "1: bbox .* lies outside its picture"),
        ({"annotations": [BOX_OF | {"image_id": 5}]}, "annotation 1 belongs to image 5, which is not listed"),
        ({"annotations": [BOX_OF | {"category_id": 1}]}, "has category 1, which is not listed"),
        ({"images": []}, "lists no images"),
        ({"annotations": []}, "has no box, so there is nothing to find"),
        ({"categories": [{"id": 1, "name": "dog"}, {"id": 1, "name": "cat"}]}, r"1 \(cat\) is listed twice"),
        ({"categories": [{"id": "1", "name": "dog"}]}, "category 1 needs a whole number id, got '1'"),
    ],
)  # fmt: skip
def test_annotations_that_are_not_right_are_refused(tmp_path, changed, sentence):
    write(tmp_path, annotations(**changed))
    with pytest.raises(ValueError, match=sentence):
        open_source(config(tmp_path), train=True)


def test_pictures_that_are_not_right_are_refused(tmp_path):
    write(tmp_path)
    with pytest.raises(ValueError, match=r"no annotations of split test, .*there are train/annotations.json"):
        open_source(config(tmp_path), train=False)
    with pytest.raises(ValueError, match=r"names cow, which is not a category of .*: it has cat, dog"):
        open_source(config(tmp_path, classes=["cow"]), train=True)
    write(tmp_path, annotations(categories=[{"id": 17, "name": "dog"}, {"id": 18, "name": "cat"}]), "test")
    with pytest.raises(ValueError, match="has other categories than"):
        open_source(config(tmp_path), train=False)

    Image.new("L", (50, 40)).save(tmp_path / "train" / "b.png")
    with pytest.raises(ValueError, match=r"says that train/b.png has 40 x 60 pixels .*, but it has 40 x 50"):
        open_source(config(tmp_path), train=True).check_boxes(1)
    (tmp_path / "train" / "b.png").unlink()
    with pytest.raises(ValueError, match=r"names 1 picture not there: b\.png"):
        open_source(config(tmp_path), train=True)


def test_boxes_without_an_area_are_left_out_and_said(tmp_path):
    """COCO's own training split has two."""
    content = annotations()
    content["annotations"][0]["bbox"][2] = 0
    write(tmp_path, content)
    source = open_source(config(tmp_path), train=True)
    assert len(source.boxes(0).labels_M) == 1
    assert any("left out 1 box without an area" in remark for remark in source.remarks)
