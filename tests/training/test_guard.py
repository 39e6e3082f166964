"""A number that is not finite changes nothing, is named with its step, and costs no step a wait."""

import json
from copy import deepcopy

import pytest
import torch
from accelerate import Accelerator

from tests.training.test_loop import Toy
from var_pe.models.tokenizer import VQTokenizer
from var_pe.pyramid import Pyramid
from var_pe.tasks.codebook import RestartConfig
from var_pe.tasks.tokenizer import TokenizerTask, TokenizerTraining
from var_pe.training.config import TrainingConfig
from var_pe.training.guard import Guard
from var_pe.training.history import History, StepsAsked
from var_pe.training.loop import train
from var_pe.training.run import Run

RARELY = TrainingConfig(
    batch=4, log_every=100, save_every=100, validate_every=0, preview_every=0, trackers=[]
)
BAD = 3  # the step, counted from 0, whose loss is not finite


class Watched(Run):
    """A run that keeps what the loop trains within reach."""

    def load(self, state):
        self.trained = state
        return super().load(state)

    def state(self):
        """A copy of all that a step changes."""
        model, average = self.trained.model.state_dict(), self.trained.ema.model.state_dict()
        moments = dict(enumerate(self.trained.optimizer.optimizer.state.values()))
        return deepcopy([dict(model), moments, dict(average)])


def leaves(state):
    if isinstance(state, torch.Tensor):
        return [state]
    parts = state.values() if isinstance(state, dict) else state
    return [leaf for part in parts for leaf in leaves(part)]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_between_two_logs_changes_nothing(tmp_path, value):
    """Weights, moments, step counters and average stay those of the step before, in all steps that follow."""
    run, before = Watched(tmp_path, Accelerator(cpu=True)), {}

    def act(step):
        before[step] = run.state()
        return value if step == BAD else 1.0

    with pytest.raises(
        FloatingPointError, match=r"step 4: loss is (nan|inf), grad_norm is (nan|inf); no weight"
    ):
        train(Toy(act), RARELY, run, History((StepsAsked(0, 8),)), seed=0)
    run.release()

    assert max(before) == 7  # the host noticed at the last step, whose numbers it would have logged
    kept = leaves(before[BAD])
    assert len(kept) == 4 + 3 * 4 + 4
    assert not all(torch.equal(a, b) for a, b in zip(kept, leaves(before[BAD - 1]), strict=True))
    for step in (*range(BAD + 1, 8), None):
        state = run.state() if step is None else before[step]
        assert all(torch.equal(a, b) for a, b in zip(kept, leaves(state), strict=True))
    assert not list((tmp_path / "checkpoints").iterdir())
    logged = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert logged == [1]


@pytest.mark.parametrize(
    ("due", "done"), [("log_every", 5), ("save_every", 6), ("validate_every", 6), ("preview_every", 6)]
)
def test_it_ends_the_run_before_anything_is_logged_validated_shown_or_saved(tmp_path, due, done):
    """A checkpoint, a score or a picture after it would pass for one of the steps that were done."""
    every = 4 if due == "log_every" else 6  # entries are of the steps 1, 5, 9, all else of every sixth
    seen = []

    class Noting(Toy):
        def validate(self, model, accelerator):
            raise AssertionError("validated")

        def preview(self, model):
            raise AssertionError("shown")

    def act(step):
        seen.append(step + 1)
        return float("nan") if step == BAD else 1.0

    config = TrainingConfig(**(vars(RARELY) | {due: every}))
    run = Run(tmp_path, Accelerator(cpu=True))
    with pytest.raises(FloatingPointError, match=r"step 4: .* nothing was saved yet"):
        train(Noting(act), config, run, History((StepsAsked(0, 20),)), seed=0)
    run.release()
    assert seen[-1] == done
    assert not list((tmp_path / "checkpoints").iterdir())


def test_the_first_step_that_was_not_finite_is_the_one_that_is_named():
    """Steps after it may be finite again, as nothing has changed, or fail by another value."""
    guard = Guard(torch.device("cpu"))
    for step, loss, norm in (
        (0, 1.0, 1.0),
        (1, 3.0, float("inf")),
        (2, 1.0, 1.0),
        (3, float("nan"), float("nan")),
    ):
        guard.look(step, {"loss": torch.tensor(loss), "grad_norm": torch.tensor(norm)})
        assert (guard.updates.item(), guard.found_inf.item()) == ((1, 0) if step < 1 else (0, 1))
    with pytest.raises(FloatingPointError, match=r"step 2: grad_norm is inf; no weight .*, kept words"):
        guard.check("kept words")


def test_the_codebook_is_left_alone_after_a_number_that_is_not_finite(make_tokenizer):
    """Use and restarts follow from what the step's weights made of its images."""
    model: VQTokenizer = make_tokenizer()
    config = TokenizerTraining(batch=4, restart=RestartConfig(every=1, below=0.9, memory=2))
    task = TokenizerTask(model, None, [Pyramid.square(1, 2, 3, 4)], {}, config, steps=10, seed=0)
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    before = deepcopy(model.quantizer.state_dict())

    changed = []
    for updates in (torch.zeros(()), torch.ones(())):
        task.loss(model, {"image": images, "draw_number": torch.arange(4)}, 0)
        task.after_step(model, 0, Accelerator(cpu=True), updates)
        after = model.quantizer.state_dict()
        changed.append([not torch.equal(before[name], after[name]) for name in ("usage_V", "codebook_VZ")])
    assert changed == [[False, False], [True, True]]
