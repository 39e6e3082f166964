"""Training the tokenizer on several pyramids: each step's own, images and levels alike, and told apart."""

import json

import pytest
import torch
import yaml
from accelerate import Accelerator
from PIL import Image

from tests.runs import TINY, train_both
from var_pe import settings
from var_pe.models.tokenizer import VQTokenizer
from var_pe.pyramid import Pyramid
from var_pe.stages.config import Config
from var_pe.stages.images import held_out_images_at
from var_pe.stages.models import load_tokenizer
from var_pe.stages.plan import plan
from var_pe.stages.score import score_tokenizer
from var_pe.stages.train import train_tokenizer
from var_pe.tasks.codebook import start_from_data
from var_pe.tasks.losses.reconstruction import psnr
from var_pe.tasks.pyramids import which_pyramid
from var_pe.tasks.tokenizer import TokenizerTask, TokenizerTraining

# [2] ends at the same grid as [1, 2]: an image's size does not say which of them it is under.
SEVERAL = "tokenizer_training.pyramids=[[1, 2], [2], [1, 2, 3], [[1, 1], [2, 3]]]"
NAMES = ["1-2", "2", "1-2-3", "1-2x3"]
STEPS = 8
STREAM = ["data.source=imagefolder", "data.path=nowhere", "data.streaming=true"]
SMALL = [
    *TINY,
    "data.shapes_train=24",
    "data.shapes_test=8",
    f"tokenizer_training.steps={STEPS}",
    "tokenizer_training.accumulate=2",
    "tokenizer_training.save_every=1",
    "tokenizer_training.restart.every=2",
    "tokenizer_training.restart.below=0.5",
    "tokenizer_training.restart.memory=1",
    "generator_training.steps=1",
    *[
        f"{kind}_training.{rule}"
        for kind in ("tokenizer", "generator")
        for rule in ("batch=4", "validation_images=4", "precision=float32", "trackers=[]", "log_every=1")
    ],
]


def a_config(folder, *more: str) -> Config:
    here = [f"run={folder / 'run'}", f"tokenizer_run={folder / 'tokenizer'}"]
    return settings.load(Config, "shapes_mixed.yaml", [*SMALL, *here, *more])


def logged(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "tokenizer" / "log.jsonl").read_text().splitlines()]


def equal(one, other) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_every_step_trains_on_the_images_and_levels_of_its_pyramid(tmp_path, monkeypatch):
    """Both micro-batches, and also where another pyramid has images of the same size."""
    seen, forward = [], VQTokenizer.forward

    def listening(self, images_BCHW, pyramid=None, *others):
        seen.append((tuple(images_BCHW.shape[-2:]), str(pyramid)))
        return forward(self, images_BCHW, pyramid, *others)

    monkeypatch.setattr(VQTokenizer, "forward", listening)
    train_tokenizer(a_config(tmp_path, SEVERAL), Accelerator())
    drawn = [which_pyramid(0, step // 2, 4) for step in range(2 * STEPS)]
    sizes = [(16, 16), (16, 16), (24, 24), (16, 24)]
    assert len(set(drawn)) == 4
    assert seen == [(sizes[number], NAMES[number]) for number in drawn]


def test_values_stand_under_the_name_of_their_pyramid(tmp_path):
    """A curve that jumps between sizes says nothing; the first pyramid's scores keep their plain names."""
    train_tokenizer(a_config(tmp_path, SEVERAL), Accelerator())
    entries = logged(tmp_path)
    for step, entry in enumerate(entry for entry in entries if "loss" in entry):
        drawn = NAMES[which_pyramid(0, step, 4)]
        assert [name for name in NAMES if f"perplexity/{name}" in entry] == [drawn]
        assert [name for name in NAMES if f"l1/{name}" in entry] == [drawn]
        levels = [name for name in entry if name.startswith(f"perplexity/{drawn}/level_")]
        assert len(levels) == drawn.count("-") + 1
    validation = next(entry for entry in entries if "validation/psnr" in entry)
    assert {f"validation/psnr/{name}" for name in NAMES[1:]} <= validation.keys()
    assert {"validation/usage/level_1", "validation/usage/1-2-3/level_2"} <= validation.keys()
    assert not any("/1-2/" in name for name in validation)


def test_a_run_on_several_pyramids_resumes_bit_for_bit(tmp_path, monkeypatch):
    """Also where a smoothing convolution was not used before the kill, as the pyramids so far have no use."""
    whole = train_tokenizer(a_config(tmp_path / "whole", SEVERAL), Accelerator())
    assert sum(entry.get("restarted", 0) for entry in logged(tmp_path / "whole")) > 0
    after_step = TokenizerTask.after_step

    def dying(self, model, here, accelerator, updates):
        if here == 3:
            raise KeyError("killed")
        return after_step(self, model, here, accelerator, updates)

    monkeypatch.setattr(TokenizerTask, "after_step", dying)
    with pytest.raises(KeyError):
        train_tokenizer(a_config(tmp_path / "killed", SEVERAL), Accelerator())
    monkeypatch.undo()
    assert equal(train_tokenizer(a_config(tmp_path / "killed", SEVERAL), Accelerator()), whole)


def test_without_pyramids_the_weights_are_those_of_the_tokenizers_levels_alone(tmp_path, monkeypatch):
    """A run that was made before there was a choice stays what it is, and its folder stays valid."""
    plain = train_tokenizer(a_config(tmp_path / "plain"), Accelerator())
    assert not any("1-2" in name for entry in logged(tmp_path / "plain") for name in entry)
    saved = tmp_path / "plain" / "tokenizer" / "config.yaml"
    tree = yaml.safe_load(saved.read_text())
    del tree["tokenizer_training"]["pyramids"]  # younger than the run
    saved.write_text(yaml.safe_dump(tree))
    assert equal(train_tokenizer(a_config(tmp_path / "plain"), Accelerator()), plain)
    named = a_config(tmp_path / "named", "tokenizer_training.pyramids=[[1, 2]]")
    assert equal(train_tokenizer(named, Accelerator()), plain)
    forward = VQTokenizer.forward
    monkeypatch.setattr(VQTokenizer, "forward", lambda self, images_BCHW, *_: forward(self, images_BCHW))
    assert equal(train_tokenizer(a_config(tmp_path / "guessed"), Accelerator()), plain)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["tokenizer_training.pyramids=[[1, 3], [1, 2]]"], "tokenizer_training.pyramids must begin with"),
        (["tokenizer_training.pyramids=[[1, 2], [3, 2]]"], "larger than the last"),
        ([SEVERAL, *STREAM], "tokenizer_training.pyramids needs images by index"),
    ],
)
def test_pyramids_that_cannot_be_drawn_are_refused_before_anything_is_trained(tmp_path, more, said):
    """The run's images, its grid and every score are of the first pyramid's size."""
    with pytest.raises(ValueError, match=said):
        train_tokenizer(a_config(tmp_path, *more), Accelerator())
    assert not any(tmp_path.iterdir())


def a_task(tokenizer, validation, seed=0) -> TokenizerTask:
    config = TokenizerTraining(batch=4)
    return TokenizerTask(tokenizer, [], list(validation), validation, config, steps=1, seed=seed)


class Images(list):
    class_names = ("one", "other")


def held_out(height: int, width: int) -> Images:
    return Images({"image": torch.rand(3, height, width) * 2 - 1, "label": label} for label in (0, 0, 1, 1))


PYRAMIDS = [Pyramid.square(1, 2, 3, 4), Pyramid.square(1, 4), Pyramid(((1, 2), (4, 6)))]


@torch.no_grad()
def test_quality_is_measured_under_each_pyramid_and_within_its_own_picture(make_tokenizer):
    """A margin scales with the image: the first size's box would cut into another's picture."""
    tokenizer, boxes = make_tokenizer(), [(1, 1, 6, 6), (0, 0, 8, 8), (2, 3, 4, 5)]
    images = [held_out(8, 8), held_out(8, 8), held_out(8, 12)]
    validation = {p: (of, box) for p, of, box in zip(PYRAMIDS, images, boxes, strict=True)}
    found = a_task(tokenizer, validation).validate(tokenizer, Accelerator())
    for name, (pyramid, (of, box)) in zip(["", "/1-4", "/1x2-4x6"], validation.items(), strict=True):
        images_BCHW = torch.stack([item["image"] for item in of])
        rebuilt_BCHW = tokenizer.decode(tokenizer.encode(images_BCHW, pyramid), pyramid)
        expected = float(psnr(rebuilt_BCHW, images_BCHW, box).mean())
        assert found[f"validation/psnr{name}"] == pytest.approx(expected)


def test_the_codebook_starts_from_the_levels_of_the_first_step(make_tokenizer):
    """Not from those that the image's size would suggest."""
    seed = next(seed for seed in range(9) if which_pyramid(seed, 0, 2) == 1)
    one, other = make_tokenizer(), make_tokenizer()
    images_BCHW, draw_numbers_B = torch.rand(4, 3, 8, 8), torch.arange(4)
    accelerator = Accelerator()
    task = a_task(one, dict.fromkeys(PYRAMIDS[:2], ([], (0, 0, 8, 8))), seed)
    task.start(one, {"image": images_BCHW, "draw_number": draw_numbers_B}, accelerator)
    f_BZhw = other.latent(images_BCHW)
    start_from_data(
        other.quantizer, f_BZhw, draw_numbers_B, PYRAMIDS[1], batch=4, seed=seed, accelerator=accelerator
    )
    assert torch.equal(one.quantizer.codebook_VZ, other.quantizer.codebook_VZ)


def test_a_sheet_shows_every_pyramid(make_tokenizer):
    """One pyramid below the other, each with its own pictures."""
    tokenizer, heights = make_tokenizer(), []
    for number in (1, 2, 3):
        validation = {p: (held_out(8, 2 * p.finest[1]), (0, 0, 8, 8)) for p in PYRAMIDS[:number]}
        heights.append(a_task(tokenizer, validation).preview(tokenizer).height)
    first, second, third = heights
    assert second == 2 * first
    assert third > second + 2 * 64


def test_a_generator_and_scores_follow_the_tokenizer_to_every_size(tmp_path):
    """What a person runs: both on several pyramids, then each size's quality, also of one never trained."""
    more = ["generator_training.pyramids=[[1, 2], [1, 2, 3]]", "generator.level_embedding=sinusoidal"]
    config = a_config(tmp_path, SEVERAL, *more, "generator.encoding=sinusoidal")
    train_both(config)
    tokenizer, accelerator = load_tokenizer(config), Accelerator()
    values = score_tokenizer(config, tokenizer, accelerator)["tokenizer"]["values"]
    assert {"psnr", *(f"psnr/{name}" for name in NAMES[1:])} <= values.keys()
    other = a_config(tmp_path, "tokenizer_training.pyramids=[[1, 2], [1, 2, 4]]")
    assert "psnr/1-2-4" in score_tokenizer(other, tokenizer, accelerator)["tokenizer"]["values"]


def test_each_pyramid_has_its_own_test_images_and_their_own_margin(make_tokenizer, tmp_path):
    """Pictures of 6x6 in 8x8 keep their margin to scale, and are centred in a wider image."""
    for folder in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (6, 6), "white").save(tmp_path / folder / "0.png")
    data = ["data.source=imagefolder", f"data.path={tmp_path}", "data.framing=pad", "data.channels=3"]
    config = settings.load(Config, "shapes_mixed.yaml", [*data, "data.height=8", "data.width=8"])
    found = held_out_images_at(config, [*PYRAMIDS, Pyramid.square(1, 8)], make_tokenizer().downsampling)
    assert [box for _, box in found.values()] == [(1, 1, 6, 6), (1, 1, 6, 6), (1, 3, 6, 6), (2, 2, 12, 12)]
    sizes = [(8, 8), (8, 8), (8, 12), (16, 16)]
    assert [images[1]["image"].shape[1:] for images, _ in found.values()] == sizes


def test_a_plan_says_what_the_tokenizer_is_trained_on():
    said = plan(settings.load(Config, "fashion_sizes.yaml", ["data.source=shapes"]))
    sizes = "32x32 (1-2-3-4), 48x48 (1-2-3-4-6), 32x64 (1x2-2x4-3x6-4x8); one of them a step"
    assert f"tokenizer: trained on {sizes}" in said
