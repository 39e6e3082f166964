"""Pictures of any kind are opened or named, from any process."""

import contextlib
import io
import shutil
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from var_pe.data.augmented import Augmented
from var_pe.data.images import ImageDataset, content_box, remarks_on_depth
from var_pe.data.pictures import CorruptImage, open_picture, orientation_in, to_channels
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


@pytest.mark.parametrize("mode", ["I", "F"])
def test_a_mode_without_a_known_meaning_is_refused_with_its_file(folder, tmp_path, mode):
    """Guessing a range of brightness would train on white or black pictures silently."""
    file = tmp_path / "pets" / "train" / "cat" / "0.tiff"
    Image.new(mode, (24, 30)).save(file)
    with pytest.raises(
        CorruptImage, match=f"{file} has mode {mode} .*what range its values have: save it with 8 or 16 bits"
    ):
        list(images(folder))
    with pytest.raises(CorruptImage, match="number 5 has mode La"):
        to_channels(Image.new("La", (2, 2)), 1, "number 5")


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


def exif(*entries: tuple[int, int, int, bytes], order: str = "<") -> bytes:
    """An EXIF block of (tag, type, count, four bytes of value)."""
    body = struct.pack(f"{order}H", len(entries))
    for tag, kind, count, value in entries:
        body += struct.pack(f"{order}HHI", tag, kind, count) + value
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return b"Exif\0\0" + mark + struct.pack(f"{order}I", 8) + body + bytes(4)


def with_exif(block: bytes) -> bytes:
    """A sound JPEG of 20 x 10 pixels with this EXIF block."""
    content = stored(noise(0, 10, 20), "JPEG")
    return content[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + content[2:]


TURNED = (0x0112, 3, 1, b"\x06\0\0\0")  # held on its side


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "other",
    [
        (0x0100, 2, 4, b"800\0"),  # the width as text
        (0x8769, 4, 1, b"\xff\xff\xff\xff"),  # a directory beyond the end
        (0x010F, 2, 2**31, b"\x08\0\0\0"),  # two gigabytes of a maker's name
        (0x011A, 5, 1, b"\x08\0\0\0"),  # a resolution that lies in the header
        (0x02BC, 12, 1, b"\0\0\0\0"),  # XMP as a floating-point number
    ],
)
def test_a_faulty_entry_of_exif_neither_hides_the_orientation_nor_makes_a_picture_corrupt(other):
    """Only how the camera was held matters; programs write everything else in every wrong way."""
    for block in (exif(TURNED, other), exif(other, TURNED)):
        assert open_picture(with_exif(block), "").size == (10, 20)
    assert open_picture(with_exif(exif(other)), "").size == (20, 10)


@pytest.mark.filterwarnings("ignore")
def test_no_exif_block_makes_a_sound_picture_corrupt():
    """Random tags, types, counts and offsets, of which a quarter are cut short."""
    random, plain = np.random.default_rng(0), np.asarray(open_picture(with_exif(b"Exif\0\0"), ""))
    tags = (0x0100, 0x010F, 0x011A, 0x0132, 0x8769, 0x8825, 0x9286, 0xA005, 0x0201, 0x014A, 0x02BC, 0x8773)
    for number in range(400):
        entries = [
            (
                int(random.choice(tags)),
                int(random.integers(14)),
                int(random.choice([0, 1, 2, 5, 200, 2**31])),
                struct.pack("<I", random.choice([0, 6, 8, 40, 99999, 2**32 - 1])),
            )
            for _ in range(random.integers(1, 6))
        ]
        block = exif(*entries) + random.bytes(40)
        block = block[: random.integers(10, len(block))] if number % 4 == 0 else block
        assert np.array_equal(open_picture(with_exif(block), ""), plain)


def test_orientation_is_read_in_either_order_of_bytes_where_the_parser_fails():
    faulty = (0x0100, 2, 4, b"800\0")
    big = exif(faulty, (0x0112, 3, 1, b"\0\x06\0\0"), order=">")
    assert orientation_in(big) == orientation_in(exif(TURNED)) == orientation_in(exif(TURNED)[6:]) == 6
    for block in (b"", b"Exif\0\0II", exif(faulty), exif((0x0112, 2, 2, b"6\0\0\0")), exif(TURNED)[:20]):
        assert orientation_in(block) == 1


def png(depth: int, colour: int, row: bytes, key: bytes, width: int = 2) -> bytes:
    """A PNG of one row in which the grey or colour `key` is transparent."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"tRNS", key) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "second"),
    [
        (png(8, 0, bytes([77, 10]), struct.pack(">H", 77)), 10),
        (png(8, 2, bytes([200, 30, 30, 9, 9, 9]), struct.pack(">3H", 200, 30, 30)), 9),
        (png(4, 0, bytes([0x3A]), struct.pack(">H", 3)), 170),
        (png(16, 0, struct.pack(">2H", 1000, 30000), struct.pack(">H", 1000)), 117),
        (
            png(16, 2, struct.pack(">6H", *[9000, 300, 70], *[2570] * 3), struct.pack(">3H", 9000, 300, 70)),
            10,
        ),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_transparent_colour_of_a_png_becomes_white_at_every_depth(content, second, channels):
    """Logos and cut-outs would stand on red or black ground."""
    pixels = np.asarray(to_channels(open_picture(content, ""), channels)).reshape(2, -1)
    assert (pixels[0] == 255).all()
    assert (pixels[1] == second).all()


def test_an_animation_is_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "blue")]
    for kind in ("gif", "webp", "png", "tiff"):
        file = tmp_path / f"a.{kind}"
        frames[0].save(file, save_all=True, append_images=frames[1:])
        red, _, blue = to_channels(open_picture(file, ""), 3).getpixel((0, 0))
        assert red > 200 > 50 > blue


class Deep:
    """A source of 16-bit pictures with one brightest value, one of them cut short."""

    class_names, remarks, fingerprint = (), (), "deep"

    def __init__(self, brightest: int, mode: type = np.uint16) -> None:
        self.brightest, self.mode, self.labels_N = brightest, mode, np.full(20, -1)

    def __len__(self) -> int:
        return 20

    def read(self, index: int) -> tuple[Image.Image, int]:
        if index == 5:
            raise CorruptImage("cut short")
        return Image.fromarray(np.full((4, 4), self.brightest, self.mode)), -1


def test_sixteen_bit_pictures_of_few_significant_bits_are_remarked_on():
    """A 12-bit camera's pictures would be trained on as nearly black ones, without a word."""
    (remark,) = remarks_on_depth(Deep(4095))
    assert "16-bit pictures will look nearly black" in remark
    assert "4095 of 65535" in remark
    assert remarks_on_depth(Deep(65535)) == remarks_on_depth(Deep(9, np.uint8)) == ()


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
        (
            {},
            r"^corrupt image \S+cat/1\.png: not a picture .data.on_corrupt=skip skips such pictures.$",
        ),
        (
            {"framing": "pad"},
            r"^framing=pad needs pictures of at most .* 16 x 24, got one of 24 x 30 "
            r".data.framing=fit resizes them, and so does crop.$",
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


def test_pictures_to_test_on_that_cannot_be_read_are_left_out(folder, tmp_path):
    """One that is replaced by the next would have that one counted twice, in every score."""
    sound = tmp_path / "pets" / "train"
    shutil.copytree(sound, tmp_path / "pets" / "test")
    config = DataConfig(source="imagefolder", path=folder, height=16, width=24, on_corrupt="skip")
    whole = open_source(config, train=False)
    assert whole.fingerprint == open_source(replace(config, on_corrupt="stop"), train=False).fingerprint

    (tmp_path / "pets" / "test" / "cat" / "0.png").write_bytes(b"")
    rest = open_source(config, train=False)
    assert len(rest) == len(whole) - 1 == len(ImageDataset(rest, config, train=False, seed=0))
    assert rest.labels_N.tolist() == whole.labels_N.tolist()[1:]
    assert "1 of 8 pictures to test on cannot be read and are left out: corrupt image" in rest.remarks[-1]
    assert len(open_source(config, train=True)) == 8
    assert len(open_source(replace(config, on_corrupt="stop"), train=False)) == 8


def test_a_set_without_a_readable_picture_ends(folder, tmp_path):
    """Skipping must not look for a picture for ever."""
    for file in (tmp_path / "pets").rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 8 images can be read"):
        images(folder, on_corrupt="skip")[0]
