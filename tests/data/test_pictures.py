"""Pictures of any kind are opened or named, from any process."""

import contextlib
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from var_pe.data.augmented import Augmented
from var_pe.data.images import ImageDataset, content_box
from var_pe.data.pictures import CorruptImage, open_picture, to_channels
from var_pe.data.sampler import Draw, EndlessSampler
from var_pe.data.sources import DataConfig, open_source
from var_pe.processes import Processes


def noise(number: int, height: int = 24, width: int = 30) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def stored(picture: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind)
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path) -> str:
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "pets" / "train" / name).mkdir(parents=True)
        for i in range(4):
            noise(10 * label + i).save(tmp_path / "pets" / "train" / name / f"{i}.png")
    return str(tmp_path / "pets")


def images(folder: str, **options) -> ImageDataset:
    config = DataConfig(source="imagefolder", path=folder, height=16, width=24, **options)
    return ImageDataset(open_source(config, train=True), config, train=True, seed=3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "TGA"])
def test_a_damaged_file_is_a_corrupt_image_whatever_its_format(kind):
    """Each of PIL's decoders has errors of its own; one that escapes ends a run and names no file."""
    random, whole = np.random.default_rng(0), stored(noise(0), kind)
    for _ in range(60):
        content = bytearray(whole[: random.integers(1, len(whole) + 1)])
        for place in random.integers(0, min(len(content), 64), 4):
            content[place] = random.integers(0, 256)
        with contextlib.suppress(CorruptImage):
            to_channels(open_picture(bytes(content), "cat.png"), 3)


def test_an_unforeseen_error_of_a_decoder_is_a_corrupt_image(monkeypatch):
    """Decoders raise struct.error and EOFError, too, which are no OSError."""

    def fail(*_):
        raise EOFError("ended early")

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(CorruptImage, match=r"corrupt image cat\.png: ended early"):
        open_picture(b"", "cat.png")


@pytest.mark.parametrize("mode", ["La", "I", "F"])
def test_a_mode_without_a_known_meaning_is_refused(mode):
    """Guessing a range of brightness would train on white or black pictures in silence."""
    with pytest.raises(CorruptImage, match=f"number 5 has mode {mode}"):
        to_channels(Image.new(mode, (2, 2)), 1, "number 5")


def test_sixteen_bits_keep_the_upper_eight():
    """Medical and depth pictures; PIL alone clips them to white."""
    content = stored(Image.fromarray(np.array([[0, 255, 256, 40000, 65535]], np.uint16)), "PNG")
    grey = np.asarray(to_channels(open_picture(content, ""), 1))
    assert grey.tolist() == [[0, 0, 1, 156, 255]]


def test_a_turned_photograph_stands_upright():
    """Cameras store how they were held; an ImageNet photograph on its side is another picture."""
    exif, stream = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    noise(0, 10, 20).save(stream, "PNG", exif=exif)
    assert open_picture(stream.getvalue(), "").size == (10, 20)


@pytest.mark.parametrize("magnitude", [0, 9])
def test_workers_augment_as_the_main_process_does(folder, magnitude):
    """A run on another number of data workers is the same run."""
    dataset = images(folder, flip=True)
    dataset = Augmented(dataset, magnitude, seed=3) if magnitude else dataset
    batches = [
        iter(DataLoader(dataset, batch_sampler=EndlessSampler(8, 4, 0), num_workers=workers))
        for workers in (0, 2)
    ]
    for _ in range(5):
        torch.rand(7)  # whatever else is drawn
        alone, shared = next(batches[0]), next(batches[1])
        assert torch.equal(alone["image"], shared["image"])
        assert torch.equal(alone["draw_number"], shared["draw_number"])


def test_another_epoch_draws_another_augmentation(folder):
    dataset = Augmented(images(folder, random_crop=False), 9, seed=3)
    looks = {dataset[Draw(epoch, 2, 0)]["image"].numpy().tobytes() for epoch in range(8)}
    assert len(looks) > 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"^corrupt image \S+cat/1\.png: not a picture$"),
        (
            {"framing": "pad"},
            r"^framing=pad needs pictures of at most .* 16 x 24, got one of 24 x 30 .data.framing=crop resizes them.$",
        ),
    ],
)
def test_an_error_in_a_worker_is_one_sentence(folder, tmp_path, options, message):
    """DataLoader puts the worker's whole trace into the message; a person wants to know which file it is."""
    if not options:
        (tmp_path / "pets" / "train" / "cat" / "1.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=message):
        list(DataLoader(images(folder, **options), num_workers=1))


def test_a_corrupt_first_picture_does_not_hide_where_pictures_lie(folder, tmp_path):
    (tmp_path / "pets" / "train" / "cat" / "0.png").write_bytes(b"no picture")
    config = DataConfig(source="imagefolder", path=folder, framing="pad", on_corrupt="skip")
    assert content_box(config, open_source(config, train=True)) == (4, 1, 24, 30)


def test_skipped_pictures_are_counted_through_workers_and_augmentation(folder, tmp_path):
    """The count at the end of a run must be that of the files, not of the attempts."""
    for name in ("cat/0", "dog/3"):
        (tmp_path / "pets" / "train" / f"{name}.png").write_bytes(b"")
    dataset = Augmented(images(folder, on_corrupt="skip"), 5, seed=0)
    loader = iter(DataLoader(dataset, batch_sampler=EndlessSampler(8, 4, 0), num_workers=2))
    items = [next(loader) for _ in range(6)]
    assert dataset.passed_over(Processes()) == 2
    assert {int(label) for item in items for label in item["label"]} == {0, 1}


def test_a_set_without_a_readable_picture_ends(folder, tmp_path):
    """Skipping must not look for a picture for ever."""
    for file in (tmp_path / "pets").rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 8 images can be read"):
        images(folder, on_corrupt="skip")[0]
