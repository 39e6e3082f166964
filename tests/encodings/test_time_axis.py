"""What positions of clips promise, (t, y, x) in place of (y, x), for every encoding that has a time axis."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from var_pe.encodings import REGISTRY, build_encoding
from var_pe.encodings.base import PositionEncoding
from var_pe.models.initialisation import initialise
from var_pe.pyramid import Pyramid

PICTURE = Pyramid(((2, 3),))
TIMES, PLACES = 4, 6
SIZE = dict(dim=32, num_heads=4, depth=2, pyramid=PICTURE)
ON_TOKENS = ["learned", "learned(init=sinusoidal)", "factorized", "sinusoidal", "fourier"]
TOGETHER = ["coordinate", "fourier(features=gaussian)"]
NETWORKS = ["fire", "log_cpb", "fire(shared=true)", "log_cpb(shared=true)"]
RELATIVE = ["rope", "rope(directions=golden, unit=image)", "relative_bias", "alibi", *NETWORKS]


def built(line: str, times: int = TIMES) -> PositionEncoding:
    encoding = build_encoding(line, times=times, **SIZE)
    initialise(encoding, 0)
    return encoding


def scores(encoding: PositionEncoding, times: int = TIMES) -> Tensor:
    """Of tokens that hold the same, (H, T, l, T, l): what is left is what the encoding makes of places."""
    context = encoding.prepare(PICTURE.positions(times=times))
    x_BHLD = torch.randn(1, 4, 1, 8, generator=torch.Generator().manual_seed(0))
    turned_BHLD = encoding.rotate(x_BHLD.expand(-1, -1, times * PLACES, -1), context, 1)
    scores_HLL = (turned_BHLD @ turned_BHLD.transpose(2, 3))[0]
    bias_HLL = encoding.bias(context, context, 1)
    scores_HLL = scores_HLL if bias_HLL is None else scores_HLL + bias_HLL
    return scores_HLL.unflatten(2, (times, PLACES)).unflatten(1, (times, PLACES))


def test_positions_of_a_clip_are_those_of_a_picture_at_every_moment():
    clip, picture = PICTURE.positions(times=TIMES), PICTURE.positions()
    assert clip.num_tokens == len(clip.cell_L2) == TIMES * PLACES
    assert torch.equal(clip.yx_L2.unflatten(0, (TIMES, PLACES))[2], picture.yx_L2)
    assert clip.time_L.tolist() == [moment for moment in range(TIMES) for _ in range(PLACES)]
    assert torch.equal(clip.at_moment().cell_L2, picture.cell_L2)
    assert clip.at_moment().time_L is None
    assert clip.at_place().time_L.tolist() == list(range(TIMES))
    assert PICTURE.positions(times=1).time_L is None
    with pytest.raises(ValueError, match="a clip is one level of pictures, got 2 levels"):
        Pyramid.square(1, 2).positions(times=2)


@torch.no_grad()
@pytest.mark.parametrize("line", [*ON_TOKENS, "mixed(learned=0.7, sinusoidal=0.3)"])
def test_a_token_gets_its_places_code_and_its_moments(line):
    """What is between two moments is the same at every place."""
    encoding = built(line)
    code_TlC = encoding.prepare(PICTURE.positions(times=TIMES)).unflatten(0, (TIMES, PLACES))
    torch.testing.assert_close(
        code_TlC[3] - code_TlC[1], (code_TlC[3, :1] - code_TlC[1, :1]).expand(PLACES, -1)
    )
    assert all((code_TlC[t, 0] - code_TlC[t + 1, 0]).abs().max() > 1e-3 for t in range(TIMES - 1))

    # Not told the moments, it is the picture's code at each of them.
    untold_TlC = encoding.prepare(PICTURE.positions(times=TIMES).without_time()).unflatten(0, (TIMES, PLACES))
    if "mixed" not in line:  # whose factors are measured over the clip
        picture_lC = built(line, times=1).prepare(PICTURE.positions())
        torch.testing.assert_close(untold_TlC, picture_lC.expand(TIMES, -1, -1))


@torch.no_grad()
@pytest.mark.parametrize("line", TOGETHER)
def test_a_function_of_t_y_and_x_together(line):
    """What is between two moments differs from place to place, as in no sum of a place's and a moment's."""
    encoding = built(line)
    clip = PICTURE.positions(times=TIMES)
    code_TlC = encoding.prepare(clip).unflatten(0, (TIMES, PLACES))
    for moment in range(TIMES - 1):
        step_lC = code_TlC[moment + 1] - code_TlC[moment]
        assert (step_lC - step_lC[0]).abs()[1:].amax(-1).min() > 1e-3

    # Not told the moments, it is the picture's code at each of them.
    picture_lC = built(line, times=1).prepare(PICTURE.positions())
    untold_LC = encoding.prepare(clip.without_time())
    torch.testing.assert_close(untold_LC, picture_lC.repeat(TIMES, 1))


@torch.no_grad()
@pytest.mark.parametrize("line", ["fourier", *TOGETHER])
def test_a_longer_clip_reads_the_same_function_of_the_share_that_is_over(line):
    """The middle of three moments is where that of one lies in nine, and the first where the second does."""
    encoding = built(line, times=3)
    short_TlC = encoding.prepare(PICTURE.positions(times=3)).unflatten(0, (3, PLACES))
    long_TlC = encoding.prepare(PICTURE.positions(times=9)).unflatten(0, (9, PLACES))
    torch.testing.assert_close(long_TlC[1::3], short_TlC, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("moments", [2, 4, 7])
@pytest.mark.parametrize("line", NETWORKS)
def test_networks_are_asked_for_each_displacement_in_time_and_place(line, moments, make_loud):
    """By the formulas, pair by pair, in clips of the length that they were built for and of others."""
    encoding = make_loud(built(line))
    for parameter in encoding.parameters():
        if parameter.dim() == 1:  # fire's c and R, which start alike in all layers
            parameter.add_(torch.linspace(0.0, 0.5, len(parameter)))
    actual_HTlTl = scores(encoding, moments) - scores(build_encoding("none", **SIZE), moments)

    cells, place = encoding.cells, 0 if "shared" in line else 1
    weight_U3 = torch.cat([cells.time1[place], cells.weight1[place]], dim=1)
    expected_HTlTl = torch.empty_like(actual_HTlTl)
    for q_t, q_l, k_t, k_l in itertools.product(range(moments), range(PLACES), range(moments), range(PLACES)):
        apart = [q_t - k_t, q_l // 3 - k_l // 3, q_l % 3 - k_l % 3]
        if "log_cpb" in line:
            seen = [seen_by_log_cpb(d, built_for) for d, built_for in zip(apart, (TIMES, 2, 3), strict=True)]
        else:
            own = (encoding.log_scale_N[place].exp(), encoding.log_reach_scale_N[place].exp())
            in_time = encoding.log_time_scale_N[place].exp(), encoding.log_time_reach_scale_N[place].exp()
            each = zip(apart, (moments, 2, 3), (in_time, own, own), strict=True)
            seen = [seen_by_fire(d, side, *scales) for d, side, scales in each]
        hidden_U = (weight_U3 @ torch.tensor(seen) + cells.bias1[place]).relu()
        answer_H = cells.weight2[place] @ hidden_U
        answer_H = 16 * answer_H.sigmoid() - 8 if "log_cpb" in line else answer_H
        expected_HTlTl[:, q_t, q_l, k_t, k_l] = answer_H
    torch.testing.assert_close(actual_HTlTl, expected_HTlTl, atol=1e-4, rtol=1e-4)

    # Also with what is the layer's own alone, as it is compiled
    context = encoding.prepare(PICTURE.positions(times=moments))
    encoding.relate(context, context)
    alone = encoding.at_layer(context, 1)
    assert torch.equal(encoding.bias(alone, alone, 1), encoding.bias(context, context, 1))


def seen_by_log_cpb(apart: int, built_for: int) -> float:
    return math.copysign(math.log2(1 + 8 * abs(apart) / (built_for - 1)) / 3, apart)


def seen_by_fire(apart: int, side: int, c: Tensor, reach: Tensor) -> float:
    farthest = math.log(1 + c * max(reach, side - 1))
    return math.copysign(math.log(1 + c * abs(apart)) / farthest, apart)


@pytest.mark.parametrize("line", ["fourier", *TOGETHER, *NETWORKS])
def test_what_is_learned_of_time_gets_gradients_and_is_not_there_for_pictures(line, make_loud):
    encoding = make_loud(built(line))
    state, of_pictures = encoding.state_dict(), built(line, times=1).state_dict()
    assert of_pictures.keys() == {name for name in state if "time" not in name} < state.keys()

    context = encoding.prepare(PICTURE.positions(times=TIMES))
    seen = context if isinstance(context, Tensor) else encoding.bias(context, context, 0)
    if not isinstance(context, Tensor) and "shared" not in line:
        seen = seen + encoding.bias(context, context, 1)
    seen.square().sum().backward()
    for name, parameter in encoding.named_parameters():
        assert parameter.grad.flatten(1).any(1).all() if parameter.dim() > 1 else parameter.grad.all(), name


@torch.no_grad()
@pytest.mark.parametrize("line", RELATIVE)
def test_scores_know_how_far_apart_moments_are_and_not_which(line):
    """A shift in time changes none; within a moment they are a picture's, but for a number for all."""
    clip_HTlTl = scores(built(line))
    torch.testing.assert_close(clip_HTlTl[:, 1:, :, 1:], clip_HTlTl[:, :-1, :, :-1])
    assert (clip_HTlTl[:, 0, :, 2] - clip_HTlTl[:, 0, :, 0]).abs().max() > 1e-3

    extra_Hll = clip_HTlTl[:, 2, :, 2] - scores(built(line, times=1), times=1)[:, 0, :, 0]
    torch.testing.assert_close(extra_Hll, extra_Hll[:, :1, :1].expand(-1, PLACES, PLACES))

    # alibi alone is symmetric, and so blind to what is before and what after
    backwards_HTlTl = clip_HTlTl.flip(1, 3)
    assert torch.allclose(clip_HTlTl, backwards_HTlTl, atol=1e-5) is (line == "alibi")


def test_members_without_a_time_axis_say_so():
    have = {name for name, member in REGISTRY.items() if member.has_time}
    on_tokens = {"none", "learned", "factorized", "sinusoidal", "fourier", "coordinate", "mixed"}
    assert have == on_tokens | {"rope", "relative_bias", "alibi", "fire", "log_cpb"}
    for name in sorted(REGISTRY.keys() - have):
        with pytest.raises(
            ValueError, match=f"{name} has no time axis, which clips need; alibi, coordinate, factorized, "
        ):
            built(f"sinusoidal + {name}")
    with pytest.raises(ValueError, match="learned_grid has no time axis"):
        built("mixed(learned=1, learned_grid=1)")


@pytest.mark.parametrize("line", ["learned", "factorized", "relative_bias"])
def test_what_is_learned_of_moments_belongs_to_their_number(line):
    encoding = built(line)
    with pytest.raises(ValueError, match="was made for 4 moments, got a clip of 5"):
        scores(encoding, times=5)
