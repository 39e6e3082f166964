"""Images from disk: what a score reads must be what the sampler wrote."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from var_pe.evaluation.folder import ImageFolder, to_uint8


def save(path: Path, pixels: torch.Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = pixels.permute(1, 2, 0).numpy()
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(path)


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_come_back_as_they_were_saved_in_the_order_of_their_paths(tmp_path, channels):
    """The order ties image i to seed i, and a PNG loses nothing."""
    images = torch.randint(0, 256, (4, channels, 5, 7), dtype=torch.uint8)
    for image, name in zip(images, ["0/00.png", "0/01.png", "1/00.PNG", "2.png"], strict=True):
        save(tmp_path / name, image)
    save(tmp_path / ".thumbnails" / "0.png", images[0, :, :2])
    found = ImageFolder(tmp_path)
    assert len(found) == 4
    assert torch.equal(torch.stack([found[i] for i in range(4)]), images)


def test_an_archive_holds_the_same_images_as_a_folder(tmp_path):
    """ADM's evaluators exchange `arr_0`, channels last."""
    images = torch.randint(0, 256, (3, 3, 4, 6), dtype=torch.uint8)
    np.savez(tmp_path / "images.npz", images.permute(0, 2, 3, 1).numpy())
    found = ImageFolder(tmp_path / "images.npz")
    assert torch.equal(torch.stack([found[i] for i in range(len(found))]), images)


def test_an_archive_of_pickles_is_refused(tmp_path):
    """Loading an archive from elsewhere must not run it."""
    np.savez(tmp_path / "images.npz", np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match=r"images\.npz must be an \.npz whose arr_0"):
        ImageFolder(tmp_path / "images.npz")


def test_a_picture_of_another_size_is_named(tmp_path):
    """A grid picture left among the samples must not end in a shape error from within torch."""
    save(tmp_path / "0.png", torch.zeros(3, 4, 4, dtype=torch.uint8))
    save(tmp_path / "grid.png", torch.zeros(3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"one size, got \(3, 8, 8\) in .*grid\.png"):
        ImageFolder(tmp_path)


@pytest.mark.parametrize(
    ("mode", "name", "got"),
    [
        ("RGBA", "0.png", "RGBA with transparency"),
        ("LA", "0.png", "LA with transparency"),
        ("I;16", "0.png", "I;16"),
        ("CMYK", "0.jpg", "CMYK"),
    ],
)
def test_what_would_lose_something_is_refused(tmp_path, mode, name, got):
    Image.new(mode, (4, 4)).save(tmp_path / name)
    with pytest.raises(ValueError, match=f"must be an 8-bit grey or RGB .* got mode {got}"):
        ImageFolder(tmp_path)


def test_an_animation_is_no_picture(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "0.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=r"0\.gif has 2 frames, one picture is wanted"):
        ImageFolder(tmp_path)


def test_every_format_counts_and_what_does_not_is_counted(tmp_path):
    """A folder of JPEGs is scored like one of PNGs, and nothing is left out without a word."""
    pixels = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    for name in ("a/0.png", "a/b/1.bmp", "c/2.tif", "c/3.WEBP", "4.ppm", "5.jpeg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        options = {"lossless": True} if name.endswith("WEBP") else {}
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / name, **options)
    for name in (
        "notes.txt",
        "more.txt",
        "x.heic",
        "README",
        ".DS_Store",
        "._0.png",
        "a/.ipynb_checkpoints/0.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = ImageFolder(tmp_path)
    names = [str(file.relative_to(tmp_path)) for file in found.files]
    assert names == ["4.ppm", "5.jpeg", "a/0.png", "a/b/1.bmp", "c/2.tif", "c/3.WEBP"]
    assert found.skipped == {".txt": 2, ".heic": 1, "without an ending": 1}
    assert all(torch.equal(found[n], pixels) for n in range(6) if n != 1)
    for file in found.files:
        file.unlink()
    sentence = r"holds no picture that can be read \(left out: 1 .heic, 2 .txt, 1 without an ending\)"
    with pytest.raises(ValueError, match=sentence):
        ImageFolder(tmp_path)


def test_opaque_alpha_is_dropped(tmp_path):
    """Many programs save it with every picture; here nothing is lost."""
    pixels = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    picture.convert("RGBA").save(tmp_path / "0.png")
    picture.convert("L").convert("LA").save(tmp_path / "1.png")
    with pytest.raises(ValueError, match=r"one size, got \(1, 5, 7\)"):
        ImageFolder(tmp_path)
    (tmp_path / "1.png").unlink()
    assert torch.equal(ImageFolder(tmp_path)[0], pixels)


def test_a_picture_is_turned_upright(tmp_path):
    """As training reads it; its sides are those of the upright picture."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (7, 5)).save(tmp_path / "0.jpg", exif=exif)
    save(tmp_path / "1.png", torch.zeros(3, 7, 5, dtype=torch.uint8))
    assert ImageFolder(tmp_path)[0].shape == (3, 7, 5)


def test_links_are_followed_once(tmp_path):
    save(tmp_path / "elsewhere" / "0.png", torch.zeros(3, 4, 4, dtype=torch.uint8))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "images")
    assert len(ImageFolder(tmp_path / "images")) == 1


def test_a_damaged_picture_is_named(tmp_path):
    save(tmp_path / "0.png", torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8))
    data = (tmp_path / "0.png").read_bytes()
    (tmp_path / "0.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"corrupt image .*0\.png"):
        ImageFolder(tmp_path)[0]


@pytest.mark.parametrize("name", ["", "missing", "missing.npz"])
def test_nothing_to_score_is_one_sentence(tmp_path, name):
    with pytest.raises(ValueError, match=r"holds no picture|neither a folder|must be an \.npz"):
        ImageFolder(tmp_path / name)


def test_bytes_are_rounded_and_survive_the_round_trip():
    """Cutting off would turn 254.9 into 254, and every image darker by half a step."""
    pixels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(pixels / 127.5 - 1), pixels)
    wanted = torch.tensor([0, 127, 129, 255], dtype=torch.uint8)
    assert torch.equal(to_uint8(torch.tensor([-3.0, -0.004, 0.0079, 1.5])), wanted)


def test_images_that_are_not_finite_are_refused():
    """A diverged decoder would otherwise write black pictures."""
    with pytest.raises(ValueError, match="images must be finite"):
        to_uint8(torch.tensor([0.0, float("nan")]))
