"""The quantizer's walk equals the published algorithm, and there is only one walk."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from var_pe.models.quantizers.residual import QuantizerShape, phi_index
from var_pe.models.quantizers.vq import VQ
from var_pe.pyramid import Pyramid

PYRAMIDS = [
    Pyramid.square(1, 2, 3, 4),
    Pyramid(((1, 1), (2, 3), (4, 7))),
    Pyramid(((3, 5),)),
    Pyramid.square(1, 2, 3, 4, 5, 6, 8),
    Pyramid(((2, 1), (1, 4), (5, 4))),
]
FOUR = {  # which of four phis serves each of K levels, as VAR's published code says
    2: [0, 3],
    3: [0, 2, 3],
    4: [0, 1, 2, 3],
    5: [0, 1, 2, 2, 3],
    6: [0, 0, 1, 2, 3, 3],
    7: [0, 0, 1, 2, 2, 3, 3],
    8: [0, 0, 1, 1, 2, 2, 3, 3],
    9: [0, 0, 1, 1, 2, 2, 2, 3, 3],
    10: [0, 0, 1, 1, 1, 2, 2, 3, 3, 3],
    12: [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3],
    13: [0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3],
    14: [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3],
}


@pytest.fixture
def make_quantizer(make_loud):
    def make(num_phi: int = 4, **options) -> VQ:
        given = dict(num_phi=num_phi, phi_ratio=0.5, commitment=0.25)
        return make_loud(VQ(QuantizerShape(32, 4, **(given | options))))

    return make


def latent(pyramid: Pyramid, batch: int = 3) -> Tensor:
    return torch.randn(batch, 4, *pyramid.finest, generator=torch.Generator().manual_seed(0))


def published(quantizer: VQ, f_Zhw: Tensor, pyramid: Pyramid) -> tuple[list, Tensor, Tensor]:
    """VAR, algorithms 1 and 2 and equation 5, line by line for one image."""
    rest, f_hat, tokens, inputs, loss = f_Zhw[None], torch.zeros_like(f_Zhw[None]), [], [], 0.0
    for k, grid in enumerate(pyramid.grids):
        z = rest if grid == pyramid.finest else F.interpolate(rest, size=grid, mode="area")
        ids = [(quantizer.codebook_VZ - v).square().sum(1).argmin() for v in z[0].flatten(1).T]
        h = quantizer.codebook_VZ[torch.stack(ids)].T.reshape(1, -1, *grid)
        if grid != pyramid.finest:
            h = F.interpolate(h, size=pyramid.finest, mode="bicubic", align_corners=False)
        if len(quantizer.phi):
            phi = quantizer.phi[phi_index(k, pyramid.num_levels, len(quantizer.phi))]
            h = (1 - quantizer.phi_ratio) * h + quantizer.phi_ratio * phi(h)
        f_hat, rest = f_hat + h, rest - h
        loss += (1 + quantizer.commitment) * (f_hat - f_Zhw).square().mean() / pyramid.num_levels
        tokens += ids
        if k + 1 < pyramid.num_levels:
            inputs.append(F.adaptive_avg_pool2d(f_hat, pyramid.grids[k + 1])[0].flatten(1).T)
    return torch.stack(tokens), f_hat[0], torch.cat(inputs or [torch.zeros(0, 4)]), loss


@torch.no_grad()
@pytest.mark.parametrize("num_phi", [0, 1, 4, 7])
@pytest.mark.parametrize("pyramid", PYRAMIDS, ids=str)
def test_it_equals_the_published_algorithm(pyramid, num_phi, make_quantizer):
    """A checkpoint of VAR's means the same here, and so does a paper's description."""
    quantizer, f_BZhw = make_quantizer(num_phi, phi_ratio=0.3), latent(pyramid)
    quantized, losses = quantizer(f_BZhw, pyramid), []
    inputs_BLZ = quantizer.teacher_forcing(quantized.tokens_BL, pyramid)
    for i, f_Zhw in enumerate(f_BZhw):
        tokens_L, f_hat_Zhw, inputs_LZ, loss = published(quantizer, f_Zhw, pyramid)
        assert torch.equal(quantized.tokens_BL[i], tokens_L)
        torch.testing.assert_close(quantized.f_hat_BZhw[i], f_hat_Zhw, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(inputs_BLZ[i], inputs_LZ, atol=1e-5, rtol=1e-5)
        losses.append(loss)
    torch.testing.assert_close(quantized.loss, torch.stack(losses).mean())


def test_phis_are_shared_as_in_the_published_table():
    """Levels midway between two phis follow the published code's rounding: ten levels have two such."""
    for levels, expected in FOUR.items():
        assert [phi_index(level, levels, 4) for level in range(levels)] == expected
    for levels in range(1, 33):
        assert [phi_index(level, levels, levels) for level in range(levels)] == list(range(levels))
        assert {phi_index(level, levels, 1) for level in range(levels)} == {0}
    assert phi_index(0, 1, 4) == 3  # a level that is alone is the finest


@torch.no_grad()
@pytest.mark.parametrize("pyramid", PYRAMIDS, ids=str)
def test_teacher_forcing_shows_what_sampling_sees(pyramid, make_quantizer):
    """Training and drawing take one walk: the same inputs, bit for bit, and the same end."""
    quantizer = make_quantizer()
    tokens_BL = torch.randint(32, (2, pyramid.num_tokens), generator=torch.Generator().manual_seed(1))
    inputs_BLZ, first = quantizer.teacher_forcing(tokens_BL, pyramid), pyramid.spans[0].stop
    assert inputs_BLZ.shape == (2, pyramid.num_tokens - first, 4)
    f_hat_BZhw = quantizer.start(2, pyramid)
    for level, span in enumerate(pyramid.spans):
        if level:
            seen_BlZ = quantizer.input_for(f_hat_BZhw, level, pyramid)
            assert torch.equal(seen_BlZ, inputs_BLZ[:, span.start - first : span.stop - first])
        f_hat_BZhw = quantizer.add_level(f_hat_BZhw, tokens_BL[:, span], level, pyramid)
    assert torch.equal(f_hat_BZhw, quantizer.sum_of(tokens_BL, pyramid))


@torch.no_grad()
def test_an_image_s_tokens_do_not_depend_on_its_batch(make_quantizer):
    quantizer, f_BZhw = make_quantizer(), latent(PYRAMIDS[0], batch=5)
    together = quantizer(f_BZhw, PYRAMIDS[0]).tokens_BL
    assert torch.equal(torch.cat([quantizer(f[None], PYRAMIDS[0]).tokens_BL for f in f_BZhw]), together)


@torch.no_grad()
def test_what_was_rounded_is_nearest_to_its_code(make_quantizer):
    quantizer, pyramid = make_quantizer(), PYRAMIDS[1]
    quantized = quantizer(latent(pyramid), pyramid)
    assert torch.equal(torch.cdist(quantized.z_BLZ, quantizer.codebook_VZ).argmin(-1), quantized.tokens_BL)
    assert torch.equal(quantizer.nearest(quantizer.codebook_VZ[None]), torch.arange(32)[None])


def test_gradients_pass_straight_through(make_quantizer):
    """The encoder learns as if nothing had been rounded; codebook and phis learn from the loss."""
    quantizer, pyramid = make_quantizer(), PYRAMIDS[0]
    f_BZhw = latent(pyramid).requires_grad_()
    quantized = quantizer(f_BZhw, pyramid)
    into_BZhw = torch.randn_like(f_BZhw)
    (grad,) = torch.autograd.grad((quantized.f_hat_BZhw * into_BZhw).sum(), f_BZhw, retain_graph=True)
    assert torch.equal(grad, into_BZhw)
    quantized.loss.backward()
    encoder, codes, f_hat_BZhw = torch.zeros_like(f_BZhw), 0.0, quantizer.start(3, pyramid)
    for level, span in enumerate(pyramid.spans):
        f_hat_BZhw = quantizer.add_level(f_hat_BZhw, quantized.tokens_BL[:, span], level, pyramid)
        rest_BZhw = f_BZhw.detach() - f_hat_BZhw
        encoder += 0.25 * 2 * rest_BZhw.detach() / f_BZhw.numel() / 4  # the commitment alone reaches it
        codes = codes + rest_BZhw.square().mean() / 4  # and the other term alone the codes
    torch.testing.assert_close(f_BZhw.grad, encoder)
    (expected_VZ,) = torch.autograd.grad(codes, quantizer.codebook_VZ)
    torch.testing.assert_close(quantizer.codebook_VZ.grad, expected_VZ)
    used = torch.zeros(32, dtype=torch.bool)
    used[quantized.tokens_BL.flatten()] = True
    assert torch.equal(quantizer.codebook_VZ.grad.any(1), used)
    assert all(phi.weight.grad.any() and phi.bias.grad.any() for phi in quantizer.phi)


@pytest.mark.parametrize("pyramid", [PYRAMIDS[2], Pyramid.square(1, 2, 4)], ids=str)
def test_a_phi_that_no_level_uses_has_a_gradient_of_zeros(pyramid, make_quantizer):
    """Without one, a second process waits for it for ever and a checkpoint of the optimizer lacks it."""
    quantizer = make_quantizer()
    quantizer(latent(pyramid), pyramid).loss.backward()
    used = {phi_index(level, pyramid.num_levels, 4) for level in range(pyramid.num_levels)}
    assert len(used) < 4
    for index, phi in enumerate(quantizer.phi):
        assert phi.weight.grad.any() == phi.bias.grad.any() == (index in used)


@torch.no_grad()
def test_it_stays_float32_whatever_the_autocast(make_quantizer):
    """Tokens made under bf16 would not be the tokens that were trained on."""
    quantizer, pyramid = make_quantizer(), PYRAMIDS[0]
    exact = quantizer(latent(pyramid), pyramid)
    exact_inputs = quantizer.teacher_forcing(exact.tokens_BL, pyramid)
    with torch.autocast("cpu", torch.bfloat16):
        inside = quantizer(latent(pyramid), pyramid)
        inputs = quantizer.teacher_forcing(inside.tokens_BL, pyramid)
        summed = quantizer.sum_of(inside.tokens_BL, pyramid)
    assert torch.equal(inside.tokens_BL, exact.tokens_BL)
    assert torch.equal(inside.f_hat_BZhw, exact.f_hat_BZhw)
    assert torch.equal(inputs, exact_inputs)
    assert summed.dtype == torch.float32
    assert quantizer(latent(pyramid).bfloat16(), pyramid).f_hat_BZhw.dtype == torch.float32


@torch.no_grad()
def test_mixed_codes_stay_float32_whatever_the_autocast(make_quantizer):
    """A mixture in bf16 would be another picture than the same seed's in float32."""
    quantizer, pyramid = make_quantizer(), PYRAMIDS[0]
    share_BlV = torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(0)).softmax(-1)
    exact_BZhw = quantizer.add_mixed(quantizer.start(2, pyramid), share_BlV, 1, pyramid)
    with torch.autocast("cpu", torch.bfloat16):
        inside_BZhw = quantizer.add_mixed(quantizer.start(2, pyramid), share_BlV, 1, pyramid)
    assert torch.equal(inside_BZhw, exact_BZhw)


@pytest.mark.parametrize(
    "options", [{"codebook_size": 1}, {"num_phi": -1}, {"phi_ratio": 1.5}, {"phi_ratio": float("nan")}]
)
def test_sizes_that_make_no_quantizer_are_named(options):
    given = dict(codebook_size=8, latent_channels=4, num_phi=4, phi_ratio=0.5, commitment=0.25)
    with pytest.raises(ValueError, match=r"codebook_size >= 2, num_phi >= 0 and phi_ratio in \[0, 1\], got"):
        VQ(QuantizerShape(**(given | options)))


@torch.no_grad()
def test_tokens_and_inputs_equal_the_published_code_s(golden):
    """The published code's own numbers for a latent map, not our reading of it."""
    quantizer, pyramid = golden.tokenizer.quantizer, Pyramid.square(*golden.patch_nums)
    tokens_BL = quantizer(golden.expected["latent"], pyramid).tokens_BL
    assert torch.equal(tokens_BL, golden.expected["tokens"])
    inputs_BLZ = quantizer.teacher_forcing(tokens_BL, pyramid)
    torch.testing.assert_close(inputs_BLZ, golden.expected["teacher_forcing_input"], atol=2e-5, rtol=0)
