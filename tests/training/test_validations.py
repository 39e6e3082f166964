"""The finished model is the best average, or the last one, wherever the training was stopped on its way."""

import json
import math
import os
import signal
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from tests.training.test_loop import Toy, die_at, equal
from var_pe.processes import Processes
from var_pe.training.config import TrainingConfig
from var_pe.training.history import History, StepsAsked
from var_pe.training.loop import train
from var_pe.training.run import Run
from var_pe.training.stopping import Interrupted, held_out_batches
from var_pe.training.validations import Measure, Validations

CONFIG = TrainingConfig(batch=4, log_every=1, save_every=1, validate_every=1, keep="best", trackers=[])
VALUES = [5.0, 3.0, 4.0, 6.0, 5.5, 3.5]
NAN = math.nan


class Judged(Toy):
    """The average after step i has the validation loss `values[i - 1]`; a buffer counts the steps."""

    def __init__(self, values=VALUES, act=lambda step: 1.0):
        super().__init__(act)
        self.values, self.validated = values, 0
        self.model.register_buffer("steps", torch.zeros(()))

    def after_step(self, model, step, accelerator, updates):
        model.steps += 1
        return {}

    def validate(self, model, accelerator):
        for _ in held_out_batches(1, 1, accelerator):  # a signal breaks it off
            self.validated += 1
        return {"validation/loss": self.values[int(model.steps) - 1]}


def go(folder, task=None, config=CONFIG, steps=6, asked=()):
    run = Run(folder, Accelerator(cpu=True))
    try:
        return train(task or Judged(), config, run, History(asked or (StepsAsked(0, steps),)), seed=0)
    finally:
        run.release()


def average_after(folder, steps):
    """The last average of a training of 6 steps that was stopped after `steps`."""
    with pytest.raises(KeyError):
        go(folder, Judged(act=die_at(steps)), replace(CONFIG, keep="last"))
    return go(folder, config=replace(CONFIG, keep="last"), steps=steps).model.state_dict()


def test_the_average_of_the_best_validation_is_what_is_left(tmp_path):
    """A small set is learned by heart, and the last weights are then worse than earlier ones."""
    trained = go(tmp_path / "best")
    assert (trained.step, trained.steps_done, trained.validated) == (2, 6, 3.0)
    assert equal(trained.model.state_dict(), average_after(tmp_path / "two", 2))


def test_the_last_average_is_left_where_the_config_says_so(tmp_path):
    trained = go(tmp_path, config=replace(CONFIG, keep="last"))
    assert (trained.step, trained.steps_done, trained.validated) == (6, 6, 3.5)
    assert int(trained.model.steps) == 6
    assert not list(tmp_path.rglob("best.safetensors"))


@pytest.mark.parametrize(("save_every", "patience"), [(2, 0), (3, 2)])
@pytest.mark.parametrize("step", range(1, 6))
def test_a_killed_run_keeps_the_same_average(tmp_path, step, save_every, patience):
    """The best weights may be of a step whose checkpoint is long gone, or of one that is done again."""
    config = replace(CONFIG, save_every=save_every, patience=patience)
    whole = go(tmp_path / "whole", config=config)
    if step < whole.steps_done:
        with pytest.raises(KeyError):
            go(tmp_path / "killed", Judged(act=die_at(step)), config)
    again = go(tmp_path / "killed", config=config)
    assert (again.step, again.steps_done, again.validated) == (whole.step, whole.steps_done, whole.validated)
    assert equal(again.model.state_dict(), whole.model.state_dict())


def test_a_run_stopped_before_a_validation_that_was_due_makes_up_for_it(tmp_path):
    """A signal leaves no time to validate, but the average of that step may be the best one."""

    def stop(step):
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return 1.0

    with pytest.raises(Interrupted):
        go(tmp_path / "stopped", Judged(act=stop))
    again, whole = go(tmp_path / "stopped"), go(tmp_path / "whole")
    assert again.step == whole.step == 2
    assert equal(again.model.state_dict(), whole.model.state_dict())


def test_the_checkpoints_that_are_kept_hold_the_best_average(tmp_path):
    """Wherever a run resumes, it knows the best average as of that step."""
    go(tmp_path)
    kept = sorted((tmp_path / "checkpoints").iterdir())
    assert [path.name for path in kept] == ["step_00000005", "step_00000006"]
    for checkpoint in kept:
        state = json.loads((checkpoint / "state.json").read_text())["validations"]
        assert (state["best_step"], state["best_value"]) == (2, 3.0)
        assert (checkpoint / "best.safetensors").exists()


def test_training_ends_early_and_stays_ended(tmp_path):
    """Two validations after the best one there is no better one; the same command then trains nothing."""
    config = replace(CONFIG, patience=2)
    trained, task = go(tmp_path, config=config), Judged()
    assert (trained.step, trained.steps_done) == (2, 4)
    again = go(tmp_path, task, config)
    assert (again.step, again.steps_done, task.validated, task.places) == (2, 4, 0, [])
    assert equal(again.model.state_dict(), trained.model.state_dict())


def test_an_extended_training_has_its_whole_patience_again(tmp_path):
    """Or it would end before its first step."""
    config = replace(CONFIG, patience=2, schedule="constant")
    go(tmp_path, config=config, steps=4)
    trained = go(tmp_path, config=config, asked=(StepsAsked(0, 4), StepsAsked(4, 6)))
    assert (trained.step, trained.steps_done) == (2, 6)


@pytest.mark.parametrize(
    ("values", "step", "said"),
    [
        ([NAN] * 6, 6, "no validation was finite"),
        ([NAN, 4.0, NAN, math.inf, 5.0, NAN], 2, "has not been better than 4 after step 2"),
        ([NAN, NAN, NAN, NAN, NAN, 7.0], 6, "validation/loss is nan after step 3"),
    ],
)
def test_what_is_not_a_number_is_never_the_best(tmp_path, capsys, values, step, said):
    assert go(tmp_path, Judged(values)).step == step
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("stopped", [None, 4, 5])
def test_it_is_said_once_that_validation_has_been_rising(tmp_path, capsys, stopped):
    """With step and values, so that a person can decide; a resumed run does not say it again."""
    values = [5.0, 3.0, 4.0, 6.0, 6.5, 7.0]
    if stopped:
        with pytest.raises(KeyError):
            go(tmp_path, Judged(values, die_at(stopped)))
    go(tmp_path, Judged(values))
    said = capsys.readouterr().out
    assert (
        said.count("has not been better than 3 after step 2 for 3 validations and is 6.5 after step 5") == 1
    )


def test_equal_values_keep_the_earlier_average_and_a_measure_may_rise():
    config = replace(CONFIG, keep="last")
    for higher, best in ((False, 1), (True, 3)):
        found = Validations(Measure("psnr", higher_is_better=higher), config, Processes())
        for step, value in enumerate([1.0, 1.0, 2.0, 2.0], start=1):
            found.add(step, {"psnr": value}, torch.nn.Linear(1, 1))
        assert found.best_step == best


def test_values_on_other_images_are_not_compared(tmp_path, capsys):
    """A loss over 10 images says nothing about one over 2,000."""
    with pytest.raises(KeyError):
        go(tmp_path, Judged(act=die_at(3)))
    trained = go(tmp_path, config=replace(CONFIG, validation_images=7))
    assert trained.step == 6
    assert "validations up to step 3 do not count for keep and patience" in capsys.readouterr().out


def test_one_validation_alone_is_no_choice_and_that_is_said(tmp_path, capsys):
    go(tmp_path / "none", config=replace(CONFIG, validate_every=0))
    assert "keep=best has only the last average to choose from: validate_every=0" in capsys.readouterr().out
    go(tmp_path / "some")
    assert "to choose from" not in capsys.readouterr().out
    with pytest.raises(ValueError, match="patience=3 counts validations: set validate_every, got 0"):
        TrainingConfig(patience=3, validate_every=0)
