"""A quantizer is one line of a config: planned, trained, resumed, a start, or refused in a sentence."""

import shutil

import pytest
import torch
from accelerate import Accelerator

from tests.conftest import QUANTIZER_VARIANTS, QUANTIZERS
from tests.runs import TINY, train_both
from var_pe import settings
from var_pe.models.quantizers import expects
from var_pe.pyramid import Pyramid
from var_pe.settings.files import ConfigError
from var_pe.stages.config import Config
from var_pe.stages.plan import plan
from var_pe.stages.train import train_tokenizer
from var_pe.tasks.redrawn import RedrawnConfig, drawn_anew
from var_pe.tasks.tokenizer import levels_kept
from var_pe.training.log import read_log

TRAINED = [
    "data.shapes_train=24",
    "data.shapes_test=12",
    "tokenizer_training.restart.every=2",
    *(
        f"{kind}_training.{rule}"
        for kind in ("tokenizer", "generator")
        for rule in ("batch=8", "validation_images=8", "trackers=[]", "precision=float32", "log_every=1")
    ),
]


def fast(one, *lines):
    """The lines as parameters; all but one take too long for every time."""
    return [pytest.param(line, marks=[] if line == one else pytest.mark.slow) for line in lines]


def a_config(folder, quantizer, *more):
    folders = [f"run={folder / 'run'}", f"tokenizer_run={folder / 'tokenizer'}"]
    line = [f"tokenizer.quantizer={quantizer}"]
    return settings.load(Config, "shapes_mixed.yaml", [*folders, *TINY, *TRAINED, *line, *more])


@pytest.mark.parametrize("quantizer", fast("fsq(levels=[4, 3, 2])", *QUANTIZERS, *QUANTIZER_VARIANTS))
def test_a_run_is_planned_trained_and_reported_by_level(tmp_path, quantizer):
    """The generator has as many codes as the quantizer, whatever tokenizer.codebook_size says."""
    steps = ["tokenizer_training.steps=3", "generator_training.steps=2"]
    config = a_config(tmp_path, quantizer, *steps)
    codes = config.tokenizer.num_codes
    assert f"quantizer {quantizer}: {codes} codes" in plan(config)
    generator = train_both(config)
    assert generator.head.out_features == codes

    names = {name for entry in read_log(tmp_path / "tokenizer" / "log.jsonl") for name in entry}
    for level in (0, 1):
        for value in ("usage", "perplexity", "code_distance"):
            assert f"validation/{value}/level_{level}" in names


def test_a_plan_says_which_setting_counts_for_nothing(tmp_path):
    """fsq and bsq have as many codes as their own options say."""
    said = plan(a_config(tmp_path, "bsq(bits=4)", "tokenizer.codebook_size=512"))
    assert "quantizer bsq(bits=4): 16 codes; its own, so tokenizer.codebook_size=512 is not used" in said


@pytest.mark.parametrize(
    ("quantizer", "sentence"),
    [
        ("fsq(levels=[8, 1])", "levels are the numbers of values"),
        ("vqq", "there is no quantizer 'vqq'"),
        ("bsq(bits=20)", "bits must be in 1 .. 12"),
    ],
)
def test_what_is_no_quantizer_is_refused_before_anything_is_read(tmp_path, quantizer, sentence):
    with pytest.raises((ConfigError, ValueError), match=sentence):
        a_config(tmp_path, quantizer)


@pytest.mark.parametrize(
    "quantizer", fast("vq(learning=ema, gradient=rotation)", *QUANTIZER_VARIANTS, "bsq(bits=4)")
)
def test_a_killed_training_ends_with_the_same_bits(tmp_path, monkeypatch, quantizer):
    """Averages of codes are part of the state, and dropped levels follow from the image."""
    results = []
    for name in ("whole", "killed"):
        more = ["tokenizer_training.quantizer_dropout=0.5", "tokenizer_training.save_every=1"]
        more += ["tokenizer_training.steps=5", "tokenizer_training.schedule=constant"]
        more += ["tokenizer_training.redrawn={share: 0.5, start: 0.3}"] if expects(quantizer) else []
        config = a_config(tmp_path / name, quantizer, *more)
        if name == "killed":
            train_tokenizer(config, Accelerator())
            folder = tmp_path / name / "tokenizer"
            shutil.rmtree(folder / "tokenizer")
            newest = max((folder / "checkpoints").glob("step_*"))
            shutil.rmtree(newest)
        results.append(train_tokenizer(config, Accelerator()).state_dict())
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    assert "ema" not in quantizer or "quantizer.ema_sum_VZ" in results[0]


def test_a_decoder_is_tuned_by_itself_and_tokens_stay(tmp_path):
    """Neither a step nor the care for codes moves what tokens follow from."""
    quantizer = "vq(rate=0.1, given=coarser, learning=ema)"
    source = train_tokenizer(a_config(tmp_path / "a", quantizer, "tokenizer_training.steps=2"), Accelerator())
    given = [f"tokenizer_init_from={tmp_path / 'a' / 'tokenizer'}", "tokenizer_training.tuned=decoder"]
    given += ["tokenizer_training.redrawn={share: 1, images: 1, start: 0}", "tokenizer_training.steps=4"]
    given += ["tokenizer_training.restart={every: 1, below: 0.9, until: 1}"]
    model = train_tokenizer(a_config(tmp_path / "b", quantizer, *given), Accelerator())

    before, after = source.state_dict(), model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.partition(".")[0] for name in moved} == {"decoder", "post_quant_conv"}

    more = [*given, "tokenizer.codebook_size=24"]
    with pytest.raises(
        ValueError, match=r"tuned=decoder trains no codes, .*=24 is more than the 16 of tokenizer"
    ):
        train_tokenizer(a_config(tmp_path / "c", quantizer, *more), Accelerator())
    with pytest.raises(
        ValueError, match=r"tuned=decoder leaves encoder and codes .* set tokenizer_init_from"
    ):
        a_config(tmp_path / "d", quantizer, "tokenizer_training.tuned=decoder")


@pytest.mark.parametrize("quantizer", fast("bsq(bits=4)", *QUANTIZERS))
def test_a_tokenizer_goes_on_from_one_of_the_same_quantizer_alone(tmp_path, quantizer):
    """Its weights mean nothing under another one; its codes stay as they are."""
    source = train_tokenizer(a_config(tmp_path / "a", quantizer, "tokenizer_training.steps=2"), Accelerator())
    given = [f"tokenizer_init_from={tmp_path / 'a' / 'tokenizer'}", "tokenizer_training.steps=1"]
    given += ["tokenizer_training.learning_rate=1e-12", "tokenizer_training.ema=0"]
    model = train_tokenizer(a_config(tmp_path / "b", quantizer, *given), Accelerator())
    codes_V = torch.arange(model.quantizer.num_codes)
    torch.testing.assert_close(model.quantizer.codes(codes_V), source.quantizer.codes(codes_V))

    other = "simvq" if quantizer != "simvq" else "vq"
    with pytest.raises(ValueError, match=r"tokenizer_init_from holds another model: quantizer: .* -> "):
        train_tokenizer(a_config(tmp_path / "c", other, *given), Accelerator())


def test_more_fixed_codes_follow_the_trained_ones(tmp_path):
    """simvq grows as a codebook does: its map is trained, for the fixed codes that it was trained with."""
    source = train_tokenizer(a_config(tmp_path / "a", "simvq", "tokenizer_training.steps=2"), Accelerator())
    given = [f"tokenizer_init_from={tmp_path / 'a' / 'tokenizer'}", "tokenizer.codebook_size=24"]
    given += ["tokenizer_training.steps=1", "tokenizer_training.learning_rate=1e-12"]
    model = train_tokenizer(a_config(tmp_path / "b", "simvq", *given), Accelerator())
    assert torch.equal(model.quantizer.frozen_VZ[:16], source.quantizer.frozen_VZ)
    torch.testing.assert_close(model.quantizer.codebook_map_ZZ, source.quantizer.codebook_map_ZZ)


def test_drawn_anew_are_tokens_of_the_finest_levels_by_seed_and_image():
    """In half of the images, shares uniform up to the largest, of the last level or of the last two."""
    draws, pyramid, half = torch.arange(4000), Pyramid.of([1, 2, 3, 4]), RedrawnConfig(share=0.6, images=0.5)
    anew_BL = drawn_anew(draws, half, pyramid, seed=1)
    by_level = [anew_BL[:, span].float() for span in pyramid.spans]
    assert by_level[3].mean() == pytest.approx(0.15, abs=0.01)
    assert by_level[2].mean() == pytest.approx(0.075, abs=0.01)
    assert not by_level[0].any()
    assert not by_level[1].any()

    # Of an image the share is one: they spread up to 0.6.
    share_B = by_level[3].mean(1)
    assert (share_B > 0).float().mean() == pytest.approx(0.45, abs=0.03)  # the smallest shares take none
    assert share_B.quantile(0.75) == pytest.approx(0.3, abs=0.06)
    assert 0.5 < share_B.quantile(0.975) < 0.8

    assert torch.equal(drawn_anew(draws[1000:1008], half, pyramid, seed=1), anew_BL[1000:1008])
    assert not torch.equal(drawn_anew(draws, half, pyramid, seed=2), anew_BL)
    all_images = RedrawnConfig(share=1.0, images=1.0)
    assert drawn_anew(draws, all_images, pyramid, seed=1).any(1).float().mean() > 0.9
    assert not drawn_anew(draws, all_images, Pyramid.of([3]), seed=1).any()
    assert not drawn_anew(draws, all_images, Pyramid.of([1, 2]), seed=1)[:, 0].any()


def test_what_is_drawn_anew_belongs_to_the_image_and_begins_at_its_step():
    config, draws, pyramid = RedrawnConfig(share=0.6, start=0.5), torch.arange(8), Pyramid.of([1, 2, 3])
    assert [config.first_step(steps) for steps in (1, 4, 10)] == [0, 2, 5]
    assert RedrawnConfig(share=0.6, start=0.99).first_step(4) == 3
    assert RedrawnConfig().of(draws, pyramid, seed=1) is None
    whole, part = (config.of(some, pyramid, seed=1) for some in (draws, draws[3:5]))
    assert torch.equal(whole.anew_BL[3:5], part.anew_BL)
    assert torch.equal(whole.number_BL2[3:5], part.number_BL2)


def test_a_plan_says_what_is_tuned_and_drawn_anew(tmp_path):
    quantizer = "vq(rate=0.1, given=coarser)"
    train_tokenizer(a_config(tmp_path, quantizer, "tokenizer_training.steps=1"), Accelerator())
    given = [f"tokenizer_init_from={tmp_path / 'tokenizer'}", f"tokenizer_run={tmp_path / 'other'}"]
    given += ["tokenizer_training={tuned: decoder, redrawn: {share: 0.6}, steps: 10}"]
    said = plan(a_config(tmp_path, quantizer, *given))
    assert f"tuned: decoder; the tokens are those of {tmp_path / 'tokenizer'}" in said
    assert (
        "redrawn: up to 60% of the tokens of the last one or two levels, in 50% of the images, from step 6 on"
        in said
    )
    assert "redrawn: up to" not in plan(a_config(tmp_path, quantizer))


def test_drawing_tokens_anew_needs_a_quantizer_that_expects_some(tmp_path):
    with pytest.raises(
        ValueError, match=r"redrawn.share=0.5 draws tokens by what .*, but tokenizer.quantizer is vq$"
    ):
        a_config(tmp_path, "vq", "tokenizer_training.redrawn.share=0.5")


def test_levels_are_dropped_by_seed_and_image():
    """The share that was asked for, each number of levels as often, whatever the batch."""
    draws = torch.arange(4000)
    kept = levels_kept(draws, 0.4, 5, seed=1)
    counts = torch.bincount(kept, minlength=6).tolist()
    assert counts[0] == 0
    assert counts[5] == pytest.approx(2400, abs=100)
    assert all(count == pytest.approx(400, abs=70) for count in counts[1:5])
    assert torch.equal(levels_kept(draws[1000:1008], 0.4, 5, seed=1), kept[1000:1008])
    assert not torch.equal(levels_kept(draws, 0.4, 5, seed=2), kept)
    assert set(levels_kept(draws, 1.0, 1, seed=1).tolist()) == {1}
