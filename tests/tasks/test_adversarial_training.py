"""A tokenizer and its opponent in the one loop: resumed bit for bit, and one kept of the two."""

import json
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch.utils.data import Dataset

from tests.tasks.test_picture_loss import Eyes
from var_pe.models.discriminators import FeatureDiscriminator, PatchDiscriminator
from var_pe.tasks.losses.adversarial import AdversarialConfig
from var_pe.tasks.losses.perceptual import PerceptualConfig
from var_pe.tasks.tokenizer import TokenizerTask, TokenizerTraining
from var_pe.training.guard import Guard
from var_pe.training.history import History, StepsAsked
from var_pe.training.loop import train
from var_pe.training.opponent import OpponentTraining
from var_pe.training.run import Run

STEPS, BATCH = 6, 4
GAME = AdversarialConfig(
    weight=0.5,
    start=0.3,
    warmup=0.3,
    r1=0.1,
    lecam=0.1,
    augment=["color", "translation", "cutout"],
    rate=0.5,
)
TRAINING = TokenizerTraining(
    batch=BATCH, learning_rate=1e-3, log_every=1, save_every=1, validation_images=2, trackers=[]
)
PLAYED = replace(TRAINING, adversarial=GAME, perceptual=PerceptualConfig(weight=0.3))


class Pictures(Dataset):
    """Noise by draw number; no picture can be read from the step `until` on."""

    num_images, class_names = 12, ("one",)

    def __init__(self, until=None):
        self.until = until

    def __getitem__(self, draw):
        if self.until is not None and draw.draw_number >= self.until * BATCH:
            raise KeyError("killed")
        generator = torch.Generator().manual_seed(draw.index)
        image = torch.rand(3, 8, 8, generator=generator) * 2 - 1
        return {"image": image, "label": 0, "draw_number": draw.draw_number}


class Held(list):
    class_names = ("one",)


@pytest.fixture
def a_task(make_tokenizer):
    def make(config, until=None, features=False):
        tokenizer, eyes = make_tokenizer(), Eyes()
        held = Held({"image": torch.zeros(3, 8, 8), "label": 0} for _ in range(2))
        discriminator = None
        if config.adversarial.weight:
            spectral = config.adversarial.spectral_norm
            discriminator = PatchDiscriminator(3, 8, 1, spectral=spectral, seed=0)
        if discriminator and features:
            discriminator = FeatureDiscriminator(eyes.channels, 8, spectral=True, seed=0)
            config = replace(config, adversarial=replace(config.adversarial, discriminator="features"))
        return TokenizerTask(
            tokenizer,
            Pictures(until),
            [tokenizer.pyramid],
            {tokenizer.pyramid: (held, (0, 0, 8, 8))},
            config,
            steps=STEPS,
            seed=0,
            network=eyes,
            discriminator=discriminator,
        )

    return make


def go(folder, task):
    run = Run(folder, Accelerator(cpu=True))
    try:
        return train(task, task.config, run, History((StepsAsked(0, STEPS),)), seed=0).model.state_dict()
    finally:
        run.release()


def logged(folder, name):
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {entry["step"]: entry[name] for entry in entries if name in entry}


def equal(a, b):
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("features", [False, True])
def test_a_killed_game_ends_with_the_same_bits(tmp_path, a_task, features):
    """The discriminator's weights, moments, power iteration and recent means are all part of a step."""
    config = PLAYED if not features else replace(PLAYED, adversarial=replace(GAME, loss="non_saturating"))
    whole = a_task(config, features=features)
    expected = go(tmp_path / "whole", whole)
    with pytest.raises(KeyError):
        go(tmp_path / "killed", a_task(config, until=4, features=features))
    resumed = a_task(config, features=features)
    assert equal(go(tmp_path / "killed", resumed), expected)
    assert equal(resumed.opponent.module.state_dict(), whole.opponent.module.state_dict())
    for name in ("loss", "discriminator", "opponent_grad_norm"):
        assert logged(tmp_path / "killed", name) == logged(tmp_path / "whole", name)


def test_the_game_begins_at_its_share_of_the_steps(tmp_path, a_task):
    """Until then the tokenizer trains as without it, and its opponent keeps its first weights."""
    go(tmp_path / "game", a_task(replace(TRAINING, adversarial=GAME)))
    go(tmp_path / "alone", a_task(TRAINING))
    assert sorted(logged(tmp_path / "game", "discriminator")) == [3, 4, 5, 6]
    game, alone = (logged(tmp_path / name, "loss") for name in ("game", "alone"))
    assert [game[step] for step in (1, 2)] == [alone[step] for step in (1, 2)]
    assert all(game[step] != alone[step] for step in (3, 4, 5, 6))


def test_the_opponent_is_trained_and_is_no_part_of_the_finished_model(tmp_path, a_task):
    """The tokenizer's folder holds what a tokenizer is."""
    task = a_task(PLAYED)
    before = {name: value.clone() for name, value in task.opponent.module.state_dict().items()}
    kept = go(tmp_path, task)
    assert set(kept) == set(a_task(TRAINING).model.state_dict())
    after = task.opponent.module.state_dict()
    weights = [name for name in before if name.startswith("discriminator") and "_u" not in name]
    assert weights
    assert not any(torch.equal(before[name], after[name]) for name in weights if "_v" not in name)


def test_micro_batches_of_a_game_give_the_gradient_of_the_whole_batch(a_task):
    """Accumulation saves memory and shall change nothing else; group norms have no memory of passes."""
    game = replace(GAME, spectral_norm=False, start=0.0)
    images, rebuilt = torch.rand(2, BATCH, 3, 8, 8) * 2 - 1
    gradients = []
    for accumulate in (1, 2):
        config = replace(TRAINING, adversarial=game, accumulate=accumulate)
        training = OpponentTraining(
            a_task(config).opponent, config, Accelerator(cpu=True), Guard(torch.device("cpu"))
        )
        for part in torch.arange(BATCH).chunk(accumulate):
            training.opponent.term(rebuilt[part], images[part], part)
            training.backward(0)
        gradients.append({name: p.grad for name, p in training.module.named_parameters()})
    torch.testing.assert_close(*gradients)


def test_a_game_in_bfloat16_is_finite_and_resumes(tmp_path, a_task):
    """The precision that GPUs train in; penalties are computed in float32."""
    config = replace(PLAYED, precision="bf16")
    expected = go(tmp_path / "whole", a_task(config))
    with pytest.raises(KeyError):
        go(tmp_path / "killed", a_task(config, until=4))
    assert equal(go(tmp_path / "killed", a_task(config)), expected)
    assert all(value.isfinite().all() for value in expected.values())


def test_a_checkpoint_without_its_opponent_is_put_aside(tmp_path, a_task):
    """A run that went on with a new discriminator would end elsewhere, and nobody would know."""
    expected = go(tmp_path / "whole", a_task(PLAYED))
    with pytest.raises(KeyError):
        go(tmp_path / "killed", a_task(PLAYED, until=4))
    (tmp_path / "killed" / "checkpoints" / "step_00000004" / "opponent.pt").write_bytes(b"")
    assert equal(go(tmp_path / "killed", a_task(PLAYED)), expected)
    assert (tmp_path / "killed" / "checkpoints" / "step_00000004.damaged").exists()


def test_an_opponent_that_is_not_finite_stops_the_run_before_both_updates(tmp_path, a_task):
    """Its broken weights would break the tokenizer's one step later."""
    task = a_task(PLAYED)
    loss = task.opponent.loss
    task.opponent.loss = broken(loss, 3)
    with pytest.raises(FloatingPointError, match=r"step 4: .*opponent_grad_norm is nan.*step 3 in"):
        go(tmp_path, task)
    assert all(parameter.isfinite().all() for parameter in task.model.parameters())
    assert all(parameter.isfinite().all() for parameter in task.opponent.module.parameters())


def broken(loss, bad_step):
    def play(step):
        found = loss(step)
        return (found[0] * float("nan"), found[1]) if found and step == bad_step else found

    return play
