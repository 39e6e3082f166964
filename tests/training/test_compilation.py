"""What a training compiles follows from its settings and the device, and a run keeps to it."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from tests.runs import TINY, train_both
from var_pe import settings
from var_pe.processes import Processes
from var_pe.stages.begun import with_compiled
from var_pe.stages.config import Config
from var_pe.stages.run_folder import check_settings
from var_pe.training.compilation import AUTO_FROM_STEPS, chosen
from var_pe.training.history import History, StepsAsked

LONG = AUTO_FROM_STEPS
ROOT = Path(__file__).parents[2]


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
    begun = with_compiled(History((StepsAsked(0, 10),)), config, "generator", Processes())
    assert begun.compiled == "none"
    longer = replace(begun, asked=(StepsAsked(0, 10), StepsAsked(10, LONG, "hold")))
    assert with_compiled(longer, config, "generator", Processes()).compiled == "none"

    blocks = replace(longer, compiled="blocks")
    blocks.write(tmp_path)
    assert History.read(tmp_path) == with_compiled(blocks, config, "generator", Processes()) == blocks
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="generator_training: the training was begun compiled, but"):
        with_compiled(blocks, config, "generator", Processes())


def test_the_whole_of_a_model_in_shards_is_not_compiled(tmp_path):
    """torch fails at it with an error of its own."""
    config = a_config(tmp_path, "generator_training.compile=whole")
    sharded = Processes(
        0, 2, SimpleNamespace(distributed_type=DistributedType.FSDP, device=torch.device("cpu"))
    )
    with pytest.raises(
        ValueError, match=r"generator_training\.compile=whole .*set generator_training\.compile=b"
    ):
        with_compiled(History((StepsAsked(0, 10),)), config, "generator", sharded)


def test_a_run_that_notes_nothing_was_not_compiled(tmp_path):
    History((StepsAsked(0, 10),), compiled="blocks").write(tmp_path)
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
            asked = [f"generator_training.{option}" for option in each]
            asked += ["tokenizer_training.compile=none", "tokenizer_training.steps=4"]
            train_both(a_config(tmp_path / name, *more, *asked))

    plain, compiled, resumed = (losses(tmp_path / name / "run") for name in ("plain", "compiled", "resumed"))
    assert compiled == pytest.approx(plain, abs=1e-4)
    assert resumed == compiled

    weights = []
    for name in ("plain", "compiled", "resumed"):
        (file,) = (tmp_path / name / "run").glob("*/diffusion_pytorch_model.safetensors")
        weights.append(load_file(file))
    assert weights[1].keys() == weights[0].keys()
    assert all(torch.equal(weights[2][name], value) for name, value in weights[1].items())


SHARED = """
import sys
from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from var_pe.models.generator import VARTransformer
from var_pe.training import compilation

compilation.OPTIONS = {"dynamic": False, "backend": "aot_eager"}
dist.init_process_group("gloo")


def losses(compiled, checkpointing, sharded):
    torch._dynamo.reset()
    torch.manual_seed(0)
    options = dict(levels=(1, 2, 3), codebook_size=16, latent_channels=4, num_classes=3, dim=16, num_heads=2)
    model = VARTransformer(encoding="rope_mixed", depth=3, dropout=0.1, drop_path=0.2, **options).train()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    compilation.make_ready(model, compiled, checkpointing=checkpointing)
    if sharded:
        for block in model.blocks:
            fully_shard(block)
    spread = fully_shard(model) if sharded else DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(spread.parameters(), lr=1e-2)
    found = []
    for step in range(3):
        torch.manual_seed(10 * dist.get_rank() + step)
        for is_last in (False, True):  # of the batches whose gradients accumulate
            if sharded:
                spread.set_requires_gradient_sync(is_last)
            with nullcontext() if sharded or is_last else spread.no_sync():
                loss = spread(torch.tensor([0, 1]), torch.randn(2, 13, 4)).square().mean()
                loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return torch.tensor(found)


for sharded in (False, True):
    plain = losses("none", False, sharded)
    torch.testing.assert_close(losses("none", True, sharded), plain, atol=0, rtol=0)
    for compiled in ("blocks",) if sharded else ("blocks", "whole"):
        for checkpointing in (False, True):
            torch.testing.assert_close(losses(compiled, checkpointing, sharded), plain)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_compile_and_recompute_under_ddp_and_fsdp(tmp_path):
    """Blocks are compiled before FSDP splits them; DDP splits no graph."""
    (tmp_path / "shared.py").write_text(SHARED)
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    line = [*line, "--standalone", str(tmp_path / "shared.py")]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
