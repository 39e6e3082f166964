"""Folders of videos: frames spread evenly over each, upright, with the folder's class; or one sentence."""

from pathlib import Path

import numpy as np
import pytest

from var_pe.data.counts import what_is_read
from var_pe.data.images import ImageDataset
from var_pe.data.sources import DataConfig, open_source
from var_pe.data.videos import VideoFolder, spread

av = pytest.importorskip("av", reason="the extra video")


def frames_of(number: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (number, 16, 20, 3), np.uint8)


def write(file: Path, pixels: np.ndarray, turned: int = 0) -> None:
    """Without a loss, as PNG pictures in QuickTime's container."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w", format="mov") as container:
        stream = container.add_stream("png", rate=10)
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[1:3], "rgb24"
        if turned:
            stream.set_display_rotation(turned)
        for frame in pixels:
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24"))
            )
        container.mux(stream.encode(None))


@pytest.fixture
def folder(tmp_path) -> Path:
    for split in ("train", "test"):
        for label, name in enumerate(("jump", "run")):
            for number in range(2):
                write(tmp_path / split / name / f"{number}.mov", frames_of(9, 10 * label + number))
    (tmp_path / "train" / "notes.txt").write_text("not a video")
    return tmp_path


def data(folder: Path, **given) -> DataConfig:
    fixed = dict(source="videos", path=str(folder), height=16, width=20, framing="pad", frames=3)
    return DataConfig(**(fixed | given))


def test_frames_are_the_middles_of_equal_parts():
    assert spread(3, 9) == [1, 4, 7]
    assert spread(4, 4) == [0, 1, 2, 3]
    assert spread(2, 5) == [1, 3]


def test_a_class_folder_of_videos_gives_its_frames_and_labels(folder):
    opened = open_source(data(folder), train=True)
    assert isinstance(opened, VideoFolder)
    assert (opened.class_names, opened.labels_N.tolist()) == (("jump", "run"), [0, 0, 1, 1])
    pixels, label = opened.array(3)
    assert label == 1
    assert np.array_equal(pixels, frames_of(9, 11)[[1, 4, 7]])
    assert opened.fingerprint != open_source(data(folder, frames=4), train=True).fingerprint
    said = what_is_read(data(folder))
    assert "train on 4 clips of 2 classes, 2 of each" in said
    assert f"{folder}/train: skipped 1 file: 1 .txt" in said

    framed = data(folder, framing="crop", flip=True)
    images = ImageDataset(open_source(framed, train=True), framed, train=True, seed=0)
    assert images[0]["image"].shape == (3, 3, 16, 20)


def test_a_video_is_turned_upright(tmp_path):
    pixels = frames_of(2)
    for split in ("train", "test"):
        for name in ("a", "b"):
            write(tmp_path / split / name / "0.mov", pixels, turned=90)
    read = open_source(data(tmp_path, frames=2), train=True).array(0)[0]
    assert np.array_equal(read, np.rot90(pixels, 1, axes=(1, 2)))


def test_what_cannot_be_read_is_one_sentence(folder, tmp_path_factory):
    with pytest.raises(ValueError, match=r"0.mov has 9 frames, fewer than data.frames=10"):
        open_source(data(folder, frames=10), train=True).array(0)
    (folder / "train" / "jump" / "0.mov").write_bytes(b"no video at all")
    with pytest.raises(ValueError, match=r"corrupt video .*jump/0.mov: "):
        open_source(data(folder), train=True).array(0)
    empty = tmp_path_factory.mktemp("empty")
    (empty / "train").mkdir()
    with pytest.raises(
        ValueError, match=r"holds no videos .*: a folder for each split, such as train and test"
    ):
        open_source(data(empty), train=True)
    with pytest.raises(
        ValueError, match="source=videos takes streaming=false, trim=false and on_corrupt=stop"
    ):
        data(folder, on_corrupt="skip")
