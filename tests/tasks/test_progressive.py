"""Progressive training: coarse levels first, what is not in is not computed, and it resumes to the bit."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.runs import train_both
from tests.tasks.test_pyramids import a_config, die_at
from var_pe.pyramid import Pyramid
from var_pe.stages.plan import plan
from var_pe.stages.pyramids import generator_pyramids
from var_pe.tasks.generator import GeneratorTask, GeneratorTraining
from var_pe.tasks.progressive import Progressive, share_of_tokens

PROGRESSIVE = "generator_training.progressive={first: 1, until: 0.7}"


@pytest.mark.parametrize(
    ("first", "until", "levels", "steps"), [(2, 0.4, 10, 1000), (1, 0.99, 4, 9), (3, 0.5, 2, 7)]
)
def test_levels_come_in_coarse_first_in_stages_of_one_length(first, until, levels, steps):
    """All are in after `until`, none goes out, and none comes in early."""
    at = [Progressive(first=first, until=until).levels_at(step, steps, levels) for step in range(steps)]
    assert at[0] == min(first, levels)
    assert at == sorted(at)
    assert at[-1] == levels
    assert all(count == levels for step, count in enumerate(at) if step >= until * steps)
    if first < levels:
        assert at[int(until * steps) - 1] < levels
        lengths = [at.count(count) for count in range(first, levels)]
        assert max(lengths) - min(lengths) <= 1


def test_the_levels_that_are_in_are_as_in_the_whole_pass(line, make_generator, make_loud):
    """A token sees no finer level, and positions must not be counted in a smaller pyramid.

    Every weight has a gradient all the same: several processes would wait for one that never comes.
    """
    model = make_loud(make_generator(line))
    labels_B = torch.tensor([0, 2])
    inputs_BLZ = torch.randn(2, 29, 4, generator=torch.Generator().manual_seed(0))
    whole_BLV = model(labels_B, inputs_BLZ)
    for levels, tokens in [(3, 14), (1, 1)]:
        some_BLV = model(labels_B, inputs_BLZ[:, : tokens - 1], levels=levels)
        torch.testing.assert_close(some_BLV, whole_BLV[:, :tokens], atol=1e-4, rtol=1e-4)
    some_BLV.sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_work_falls_as_the_tokens_do(make_generator, make_tokenizer):
    """Counted in products: of 30 tokens the first two levels are 5, and attention falls with the square."""
    model, tokenizer = make_generator().train(), make_tokenizer()
    batch = {"label": torch.tensor([0, 1]), "draw_number": torch.arange(2)}
    batch["tokens"] = torch.randint(16, (2, 30), generator=torch.Generator().manual_seed(0))
    work = []
    for progressive in (None, Progressive(first=2, until=0.5)):
        config = GeneratorTraining(progressive=progressive)
        task = GeneratorTask(model, tokenizer, [], [model.pyramid], {}, config, None, steps=4, seed=0)
        with FlopCounterMode(display=False) as counter:
            loss, named = task.loss(model, batch, 0)
            loss.backward()
        work.append(counter.get_total_flops())
    assert set(named) == {"loss/level_0", "loss/level_1"}
    assert work[1] < 0.25 * work[0]


def test_a_run_on_several_pyramids_resumes_bit_for_bit_where_a_level_comes_in(tmp_path, monkeypatch):
    """Which levels are in is a matter of the step and of the steps first asked for."""
    whole = train_both(a_config(tmp_path, PROGRESSIVE))
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [entry for entry in log if "loss" in entry]
    seen = [max(int(name[-1]) for name in entry if "/level_" in name) for entry in losses]
    assert seen[0] == 0
    assert seen[-1] >= 1

    config = a_config(tmp_path, PROGRESSIVE, f"run={tmp_path / 'again'}")
    monkeypatch.setattr(GeneratorTask, "after_step", die_at(3))
    with pytest.raises(KeyError):
        train_both(config)
    monkeypatch.undo()
    again = train_both(config)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), whole.parameters(), strict=True))


def test_a_training_in_which_nothing_comes_in_later_is_refused(tmp_path):
    """It would be an ordinary one under another name."""
    config = a_config(tmp_path, "generator_training.progressive={first: 2}")
    with pytest.raises(ValueError, match=r"progressive.first must be below 2, .* got 2: no level would"):
        generator_pyramids(config)


def test_a_plan_says_when_levels_come_in_and_what_that_saves(tmp_path):
    """The share is what a user decides by."""
    config = a_config(tmp_path, PROGRESSIVE, "generator_training.steps=10", "generator_training.pyramids=[]")
    assert "progressive: 1 of 2 levels from step 0, 2 from step 7; 44% of the tokens" in plan(config)
    pyramids = [Pyramid.square(1, 2), Pyramid.square(1, 2, 3)]
    assert share_of_tokens(Progressive(first=1, until=0.5), 2, pyramids) == (1 + 5 + 1 + 14) / (2 * 19)
