"""Guidance by scale: what the level before says of a cell, and what is done with it."""

import pytest
import torch
from scipy.fft import dctn
from torch.nn.functional import interpolate

from var_pe.models.scale_guidance import prior_matrix, prior_of
from var_pe.seeding import generator_for


@pytest.mark.parametrize(("coarse", "fine"), [((2, 2), (3, 4)), ((3, 2), (5, 5)), ((1, 1), (2, 2))], ids=str)
def test_the_prior_has_the_low_frequencies_of_the_coarse_map_and_the_others_of_its_interpolation(
    coarse, fine
):
    """Nothing of the coarse map is blurred away, and beyond it there is only what interpolating makes up."""
    (h, w), (rows, columns) = coarse, fine
    maps_lV = torch.randn(h * w, 3, generator=torch.Generator().manual_seed(0))
    prior_V = prior_of(maps_lV[None], coarse, fine)[0].T.unflatten(1, fine)
    maps_Vhw = maps_lV.T.unflatten(1, coarse)
    smooth_V = interpolate(maps_Vhw[None], size=fine, mode="bilinear")[0]
    for prior, own, smooth in zip(prior_V, maps_Vhw, smooth_V, strict=True):
        found, expected = (dctn(x.double().numpy(), norm="ortho") for x in (prior, smooth))
        expected[:h, :w] = dctn(own.double().numpy(), norm="ortho") * (rows * columns / (h * w)) ** 0.5
        assert found == pytest.approx(expected, abs=1e-5)


def test_a_constant_map_stays_constant_and_an_equal_grid_as_it_is():
    """A guided level must not be pushed by a mere difference of grids."""
    device = torch.device("cpu")
    torch.testing.assert_close(prior_matrix((2, 3), (4, 4), device).sum(1), torch.ones(16))
    torch.testing.assert_close(prior_matrix((3, 2), (3, 2), device), torch.eye(6))


def test_a_level_is_pushed_away_from_the_prior_and_no_other_one(make_generator, make_tokenizer, make_loud):
    """Greedy tokens of the level that is asked for follow the formula; those before it are as without."""
    model, tokenizer, seen = make_loud(make_generator()), make_tokenizer(), []
    model.head.register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))

    def drawn(**settings):
        seen.clear()
        labels_B = torch.tensor([0, 1])
        return model.generate(
            tokenizer,
            labels_B,
            generators=[generator_for(0, "image", number) for number in labels_B.tolist()],
            top_k=1,
            **settings,
        ).tokens_BL

    plain_BL = drawn()
    coarse_BlV, fine_BlV = seen[1:3]
    expected_BlV = fine_BlV + 3.0 * (fine_BlV - prior_of(coarse_BlV, (2, 2), (3, 3)))
    guided_BL = drawn(scale_guidance=[5.0, 0.0, 3.0, 0.0])
    assert torch.equal(guided_BL[:, :5], plain_BL[:, :5])
    assert torch.equal(guided_BL[:, 5:14], expected_BlV.argmax(-1))
    assert not torch.equal(guided_BL[:, 5:14], plain_BL[:, 5:14])
    assert torch.equal(drawn(scale_guidance=0.0), plain_BL)
