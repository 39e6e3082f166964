"""A codebook starts from data and stays alive, the same way on any number of processes."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from var_pe.models.initialisation import initialise
from var_pe.models.quantizers import QuantizerShape, build_quantizer
from var_pe.models.quantizers.vq import VQ
from var_pe.pyramid import Pyramid
from var_pe.tasks.codebook import (
    RestartConfig,
    clustered,
    follow_data,
    hits,
    perplexity,
    random_picks,
    restart_unused,
    squares,
    start_from_data,
    sums_by_code,
    vectors_at,
)

PYRAMID = Pyramid.square(1, 2, 4)


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


def a_quantizer(size=24):
    torch.manual_seed(0)
    quantizer = VQ(QuantizerShape(size, 4, num_phi=4, phi_ratio=0.5, commitment=0.25))
    torch.nn.init.normal_(quantizer.codebook_VZ)
    return quantizer


def test_perplexity_counts_the_codes_in_use():
    """Equal use of n codes is n; one code for everything is 1, which is what a collapsed codebook shows."""
    assert float(perplexity(torch.tensor([5.0, 5.0, 5.0, 0.0]))) == pytest.approx(3)
    assert float(perplexity(torch.tensor([7.0, 0.0]))) == pytest.approx(1)


def test_use_is_counted_level_by_level():
    """A collapse at 1x1 hides in the sum over levels: its tokens are a thirtieth of all."""
    tokens_BL = torch.tensor([[3] + [1] * 4 + [2] * 16])
    assert hits(tokens_BL, PYRAMID, 5).tolist() == [[0, 0, 0, 1, 0], [0, 4, 0, 0, 0], [0, 0, 16, 0, 0]]


def test_vectors_are_found_by_their_place_in_the_global_batch(accelerator):
    """Whichever process holds an image, the same vectors are taken."""
    z_BLZ = torch.randn(3, 5, 4)
    draw_numbers_B = torch.tensor([12, 10, 11])  # not in order, and counted from the start of the run
    picks_M2 = torch.tensor([[0, 4], [2, 1], [0, 0]])
    rows_MZ = vectors_at(picks_M2, 10, draw_numbers_B, z_BLZ, accelerator)
    assert torch.equal(rows_MZ, torch.stack([z_BLZ[1, 4], z_BLZ[0, 1], z_BLZ[1, 0]]))
    elsewhere = vectors_at(torch.tensor([[7, 0]]), 10, draw_numbers_B, z_BLZ, accelerator)
    assert not elsewhere.any()  # another process adds these


def test_picks_repeat_only_when_there_are_too_few():
    """Two equal codes are one code lost."""
    picks_M2 = random_picks(15, 5, 3, torch.Generator().manual_seed(0))
    assert len({tuple(pick) for pick in picks_M2.tolist()}) == 15
    assert len(random_picks(40, 5, 3, torch.Generator().manual_seed(0))) == 40


def test_the_codebook_starts_as_vectors_of_the_data(accelerator):
    """Codes far from all data are never used and never learn."""
    quantizer = a_quantizer()
    f_BZhw = 10 + torch.randn(16, 4, 4, 4)
    start_from_data(quantizer, f_BZhw, torch.arange(16), PYRAMID, batch=16, seed=0, accelerator=accelerator)
    coarsest_BZ = f_BZhw.mean((2, 3))
    distance = torch.cdist(quantizer.codebook_VZ[:8], coarsest_BZ).min(1).values
    assert distance.max() < 1e-5
    tokens_BL = quantizer(f_BZhw, PYRAMID).tokens_BL
    assert len(tokens_BL.unique()) > 12


@pytest.mark.parametrize("line", ["vq", "cosine(channels=4)"])
def test_centres_are_nearer_to_the_vectors_than_random_ones_of_them(line, accelerator):
    """Blobs of unlike sizes: of random vectors most lie in the largest, centres find the others as well."""
    generator = torch.Generator().manual_seed(0)
    blob_M = torch.tensor([0] * 208 + [1] * 16 + [2] * 16 + [3] * 16)
    f_MZ = 5 * torch.eye(4)[blob_M] + 0.1 * torch.randn(256, 4, generator=generator)
    f_BZhw = f_MZ.view(16, 4, 4, 4).movedim(3, 1)
    lost = []
    for kmeans in (False, True):
        quantizer = build_quantizer(line, QuantizerShape(8, 4, 0, 0.5, 0.25))
        initialise(quantizer, 0)
        given = dict(kmeans=kmeans, batch=16, seed=0, accelerator=accelerator)
        start_from_data(quantizer, f_BZhw, torch.arange(16), Pyramid.square(4), **given)
        distance_MV = torch.cdist(quantizer.coordinates(f_MZ), quantizer.codebook_VZ.detach())
        lost.append(float(distance_MV.min(1).values.square().mean()))
        assert line == "vq" or torch.allclose(quantizer.codebook_VZ.norm(dim=1), torch.ones(8))
    assert lost[1] < 0.7 * lost[0]


def test_a_centre_that_no_vector_belongs_to_stays(accelerator):
    """More codes than vectors: the mean over nothing would be NaN, or zero."""
    quantizer, z_MZ = a_quantizer(), torch.randn(5, 4)
    centres_KZ = torch.cat([z_MZ, 100 * torch.ones(1, 4)])
    torch.testing.assert_close(clustered(quantizer, centres_KZ, z_MZ, accelerator), centres_KZ)


def test_fewer_codes_than_levels_start_from_data_as_well(accelerator):
    """The first level's equal part is none of two codes by five: it would have nothing to round to."""
    quantizer, pyramid = a_quantizer(2), Pyramid.square(1, 2, 3, 4, 5)
    f_BZhw = 10 + torch.randn(16, 4, 5, 5)
    start_from_data(quantizer, f_BZhw, torch.arange(16), pyramid, batch=16, seed=0, accelerator=accelerator)
    coarsest_BZ = f_BZhw.mean((2, 3))
    assert torch.cdist(quantizer.codebook_VZ[:1], coarsest_BZ).min() < 1e-5
    assert quantizer.codebook_VZ.isfinite().all()


def test_only_codes_out_of_use_are_restarted(accelerator):
    """A restart of a code in use would destroy what it has learned."""
    quantizer = a_quantizer()
    before = quantizer.codebook_VZ.detach().clone()
    quantizer.usage_V.copy_(torch.full((24,), 1 / 22))
    quantizer.usage_V[[3, 7]] = 0.0
    z_BLZ = torch.randn(8, PYRAMID.num_tokens, 4)
    asked = dict(below=0.1, batch=8, step=5, seed=0, accelerator=accelerator)
    number = restart_unused(quantizer, z_BLZ, torch.arange(40, 48), **asked)
    changed = (quantizer.codebook_VZ != before).any(1).nonzero()[:, 0].tolist()
    assert number == 2
    assert changed == [3, 7]
    assert all((z_BLZ == row).all(-1).any() for row in quantizer.codebook_VZ[[3, 7]])
    assert (
        restart_unused(quantizer, z_BLZ, torch.arange(40, 48), **asked) == 0
    )  # they get time to prove themselves


@pytest.mark.parametrize("line", ["cosine(channels=3)", "cosine(channels=3, learning=ema)"])
def test_rows_of_fewer_channels_start_and_restart_as_directions(line, accelerator):
    """A row of another length would be averaged with a weight that it does not have."""
    quantizer = build_quantizer(line, QuantizerShape(24, 4, 4, 0.5, 0.25))
    initialise(quantizer, 0)
    f_BZhw = torch.randn(16, 4, 4, 4)
    asked = dict(batch=16, seed=0, accelerator=accelerator)
    start_from_data(quantizer, f_BZhw, torch.arange(16), PYRAMID, **asked)
    torch.testing.assert_close(quantizer.codebook_VZ.norm(dim=1), torch.ones(24))
    coarsest_BZ = quantizer.coordinates(f_BZhw.mean((2, 3)))
    assert torch.cdist(quantizer.codebook_VZ[:8], coarsest_BZ).min(1).values.max() < 1e-5

    quantizer.usage_V[[3, 7]] = 0.0
    z_BLZ = torch.randn(16, PYRAMID.num_tokens, 4)
    assert restart_unused(quantizer, z_BLZ, torch.arange(16), below=0.1, step=0, **asked) == 2
    rows_MZ = quantizer.coordinates(z_BLZ.flatten(0, 1))
    # Without products, whose rounding makes up distances of 1e-4.
    exact = "donot_use_mm_for_euclid_dist"
    assert torch.cdist(quantizer.codebook_VZ[[3, 7]], rows_MZ, compute_mode=exact).min(1).values.max() < 1e-5


@pytest.mark.parametrize("line", ["simvq", "fsq(levels=[4, 3, 2])", "bsq(bits=4)"])
def test_codes_that_are_not_learned_row_by_row_only_get_their_scale(line, accelerator):
    """There is nothing to fill, to restart or to average; and a trained model keeps the scale that it has."""
    quantizer = build_quantizer(line, QuantizerShape(24, 4, 4, 0.5, 0.25))
    initialise(quantizer, 0)
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    f_BZhw, asked = 3 * torch.randn(16, 4, 4, 4), dict(batch=16, seed=0, accelerator=accelerator)
    trained = quantizer.num_codes
    start_from_data(quantizer, f_BZhw, torch.arange(16), PYRAMID, first=trained, **asked)
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())

    start_from_data(quantizer, f_BZhw, torch.arange(16), PYRAMID, **asked)
    quantizer.usage_V[:3] = 0.0
    z_BLZ = torch.randn(16, PYRAMID.num_tokens, 4)
    assert restart_unused(quantizer, z_BLZ, torch.arange(16), below=0.1, step=0, **asked) == 0
    follow_data(quantizer, torch.ones(trained), quantizer.nearest(z_BLZ), z_BLZ, accelerator)
    changed = [name for name, value in quantizer.state_dict().items() if not torch.equal(value, before[name])]
    assert sorted(changed) in (
        ["codebook_map_ZZ", "usage_V"],
        ["codebook_projection.weight_FZ", "usage_V"],
    )


def test_averages_are_of_what_was_rounded_to_each_code(accelerator):
    """Counted token by token, in a loop."""
    quantizer = build_quantizer("vq(learning=ema, decay=0.5)", QuantizerShape(6, 4, 0, 0.5, 0.25))
    quantizer.fill(slice(0, 6), torch.randn(6, 4))
    z_BLZ = torch.randn(5, 7, 4)
    tokens_BL = quantizer.nearest(z_BLZ)
    sums_VZ = sums_by_code(z_BLZ.flatten(0, 1), tokens_BL.flatten(), 6)
    for code in range(6):
        rows = [z for z, token in zip(z_BLZ.flatten(0, 1), tokens_BL.flatten(), strict=True) if token == code]
        torch.testing.assert_close(sums_VZ[code], sum(rows, torch.zeros(4)))

    before_VZ = quantizer.ema_sum_VZ.clone()
    counts_V = hits(tokens_BL, Pyramid(((1, 7),)), 6)[0]
    follow_data(quantizer, counts_V, tokens_BL, z_BLZ, accelerator)
    torch.testing.assert_close(quantizer.ema_sum_VZ, 0.5 * (before_VZ + sums_VZ))
    torch.testing.assert_close(quantizer.ema_count_V, 0.5 * (1 + counts_V))


def test_distances_are_of_each_level():
    """Rounding that loses nothing is 0, codes of zero are 1."""
    quantizer = a_quantizer()
    quantized = quantizer(torch.randn(3, 4, 4, 4), PYRAMID)
    exact = replace(quantized, z_BLZ=quantizer.codes(quantized.tokens_BL))
    assert not squares(quantizer, exact, PYRAMID)[:, 0].any()
    torch.nn.init.zeros_(quantizer.codebook_VZ)
    lost_K, whole_K = squares(quantizer, quantized, PYRAMID).unbind(1)
    torch.testing.assert_close(lost_K, whole_K)
    torch.testing.assert_close(whole_K[0], quantized.z_BLZ[:, 0].square().sum())


def test_restart_settings_out_of_range_are_refused():
    """below = 1 would restart half of the codes at every turn."""
    with pytest.raises(ValueError, match="below must be float, above 0"):
        RestartConfig(below=1.0)
