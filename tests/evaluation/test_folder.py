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


def test_what_would_lose_something_is_refused(tmp_path):
    Image.new("RGBA", (4, 4)).save(tmp_path / "0.png")
    with pytest.raises(ValueError, match=r"0\.png must be an 8-bit grey or RGB .* got mode RGBA"):
        ImageFolder(tmp_path)


def test_a_damaged_picture_is_named(tmp_path):
    save(tmp_path / "0.png", torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8))
    data = (tmp_path / "0.png").read_bytes()
    (tmp_path / "0.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"0\.png cannot be read"):
        ImageFolder(tmp_path)[0]


@pytest.mark.parametrize("name", ["", "missing", "missing.npz"])
def test_nothing_to_score_is_one_sentence(tmp_path, name):
    with pytest.raises(ValueError, match=r"holds no \.png|neither a folder|must be an \.npz"):
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
