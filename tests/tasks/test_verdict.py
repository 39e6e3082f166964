"""The rule that says whether a tokenizer is trained out: on numbers measured of small ones on `shapes`."""

import math
from dataclasses import replace

import pytest
import torch

from var_pe.processes import Processes
from var_pe.tasks.examination import Examination, examine
from var_pe.tasks.losses.reconstruction import psnr
from var_pe.tasks.verdict import Distance, Facts, gain_of_last_doubling, verdict

# Stopped after 60 of 1200 steps, half a pass over the images; its learning rate is at its end, its curve flat
STOPPED = Facts(
    examination=Examination(16.38, 16.44, 16.38, [16.33, 16.30, 15.77], 15.48, 400),
    levels=["1x1", "2x2", "4x4"],
    tokens=21,
    codebook_size=128,
    doubled="tokenizer.codebook_size=256",
    codes_used=120,
    perplexity=51.0,
    bits=112.0,
    steps=60,
    passes=0.48,
    gain=0.24,
    gain_of="training batches",
    sheets=None,
    distance=None,
    learning_rate=2e-3,
    commitment=0.25,
    restarts=True,
    has_codebook=True,
    rate=0.0,
    reconstruction_weight=2.0,
)

# Trained with no weight on the reconstruction
COLLAPSED = replace(
    STOPPED,
    examination=Examination(8.73, 8.63, 8.73, [8.77, 8.66, 8.73], 15.48, 400),
    codes_used=55,
    perplexity=6.7,
    bits=50.0,
    steps=150,
    passes=1.2,
    gain=-0.1,
    reconstruction_weight=0.0,
)

TRAINED_OUT = replace(
    STOPPED,
    examination=Examination(20.73, 20.89, 20.50, [16.02, 17.72, 18.16], 15.47, 256),
    codes_used=128,
    perplexity=77.1,
    bits=123.1,
    steps=1200,
    passes=9.6,
    gain=0.31,
    distance=Distance(429.5, 93.4, 128, "EfficientNet-Lite0"),
)


def test_three_tokenizers_get_three_verdicts_and_the_right_advice():
    said = {name: verdict(facts) for name, facts in
            (("finished", TRAINED_OUT), ("unfinished", STOPPED), ("collapsed", COLLAPSED))}  # fmt: skip
    assert [found.name for found in said.values()] == list(said)
    assert "a wider autoencoder" in said["finished"].advice[0]
    assert "twice as many would likely give at most 0.16 dB" in str(said["finished"])
    assert "tokenizer_training.steps=600 or more" in said["unfinished"].advice[0]
    assert "0.48 passes over the images; even without rounding" in str(said["unfinished"])
    assert "give the reconstruction a weight" in said["collapsed"].advice[0]
    for found in said.values():
        assert str(found).count("\n") == 0
        assert "None" not in str(found)


def test_a_curve_that_still_rises_asks_for_more_steps():
    assert verdict(replace(TRAINED_OUT, gain=0.8)).name == "unfinished"
    assert "twice as many would likely give about 0.8 dB more" in str(verdict(replace(TRAINED_OUT, gain=0.8)))


def test_a_finished_tokenizer_that_loses_details_is_not_praised():
    """At 17 dB nothing is recognised, however flat the curve is."""
    blurred = replace(TRAINED_OUT.examination, whole=17.31)
    said = str(verdict(replace(TRAINED_OUT, examination=blurred, sheets="runs/mine/samples")))
    assert said.startswith("The tokenizer is finished. PSNR 17.31 dB")
    assert "off by 35 of 255 levels" in said
    assert "details of the pictures are lost" in said
    assert "look at the last sheet in runs/mine/samples." in said
    assert "PSNR of training batches changed by +0.31 dB" in said

    sharp = Examination(28.8, 29.0, 28.5, [20.0, 21.0, 22.0], 15.47, 256)
    assert "details" not in str(verdict(replace(TRAINED_OUT, examination=sharp)))


def test_a_decoder_that_needs_rounded_codes_is_not_called_worse_than_it_is():
    """After a few steps it may have 12.7 dB with codes and 11.1 without: the better says what it learned."""
    begun = Examination(12.66, 11.05, 12.6, [12.5, 12.4, 12.0], 11.15, 256)
    said = str(verdict(replace(STOPPED, examination=begun)))
    assert "it is only 1.5 dB above the mean picture, so it has only begun" in said
    assert "even without rounding" not in said
    assert (
        "costs nothing: without it PSNR is 11.05 dB, which is no better, as the decoder was trained" in said
    )

    learned = replace(begun, whole=15.0)
    assert verdict(replace(STOPPED, examination=learned)).name == "finished"


def test_the_first_steps_are_not_called_a_collapse():
    """Every tokenizer is worse than the mean picture at first."""
    early = replace(STOPPED, examination=replace(STOPPED.examination, whole=12.0, unrounded=12.1), gain=3.0)
    assert verdict(early).name == "unfinished"
    assert verdict(replace(early, gain=0.0)).name == "collapsed"


def test_few_codes_are_no_collapse_where_they_have_a_price():
    """The demo's tokenizer uses 13 of 256 codes, because it was asked to, and has 30 dB."""
    few = replace(TRAINED_OUT, perplexity=6.7)
    assert verdict(few).name == "collapsed"
    priced = verdict(replace(few, rate=0.1))
    assert priced.name == "finished"
    assert "few, because codes have a price: rate=0.1" in str(priced)


def test_few_codes_are_no_collapse_where_they_keep_every_detail():
    """Simple shapes at 31 dB by 14 of 256 codes used equally often: a lower learning rate is no advice."""
    few = replace(TRAINED_OUT, perplexity=14.0, codebook_size=256)
    assert verdict(few).name == "collapsed"
    sharp = Examination(31.6, 31.8, 31.4, [16.0, 18.0, 20.0], 15.25, 256)
    assert verdict(replace(few, examination=sharp)).name == "finished"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"restarts": False}, "tokenizer_training.restart.every=25"),
        ({"commitment": 50.0}, "lower tokenizer.commitment"),
        ({"learning_rate": 0.03}, "tokenizer_training.learning_rate=0.01; it is 0.03"),
    ],
)
def test_the_likely_cause_of_a_collapse_is_named(change, said):
    settings = {"reconstruction_weight": 2.0, **change}
    assert said in verdict(replace(COLLAPSED, **settings)).advice[0]


def test_idle_levels_and_unused_codes_are_named():
    found = replace(TRAINED_OUT.examination, without_level=[20.70, 17.72, 18.16])
    advice = verdict(replace(TRAINED_OUT, examination=found, codes_used=60)).advice
    assert "level 1x1 changes nothing: it can be left out of tokenizer.levels" in advice
    assert any(line.startswith("68 codes are never used") for line in advice)


def test_a_quantizer_without_a_codebook_is_not_told_to_restart_it():
    """Advice that changes nothing costs a person a training."""
    computed = dict(has_codebook=False, restarts=False, doubled="tokenizer.quantizer=bsq(bits=8)")
    advice = verdict(replace(COLLAPSED, reconstruction_weight=2.0, **computed)).advice
    advice += verdict(replace(TRAINED_OUT, codes_used=60, **computed)).advice
    assert not any("restart" in line or "codebook_size" in line for line in advice)
    coarse = replace(TRAINED_OUT.examination, unrounded=23.4, half_codes=20.1)
    scarce = verdict(replace(TRAINED_OUT, examination=coarse, **computed))
    assert "more codes (tokenizer.quantizer=bsq(bits=8))" in scarce.advice[0]


def test_the_narrowest_part_is_what_is_advised():
    """More codes help nobody whose autoencoder is the limit, nor if half of them bring nothing."""
    found = TRAINED_OUT.examination
    assert "a wider autoencoder" in verdict(TRAINED_OUT).advice[0]
    coarse = replace(found, unrounded=23.4, half_codes=20.1)
    scarce = verdict(replace(TRAINED_OUT, examination=coarse))
    assert "more codes (tokenizer.codebook_size=256)" in scarce.advice[0]
    plenty = verdict(replace(TRAINED_OUT, examination=replace(coarse, half_codes=20.6)))
    assert "more tokens" in plenty.advice[0]
    assert "rather than more codes" in plenty.advice[0]


def test_gain_is_the_slope_over_the_last_doubling():
    steps = [10, 20, 40, 50, 60, 80]
    assert gain_of_last_doubling(steps, [9.0, 9.0, *(2 * math.log2(s) for s in steps[2:])]) == pytest.approx(
        2
    )
    assert gain_of_last_doubling([100], [20.0]) is None
    assert gain_of_last_doubling([], []) is None


def test_an_examination_leaves_out_one_thing_at_a_time(make_tokenizer):
    """Against the plainest way to compute each of its numbers."""
    tokenizer = make_tokenizer(seed=3)
    tokenizer.quantizer.usage_V[:] = torch.arange(16) / 120
    images = [{"image": torch.rand(3, 8, 8) * 2 - 1, "label": 0} for _ in range(9)]
    numbers, box = [7, 1, 3, 8], (1, 1, 6, 6)
    found = examine(tokenizer, images, box, numbers, Processes())

    images_BCHW = torch.stack([images[number]["image"] for number in numbers])
    tokens_BL = tokenizer.encode(images_BCHW)
    assert found.num_images == 4
    assert found.whole == pytest.approx(float(psnr(tokenizer.decode(tokens_BL), images_BCHW, box).mean()))
    others = [images_BCHW[torch.arange(4) != number].mean(0) for number in range(4)]
    assert found.mean_picture == pytest.approx(float(psnr(torch.stack(others), images_BCHW, box).mean()))

    codebook_VZ = tokenizer.quantizer.codebook_VZ
    with torch.no_grad():
        unrounded_BCHW = tokenizer.reconstruct(tokenizer.latent(images_BCHW)).clamp(-1, 1)
        assert found.unrounded == pytest.approx(float(psnr(unrounded_BCHW, images_BCHW, box).mean()))

        # A level whose tokens are a code of zeros adds nothing, where no convolution has a bias.
        for phi in tokenizer.quantizer.phi:
            phi.bias.zero_()
        again = examine(tokenizer, images, box, numbers, Processes())
        codebook_VZ[5] = 0
        for level, span in enumerate(tokenizer.pyramid.spans):
            spared_BL = tokens_BL.clone()
            spared_BL[:, span] = 5
            if not (tokens_BL == 5).any():
                without = float(psnr(tokenizer.decode(spared_BL), images_BCHW, box).mean())
                assert again.without_level[level] == pytest.approx(without)


def test_few_test_images_do_not_make_their_own_mean_hard_to_beat(make_tokenizer):
    """Half of the mean of two images is either: whatever was learned would look lost."""
    tokenizer, box = make_tokenizer(), (0, 0, 8, 8)
    generator = torch.Generator().manual_seed(0)
    images = [{"image": torch.rand(3, 8, 8, generator=generator) * 2 - 1, "label": 0} for _ in range(64)]
    means = [
        examine(tokenizer, images, box, range(number), Processes()).mean_picture for number in (1, 2, 64)
    ]
    assert means[0] < means[2] + 0.5
    assert means[1] < means[2]


def test_a_few_steps_are_not_called_finished_for_want_of_a_curve():
    """With the shortcut a tokenizer begins above the mean picture, whatever it has learned."""
    begun = replace(TRAINED_OUT, gain=None, steps=4, passes=0.1)
    found = verdict(begun)
    assert found.name == "unfinished"
    assert found.advice == ["more steps (tokenizer_training.steps=40 or more)"]
    assert verdict(replace(begun, passes=9.6)).name == "finished"
    once = " ".join(verdict(replace(begun, steps=1)).reasons)
    assert "It was trained for 1 step, 0.1 passes" in once
