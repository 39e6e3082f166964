"""Masks follow their pictures, and a folder that is not right is refused in one sentence."""

import numpy as np
import pytest
import torch
from PIL import Image

from var_pe.data.images import ImageDataset
from var_pe.data.mask_folder import IGNORED, MaskFolder
from var_pe.data.masks import MaskedImages
from var_pe.data.sampler import Draw
from var_pe.data.sources import DataConfig, open_source

# A mask of large, unsymmetrical parts, and the grey of each class in its picture
MASK = np.kron(np.array([[0, 1, 1], [2, 0, 3], [3, 3, 2], [1, 0, 0]]), np.ones((10, 14))).astype(np.uint8)
GREYS = np.array([0, 85, 170, 255], np.uint8)


def write(root, stem="a", mask=MASK, picture=None, folder="train", ending=".png"):
    """A picture and its mask; either may be left out."""
    for name, pixels in (("images", GREYS[MASK] if picture is None else picture), ("masks", mask)):
        (root / folder / name).mkdir(parents=True, exist_ok=True)
        if pixels is not None:
            file = f"{stem}{ending if name == 'masks' else '.png'}"
            Image.fromarray(pixels).save(root / folder / name / file)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "classes.txt").write_text("ground\nroad\ncar\ntree\n")
    return tmp_path


def config(root, **more):
    return DataConfig(source="masks", path=str(root), channels=1, **more)


@pytest.mark.parametrize(
    "framing",
    [
        {"framing": "crop", "height": 24, "width": 32, "flip": True, "resize_factor": 1.5},
        {"framing": "fit", "height": 50, "width": 32, "flip": True},
        {"framing": "pad", "height": 91, "width": 101, "zoom": 2.0, "flip": True},
    ],
)
def test_a_mask_follows_its_picture(root, framing):
    """Crops, flips, sizes and margins move both: the picture's greys say what its mask has to be."""
    write(root)
    mine = config(root, **framing)
    images = MaskedImages(ImageDataset(open_source(mine, train=True), mine, train=True, seed=0))
    seen = []
    for epoch in range(6):
        item = images[Draw(epoch, 0, epoch)]
        mask_HW = item["mask"]
        known_HW = mask_HW != IGNORED
        grey_HW = ((item["image"][0] + 1) * 1.5).round()
        assert mask_HW.shape == grey_HW.shape
        assert (grey_HW == mask_HW)[known_HW].float().mean() > 0.85  # all but blurred borders of classes
        assert (item["image"][0] == -1)[~known_HW].all()
        seen.append(mask_HW)
    assert any(not torch.equal(seen[0], other) for other in seen), "chance has a part in it"
    assert (framing["framing"] == "crop") == bool((seen[0] != IGNORED).all())


def test_a_mask_of_shapes_is_exact():
    """The generator of the pictures knows what it drew; a part of them has the masks of its own pictures."""
    mine = DataConfig(height=24, width=24, limit=5)
    source = open_source(mine, train=False)
    images = MaskedImages(ImageDataset(source, mine, train=False, seed=0))
    assert images.class_names[0] == "ground"
    for number in range(5):
        picture = source.source.describe(source.numbers[number])
        item = images[number]
        assert torch.equal(item["mask"] > 0, torch.from_numpy(picture.mask))
        assert item["mask"].max() == 1 + item["label"]


def test_some_pictures_can_be_held_out(root):
    for number in range(10):
        write(root, stem=f"{number}", folder=".")
    splits = [open_source(config(root, hold_out=0.3), train) for train in (True, False)]
    names = [{split.file(index).name for index in range(len(split))} for split in splits]
    assert [len(found) for found in names] == [7, 3]
    assert not names[0] & names[1]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"mask": None}, r"1 picture in .*images without a mask in masks/: a.png"),
        ({"mask": MASK[:-1]}, r"mask .*a.png has 39 x 42 pixels \(height x width\)"),
        ({"mask": MASK + 1}, r"mask .*a.png has the value 4, but the 4 classes are 0 to 3 \(and 255: none\)"),
        ({"mask": np.stack([MASK] * 3, 2)}, "mask .*a.png has mode RGB: a mask is grey or with a palette"),
        ({"ending": ".jpg"}, r"masks/a.jpg is not a .png file"),
    ],
)  # fmt: skip
def test_masks_that_are_not_right_are_refused(root, given, sentence):
    write(root, **given)
    with pytest.raises(ValueError, match=sentence):
        open_source(config(root), train=True).check_mask(0)


def test_folders_that_are_not_right_are_refused(root):
    write(root)
    with pytest.raises(ValueError, match="has no folder for split test: give it one"):
        open_source(config(root), train=False)
    write(root, stem="b")
    Image.fromarray(MASK).save(root / "train" / "images" / "b.bmp")
    with pytest.raises(ValueError, match="several pictures called b, but a mask belongs to one"):
        open_source(config(root), train=True)
    (root / "classes.txt").unlink()
    with pytest.raises(ValueError, match=r"names: list them in .*classes.txt, one a line"):
        open_source(config(root), train=True)
    with pytest.raises(ValueError, match=r"takes streaming=false, trim=false and on_corrupt=stop"):
        config(root, on_corrupt="skip")


def test_a_palette_and_pixels_of_no_class_are_read(root):
    """Pascal VOC's masks are pictures with a palette, in which 255 is nothing."""
    mask = MASK.copy()
    mask[:3] = IGNORED
    write(root, mask=mask)
    palette = Image.fromarray(mask, mode="P")
    palette.putpalette(list(range(256)) * 3)
    palette.save(root / "train" / "masks" / "a.png")
    source = open_source(config(root), train=True)
    assert isinstance(source, MaskFolder)
    source.check_mask(0)
    assert np.array_equal(source.mask(0), mask)


def test_another_mask_is_another_set(root):
    """A run that goes on is held to its masks as to its pictures."""
    write(root)
    before = open_source(config(root), train=True).identity
    write(root, mask=np.zeros_like(MASK))
    assert open_source(config(root), train=True).identity != before
