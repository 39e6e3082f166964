"""From logits to tokens: guidance, what is kept, a draw that follows distribution and generator alone."""

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from var_pe.models.choice import (
    check_choice,
    check_finite,
    draw,
    given_logits,
    guidance_per_level,
    guided_logits,
    gumbel_mix,
    kept_logits,
    temperature_per_level,
)
from var_pe.models.numbers import keys_of, token_keys, uniform_pairs
from var_pe.pyramid import Pyramid

NONE = float("-inf")


def keys(length: int, *seeds: int) -> torch.Tensor:
    """A key for each of so many tokens of an image for each seed, int64 (B, l)."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return token_keys(keys_of(generators, torch.device("cpu")), Pyramid(((1, length),)))


def drawn_by(logits_BlV: torch.Tensor, *seeds: int) -> torch.Tensor:
    return draw(logits_BlV, uniform_pairs(keys(logits_BlV.shape[1], *seeds)))


def check_shares(tokens: torch.Tensor, share_V: torch.Tensor, pool: float = 10) -> None:
    """Chi-square: tokens are as frequent as their shares say; rare ones are pooled, those of no share absent.

    Refuses one true distribution in 10,000.
    """
    share_V = share_V.double() / share_V.double().sum()
    counted_V = torch.bincount(tokens.flatten(), minlength=len(share_V)).double()
    assert not counted_V[share_V == 0].any()
    expected_V = share_V * counted_V.sum()
    rare_V = expected_V < pool
    observed = torch.cat([counted_V[~rare_V], counted_V[rare_V].sum()[None]])
    expected = torch.cat([expected_V[~rare_V], expected_V[rare_V].sum()[None]])
    kept = expected > 0
    square = ((observed - expected)[kept].square() / expected[kept]).sum()
    freedom = int(kept.sum()) - 1
    assert not freedom or chi2.sf(square.item(), freedom) > 1e-4


def test_guidance_schedules():
    assert guidance_per_level(3.0, "linear", 4) == pytest.approx([0, 1, 2, 3])
    assert guidance_per_level(3.0, "constant", 3) == [3, 3, 3]
    assert guidance_per_level(2.0, [0, 0.5, 1], 3) == [0, 1, 2]
    assert guidance_per_level(3.0, "linear", 1) == [3]  # a level that is alone is the last
    assert guidance_per_level(0.0, "linear", 3) == [0, 0, 0]


@pytest.mark.parametrize(
    ("scale", "schedule", "sentence"),
    [
        (-1.0, "linear", "guidance_scale must be finite and at least 0 .none., got -1"),
        (float("nan"), "linear", "guidance_scale must be finite .* got nan"),
        (1.0, "cosine", "guidance_schedule is one of linear, constant or 3 factors, got 'cosine'"),
        (1.0, [1, 1], r"or 3 factors, got \[1, 1\]"),
        (1.0, torch.ones(2), r"or 3 factors, got \[1.0, 1.0\]"),
        (1.0, 0.5, "or 3 factors, got 0.5"),
        (1.0, [1, -1, 1], r"guidance_schedule's factors must be finite and at least 0, got \[1, -1, 1\]"),
        (1.0, [float("nan")] * 3, "guidance_schedule's factors must be finite"),
        (1.0, [1, "a", 1], "guidance_schedule's factors must be finite"),
        ("3", "linear", "guidance_scale must be finite .* got 3"),
        (None, "linear", "guidance_scale must be finite .* got None"),
    ],
)
def test_wrong_guidance_is_named(scale, schedule, sentence):
    with pytest.raises(ValueError, match=sentence):
        guidance_per_level(scale, schedule, 3)


def test_guidance_moves_away_from_the_unconditional():
    conditional, unconditional = torch.randn(2, 3, 4, 5)
    both = torch.cat([conditional, unconditional])
    torch.testing.assert_close(guided_logits(both, 0.0), conditional)
    torch.testing.assert_close(guided_logits(both, 2.0), conditional + 2 * (conditional - unconditional))


def test_temperature_is_one_or_one_per_level():
    assert temperature_per_level(0.5, 3) == [0.5, 0.5, 0.5]
    assert temperature_per_level((1, 2, 3), 3) == [1, 2, 3]


@pytest.mark.parametrize("form", [list, tuple, np.array, torch.tensor])
def test_numbers_per_level_come_in_every_form(form):
    """From a notebook they are arrays or tensors as often as lists."""
    assert temperature_per_level(form([0.5, 1.0, 2.0]), 3) == [0.5, 1, 2]
    assert guidance_per_level(2.0, form([0.0, 0.5, 1.0]), 3) == [0, 1, 2]


@pytest.mark.parametrize("form", [np.float32, np.array, torch.tensor])
def test_one_number_comes_in_every_form(form):
    assert temperature_per_level(form(0.5), 2) == [0.5, 0.5]
    assert guidance_per_level(form(2.0), "constant", 2) == [2, 2]


@pytest.mark.parametrize(
    ("temperature", "sentence"),
    [
        (0.0, "temperature must be above 0 and finite, got 0.0; top_k=1 takes the likeliest"),
        (float("nan"), "temperature must be above 0 and finite, got nan"),
        (float("inf"), "temperature must be above 0 and finite, got inf"),
        ([1, 0, 1], "temperature must be above 0 and finite, got 0"),
        (torch.tensor([1.0, 0.0, 1.0]), "temperature must be above 0 and finite, got 0.0"),
        (np.ones(2), r"one number or one for each of 3 levels, got \[1.0, 1.0\]"),
        (None, "temperature must be above 0 and finite, got None"),
        ("warm", "temperature must be above 0 and finite, got warm"),
        ([1, 1], r"one number or one for each of 3 levels, got \[1, 1\]"),
    ],
)
def test_a_wrong_temperature_is_named(temperature, sentence):
    with pytest.raises(ValueError, match=sentence):
        temperature_per_level(temperature, 3)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"top_k": -1}, "top_k must be at least 0"),
        ({"top_p": 1.5}, "top_p must lie in"),
        ({"top_p": -0.1}, "top_p must lie in"),
    ],
)
def test_wrong_settings_are_named(setting, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_choice(**(dict(top_k=0, top_p=0.0) | setting))


def test_top_k_keeps_the_likeliest_and_their_ties():
    """Dropping one of two equal tokens would be a matter of sorting order; VAR keeps both."""
    logits = torch.tensor([[[1.0, 3.0, 2.0, 2.0, 0.0], [5.0, 4.0, 3.0, 2.0, 1.0]]])
    kept = kept_logits(logits, top_k=2)
    assert kept[0, 0].tolist() == [NONE, 3, 2, 2, NONE]
    assert kept[0, 1].tolist() == [5, 4, NONE, NONE, NONE]
    for everything in (0, 5, 9):
        assert torch.equal(kept_logits(logits, top_k=everything), logits)


def test_top_p_keeps_the_smallest_set_of_that_mass():
    """The least likely tokens go while all that goes together has at most 1 - top_p."""
    logits = torch.tensor([[[0.1, 0.5, 0.15, 0.25]]]).log()
    kept = {p: kept_logits(logits, top_p=p)[0, 0].isfinite().tolist() for p in (0.01, 0.6, 0.76, 0.95, 1.0)}
    assert kept[0.01] == [False, True, False, False]  # the likeliest always stays
    assert kept[0.6] == [False, True, False, True]
    assert kept[0.76] == [False, True, True, True]
    assert kept[0.95] == kept[1.0] == [True, True, True, True]
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(2, 50, 64, generator=generator) * 3
    mass = wide.softmax(-1).masked_fill(kept_logits(wide, top_p=0.8).isinf(), 0)
    least = mass.masked_fill(mass == 0, 1).amin(-1)
    assert (mass.sum(-1) >= 0.8 - 1e-5).all()
    assert (mass.sum(-1) - least < 0.8 + 1e-5).all()  # without its least likely token it would not reach


def test_top_k_comes_before_top_p():
    """The nucleus is of the mass that top-k has left, as in VAR."""
    logits = torch.tensor([[[0.4, 0.3, 0.2, 0.1]]]).log()
    assert kept_logits(logits, top_k=2, top_p=0.55)[0, 0].isfinite().tolist() == [True, False, False, False]
    assert kept_logits(logits, top_p=0.55)[0, 0].isfinite().tolist() == [True, True, False, False]


def test_logits_are_not_changed_in_place():
    logits = torch.randn(2, 3, 8)
    before = logits.clone()
    kept_logits(logits, top_k=3, top_p=0.5)
    assert torch.equal(logits, before)


# the draw


def test_a_draw_follows_the_distribution():
    share_V = torch.tensor([0.5, 0.0, 0.3, 0.15, 0.05, 0.0])
    drawn = drawn_by(share_V.log().expand(1, 100_000, 6), 0)
    check_shares(drawn, share_V)
    pairs = drawn[0, :-1] * 6 + drawn[0, 1:]
    check_shares(pairs[::2], (share_V[:, None] * share_V).flatten())  # one after another, too


@pytest.mark.parametrize("codes", [2, 7, 16, 60, 256])
def test_a_draw_knows_codebooks_of_any_size(codes):
    """In groups where the size has divisors, else in one."""
    logits_V = 2 * torch.randn(codes, generator=torch.Generator().manual_seed(codes))
    check_shares(drawn_by(logits_V.expand(2, 40_000, codes), 1, 2), logits_V.softmax(0))


def test_small_shares_among_thousands_are_kept():
    """float32 would lose shares of 1e-7 in a running sum that starts with nearly all of the mass."""
    share_V = torch.full((4096,), 1e-7)
    share_V[::7] = 0
    share_V[0] = 0.9
    share_V[2000:2050] = 0.1 / 50
    logits_V = share_V.log()
    drawn = torch.cat([drawn_by(logits_V.expand(1, 4_000, 4096), seed) for seed in range(10)])
    check_shares(drawn, share_V)

    small = drawn[share_V[drawn] == 1e-7]  # 14 are expected
    assert 2 < len(small) < 35
    assert len(small.unique()) > 0.9 * len(small)


def test_no_token_without_a_share_is_ever_drawn():
    """Whatever the numbers: the smallest, the largest, and those between."""
    logits = torch.full((1, 3, 4096), NONE)
    logits[..., 17::97] = torch.randn(43, generator=torch.Generator().manual_seed(0))
    largest = 1 - 2**-23
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 2**-23, 0.5, largest])] * 2)
    for number_2 in corners:
        assert ((draw(logits, number_2.expand(1, 3, 2)) - 17) % 97 == 0).all()


@pytest.mark.parametrize("top_k", [1, 3, 4, 0])
def test_top_k_with_ties_is_drawn_by_its_shares(top_k):
    """Of four equal ones at the edge none is dropped."""
    share_V = torch.tensor([0.05, 0.3, 0.1, 0.1, 0.25, 0.1, 0.1])
    kept_V = share_V.clone()
    if top_k == 1:
        kept_V[share_V < 0.3] = 0
    elif top_k:
        kept_V[share_V < 0.1] = 0
    check_shares(drawn_by(kept_logits(share_V.log().expand(1, 50_000, 7), top_k=top_k), 3), kept_V)


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.29, [1]), (0.54, [1, 4]), (0.76, [1, 2, 4]), (0.99, [1, 2, 3, 4, 5])]
)
def test_the_nucleus_is_drawn_by_its_shares(top_p, kept):
    share_V = torch.tensor([0.0, 0.3, 0.22, 0.15, 0.25, 0.08])
    kept_V = torch.zeros(6)
    kept_V[kept] = share_V[kept]
    check_shares(drawn_by(kept_logits(share_V.log().expand(1, 50_000, 6), top_p=top_p), 4), kept_V)


def test_free_tokens_beside_given_ones_are_drawn_by_their_shares():
    share_V = torch.tensor([0.1, 0.2, 0.3, 0.4])
    given = torch.full((1, 60_000), -1)
    given[:, ::3] = 0
    drawn = drawn_by(given_logits(share_V.log().expand(1, 60_000, 4), given), 5)
    check_shares(drawn[given < 0], share_V)
    assert not drawn[given == 0].any()


def test_one_kept_token_is_taken_whatever_the_draw():
    logits = torch.randn(3, 40, 16, generator=torch.Generator().manual_seed(0))
    greedy = kept_logits(logits, top_k=1)
    for seed in range(3):
        assert torch.equal(drawn_by(greedy, seed, seed + 1, seed + 2), logits.argmax(-1))


def test_an_image_draws_by_its_own_keys():
    """Neither the other images nor their number nor their order have a part in it."""
    logits = torch.randn(4, 9, 16, generator=torch.Generator().manual_seed(0))
    together = drawn_by(logits, 5, 6, 7, 8)
    turned = drawn_by(logits.flip(0), 8, 7, 6, 5).flip(0)
    alone = torch.cat([drawn_by(logits[i : i + 1], 5 + i) for i in range(4)])
    assert torch.equal(together, turned)
    assert torch.equal(together, alone)
    assert not torch.equal(together, drawn_by(logits, 9, 10, 11, 12))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    drawn_by(logits, 5, 6, 7, 8)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_given_token_leaves_no_choice():
    """Even one that the filters had ruled out; the other positions are as they were, bit for bit."""
    logits = kept_logits(torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0)), top_k=4)
    given = torch.tensor([[3, -1, 0, 15, -1], [-1, -1, 7, 7, 2]])
    certain = given_logits(logits, given)
    assert torch.equal(certain[given < 0], logits[given < 0])
    for seed in range(3):
        assert torch.equal(drawn_by(certain, seed, seed + 9)[given >= 0], given[given >= 0])


def test_a_sum_tells_whether_all_is_finite():
    """Two infinities of opposite sign must not cancel."""
    check_finite(torch.tensor([1e30, -1e30, 3.0]).sum())
    for wrong in ([float("nan"), 0.0], [float("inf"), 1.0], [float("inf"), NONE], [NONE, 2.0]):
        with pytest.raises(FloatingPointError, match="are not finite"):
            check_finite(torch.tensor(wrong).sum())


def test_a_mix_is_a_soft_draw():
    """Its heaviest code is a draw from softmax(logits (1 + r)) (Gumbel's trick); late levels hardly mix."""
    share_V = torch.tensor([0.5, 0.0, 0.3, 0.15, 0.05, 0.0])
    logits = share_V.log().expand(1, 60_000, 6)
    for progress in (0.0, 0.5):
        mix = gumbel_mix(logits, keys(60_000, 0), progress)
        torch.testing.assert_close(mix.sum(-1), torch.ones(1, 60_000))
        assert not mix[..., share_V == 0].any()
        check_shares(mix.argmax(-1), share_V ** (1 + progress))
    early, late = (gumbel_mix(logits, keys(60_000, 0), r).amax(-1).mean() for r in (0.0, 1.0))
    assert early < 0.95
    assert late > 0.995


def test_mixes_belong_to_the_image_and_respect_certainty():
    logits = torch.randn(3, 9, 16, generator=torch.Generator().manual_seed(0))
    together = gumbel_mix(logits, keys(9, 5, 6, 7), 0.3)
    alone = torch.cat([gumbel_mix(logits[i : i + 1], keys(9, 5 + i), 0.3) for i in range(3)])
    torch.testing.assert_close(together, alone)
    assert not torch.allclose(together, gumbel_mix(logits, keys(9, 8, 9, 10), 0.3))
    greedy = gumbel_mix(kept_logits(logits, top_k=1), keys(9, 5, 6, 7), 0.3)
    assert torch.equal(greedy, torch.nn.functional.one_hot(logits.argmax(-1), 16).float())
