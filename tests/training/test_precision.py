"""What a training computes in where that is left to the machine, and that it stays so."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from var_pe import settings
from var_pe.stages.config import Config, settled_config
from var_pe.stages.session import slow_precision
from var_pe.tasks.generator import GeneratorTraining
from var_pe.training import precision
from var_pe.training.precision import autocast, has_bf16, settled


@pytest.fixture(params=[True, False], ids=["with bf16", "without"])
def bf16_here(request, monkeypatch):
    monkeypatch.setattr(precision, "has_bf16", lambda device: request.param)
    monkeypatch.setattr("var_pe.stages.session.has_bf16", lambda device: request.param)
    return request.param


def test_auto_is_bf16_where_the_device_has_it(bf16_here):
    assert settled("auto", "cpu") == ("bf16" if bf16_here else "float32")
    with autocast("auto", "cpu"):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if bf16_here else torch.float32)


@pytest.mark.parametrize("asked", ["float32", "bf16"])
def test_what_was_asked_for_is_taken_anywhere(asked, bf16_here):
    assert settled(asked, "cpu") == asked


def test_what_a_device_has_is_known_without_timing():
    """The answer of the processor, twice; what torch does not know has no bf16."""
    assert has_bf16("cpu") is has_bf16("cpu")
    assert not has_bf16("mps")


def test_a_new_run_writes_out_what_it_computes_in(bf16_here, tmp_path):
    config = Config(run=str(tmp_path / "run"), tokenizer_run=str(tmp_path / "tokenizer"))
    config = replace(config, generator_training=GeneratorTraining(precision="auto"))
    here = "bf16" if bf16_here else "float32"
    assert settled_config(config).generator_training.precision == here


@pytest.mark.parametrize("begun", ["float32", "bf16"])
def test_a_training_goes_on_as_it_began(begun, bf16_here, tmp_path):
    """Also on a machine where a new one would begin otherwise; the tokenizer's folder is its own."""
    config = Config(run=str(tmp_path / "run"), tokenizer_run=str(tmp_path / "tokenizer"))
    auto = GeneratorTraining(precision="auto")
    Path(config.run).mkdir()
    there = replace(config, generator_training=replace(auto, precision=begun))
    Path(config.run, "config.yaml").write_text(settings.to_yaml(there))
    tokenizer_training = replace(config.tokenizer_training, precision="auto")
    found = settled_config(replace(config, generator_training=auto, tokenizer_training=tokenizer_training))
    assert found.generator_training.precision == begun
    assert found.tokenizer_training.precision == ("bf16" if bf16_here else "float32")


def test_slow_products_are_said_beforehand(bf16_here):
    asked = [GeneratorTraining(precision="bf16")]
    remark = slow_precision(asked)
    assert (remark is None) == bf16_here
    if remark is not None:
        assert "precision=auto" in remark
    assert slow_precision([GeneratorTraining(precision="auto")]) is None
