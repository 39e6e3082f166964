"""Paths mean what a user's shell would make of them, and a run is found where it is."""

import shutil
from pathlib import Path

import pytest
import yaml
from accelerate import Accelerator

from tests.runs import train_both
from tests.stages.test_train import a_config
from var_pe import settings
from var_pe.settings.command_line import given_path, parse_arguments
from var_pe.settings.fields import all_settings, facts_of
from var_pe.stages.config import Config
from var_pe.stages.draw import load_pipeline
from var_pe.stages.models import load_tokenizer

LIST = "evaluation.features"
PATHS = [key for key, node in all_settings(Config).items() if facts_of(node).get("is_a_path") and key != LIST]


def test_every_setting_that_names_a_path_is_one():
    """One that is left out takes `~` for a folder's name."""
    expected = {"run", "tokenizer_run", "data.path", "model.init_from", "evaluation.inception_weights"}
    assert expected <= set(PATHS)
    assert a_config("evaluation.features=[inception, ~/vit]").evaluation.features[1] != "~/vit"


@pytest.mark.parametrize("key", PATHS)
def test_a_home_folder_is_written_out_in_every_path(monkeypatch, tmp_path, key):
    """Shells write out `~` at the start of a word, which `run=~/runs` has in the middle."""
    monkeypatch.setenv("HOME", str(tmp_path))
    value = a_config("classifier={}", f"{key}=~/some/place")
    for name in key.split("."):
        value = getattr(value, name)
    assert value == f"{tmp_path}/some/place"


@pytest.mark.parametrize("key", PATHS)
def test_a_path_that_names_nothing_is_refused(key):
    """An empty folder name would be the working folder, whatever lies there."""
    with pytest.raises(ValueError, match=rf"{key} .*must be str.*, not empty, got"):
        a_config("classifier={}", f"{key}=")


def test_options_know_the_home_folder(monkeypatch, tmp_path):
    """--run=~/runs/x as well as --run ~/runs/x."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert given_path("~/x") == tmp_path / "x"
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "config.yaml").write_text(settings.to_yaml(a_config()))
    config, arguments = parse_arguments(["--run=~/x"], description="", schema=Config, instead=("--run",))
    assert config.run == arguments.run == f"{tmp_path}/x"

    (tmp_path / "mine.yaml").write_text(yaml.dump({"base": "~/x/config.yaml"}))
    config, _ = parse_arguments(["--config=~/mine.yaml"], description="", schema=Config)
    assert config.generator.dim == a_config().generator.dim


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A finished run and its tokenizer under relative paths, in a folder of their own."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    config = a_config(
        "run=runs/mine",
        "tokenizer_run=runs/shared/tokenizer",
        "data.shapes_test=8",
        *(f"{kind}_training.steps=1" for kind in ("tokenizer", "generator")),
        *(f"{kind}_training.batch=4" for kind in ("tokenizer", "generator")),
        *(f"{kind}_training.trackers=[]" for kind in ("tokenizer", "generator")),
    )
    train_both(config)
    Accelerator().free_memory()
    return tmp_path


def opened(run):
    config, _ = parse_arguments(["--run", str(run)], description="", schema=Config, instead=("--run",))
    return load_pipeline(config)


def test_a_run_is_found_wherever_it_is(made, monkeypatch, capsys):
    """Moved with its tokenizer or opened from another folder; if not, a sentence says where to look."""
    opened("runs/mine")
    monkeypatch.chdir(made)
    opened("here/runs/mine")
    shutil.move(made / "here" / "runs", made / "there")
    opened("there/mine")

    shutil.move(made / "there" / "shared", made / "elsewhere")
    with pytest.raises(ValueError, match=r"tokenizer_run=runs/shared/tokenizer .*working folder") as refused:
        opened("there/mine")
    assert str(Path.cwd()) in str(refused.value)
    config, _ = parse_arguments(
        ["--run", "there/mine", f"tokenizer_run={made}/elsewhere/tokenizer"],
        description="",
        schema=Config,
        instead=("--run",),
    )
    load_tokenizer(config)

    with pytest.raises(SystemExit):
        parse_arguments(["--run", "runs/mine"], description="", schema=Config, instead=("--run",))
    said = capsys.readouterr().err
    assert "--run runs/mine is not the folder of a run" in said
    assert f"no {Path('runs/mine/config.yaml').absolute()}" in said
