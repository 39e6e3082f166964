"""likelihood.py, edit.py and sample.py on a run that was never trained: files, sentences, the model card."""

import ast
import contextlib
import importlib
import json
import re
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers.utils import hub_utils
from huggingface_hub import ModelCard
from huggingface_hub.utils import filter_repo_objects
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.pages.test_sheets import blocks_in
from var_pe import settings
from var_pe.data.images import Framer
from var_pe.data.shapes import Shapes
from var_pe.data.sources import DataConfig
from var_pe.files import write_text
from var_pe.pages.sheets import sheet
from var_pe.sampling import card, saved, sheets
from var_pe.sampling.inpaint import VARInpaintPipeline
from var_pe.sampling.pipeline import VARPipeline
from var_pe.stages.config import Config
from var_pe.stages.models import build_generator, build_tokenizer
from var_pe.training.notes import TrainingNotes

SMALL = ["data.shapes_train=8", "data.shapes_test=8", "tokenizer.channels=8", "tokenizer.norm_groups=8"]
SMALL += ["tokenizer.codebook_size=16", "generator.dim=32", "generator.depth=1", "generator.num_heads=2"]

SCRIPTS = Path(__file__).parents[2] / "scripts"

NAMES = list(Shapes.class_names)
FIRST = "disc_in_the_upper_half"  # the first of them, as a folder is called


def config_in(folder: Path) -> Config:
    where = [f"run={folder / 'run'}", f"tokenizer_run={folder / 'tokenizer_run'}"]
    more = [*SMALL, *where, "generator.level_embedding=sinusoidal"]
    return settings.load(Config, "shapes_sinusoidal", more)


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """A tokenizer, a generator and its notes, to be copied."""
    folder = tmp_path_factory.mktemp("models")
    config = config_in(folder)
    tokenizer = build_tokenizer(config)
    torch.nn.init.normal_(tokenizer.quantizer.codebook_VZ, generator=torch.Generator().manual_seed(0))
    tokenizer.save_pretrained(folder / "tokenizer_run" / "tokenizer")
    build_generator(config, len(NAMES)).save_pretrained(folder / "run" / "generator")
    TrainingNotes(step=7, ema=True, class_names=tuple(NAMES)).write(folder / "run" / "generator")
    return folder


@pytest.fixture
def run(models, tmp_path) -> Path:
    """What train.py leaves: the models and a config."""
    shutil.copytree(models, tmp_path, dirs_exist_ok=True)
    write_text(tmp_path / "run" / "config.yaml", settings.to_yaml(config_in(tmp_path)))
    return tmp_path / "run"


@pytest.fixture
def command(run, monkeypatch, capsys):
    """Runs a script on the run: what it printed; on a wrong input, its sentence."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))

    def called(script: str, *words: object, on_run: bool = True) -> str:
        of_run = ["--run", str(run)] if on_run else []
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *of_run, *map(str, words)])
        with contextlib.suppress(SystemExit):
            importlib.import_module(script).main()
        said = capsys.readouterr()
        return said.out + said.err

    return called


def size_of(path: Path) -> tuple[int, int]:
    return Image.open(path).size


def test_likelihood_writes_what_it_prints(command, run):
    said = command("likelihood", "--images", 6, "--batch", 4)
    found = json.loads((run / "likelihood.json").read_text())
    assert found["images"] == 6
    assert f"{found['own_class']['bits_per_image']:.2f} bits an image" in said
    assert abs(found["own_class"]["bits_per_token"] - 4) < 0.5  # of 16 codes, by a model that knows nothing
    assert 0 <= found["accuracy"] <= 1
    assert "--images must be int, at least 1, got 0" in command("likelihood", "--images", 0)


def test_likelihood_of_one_image_has_no_standard_error(command, run):
    said = command("likelihood", "--images", 1)
    assert "written: " in said
    assert "standard error" not in said
    assert json.loads((run / "likelihood.json").read_text())["own_class"]["standard_error"] is None


def test_likelihood_at_another_size_is_of_that_size_s_levels(command, run):
    command("likelihood", "--images", 2, "data.height=64")
    found = json.loads((run / "likelihood.json").read_text())
    assert found["levels"] == [[2, 1], [4, 2], [6, 3], [8, 4]]
    said = command("likelihood", "sampling.remap=levels", "data.height=64")
    assert said.startswith(
        "error: remap=levels slows waves of rope in cells of the finest level down; sinusoidal"
    )
    assert "downsampling factor 8, got 64x20" in command("likelihood", "data.height=64", "data.width=20")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["ant", "bee"], "has 12 classes (disc in the upper half, "),
        ([*"abcdefghijkl"], "was trained on 12 others (a, b, c ...)"),
    ],
)
def test_likelihood_refuses_pictures_of_other_classes(names, said, command, run):
    """The own class of a picture would be another class's number, or none."""
    TrainingNotes(class_names=tuple(names)).write(run / "generator")
    if len(names) < 12:
        build_generator(settings.load(Config, run / "config.yaml"), 2).save_pretrained(run / "generator")
    assert said in command("likelihood", "--images", 2)
    assert not (run / "likelihood.json").exists()


def test_likelihood_knows_where_it_may_write_before_it_works(command, run, monkeypatch):
    monkeypatch.setattr("likelihood.bits_of_set", None)
    assert f"--output {run} is a folder; name a file" in command("likelihood", "--output", run)
    said = command("likelihood", "--output", run / "config.yaml" / "x.json")
    assert said.startswith("error: ")
    assert "config.yaml" in said


def test_edit_writes_results_and_a_sheet(command, run, tmp_path):
    """A row for each picture: it, what is masked, and the results; files and numbers alike."""
    command("edit", "--images", 0, 5, "--mask", "top", "--class", "ring", 0, "--each", 2, "--keep-unmasked")
    results = sorted(path.name for path in (run / "edited").glob("0*.png"))
    assert results == [f"{n:03d}_{place:03d}.png" for n in range(2) for place in range(4)]
    sheet = np.asarray(Image.open(run / "edited" / "sheet.png"))
    for name in results:
        assert blocks_in(sheet, np.asarray(Image.open(run / "edited" / name)), 3) >= 1, name
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "mine.png")
    command("edit", "--images", tmp_path / "mine.png", "--mask", "left", "--keep-unmasked")
    edited = np.asarray(Image.open(run / "edited" / "000_000.png"))
    np.testing.assert_array_equal(edited[:, 16:], pixels[:, 16:])
    assert not np.array_equal(edited[:, :16], pixels[:, :16])
    command("edit", "--images", 0, "--margins", 0, 0, 16, 16, "--output", tmp_path / "wide")
    assert size_of(tmp_path / "wide" / "000_000.png") == (64, 32)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--images", 8, "--mask", "top"], "the test split has 8 images (numbers from 0), got number 8"),
        (["--images", -1, "--mask", "top"], "--images -1 is neither the number of a test image"),
        (["--images", 0, "--mask", "middle"], "--mask middle is neither one of top, bottom"),
        (["--images", 0, "--mask", __file__], "test_generation.py: not a picture"),
        (["--images", "²", "--mask", "top"], "--images ² is neither the number of a test image"),
        (["--images", 0, "--mask", "top", "--class", "²"], "there is no class '²'"),
        (["--images", 0, "--mask", "top", "--each", 0], "--each must be int, at least 1, got 0"),
        (["--images", 0, "--mask", "top", "--class", "dog"], "there is no class 'dog'"),
        (["--images", 0, "--mask", "top", "--rule", "most"], "argument --rule: invalid choice: 'most'"),
        (
            ["--images", 0, "--margins", 0, 0, 0, 3],
            "have 32x35 pixels, the run was trained on 32x32: height and width must be multiples of t",
        ),
        (
            ["--images", 0, "--mask", "top", "--class", 12],
            "--class 12: there are 12 classes, numbers from 0 to 11",
        ),
    ],
    ids=str,
)
def test_edit_says_what_is_wrong(words, sentence, command):
    assert sentence in command("edit", *words)


@pytest.mark.parametrize("share", [0.02, 0.5])
def test_edit_names_the_picture_that_is_damaged(share, command, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "mine.png")
    data = (tmp_path / "mine.png").read_bytes()
    (tmp_path / "mine.png").write_bytes(data[: int(len(data) * share)])
    said = command("edit", "--images", tmp_path / "mine.png", "--mask", "top")
    assert f"--images: corrupt image {tmp_path / 'mine.png'}: " in said


def test_sample_draws_other_sizes_and_remembers_them(command, run, tmp_path):
    """A folder is resumed at its size only."""
    words = ("--output", tmp_path / "drawn", "sampling.images_per_class=1")
    command("sample", *words, "--size", 16, 48)
    assert size_of(tmp_path / "drawn" / "images" / f"0000_{FIRST}" / "0000000.png") == (48, 16)
    assert "size [16, 48] (asked: None)" in command("sample", *words)
    assert "multiples of the downsampling factor 8" in command("sample", "--size", 16, 20)
    assert not (run / "drawn").exists(), "what cannot be drawn leaves no trace"
    (tmp_path / "folder").mkdir()
    assert f"{tmp_path / 'folder'}: Is a directory" in command("sample", "--levels", tmp_path / "folder")
    assert not list(tmp_path.glob("*.partial"))


def test_edit_says_that_a_run_cannot_follow_to_another_size(command, run, tmp_path):
    """Not which method of a Python object would help."""
    config = settings.load(Config, run / "config.yaml", ["generator.encoding=learned"])
    build_generator(config, len(NAMES)).save_pretrained(run / "generator")
    said = command("edit", "--images", 0, "--mask", "top", "data.width=64")
    assert "have 32x64 pixels, the run was trained on 32x32: the learned table was made for the grids" in said
    assert "leave data.height and data.width as they were in training" in said


@pytest.mark.parametrize(
    "file",
    sorted([*SCRIPTS.glob("*.py"), *SCRIPTS.with_name("benchmarks").glob("*.py")]),
    ids=lambda path: f"{path.parent.name}/{path.stem}",
)
def test_every_option_of_a_script_is_explained(file):
    """--help is where a person looks first."""
    for call in ast.walk(ast.parse(file.read_text())):
        if not isinstance(call, ast.Call):
            continue
        called = ast.unparse(call.func)
        words = [word.value for word in call.args if isinstance(word, ast.Constant)]
        if called.endswith("add_argument") or (called == "add" and str(words[0])[:2] == "--"):
            assert any(keyword.arg == "help" for keyword in call.keywords), words


def test_edit_frames_files_as_the_run_s_data_were(command, run, tmp_path):
    """A model has seen pictures in this framing alone; and a mask lies where it lay in the picture."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "mine.png")
    mask = np.zeros((40, 56), np.uint8)
    mask[:, 28:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    words = ("--images", tmp_path / "mine.png", "--keep-unmasked")

    said = command("edit", *words, "--mask", "top")
    assert (
        "mine.png: framing=pad needs pictures of at most height x width = 32 x 32, got one of 40 x 56" in said
    )
    assert "(data.framing=fit resizes them, and so does crop)" in said

    for framing in ("crop", "fit"):
        data = (f"data.framing={framing}", "data.resize_factor=1")
        command("edit", *words, "--mask", tmp_path / "mask.png", *data)
        edited = np.asarray(Image.open(run / "edited" / "000_000.png"))
        known = DataConfig(height=32, width=32, framing=framing, resize_factor=1)
        expected = Framer(known, train=False, seed=0)(Image.fromarray(pixels), 0, 0) / 2 + 0.5
        whole = (expected * 255).round().byte().permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(edited[:, :16], whole[:, :16])
        assert not np.array_equal(edited[:, 16:], whole[:, 16:])

    # With a size that is asked for, pictures of that size are taken as they are.
    command("edit", *words, "--mask", "left", "data.height=40", "data.width=56", "data.framing=crop")
    edited = np.asarray(Image.open(run / "edited" / "000_000.png"))
    np.testing.assert_array_equal(edited[:, 28:], pixels[:, 28:])


def test_edit_says_of_masks_how_large_they_may_be(command, tmp_path):
    """A person knows the names of files and options, not shapes of tensors."""
    for name, size in (("wide.png", (44, 33)), ("small.png", (20, 24))):
        Image.new("RGB", size).save(tmp_path / name)
    wide, small = tmp_path / "wide.png", tmp_path / "small.png"
    said = command("edit", "--images", 0, "--mask", wide)
    assert f"--mask {wide} has 33x44 pixels (rows x columns): give a mask of the run's size, 32x32" in said
    said = command("edit", "--images", small, "--mask", wide)
    assert f"give a mask of the run's size, 32x32, or that of {small}, 24x20" in said
    said = command("edit", "--images", 0, "--margins", 0, 0, 0, 3)
    assert "the pictures with their margins have 32x35 pixels" in said
    assert "give other --margins" in said


def drawn_names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))


def test_sample_draws_classes_by_name_and_number(command, run, tmp_path):
    """The images are those that a whole folder has of these classes, and lie where their class is named."""
    command("sample", "--class", "ring", 0, "--class", "ring", "--count", 2)
    ring = NAMES.index("ring")
    wanted = [f"0000_{FIRST}/0000000.png", f"0000_{FIRST}/0000001.png"]
    wanted += [f"{ring:04d}_ring/{2 * ring + n:07d}.png" for n in (0, 1)]
    assert drawn_names(run / "drawn_classes" / "images") == sorted(wanted)
    assert (run / "drawn_classes" / "grid.png").exists()
    command("sample", "--count", 2)
    for name in wanted:
        there = (run / "drawn" / "images" / name).read_bytes()
        assert there == (run / "drawn_classes" / "images" / name).read_bytes()
    command("sample", "--class", 1, "--levels", tmp_path / "levels.png")
    assert size_of(tmp_path / "levels.png")[0] < 5 * 96


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["--class", "rign"],
            "--class: there is no class 'rign'; did you mean ring. there are disc in the upper half, ",
        ),
        (["--class", 12], "--class 12: there are 12 classes, numbers from 0 to 11"),
        (["--class", -1], "--class: there is no class '-1'|argument --class: expected"),
        (["--count", 0], "--count must be int, at least 1, got 0"),
        (["--size", 0, 8], "--size must be list of int, at least 1, got"),
        (["--save-pipeline", "x", "--class", "ring"], "leave out --class and --count"),
    ],
    ids=str,
)
def test_sample_says_what_is_wrong_with_classes_and_counts(words, sentence, command, run):
    assert re.search(sentence, command("sample", *words))
    assert not (run / "drawn_classes").exists()


def test_images_are_scored_as_they_were_drawn(command, run, make_vit, tmp_path):
    """After sample.py --count, nobody should have to remember the number; settings that are typed count."""
    make_vit(image_size=(32, 32), patch_size=8, num_classes=12).save_pretrained(
        tmp_path / "vit" / "classifier"
    )
    score = ("evaluate", "--features", tmp_path / "vit", "data.shapes_test=40")
    command("sample", "--count", 2, "sampling.temperature=0.5")
    said = command(*score)
    assert "drawn with other settings than the run's: temperature: 1.0 -> 0.5; images_per" in said
    entry = json.loads((run / "metrics.json").read_text())["drawn/images/vit"]
    assert (entry["num_images"], entry["sampler"]["temperature"]) == (24, 0.5)
    assert "holds images drawn with" in command(*score, "sampling.images_per_class=3")


def test_a_class_called_by_a_number_is_meant_by_it(command, run):
    """Sorted as words, class "10" is the third; by its number it would be another one."""
    names = sorted(map(str, range(12)))
    TrainingNotes(step=7, ema=True, class_names=tuple(names)).write(run / "generator")
    command("sample", "--class", "10", "--count", 1)
    assert drawn_names(run / "drawn_classes" / "images") == ["0002_10/0000002.png"]
    assert "there is no class '12'; there are 0, 1, 10, 11" in command("sample", "--class", "12")


def test_a_folder_by_numbers_alone_is_filled_up_as_it_is(command, run, tmp_path):
    """As all folders were called once."""
    words = ("--output", tmp_path / "drawn", "sampling.images_per_class=1")
    command("sample", *words)
    images = tmp_path / "drawn" / "images"
    for folder in list(images.iterdir()):
        folder.rename(images / folder.name[:4])
    (images / "0003" / "0000003.png").unlink()
    command("sample", *words)
    assert drawn_names(images) == [f"{label:04d}/{label:07d}.png" for label in range(12)]


def test_an_upload_that_fails_is_one_sentence(command, tmp_path, monkeypatch):
    def offline(*args, **given):
        raise ConnectionError("cannot reach\nhuggingface.co")

    monkeypatch.setattr(card, "create_repo", offline)
    said = command("sample", "--save-pipeline", tmp_path / "saved", "--push-to-hub", "me/mine")
    expected = (
        f"error: {tmp_path / 'saved'} is saved, but was not uploaded to me/mine: cannot reach huggingface.co"
    )
    assert said.strip().splitlines()[-1] == expected


def test_evaluate_says_what_it_needs(command, run, tmp_path):
    said = command("evaluate", "--images", run, on_run=False)
    assert said.startswith("error: give --run DIR to score the images")
    (run / "generator").rename(run / "elsewhere")
    assert "has no trained generator to draw images with: train it" in command("evaluate")


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("classifier: {dim: 8, num_heads: 2, depth: 1}", "is a classifier, which draws no images: give --of"),
        (
            "classifier: {dim: 8, num_heads: 2, depth: 1}\nencoder: {method: pixels}",
            "train a classifier from it",
        ),
    ],
)
def test_evaluate_says_what_scores_a_run_that_draws_nothing(section, said, command, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    text = (
        f"run: {other}\ntokenizer_run: {other}\ndata: {{source: shapes, height: 16, width: 16}}\n{section}\n"
    )
    (other / "config.yaml").write_text(text)
    heard = command("evaluate", "--run", other, on_run=False)
    assert said in heard
    assert len(heard.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("script", "words", "heard"),
    [
        ("sample", ["generator.depth=3"], "sampling, tokenizer_run"),
        ("sample", ["run=elsewhere"], "sampling, tokenizer_run"),
        ("likelihood", ["sampling.seed=1", "--images", 1], "data, sampling.remap, tokenizer_run"),
        ("edit", ["sampling.size=[16, 16]", "--images", 0, "--mask", "top"], "data, sampling.guidance_scale"),
        ("evaluate", ["generator_training.batch=3"], "data, sampling, evaluation, tokenizer_run"),
        ("evaluate", ["--of", "classifier", "evaluation.images=3"], "data, run, tokenizer_run"),
    ],
)
def test_a_setting_that_a_script_does_not_look_at_is_refused(script, words, heard, command):
    """Ignored silently, it would be believed to be in the pictures and scores."""
    said = command(script, *words)
    assert "changes nothing" in said
    assert f"the settings that are used are those of {heard}" in said


def test_help_of_a_script_shows_the_settings_that_it_looks_at(command):
    said = command("edit", "--help")
    assert "sampling.seed: int, at least 0 = 0" in said
    assert "data.limit" in said
    assert "sampling.size" not in said
    assert "generator.depth" not in said


def test_wrong_features_are_said_before_anything_is_drawn(command, run):
    assert "features are inception" in command("evaluate", "--features", "nope")
    assert "features is empty, so there is nothing to score" in command(
        "evaluate", "evaluation.features=[]", "data.channels=1"
    )
    assert "--images and --reference are for drawn images" in command(
        "evaluate", "--of", "tokenizer", "--images", run
    )
    assert not (run / "drawn").exists()


@pytest.mark.parametrize("script", ["sample", "evaluate"])
def test_smoothed_pictures_cannot_be_asked_for_where_they_would_be_scored(script, command):
    """They are for the eye: mixed codes are not what the model draws."""
    assert "unknown key sampling.smooth" in command(script, "sampling.smooth=true")


def test_sample_shows_every_level_of_the_images_it_would_draw(command, run, tmp_path):
    words = ("sampling.images_per_class=2", "--output", tmp_path / "drawn")
    command("sample", *words, "--levels", tmp_path / "levels.png")
    command("sample", *words)
    sheet = np.asarray(Image.open(tmp_path / "levels.png"))
    rows = np.split(sheet, 10)
    for label, row in enumerate(rows):
        (file,) = (tmp_path / "drawn" / "images").glob(f"{label:04d}_*/{2 * label:07d}.png")
        assert blocks_in(row, np.asarray(Image.open(file)), 3) >= 1


def test_sheets_say_classes_and_columns(command, monkeypatch, tmp_path):
    """A row of pictures under no name has to be counted through to know what it shows."""
    asked = []
    monkeypatch.setattr(sheets, "sheet", lambda sections: asked.append(sections) or sheet(sections))
    command("sample", "--class", "ring", 0, "--levels", tmp_path / "levels.png", "--size", 32, 64)
    assert [section.title for section in asked[-1]] == [NAMES[NAMES.index("ring")], NAMES[0]]
    grids = ["1 x 2", "2 x 4", "3 x 6", "4 x 8"]
    assert [[cell.name for cell in section.cells] for section in asked[-1]] == [grids] * 2

    words = ("--images", 5, "--mask", "top", "--each", 2, "--output", tmp_path / "edited")
    command("edit", *words, "--class", "ring", NAMES[1])
    (section,) = asked[-1]
    assert section.title == "test image 5"
    names = ["picture", "masked", "ring", "ring", NAMES[1], NAMES[1]]
    assert [cell.name for cell in section.cells] == names
    assert section.cells[-1].note == "000_003.png"
    command("edit", *words)
    assert asked[-1][0].cells[-1].name == "no class"


def a_record(comparable: bool, name: str) -> dict:
    key = "fid" if comparable else f"frechet_distance_{name}"
    return {
        "values": {key: 12.5},
        "floor": {key: 1.25},
        "features": {"name": name, "comparable_with_papers": comparable},
        "num_images": 50,
        "reference": {"set": "images of shapes", "split": "test", "num_images": 40},
        "sampler": {"weights": "w", "guidance_scale": 1.5},
        "weights": {"step": 7, "ema": True},
        "images": "/home/someone/run/drawn",
    }


def test_a_saved_run_has_a_card_of_its_own_settings_and_scores(command, run, tmp_path):
    """Every score with its features, none but Inception's called FID, and no path of anyone's machine."""
    (run / "metrics.json").write_text(
        json.dumps({"a": a_record(False, "my_vit"), "tokenizer": {"values": {}}})
    )
    command("sample", "--save-pipeline", tmp_path / "saved")
    text = (tmp_path / "saved" / "README.md").read_text()
    assert "| Frechet distance, my_vit | 12.5 | 1.25 |" in text
    assert "50 drawn images against 40 images of shapes (test split)" in text
    assert "None of these numbers is an FID" in text
    assert text.count("FID") == 1
    assert "encoding: sinusoidal" in text
    assert "32x32 pixels, 12 classes, trained on shapes" in text
    assert f"class_labels='{NAMES[0]}'" in text
    assert str(tmp_path) not in text
    assert "/home/" not in text
    loaded = VARPipeline.from_pretrained(tmp_path / "saved")
    inception = card.model_card("x", loaded, {}, {"b": a_record(True, "inception")})
    assert "| FID, inception | 12.5 | 1.25 |" in inception
    assert "None of these numbers" not in inception
    assert "None were computed" in card.model_card("x", loaded, {}, {})


def test_a_card_says_which_part_of_the_data_was_trained_on(make_tokenizer, make_generator):
    """Whoever gets a saved pipeline would think that it was trained on the whole data set."""
    part = ["data.limit=500", "data.train_share=0.1", "data.classes=[Bag, Shirt]", "data.in_memory=true"]
    config = asdict(
        settings.load(Config, "fashion_learned", ["data.source=fashion_mnist", "data.path=/home/me", *part])
    )
    pipeline = VARPipeline(make_tokenizer(), make_generator())
    text = card.model_card("x", pipeline, config, {})
    assert "trained on 10% of every class of at most 500 pictures of fashion_mnist" in text
    shown = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])["data"]
    assert (shown["limit"], shown["train_share"], shown["classes"]) == (500, 0.1, ["Bag", "Shirt"])
    assert not {"path", "in_memory", "margin"} & shown.keys()

    whole = card.model_card("x", pipeline, {"data": {"source": "fashion_mnist"}}, {})
    assert "trained on fashion_mnist" in whole


def test_a_number_that_is_wrongly_called_fid_is_not_repeated(run):
    record = a_record(False, "my_vit") | {"values": {"fid": 3.0}}
    assert not any("FID" in line for line in card.scores_table(record))


def test_a_loaded_pipeline_is_pushed_with_its_own_card(command, run, tmp_path, monkeypatch):
    """diffusers' push_to_hub writes a generic card over whatever there was."""
    sent = {}

    def upload(folder_path, allow_patterns, **given):
        sent.update({file.name: file.read_text() for file in Path(folder_path).glob("*.*")})
        assert ".env" not in filter_repo_objects([".env", "model_index.json"], allow_patterns=allow_patterns)

    address = type("Address", (), {"repo_id": "me/shapes"})
    monkeypatch.setattr(hub_utils, "create_repo", lambda *args, **given: address)
    monkeypatch.setattr(hub_utils, "load_or_create_model_card", lambda *args, **given: ModelCard("generic"))
    monkeypatch.setattr(saved, "upload_folder", upload)
    command("sample", "--save-pipeline", tmp_path / "saved")
    loaded = VARPipeline.from_pretrained(tmp_path / "saved")
    for pipeline in (loaded, VARInpaintPipeline.from_pipe(loaded)):
        sent.clear()
        pipeline.push_to_hub("me/shapes")
        assert sent["README.md"] == (tmp_path / "saved" / "README.md").read_text()
        assert "model_index.json" in sent
    monkeypatch.chdir(tmp_path / "saved")  # whose card is not that of any pipeline made here
    VARPipeline(loaded.tokenizer, loaded.transformer).push_to_hub("me/shapes")
    assert "generic" in sent["README.md"]


def test_a_saved_pipeline_keeps_its_card_wherever_it_is_saved_again(command, run, tmp_path):
    """In place or elsewhere: the scores that it tells of are its own."""
    (run / "metrics.json").write_text(json.dumps({"a": a_record(False, "my_vit")}))
    command("sample", "--save-pipeline", tmp_path / "saved")
    text = (tmp_path / "saved" / "README.md").read_text()
    assert "12.5" in text
    loaded = "--pipeline", tmp_path / "saved"
    for folder in ("saved", "elsewhere"):
        assert "saved: " in command("sample", *loaded, "--save-pipeline", tmp_path / folder, on_run=False)
        assert (tmp_path / folder / "README.md").read_text() == text


def test_a_folder_of_other_things_is_not_saved_into(command, run, tmp_path):
    """Its README would be written over, and all of it uploaded; a pipeline of before may be renewed."""
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "README.md").write_text("mine")
    refused = f"--save-pipeline {tmp_path / 'project'} holds other files than a saved pipeline"
    assert refused in command("sample", "--save-pipeline", tmp_path / "project")
    assert [path.name for path in (tmp_path / "project").iterdir()] == ["README.md"]
    assert (tmp_path / "project" / "README.md").read_text() == "mine"
    assert "is a file; name a folder" in command("sample", "--save-pipeline", run / "config.yaml")
    for _ in range(2):
        assert "saved: " in command("sample", "--save-pipeline", tmp_path / "saved")


def test_a_pipeline_that_is_not_whole_is_one_sentence(command, tmp_path):
    command("sample", "--save-pipeline", tmp_path / "saved")
    (weights,) = (tmp_path / "saved" / "transformer").glob("*.safetensors")
    state = load_file(weights)
    del state["head.bias"]
    save_file(state, weights, metadata={"format": "pt"})
    words = ("--pipeline", tmp_path / "saved", "--output", tmp_path / "drawn")
    assert "describes: head.bias is missing; a setting" in command("sample", *words, on_run=False)
    weights.write_bytes(weights.read_bytes()[:-100])
    assert f"{weights} is not a safetensors file, or a damaged one" in command("sample", *words, on_run=False)
    assert not (tmp_path / "drawn").exists()


def test_the_folder_is_uploaded_as_it_was_saved(command, run, tmp_path, monkeypatch):
    """Card included; nothing is sent unless asked."""
    sent = []
    monkeypatch.setattr(
        card, "create_repo", lambda name, exist_ok: type("Address", (str,), {"repo_id": name})(f"hub/{name}")
    )
    monkeypatch.setattr(saved, "upload_folder", lambda **given: sent.append(given))
    said = command("sample", "--save-pipeline", tmp_path / "saved", "--push-to-hub", "me/shapes")
    assert "uploaded: hub/me/shapes" in said
    assert [(given["repo_id"], given["folder_path"]) for given in sent] == [("me/shapes", tmp_path / "saved")]
    files = [str(p.relative_to(tmp_path / "saved")) for p in (tmp_path / "saved").rglob("*") if p.is_file()]
    kept = list(filter_repo_objects([*files, ".env", "keys.json"], allow_patterns=sent[0]["allow_patterns"]))
    assert sorted(kept) == sorted(files)
    assert 'from_pretrained("me/shapes")' in (tmp_path / "saved" / "README.md").read_text()
    command("sample", "--save-pipeline", tmp_path / "other")
    assert len(sent) == 1
    assert "--push-to-hub uploads the folder of --save-pipeline" in command("sample", "--push-to-hub", "x")
