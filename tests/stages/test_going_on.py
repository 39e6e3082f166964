"""A run that is there is not made again, and two trainings never share a folder."""

import os
import shutil
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from tests.runs import train_both
from tests.stages.test_train import a_config
from var_pe.files import write_json
from var_pe.stages import images
from var_pe.stages.models import load_tokenizer, weights_hash
from var_pe.stages.score import is_scored, score_tokenizer
from var_pe.stages.train import train_tokenizer


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The config of a trained tokenizer and generator."""
    folder = tmp_path_factory.mktemp("finished")
    config = a_config(
        f"run={folder}/run",
        f"tokenizer_run={folder}/tokenizer",
        "data.shapes_test=8",
        *(f"{kind}_training.steps=1" for kind in ("tokenizer", "generator")),
        *(f"{kind}_training.batch=4" for kind in ("tokenizer", "generator")),
        *(f"{kind}_training.trackers=[]" for kind in ("tokenizer", "generator")),
    )
    train_both(config)
    return config


def test_a_finished_run_opens_no_images(finished, monkeypatch, capsys):
    """A second start took half a minute to say what it knew from the start."""

    def opened(*given, **named):
        raise AssertionError("no image is needed")

    monkeypatch.setattr(images, "open_source", opened)
    train_both(finished)
    said = capsys.readouterr().out
    assert f"{finished.tokenizer_run}/tokenizer is already there" in said
    assert f"{finished.run}/generator is already there" in said


def test_scores_are_those_of_the_weights_that_are_there(finished, tmp_path):
    """A tokenizer that was trained anew in the same folder has other scores, and so have other images."""
    folder = tmp_path / "tokenizer"
    shutil.copytree(finished.tokenizer_run, folder)
    config = a_config(f"run={tmp_path}/run", f"tokenizer_run={folder}", "data.shapes_test=8")
    assert not is_scored(config, folder, "tokenizer")
    score_tokenizer(config, load_tokenizer(config), Accelerator())
    assert is_scored(config, folder, "tokenizer")
    assert not is_scored(replace(config, data=replace(config.data, shapes_test=9)), folder, "tokenizer")

    gone = replace(config.data, source="imagefolder", path=str(tmp_path / "gone"))
    assert is_scored(replace(config, data=gone), folder, "tokenizer")

    (file,) = (folder / "tokenizer").glob("*.safetensors")
    weights = {name: tensor.clone() for name, tensor in load_file(file).items()}
    weights["quantizer.codebook_VZ"] += torch.ones(())
    save_file(weights, file)
    assert not is_scored(config, folder, "tokenizer")


def test_a_tokenizer_is_scored_on_its_own_levels_whatever_the_config_describes(finished, tmp_path):
    """`--of tokenizer tokenizer_run=OTHER` ended in a traceback about sizes of tensors."""
    folder = tmp_path / "tokenizer"
    shutil.copytree(finished.tokenizer_run, folder)
    config = a_config(f"run={tmp_path}/run", f"tokenizer_run={folder}", "data.shapes_test=8")
    tokenizer = load_tokenizer(config)
    finest = tokenizer.pyramid.finest

    levels = [[1, 1], [finest[0], finest[1] + 1]]
    other = replace(config, tokenizer=replace(config.tokenizer, levels=levels))
    values = score_tokenizer(other, tokenizer, Accelerator())["tokenizer"]["values"]
    assert values == score_tokenizer(config, tokenizer, Accelerator())["tokenizer"]["values"]

    wide = replace(config, data=replace(config.data, width=2 * config.data.width))
    with pytest.raises(ValueError, match=r"data\.height and data\.width are those of the tokenizer in"):
        score_tokenizer(wide, tokenizer, Accelerator())


def test_scores_of_an_older_version_are_made_again(finished, tmp_path):
    """They do not say which weights they are of."""
    assert weights_hash(tmp_path)
    write_json(tmp_path / "metrics.json", {"tokenizer": {"weights": {"step": 1, "ema": True}}})
    assert not is_scored(finished, tmp_path, "tokenizer")


@pytest.mark.parametrize("name", ["same", "./same/", "link", "other/../same"])
def test_a_run_in_the_folder_of_its_tokenizer_is_refused(tmp_path, monkeypatch, name):
    """Their checkpoints, logs and configs have the same names."""
    monkeypatch.chdir(tmp_path)
    os.symlink("same", "link")
    config = a_config(f"run={name}", f"tokenizer_run={tmp_path}/same")
    with pytest.raises(ValueError, match=r"run=.*same.* are the same folder|run=link .* are the same folder"):
        train_tokenizer(config, Accelerator())
    assert not (tmp_path / "same").exists()
