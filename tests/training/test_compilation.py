"""What a training compiles follows from its settings and the device, and a run keeps to it."""

import json
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from tests.runs import TINY, train_both
from var_pe import settings
from var_pe.processes import Processes
from var_pe.stages.begun import with_compiled
from var_pe.stages.config import Config
from var_pe.stages.run_folder import check_settings
from var_pe.training.compilation import AUTO_FROM_STEPS, chosen
from var_pe.training.history import Asked, History

LONG = AUTO_FROM_STEPS


def a_config(folder, *more):
    where = [f"run={folder}/run", f"tokenizer_run={folder}/tokenizer"]
    return settings.load(Config, "shapes_learned.yaml", [*where, *TINY, "data.shapes_train=24", *more])


def test_only_long_trainings_are_compiled_unasked():
    """A short one would take longer; and what is chosen follows from no timing."""
    assert [chosen("auto", "cpu", steps)[0] for steps in (1, LONG - 1, LONG)] == ["none", "none", "blocks"]
    assert chosen("auto", "mps", LONG)[0] == "none"
    assert [chosen(asked, "cpu", 1)[0] for asked in ("none", "blocks", "whole")] == [
        "none",
        "blocks",
        "whole",
    ]


def test_without_a_compiler_a_training_says_so_before_it_begins(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    compiled, why = chosen("auto", "cpu", LONG)
    assert compiled == "none"
    assert "no-such-compiler is not here" in why
    with pytest.raises(
        ValueError, match=r"compile=blocks needs a C\+\+ compiler .*compile=none does without"
    ):
        chosen("blocks", "cpu", 1)


def test_a_run_goes_on_compiled_as_it_was_begun(monkeypatch, tmp_path, capsys):
    """Whatever the rule says of more steps, or of a machine without a compiler: rounding would change."""
    config = a_config(tmp_path, "generator_training.compile=auto")
    begun = with_compiled(History((Asked(0, 10),)), config, "generator", Processes())
    assert begun.compiled == "none"
    longer = replace(begun, asked=(Asked(0, 10), Asked(10, LONG, "hold")))
    assert with_compiled(longer, config, "generator", Processes()).compiled == "none"

    blocks = replace(longer, compiled="blocks")
    blocks.write(tmp_path)
    assert History.read(tmp_path) == with_compiled(blocks, config, "generator", Processes()) == blocks
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="generator_training: the training was begun compiled, but"):
        with_compiled(blocks, config, "generator", Processes())


def test_a_run_that_notes_nothing_was_not_compiled(tmp_path):
    History((Asked(0, 10),), compiled="blocks").write(tmp_path)
    file = tmp_path / "history.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "compiled"}))
    assert History.read(tmp_path).compiled == "none"


@pytest.mark.parametrize("setting", ["compile=whole", "checkpointing=true"])
def test_another_choice_is_another_training(setting, tmp_path):
    (tmp_path / "run" / "checkpoints" / "step_00000001").mkdir(parents=True)
    before = a_config(tmp_path, "generator_training.compile=blocks")
    (tmp_path / "run" / "config.yaml").write_text(settings.to_yaml(before))
    check_settings(tmp_path / "run", before, "generator")
    after = a_config(tmp_path, "generator_training.compile=blocks", f"generator_training.{setting}")
    with pytest.raises(ValueError, match=re.escape(f"generator_training.{setting.split('=')[0]}:")):
        check_settings(tmp_path / "run", after, "generator")


def losses(run):
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [entry["loss"] for entry in entries if "loss" in entry]


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["blocks", "whole"])
def test_a_compiled_training_has_the_plain_losses_and_resumes_bit_for_bit(choice, tmp_path):
    """With dropout, stochastic depth, several pyramids, micro-batches and recomputed activations."""
    options = ["trackers=[]", "batch=8", "accumulate=2", "log_every=1", "schedule=constant", "warmup=0"]
    pyramids = "pyramids=[[1, 2], [1, 2, 3]]"
    more = [
        f"{kind}_training.{option}" for kind in ("tokenizer", "generator") for option in (*options, pyramids)
    ]
    more += ["generator.depth=3", "generator.dropout=0.1", "generator.drop_path=0.2"]
    more += ["generator.encoding=rope", "generator.level_embedding=sinusoidal"]

    for name, compile, recomputed, parts in (
        ("plain", "none", False, (4,)),
        ("compiled", choice, True, (4,)),
        ("resumed", choice, True, (2, 4)),
    ):
        for steps in parts:
            torch._dynamo.reset()
            each = [f"steps={steps}", f"compile={compile}", f"checkpointing={recomputed}".lower()]
            asked = [f"{kind}_training.{option}" for kind in ("tokenizer", "generator") for option in each]
            train_both(a_config(tmp_path / name, *more, *asked))

    for part in ("tokenizer", "run"):
        plain = losses(tmp_path / "plain" / part)
        assert losses(tmp_path / "compiled" / part) == pytest.approx(plain, abs=1e-4)
        assert losses(tmp_path / "resumed" / part)[-2:] == losses(tmp_path / "compiled" / part)[-2:]
        (file,) = (tmp_path / "compiled" / part).glob("*/diffusion_pytorch_model.safetensors")
        weights = load_file(file)
        assert (
            weights.keys() == load_file(tmp_path / "plain" / file.relative_to(tmp_path / "compiled")).keys()
        )
        resumed = load_file(tmp_path / "resumed" / file.relative_to(tmp_path / "compiled"))
        assert all(torch.equal(resumed[name], value) for name, value in weights.items())
