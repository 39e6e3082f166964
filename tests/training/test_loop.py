"""The loop's promises: resumed bit for bit, stopped cleanly, never updated by a number that is not finite."""

import json
import os
import signal
from collections import OrderedDict
from dataclasses import replace
from itertools import pairwise
from typing import get_args

import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

from var_pe import files
from var_pe.settings import all_settings
from var_pe.settings.fields import facts_of
from var_pe.training import run
from var_pe.training.config import TrainingConfig
from var_pe.training.groups import ONE_RATE, parameter_groups
from var_pe.training.history import History, StepsAsked
from var_pe.training.loop import train
from var_pe.training.run import Run
from var_pe.training.schedule import Schedule, ema_decay, learning_rate
from var_pe.training.stopping import Interrupted
from var_pe.training.validations import Measure


class Numbers(Dataset):
    """Each item says which draw it is."""

    num_images = 10

    def __getitem__(self, draw):
        return {"x": torch.tensor([draw.index, draw.epoch, 1.0]), "draw_number": draw.draw_number}


class Toy:
    """A task with dropout and a matrix in a block, whose `act(step)` may misbehave inside the loss."""

    measure = Measure()

    def __init__(self, act=lambda step: 1.0):
        torch.manual_seed(0)
        self.model = nn.Sequential(
            OrderedDict(block=nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5)), head=nn.Linear(8, 1))
        )
        self.dataset, self.act, self.places = Numbers(), act, []
        self.layers, self.opponent = ONE_RATE, None

    def start(self, model, batch, accelerator):
        pass

    def loss(self, model, batch, step):
        self.places += batch["draw_number"].tolist()
        return (model(batch["x"]) - 1).square().mean() * self.act(step), {}

    def after_step(self, model, step, accelerator, updates):
        return {}

    def validate(self, model, accelerator):
        return {"validation/loss": 0.0}

    def preview(self, model):
        return Image.new("RGB", (2, 2))


CONFIG = TrainingConfig(batch=4, log_every=1, save_every=1, trackers=[])
STEPS = 6


def go(folder, task=None, config=CONFIG, steps=STEPS, compiled="none"):
    history = History((StepsAsked(0, steps),), compiled=compiled)
    run = Run(folder, Accelerator(cpu=True))
    try:
        return train(task or Toy(), config, run, history, seed=0).model.state_dict()
    finally:
        run.release()


def equal(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def die_at(step):
    def act(here):
        if here == step:
            raise KeyError("killed")
        return 1.0

    return act


@pytest.mark.parametrize(("optimizer", "save_every"), [("adamw", 1), ("adamw", 2), ("muon", 2)])
@pytest.mark.parametrize("step", range(1, STEPS))
def test_a_killed_run_ends_with_the_same_bits(tmp_path, step, save_every, optimizer):
    """Otherwise a resumed result is another result, and nobody would know."""
    config = TrainingConfig(batch=4, log_every=1, save_every=save_every, optimizer=optimizer, trackers=[])
    whole = go(tmp_path / "whole", config=config)
    with pytest.raises(KeyError):
        go(tmp_path / "killed", Toy(die_at(step)), config)
    assert equal(go(tmp_path / "killed", config=config), whole)
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("whole", "killed")]
    losses = [[json.loads(line).get("loss") for line in lines] for lines in logs]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    "name", ["log_every", "save_every", "validate_every", "preview_every", "validation_images", "workers"]
)
def test_what_is_said_to_change_no_weights_changes_none_of_a_resumed_run(tmp_path, name):
    """The mark at the field is a promise: such a setting may change while a run is under way."""
    config = TrainingConfig(batch=4, log_every=1, save_every=1, trackers=[])
    whole = go(tmp_path / "whole", config=config)
    with pytest.raises(KeyError):
        go(tmp_path / "killed", Toy(die_at(2)), config)
    assert facts_of(all_settings(TrainingConfig)[name])["changes_no_weights"]
    assert equal(go(tmp_path / "killed", config=replace(config, **{name: 1 + (name != "workers")})), whole)


@pytest.mark.parametrize(("module", "name"), [(run, "save_file"), (files, "flush"), (files, "remove")])
def test_a_kill_during_a_save_loses_only_the_steps_since(tmp_path, monkeypatch, module, name):
    """The newer checkpoint becomes current by one rename, so there is always a whole one."""
    whole = go(tmp_path / "whole")
    calls, real = [], getattr(module, name)

    def dies(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise KeyError("killed")
        return real(*arguments)

    monkeypatch.setattr(module, name, dies)
    with pytest.raises(KeyError):
        go(tmp_path / "killed")
    monkeypatch.undo()
    assert equal(go(tmp_path / "killed"), whole)
    assert not list((tmp_path / "killed").rglob("*.partial"))


def test_two_checkpoints_are_kept(tmp_path):
    """The last one may be in the process of being written when the machine goes."""
    go(tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "step_00000005",
        "step_00000006",
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_finishes_the_step_saves_and_says_how_to_go_on(tmp_path, number):
    """Preempted machines give half a minute, and a Ctrl-C should not cost the steps since the last save."""

    def stop(step):
        if step == 2:
            os.kill(os.getpid(), number)
        return 1.0

    config = TrainingConfig(batch=4, log_every=1, save_every=100, trackers=[])
    with pytest.raises(Interrupted, match=str(128 + number)) as stopped:
        go(tmp_path / "stopped", Toy(stop), config)
    assert "after step 3 of 6" in stopped.value.sentence
    assert "same command" in stopped.value.sentence
    assert equal(go(tmp_path / "stopped", config=config), go(tmp_path / "whole", config=config))


@pytest.mark.parametrize(
    ("value", "optimizer"), [(float("nan"), "adamw"), (float("inf"), "adamw"), (float("nan"), "muon")]
)
def test_a_number_that_is_not_finite_stops_before_the_update(tmp_path, value, optimizer):
    """Broken weights must never exist, on disk or in memory."""
    config = replace(CONFIG, optimizer=optimizer)
    task = Toy(lambda step: value if step == 3 else 1.0)
    with pytest.raises(FloatingPointError, match=r"step 4: loss is (nan|inf).*step 3 in"):
        go(tmp_path / "stopped", task, config)
    assert all(parameter.isfinite().all() for parameter in task.model.parameters())
    assert equal(go(tmp_path / "stopped", config=config), go(tmp_path / "whole", config=config))


def test_accumulated_micro_batches_give_the_gradient_of_the_whole_batch(tmp_path):
    """Accumulation saves memory and shall change nothing else."""

    def plain():
        task = Toy()
        task.model.block[1].p = 0.0
        return task

    results = []
    for accumulate in (1, 2, 4):
        config = TrainingConfig(batch=4, accumulate=accumulate, log_every=1, trackers=[])
        results.append(go(tmp_path / str(accumulate), plain(), config))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


def test_a_step_draws_the_images_of_its_place_in_the_run(tmp_path):
    """Order follows from the step, so a resumed run neither repeats nor skips an image."""
    task = Toy()
    go(tmp_path, task)
    assert task.places == list(range(4 * STEPS))


def test_a_run_folder_in_use_is_refused(tmp_path):
    """Two runs that write the same files would ruin both."""
    first = Run(tmp_path, Accelerator(cpu=True))
    with pytest.raises(ValueError, match="in use by another process"):
        Run(tmp_path, Accelerator(cpu=True))
    first.release()
    Run(tmp_path, Accelerator(cpu=True)).release()


def test_weight_decay_spares_vectors_and_positions():
    """Decay on a position table pulls all places together (VAR's public code spares them too)."""
    from var_pe.models.generator import VARTransformer

    model = VARTransformer(dim=32, depth=1, num_heads=2)
    decayed, spared = (group["params"] for group in parameter_groups(model, 0.05))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert len(decayed) + len(spared) == len(names)
    assert "position_encoding.table_LC" in {names[id(p)] for p in spared}
    assert "level_embed.table_KC" in {names[id(p)] for p in spared}
    assert {"word_embed.weight", "class_embed.weight", "head.weight"} <= {names[id(p)] for p in decayed}
    assert all(parameter.dim() > 1 for parameter in decayed)


@pytest.mark.parametrize("schedule", get_args(Schedule))
def test_the_learning_rate_rises_to_its_peak_and_never_again(schedule):
    """diffusers' cosine rises again behind the end; ours is a pure function of the step that does not."""
    rates = [
        learning_rate(s, peak=1.0, steps=100, warmup=10, schedule=schedule, final_ratio=0.1)
        for s in range(120)
    ]
    assert rates[0] == pytest.approx(0.005)
    assert max(rates) == rates[10] == 1.0
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert rates[99] == pytest.approx(1.0 if schedule == "constant" else 0.1)


def test_the_average_forgets_its_start_quickly():
    """A long memory from step 0 on would keep the random start in the averaged weights."""
    assert ema_decay(0, 0.999) == pytest.approx(0.1)
    assert ema_decay(10**6, 0.999) == 0.999
