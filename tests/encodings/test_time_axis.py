"""What positions of clips promise, (t, y, x) in place of (y, x), for every encoding that has a time axis."""

import pytest
import torch
from torch import Tensor

from var_pe.encodings import REGISTRY, build_encoding
from var_pe.encodings.base import PositionEncoding
from var_pe.models.initialisation import initialise
from var_pe.pyramid import Pyramid

PICTURE = Pyramid(((2, 3),))
TIMES, PLACES = 4, 6
ON_TOKENS = ["learned", "learned(init=sinusoidal)", "factorized", "sinusoidal"]
RELATIVE = ["rope", "rope(directions=golden, unit=image)", "relative_bias", "alibi"]


def built(line: str, times: int = TIMES) -> PositionEncoding:
    encoding = build_encoding(line, dim=32, num_heads=4, depth=2, pyramid=PICTURE, times=times)
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
    assert have == {"none", "learned", "factorized", "sinusoidal", "mixed", "rope", "relative_bias", "alibi"}
    for name in sorted(REGISTRY.keys() - have):
        with pytest.raises(
            ValueError, match=f"{name} has no time axis, which clips need; alibi, factorized, "
        ):
            built(f"sinusoidal + {name}")
    with pytest.raises(ValueError, match="fourier has no time axis"):
        built("mixed(learned=1, fourier=1)")


@pytest.mark.parametrize("line", ["learned", "factorized", "relative_bias"])
def test_what_is_learned_of_moments_belongs_to_their_number(line):
    encoding = built(line)
    with pytest.raises(ValueError, match="was made for 4 moments, got a clip of 5"):
        scores(encoding, times=5)
