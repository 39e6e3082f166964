"""From a picture of any kind and size to an image tensor, augmented the same way wherever it is read."""

import numpy as np
import pytest
import torch
from PIL import Image

from var_pe.data.images import ImageDataset, content_box
from var_pe.data.pictures import to_channels
from var_pe.data.sampler import Draw
from var_pe.data.sources import DataConfig


class Pictures:
    """A source of the pictures it is given."""

    class_names = ("one", "two")
    fingerprint = "pictures"

    def __init__(self, *pictures: Image.Image) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def read(self, index: int) -> tuple[Image.Image, int]:
        return self.pictures[index], index % 2


class Arrays(Pictures):
    def array(self, index: int) -> tuple[np.ndarray, int]:
        return np.asarray(self.pictures[index]), index % 2


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def dataset(source: Pictures, train: bool = True, seed: int = 0, **options) -> ImageDataset:
    return ImageDataset(source, DataConfig(**options), train, seed)


def test_augmentation_follows_from_seed_epoch_and_index_alone():
    """Resuming, worker counts and process counts must not change what the model sees."""
    options = {"framing": "crop", "flip": True}
    images, again = (dataset(Pictures(*[noise(60, 50)] * 40), **options) for _ in range(2))
    assert torch.equal(images[Draw(3, 7, 11)]["image"], again[Draw(3, 7, 99)]["image"])
    other_seed = dataset(Pictures(*[noise(60, 50)] * 40), seed=1, **options)
    looks = [images[Draw(epoch, i, 0)]["image"] for epoch in range(2) for i in range(40)]
    assert len({float(look.square().sum()) for look in looks}) > 50
    assert any(not torch.equal(look, other_seed[i]["image"]) for i, look in enumerate(looks[:40]))


def test_every_crop_position_and_both_flips_occur():
    source = Pictures(*[noise(10, 9)] * 400)
    images = dataset(source, framing="crop", height=8, width=8, resize_factor=1.0, flip=True)
    pictures = {item["image"].numpy().tobytes() for item in images}
    assert len(pictures) == 2 * (9 - 8 + 1)  # 10 x 9 is resized to cover 8 x 8: 9 x 8


def test_evaluation_crops_the_centre():
    """Metrics compare with the same reference images every time."""
    images = dataset(Pictures(noise(36, 40)), train=False, framing="crop", flip=True)
    expected = np.asarray(noise(36, 40).crop((4, 2, 36, 34))).transpose(2, 0, 1)
    assert not images.augments
    torch.testing.assert_close(images[0]["image"], torch.from_numpy(expected / np.float32(127.5) - 1))


@pytest.mark.parametrize("size", [(20, 90), (90, 20), (5, 5), (32, 64)])
def test_pictures_of_any_aspect_fill_images_of_any_aspect(size):
    white = Image.new("RGB", (size[1], size[0]), "white")
    for height, width in ((32, 32), (24, 48)):
        image = dataset(Pictures(white), framing="crop", height=height, width=width)[0]["image"]
        assert image.shape == (3, height, width)
        assert image.min() == 1


def test_the_short_side_becomes_the_resize_factor_times_the_target():
    """The recipe of VAR: 1.125 times, Lanczos, then the crop."""
    picture = noise(72, 90)
    image = dataset(Pictures(picture), train=False, framing="crop")[0]["image"]
    resized = picture.resize((45, 36), Image.Resampling.LANCZOS).crop((6, 2, 38, 34))
    expected = torch.from_numpy(np.asarray(resized).transpose(2, 0, 1) / np.float32(127.5) - 1)
    torch.testing.assert_close(image, expected)


@pytest.mark.parametrize("kind", [Pictures, Arrays])
@pytest.mark.parametrize("channels", [1, 3])
def test_padding_keeps_pixels_and_says_where_they_are(kind, channels):
    """PSNR is measured over the picture, not over the easy black margin."""
    source = kind(noise(27, 20).convert("L"))
    images = dataset(source, framing="pad", channels=channels)
    y, x, height, width = content_box(images.config, source)
    image = images[0]["image"]
    expected = torch.from_numpy(np.asarray(source.pictures[0]) / np.float32(127.5) - 1)
    torch.testing.assert_close(image[-1, y : y + height, x : x + width], expected)
    assert (y, x, height, width) == (2, 6, 27, 20)
    assert (image == -1).sum() >= channels * (32 * 32 - 27 * 20)
    assert image.shape == (channels, 32, 32)


def test_a_picture_larger_than_the_padded_image_is_refused():
    with pytest.raises(ValueError, match="at most height x width = 32 x 32, got one of 33 x 20"):
        dataset(Pictures(noise(33, 20)), framing="pad")[0]


def test_arrays_and_pictures_give_the_same_images():
    """The fast path may not be another data set."""
    for options in ({"framing": "pad"}, {"framing": "pad", "channels": 1}, {"framing": "crop", "flip": True}):
        pictures, arrays = (
            dataset(kind(noise(30, 28)), **options)[0]["image"] for kind in (Pictures, Arrays)
        )
        assert torch.equal(pictures, arrays)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_the_channels_asked_for(mode, channels):
    """White is white in all of them."""
    picture = Image.fromarray(np.full((4, 4), 65535, np.uint16)) if mode == "I;16" else None
    picture = picture or Image.new("RGB", (4, 4), "white").convert(mode)
    converted = to_channels(picture, channels)
    assert converted.mode == ("L" if channels == 1 else "RGB")
    assert (np.asarray(converted) >= 254).all()


def test_what_is_transparent_becomes_white():
    """Transparent pixels often hide black, or worse, arbitrary colours."""
    clear = Image.new("RGBA", (2, 2), (200, 0, 0, 0))
    palette = clear.convert("P")
    palette.info["transparency"] = palette.getpixel((0, 0))
    assert (
        to_channels(clear, 3).getpixel((0, 0)) == to_channels(palette, 3).getpixel((0, 0)) == (255, 255, 255)
    )


def clear(height: int, width: int, box: tuple[int, int, int, int], mode: str = "RGBA") -> Image.Image:
    """A transparent picture with a black box in it: left, top, right, bottom."""
    picture = Image.new("RGBA", (width, height), (255, 0, 0, 0))
    picture.paste((0, 0, 0, 255), box)
    return picture if mode == "RGBA" else picture.quantize()


@pytest.mark.parametrize("block", [1, 40])
def test_a_whole_picture_is_fitted_into_the_image(block):
    """Of 16x24 nothing is cut off in 12x12: 8x12, with 2 rows above and below; large ones go by blocks."""
    rows = np.repeat(np.arange(16, dtype=np.uint8) * 16, block)
    picture = Image.fromarray(np.repeat(rows[:, None], 24 * block, 1))
    options = {"framing": "fit", "height": 12, "width": 12, "channels": 3}
    image = dataset(Pictures(picture), **options)[0]["image"]
    assert (image[:, :2] == -1).all()
    assert (image[:, 10:] == -1).all()
    expected = np.asarray(picture.resize((12, 8), Image.Resampling.LANCZOS), np.float32) / 127.5 - 1
    assert (image[0, 2:10] - torch.from_numpy(expected)).abs().max() < 0.05
    white = dataset(Pictures(picture), margin="white", **options)[0]["image"]
    assert (white[:, :2] == 1).all()
    assert torch.equal(white[:, 2:10], image[:, 2:10])
    assert content_box(DataConfig(**options), Pictures(picture)) == (0, 0, 12, 12)


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_what_is_transparent_around_a_picture_is_cut_off(mode):
    picture = clear(40, 60, (5, 10, 25, 30), mode)
    options = {"framing": "fit", "height": 10, "width": 10, "margin": "white"}
    assert (dataset(Pictures(picture), trim=True, **options)[0]["image"] == -1).all()
    image = dataset(Pictures(picture), **options)[0]["image"]
    assert (image[:, [0, -1]] == 1).all()

    # A picture that is wholly transparent stays whole, and white.
    empty = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert (dataset(Pictures(empty), trim=True, **options)[0]["image"] == 1).all()


def test_pictures_in_memory_are_read_once_and_look_the_same():
    class Counted(Pictures):
        reads = 0

        def read(self, index: int) -> tuple[Image.Image, int]:
            self.reads += 1
            return super().read(index)

    source = Counted(*[noise(30, 20)] * 3)
    options = {"framing": "fit", "flip": True}
    images, again = dataset(source, in_memory=True, **options), dataset(source, **options)
    draws = [Draw(epoch, index, 0) for epoch in range(5) for index in range(3)]
    for draw in draws:
        one, two = images[draw], again[draw]
        assert torch.equal(one["image"], two["image"])
        assert one["label"] == two["label"]
    assert source.reads == 3 + len(draws)
    assert images.fingerprint == again.fingerprint
    for refused in ({"framing": "crop"}, {"streaming": True, "source": "hub", "hub_id": "a/b"}):
        with pytest.raises(ValueError, match="in_memory"):
            DataConfig(in_memory=True, **refused)


def test_the_fingerprint_covers_what_changes_an_image_and_nothing_else():
    source = Pictures(noise(40, 40))
    base = dataset(source, framing="crop").fingerprint
    assert base == dataset(source, framing="crop", shapes_train=7).fingerprint
    for change in (
        {"height": 16},
        {"channels": 1},
        {"resize_factor": 1.0},
        {"flip": True},
        {"random_crop": False},
    ):
        assert dataset(source, **{"framing": "crop", **change}).fingerprint != base
    assert dataset(source, framing="crop", seed=1).fingerprint != base
    fitted = [{}, {"margin": "white"}, {"trim": True}]
    assert len({dataset(source, framing="fit", **change).fingerprint for change in fitted}) == 3
    assert dataset(source, framing="pad", seed=1).fingerprint == dataset(source, framing="pad").fingerprint


def test_pictures_with_a_margin_keep_it_to_scale_at_another_size():
    """Fashion-MNIST's 28x28 in 32x32 are 42x42 in 48x48, and whole in the middle of 32x64."""
    config = DataConfig(source="fashion_mnist", framing="pad")
    white = Pictures(Image.new("RGB", (28, 28), "white"))
    for size, box in (((48, 48), (3, 3, 42, 42)), ((32, 64), (2, 18, 28, 28)), ((16, 16), (1, 1, 14, 14))):
        sized = config.at_size(*size)
        assert content_box(sized, white) == box
        image = ImageDataset(white, sized, True, 0)[0]["image"]
        top, left, height, width = box
        assert image.shape[1:] == size
        assert (image[:, top : top + height, left : left + width] == 1).all()
        assert ((image + 1) / 2).sum() == 3 * height * width  # the rest is black
        arrays = ImageDataset(Arrays(Image.new("RGB", (28, 28), "white")), sized, True, 0)
        assert torch.equal(arrays[0]["image"], image)
    assert DataConfig(framing="crop").at_size(48, 64).zoom == 1
    assert DataConfig(source="shapes").at_size(48, 64).zoom == 1


def test_a_fingerprint_knows_the_zoom():
    """Tokens of pictures at one zoom must not pass for those at another."""
    source = Pictures(noise(8, 8))
    plain, zoomed = (dataset(source, framing="pad", zoom=zoom) for zoom in (1.0, 2.0))
    assert plain.fingerprint != zoomed.fingerprint
    assert plain.fingerprint == dataset(source, framing="pad").fingerprint
