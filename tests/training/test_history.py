"""A run that was extended: its learning rate follows from what was asked for, its bits from nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest
from accelerate import Accelerator

from tests.training.test_loop import Toy, die_at, equal
from var_pe.models.kernels import rows_for
from var_pe.training.config import TrainingConfig
from var_pe.training.history import FILE, RULES, History, Start, StepsAsked, asked_for, rate_at, said_of
from var_pe.training.loop import train
from var_pe.training.run import Run

CONFIG = TrainingConfig(batch=4, log_every=1, save_every=2, warmup=0.2, learning_rate=0.01, trackers=[])
FOLDER = Path("runs/a")


def go(folder, *asked, task=None, config=CONFIG):
    run = Run(folder, Accelerator(cpu=True))
    try:
        return train(task or Toy(), config, run, History(asked), seed=0).model.state_dict()
    finally:
        run.release()


def test_a_constant_rate_extended_is_the_longer_run_from_the_start(tmp_path):
    """Order, dropout, average and optimizer go on as if nobody had stopped there."""
    config = replace(CONFIG, schedule="constant", warmup=0.0, save_every=5)
    go(tmp_path / "extended", StepsAsked(0, 10), config=config)
    extended = go(tmp_path / "extended", StepsAsked(0, 10), StepsAsked(10, 20), config=config)
    assert equal(extended, go(tmp_path / "whole", StepsAsked(0, 20), config=config))


@pytest.mark.parametrize("rule", RULES)
def test_an_extended_run_that_is_killed_ends_with_the_same_bits(tmp_path, rule):
    """Killed before the first step of the extension, and again behind its next checkpoint."""
    config = replace(CONFIG, final_ratio=0.1)
    asked = (StepsAsked(0, 5), StepsAsked(5, 11, rule))
    ends = []
    for folder, kills in ((tmp_path / "whole", ()), (tmp_path / "killed", (5, 8))):
        go(folder, *asked[:1], config=config)
        for step in kills:
            with pytest.raises(KeyError):
                go(folder, *asked, task=Toy(die_at(step)), config=config)
        ends.append(go(folder, *asked, config=config))
    assert equal(*ends)


def test_the_rules_are_the_schedule_anew_as_if_from_the_start_or_held():
    """f(i, n) is the schedule of n steps; 4 of 10 steps are done when 24 are asked for."""

    def f(step, steps):
        return rate_at(step, [StepsAsked(0, steps)], CONFIG)

    for rule in RULES:
        asked = [StepsAsked(0, 10), StepsAsked(4, 24, rule)]
        for step in range(24):
            after = {"rewarm": f(max(0, step - 4), 20), "stretch": f(step, 24), "hold": f(3, 10)}
            assert rate_at(step, asked, CONFIG) == (f(step, 10) if step < 4 else after[rule])


def test_an_extension_can_be_extended():
    """What was asked for last before a step is what counts there."""
    asked = [
        StepsAsked(0, 10),
        StepsAsked(6, 20, "rewarm"),
        StepsAsked(15, 30, "hold"),
        StepsAsked(22, 40, "stretch"),
    ]
    rates = [rate_at(step, asked, CONFIG) for step in range(40)]
    assert rates[:15] == [rate_at(step, asked[:2], CONFIG) for step in range(15)]
    assert rates[15:22] == [rates[14]] * 7
    assert rates[22:] == [rate_at(step, [StepsAsked(0, 40)], CONFIG) for step in range(22, 40)]
    constant = replace(CONFIG, schedule="constant")
    unruled = [rate_at(step, [StepsAsked(0, 10), StepsAsked(1, 40)], constant) for step in range(40)]
    assert unruled == [rate_at(min(step, 9), [StepsAsked(0, 10)], constant) for step in range(40)]


def test_the_same_number_of_steps_changes_nothing():
    """With the rule of the extension or without it, as in resuming by the same command."""
    history = History((StepsAsked(0, 5), StepsAsked(5, 9, "hold")))
    for rule in (None, "hold"):
        assert asked_for(history, 9, 7, rule, CONFIG, FOLDER) is history
    with pytest.raises(ValueError, match="extended to 9 steps by --extend hold, which cannot become rewarm"):
        asked_for(history, 9, 7, "rewarm", CONFIG, FOLDER)


@pytest.mark.parametrize(
    ("steps", "done", "rule", "changes", "asked"),
    [
        (9, 0, None, {}, (StepsAsked(0, 9),)),
        (9, 5, "rewarm", {}, (StepsAsked(0, 5), StepsAsked(5, 9, "rewarm"))),
        (9, 3, "stretch", {}, (StepsAsked(0, 5), StepsAsked(3, 9, "stretch"))),
        (9, 5, None, {"schedule": "constant"}, (StepsAsked(0, 5), StepsAsked(5, 9))),
        (4, 3, None, {"schedule": "constant"}, (StepsAsked(0, 5), StepsAsked(3, 4))),
    ],
)
def test_another_number_of_steps_counts_from_the_newest_checkpoint_on(steps, done, rule, changes, asked):
    config = replace(CONFIG, **changes)
    assert asked_for(History((StepsAsked(0, 5),)), steps, done, rule, config, FOLDER).asked == asked


def test_an_extension_that_has_not_begun_can_be_replaced():
    """StepsAsked again before the next checkpoint, with another number or rule."""
    history = History((StepsAsked(0, 5), StepsAsked(5, 9, "rewarm")))
    assert asked_for(history, 8, 5, "stretch", CONFIG, FOLDER).asked == (
        StepsAsked(0, 5),
        StepsAsked(5, 8, "stretch"),
    )


@pytest.mark.parametrize(
    ("steps", "done", "rule", "said"),
    [
        (5, 8, None, "runs/a has done 8 steps, and 5 are asked for; ask for more than 8"),
        (8, 8, None, "runs/a has done 8 steps, and 8 are asked for"),
        (
            20,
            10,
            None,
            r"with schedule=cosine, say by scripts/train.py --extend .* rewarm .* last 10 steps.* hold ",
        ),
        (20, 10, "hold", "with --extend hold the learning rate is 0 in all steps from 10 to 20"),
    ],
)
def test_what_cannot_be_extended_is_refused(steps, done, rule, said):
    with pytest.raises(ValueError, match=said):
        asked_for(History((StepsAsked(0, 10),)), steps, done, rule, CONFIG, FOLDER)


def test_a_sentence_says_what_becomes_of_the_learning_rate():
    said = said_of(History((StepsAsked(0, 5), StepsAsked(5, 105, "rewarm"))), CONFIG, FOLDER)
    assert "runs/a was asked for 5 steps and, from step 5 on, for 105" in said
    assert "by --extend rewarm: 5e-05 in the next step, 0.01 at its highest, 0 in the last" in said


def test_a_history_comes_back_as_it_was_written_and_a_damaged_one_is_named(tmp_path):
    assert History.read(tmp_path) is None
    start = Start("runs/b", 7, "abc", ["all weights"], kept_grids=[(2, 2)], codes=3)
    history = History((StepsAsked(0, 5), StepsAsked(5, 9, "hold")), 70, "def", start, kernels=rows_for("cpu"))
    history.write(tmp_path)
    assert History.read(tmp_path) == replace(history, start=replace(start, kept_grids=[[2, 2]]))
    for text in ('{"asked": [', "[]", "{}", '{"asked": [{"step": 1}], "start": null}', '{"asked": 3}'):
        (tmp_path / FILE).write_text(text)
        with pytest.raises(ValueError, match=rf"{FILE} is damaged"):
            History.read(tmp_path)
