"""Folders of drawn images: resumable, refused to other settings, the same on any number of processes."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from var_pe.processes import Processes
from var_pe.sampling.config import SamplingConfig
from var_pe.sampling.drawing import draw_images
from var_pe.sampling.folder import (
    class_folder,
    class_of,
    fill_folder,
    image_path,
    kept_tokens,
    number_in,
    write_npz,
)
from var_pe.sampling.pipeline import VARPipeline
from var_pe.sampling.sheets import write_grid

NAMES = ("ant", "bee", "cat")  # of the pipeline's classes
CONFIG = SamplingConfig(images_per_class=3, batch=4)  # nine images in batches that cut classes


def fill(folder: Path, pipeline: VARPipeline, config: SamplingConfig = CONFIG, **more) -> dict[str, bytes]:
    fill_folder(folder, pipeline, config, weights="w", **more)
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted((folder / "images").rglob("*.*"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_each_class_gets_its_images(pipeline, tmp_path):
    """Image n of seed s, wherever it is drawn: its label and its own generator are all it follows from."""
    done = []
    files = fill(tmp_path, pipeline, on_progress=done.append)
    assert list(files) == [f"images/{n // 3:04d}_{NAMES[n // 3]}/{n:07d}.png" for n in range(9)]
    assert sum(done) == 9
    for number in (0, 4, 8):
        (image_CHW,) = draw_images(pipeline, [class_of(number, CONFIG)], [number], CONFIG)
        saved = np.asarray(Image.open(image_path(tmp_path, number, CONFIG, NAMES)))
        np.testing.assert_array_equal(saved, image_CHW.permute(1, 2, 0).numpy())


def test_tokens_are_kept_beside_the_images_that_they_are_of(pipeline, tmp_path):
    """Also where the images were there first; these stay as they are."""
    files = fill(tmp_path, pipeline)
    assert not (tmp_path / "tokens").exists()
    assert fill(tmp_path, pipeline, keep_tokens=True) == files
    tokens_NL = kept_tokens(tmp_path, range(9))
    maps_NZhw = pipeline.tokenizer.quantizer.sum_of(tokens_NL, pipeline.tokenizer.pyramid)
    images_NCHW = pipeline.decode(maps_NZhw, "pt").detach()
    for number in range(9):
        saved = np.asarray(Image.open(image_path(tmp_path, number, CONFIG, NAMES)))
        np.testing.assert_allclose(saved, 255 * images_NCHW[number].permute(1, 2, 0), atol=0.6)

    draws = pipeline.transformer.generate
    pipeline.transformer.generate = None  # a full folder needs no model
    fill(tmp_path, pipeline, keep_tokens=True)
    pipeline.transformer.generate = draws


def test_what_is_missing_is_drawn_again(pipeline, tmp_path):
    """Stopped anywhere, the same command completes the folder to the same bytes and draws no more."""
    files = fill(tmp_path, pipeline)
    for number in (1, 5, 6):
        image_path(tmp_path, number, CONFIG, NAMES).unlink()
    kept = {
        number: image_path(tmp_path, number, CONFIG, NAMES).stat().st_mtime_ns
        for number in (0, 2, 3, 4, 7, 8)
    }
    assert fill(tmp_path, pipeline) == files
    assert {n: image_path(tmp_path, n, CONFIG, NAMES).stat().st_mtime_ns for n in kept} == kept
    drawn = pipeline.transformer.generate
    pipeline.transformer.generate = None  # a full folder needs no model
    assert fill(tmp_path, pipeline) == files
    pipeline.transformer.generate = drawn


def test_batches_and_processes_fill_the_same_folder(pipeline, tmp_path):
    files = fill(tmp_path / "one", pipeline)
    assert fill(tmp_path / "batches", pipeline, replace(CONFIG, batch=2)) == files
    shares = [fill(tmp_path / "two", pipeline, processes=Processes(rank, 2)) for rank in (1, 0)]
    assert 0 < len(shares[0]) < 9
    assert shares[1] == files
    alone = [fill(tmp_path / f"rank{rank}", pipeline, processes=Processes(rank, 2)) for rank in range(2)]
    assert alone[0].keys().isdisjoint(alone[1])  # no image is drawn twice


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"guidance_scale": 3.0}, r"guidance_scale 1.5 \(asked: 3.0\)"),
        ({"temperature": 0.5}, r"temperature 1.0 \(asked: 0.5\)"),
        ({"temperature": [1, 1, 1, 0.5]}, r"temperature 1.0 \(asked: \[1.0, 1.0, 1.0, 0.5\]\)"),
        ({"guidance_schedule": "constant"}, r"guidance_schedule 'linear' \(asked: 'constant'\)"),
        ({"seed": 1}, r"seed 0 \(asked: 1\)"),
        ({"images_per_class": 4}, r"images_per_class 3 \(asked: 4\)"),
        ({"size": [16, 8]}, r"size None \(asked: \[16, 8\]\)"),
        ({"levels": [1, 4]}, r"levels None \(asked: \[1, 4\]\)"),
        ({"top_k": 5, "top_p": 0.5}, r"top_k 0 \(asked: 5\), top_p 0.0 \(asked: 0.5\)"),
    ],
)
def test_other_settings_are_refused(change, sentence, pipeline, tmp_path):
    """Images of two settings in one folder would be scored as one."""
    files = fill(tmp_path, pipeline)
    with pytest.raises(ValueError, match=f"holds images drawn with {sentence}; ask for the same"):
        fill(tmp_path, pipeline, replace(CONFIG, **change))
    with pytest.raises(
        ValueError, match="drawn before the model was trained further, or by another model: move"
    ):
        fill_folder(tmp_path, pipeline, CONFIG, weights="v")
    assert contents(tmp_path) == files


def test_a_folder_from_before_a_setting_goes_on(pipeline, tmp_path):
    """Its images were drawn as they are today by default; with another value they would not be."""
    files = fill(tmp_path, pipeline)
    there = json.loads((tmp_path / "sampling.json").read_text())
    del there["scale_guidance"]
    (tmp_path / "sampling.json").write_text(json.dumps(there))
    assert fill(tmp_path, pipeline).keys() == files.keys()
    with pytest.raises(ValueError, match=r"scale_guidance 0.0 \(asked: 1.0\)"):
        fill(tmp_path, pipeline, replace(CONFIG, scale_guidance=1.0))


def test_every_setting_that_images_follow_from_is_remembered(pipeline, tmp_path):
    """All but the batch, and a classifier, which is known by its weights; one that is added later, too."""
    fill(tmp_path, pipeline)
    remembered = json.loads((tmp_path / "sampling.json").read_text())
    assert remembered.keys() == asdict(CONFIG).keys() - {"batch", "classifier"} | {"weights", "numbers"}


def test_a_folder_of_other_random_numbers_is_not_filled_up(pipeline, tmp_path):
    """Two images of one seed could be one picture, and none would say so; a whole folder stays as it is."""
    files = fill(tmp_path, pipeline)
    record = json.loads((tmp_path / "sampling.json").read_text())
    del record["numbers"]
    (tmp_path / "sampling.json").write_text(json.dumps(record))
    assert fill(tmp_path, pipeline) == files

    image_path(tmp_path, 4, CONFIG, NAMES).unlink()
    left = contents(tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path} was begun by an earlier version, which drew other"):
        fill(tmp_path, pipeline)
    assert contents(tmp_path) == left


@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_damaged_settings_are_named(content, pipeline, tmp_path):
    files = fill(tmp_path, pipeline)
    (tmp_path / "sampling.json").write_text(content)
    with pytest.raises(ValueError, match=f"{tmp_path / 'sampling.json'} is damaged"):
        fill(tmp_path, pipeline)
    assert contents(tmp_path) == files


def test_a_damaged_picture_is_named(pipeline, tmp_path):
    """Whoever resumes a folder after a full disk must know which one to remove."""
    fill(tmp_path, pipeline)
    path = image_path(tmp_path, 4, CONFIG, NAMES)
    path.write_bytes(path.read_bytes()[:60])
    for show in (
        lambda: write_npz(tmp_path / "all.npz", tmp_path),
        lambda: write_grid(tmp_path / "grid.png", tmp_path, CONFIG, range(3), NAMES),
    ):
        with pytest.raises(ValueError, match=f"{path} is damaged: remove it"):
            show()


def test_the_settings_appear_whole_or_not_at_all(pipeline, tmp_path, monkeypatch):
    """Another process reads them at any moment; a kill in between must not block the folder for ever."""
    fill(tmp_path, pipeline)
    assert json.loads((tmp_path / "sampling.json").read_text())["weights"] == "w"
    replaced = Path.replace

    def killed(self: Path, target: Path) -> None:
        if Path(target).name == "sampling.json":
            raise KeyboardInterrupt
        replaced(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "other", pipeline)
    monkeypatch.undo()
    assert not (tmp_path / "other" / "sampling.json").exists()
    assert fill(tmp_path / "other", pipeline) == contents(tmp_path)


def test_a_picture_that_is_there_is_whole(pipeline, tmp_path, monkeypatch):
    """Killed while writing, a half picture must not count as done."""
    files, save = fill(tmp_path / "one", pipeline), Image.Image.save

    def killed(self, path, **options):
        save(self, path, **options)
        Path(path).write_bytes(Path(path).read_bytes()[:20])
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "two", pipeline)
    monkeypatch.undo()
    assert not list((tmp_path / "two").rglob("*.png"))
    assert fill(tmp_path / "two", pipeline) == files


def test_grid_and_npz_show_the_pictures_in_order(pipeline, tmp_path):
    fill(tmp_path, pipeline)
    pictures = [np.asarray(Image.open(image_path(tmp_path, number, CONFIG, NAMES))) for number in range(9)]
    write_npz(tmp_path / "all.npz", tmp_path)
    stored = np.load(tmp_path / "all.npz")["arr_0"]
    assert stored.dtype == np.uint8
    np.testing.assert_array_equal(stored, np.stack(pictures))


def test_a_grid_has_a_row_for_each_class_under_its_name(pipeline, tmp_path):
    """Without names, nobody but who trained the model knows what a row should show."""
    fill(tmp_path, pipeline)
    found, titles = [], []
    for label in (0, 1):
        write_grid(tmp_path / "grid.png", tmp_path, CONFIG, [label], NAMES, rows=2)
        grid = np.asarray(Image.open(tmp_path / "grid.png"))
        for place in (0, 1):
            path = image_path(tmp_path, 3 * label + place, CONFIG, NAMES)
            shown = np.asarray(Image.open(path)).repeat(12, 0).repeat(12, 1)  # enlarged to 96 pixels
            windows = np.lib.stride_tricks.sliding_window_view(grid, shown.shape)[:, :, 0]
            corners = np.argwhere((windows[..., 0, 0, :] == shown[0, 0]).all(-1))
            found.append([(y, x) for y, x in corners.tolist() if np.array_equal(windows[y, x], shown)])
        top = found[-1][0][0]
        titles.append(grid[:top])

    # Both pictures of a row once and side by side; above them another name for another class
    assert [len(places) for places in found] == [1, 1, 1, 1]
    assert found[0][0][0] == found[1][0][0]
    assert found[0][0][1] < found[1][0][1]
    assert titles[0].shape == titles[1].shape
    assert not np.array_equal(*titles)


def test_some_classes_are_drawn_as_among_all(pipeline, tmp_path):
    files = fill(tmp_path / "all", pipeline)
    some = fill(tmp_path / "some", pipeline, classes=[2, 0])
    assert some == {name: content for name, content in files.items() if "_bee" not in name}
    assert fill(tmp_path / "some", pipeline) == files


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("T-shirt/top", "0000_T-shirt_top"),
        ("../..", "0000"),
        (".hidden", "0000_hidden"),
        ("a b  c", "0000_a_b_c"),
        ("Äpfel", "0000_Äpfel"),
        ("10", "0000_10"),
        ("x" * 300, "0000_" + "x" * 60),
        ("", "0000"),
    ],
)
def test_a_class_s_folder_is_named_as_file_systems_allow(tmp_path, name, folder):
    assert class_folder(tmp_path, 0, [name]) == tmp_path / "images" / folder
    assert number_in(folder) == 0


def test_a_folder_by_number_goes_on(tmp_path):
    (tmp_path / "images" / "0001").mkdir(parents=True)
    assert class_folder(tmp_path, 1, NAMES).name == "0001"
    assert class_folder(tmp_path, 2, NAMES).name == "0002_cat"
    assert [number_in(name) for name in ("0012", "10000_x_1", "10", "cat", "12_x")] == [
        12,
        10000,
        None,
        None,
        None,
    ]


def test_without_classes_there_is_one_folder(make_generator, make_tokenizer, tmp_path):
    pipe = VARPipeline(make_tokenizer(image_channels=1), make_generator(num_classes=0))
    pipe.set_progress_bar_config(disable=True)
    assert list(fill(tmp_path, pipe)) == [f"images/0000/{n:07d}.png" for n in range(3)]
    assert Image.open(image_path(tmp_path, 0, CONFIG)).mode == "L"
    write_npz(tmp_path / "all.npz", tmp_path)
    assert np.load(tmp_path / "all.npz")["arr_0"].shape == (3, 8, 8, 3)
    write_grid(tmp_path / "grid.png", tmp_path, CONFIG, range(1))
    assert (tmp_path / "grid.png").exists()


def test_a_folder_of_another_size(make_generator, make_tokenizer, tmp_path):
    model = make_generator("sinusoidal", level_embedding="sinusoidal")
    pipe = VARPipeline(make_tokenizer(), model)
    fill(tmp_path, pipe, replace(CONFIG, size=[16, 8], levels=[1, [4, 2], [8, 4]]))
    assert Image.open(image_path(tmp_path, 0, CONFIG, NAMES)).size == (8, 16)
    with pytest.raises(
        ValueError, match=r"size must be list of int or null, at least 1, 2 of them, got \[16\]"
    ):
        replace(CONFIG, size=[16])
