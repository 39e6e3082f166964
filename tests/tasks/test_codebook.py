"""A codebook starts from data and stays alive, the same way on any number of processes."""

import pytest
import torch
from accelerate import Accelerator

from var_pe.models.quantizers.residual import QuantizerShape
from var_pe.models.quantizers.vq import VQ
from var_pe.pyramid import Pyramid
from var_pe.tasks.codebook import (
    RestartConfig,
    hits,
    perplexity,
    random_picks,
    restart_unused,
    start_from_data,
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


def test_restart_settings_out_of_range_are_refused():
    """below = 1 would restart half of the codes at every turn."""
    with pytest.raises(ValueError, match="below must be in"):
        RestartConfig(below=1.0)
