"""The made-up clips: their class is the motion, which no frame by itself and no frames without order tell."""

import numpy as np
import pytest

from var_pe.data.images import ImageDataset
from var_pe.data.moving_shapes import CLASSES, SPACE, Motion, MovingShapes, render
from var_pe.data.sources import DataConfig, open_source
from var_pe.settings import ConfigError

MIDDLE = Motion(*(count // 2 for count in SPACE))


def test_a_clip_follows_from_its_number():
    """Results are compared across versions of the code; it may only change under another fingerprint."""
    clips = MovingShapes(20, 4, 24, 32, "train")
    assert clips.array(3)[0].shape == (4, 24, 32, 3)
    assert np.array_equal(clips.array(3)[0], MovingShapes(20, 4, 24, 32, "train").array(3)[0])
    assert [clips.array(i)[1] for i in range(20)] == clips.labels_N.tolist()
    assert clips.motion(0) != MovingShapes(20, 4, 24, 32, "test").motion(0)
    assert clips.fingerprint == "moving-shapes-1-train-20-4x24x32"


@pytest.mark.parametrize("label", range(0, len(CLASSES), 2))
def test_every_second_class_is_the_one_before_played_backwards(label):
    """So frames without their order say nothing of which of the two it is."""
    forwards, backwards = (render(MIDDLE._replace(label=each), 8, 32, 32) for each in (label, label + 1))
    assert np.array_equal(forwards, backwards[::-1])
    steps = np.abs(np.diff(forwards.astype(int), axis=0)).max((1, 2, 3))
    assert steps.min() > 16  # something moves between all frames


def test_shapes_move_as_their_classes_say():
    def middle(pixels: np.ndarray) -> np.ndarray:
        rows, columns = np.nonzero(np.abs(pixels.astype(int) - pixels[0, 0].astype(int)).max(-1) > 60)
        return np.array([rows.mean(), columns.mean(), len(rows)])

    for name, expected in {"moves right": (0, 1), "moves down": (1, 0), "grows": (0, 0)}.items():
        clip = render(MIDDLE._replace(label=list(CLASSES).index(name), ground=0), 6, 32, 32)
        way = middle(clip[-1]) - middle(clip[0])
        assert tuple((way[:2] > 3).astype(int)) == expected
        assert (way[2] > 20) is np.bool_(name == "grows")


def test_where_a_shape_begins_hardly_tells_where_it_goes():
    """A third of the starts of a motion to the right are also starts of one to the left; all are whole."""
    first = [render(MIDDLE._replace(label=0, column=column), 8, 32, 32)[0] for column in range(8)]
    last = [render(MIDDLE._replace(label=0, column=column), 8, 32, 32)[-1] for column in range(8)]
    columns = [
        np.nonzero(np.abs(np.diff(p.astype(int), axis=1)).max((0, 2)) > 60)[0] for p in (*first, *last)
    ]
    lefts = [each.min() for each in columns]
    assert max(lefts[:8]) >= min(lefts[8:]) + 3
    assert min(lefts) >= 0
    assert max(each.max() for each in columns) <= 30


def test_clips_become_tensors_framed_alike():
    """All frames of a clip by one draw, whatever the framing."""
    data = DataConfig(source="moving_shapes", frames=4, shapes_train=6, height=24, width=24, channels=1)
    item = ImageDataset(open_source(data, train=True), data, train=True, seed=0)[2]
    assert item["image"].shape == (4, 1, 24, 24)
    assert -1 <= item["image"].min() < item["image"].max() <= 1
    cropped = DataConfig(source="moving_shapes", frames=2, shapes_train=6, framing="crop", classes=["grows"])
    assert ImageDataset(open_source(cropped, train=True), cropped, train=True, seed=0)[0]["image"].shape == (
        2, 3, 32, 32
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (dict(flip=True), "flip mirrors clips, so that a shape that moves right would move left"),
        (dict(frames=1), "moving shapes need at least 2 frames, got data.frames=1"),
        (dict(height=8), "moving shapes need 16 pixels a side to be seen moving, got 8 x 32"),
        (dict(streaming=True), "source=moving_shapes is generated, not read"),
    ],
)
def test_what_would_make_labels_wrong_is_refused(given, sentence):
    with pytest.raises((ConfigError, ValueError), match=sentence):
        open_source(DataConfig(source="moving_shapes", **given), train=True)
