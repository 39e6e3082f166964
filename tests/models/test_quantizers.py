"""Every quantizer: its codes are the published ones, it takes the one walk, it learns, it is saved whole."""

import itertools
import math

import pytest
import torch
from torch.nn.functional import normalize
from vector_quantize_pytorch import FSQ as TheirFSQ
from vector_quantize_pytorch import LFQ as TheirLFQ
from vector_quantize_pytorch import SimVQ as TheirSimVQ
from vector_quantize_pytorch import VectorQuantize as TheirVQ

from tests.conftest import QUANTIZER_VARIANTS, QUANTIZERS
from var_pe.models.choice import draw
from var_pe.models.initialisation import initialise
from var_pe.models.quantizers import REGISTRY, QuantizerShape, build_quantizer, codes_of
from var_pe.models.quantizers.bsq import entropy_of_bits
from var_pe.models.quantizers.residual import Redrawn
from var_pe.models.tokenizer import VQTokenizer
from var_pe.pyramid import Pyramid
from var_pe.settings.line import parse

PYRAMID = Pyramid.square(1, 2, 3, 4)
EVERY = [*QUANTIZERS, *QUANTIZER_VARIANTS]


def quantizer_of(line, *, codes=24, channels=4, num_phi=4, seed=0):
    quantizer = build_quantizer(line, QuantizerShape(codes, channels, num_phi, 0.5, 0.25))
    initialise(quantizer, seed)
    if line.startswith("vq"):
        torch.nn.init.normal_(quantizer.codebook_VZ, generator=torch.Generator().manual_seed(seed))
    return quantizer


def in_their_channels(line, channels):
    """A quantizer whose codes are not projected, as the other library has them."""
    quantizer = quantizer_of(line, channels=channels)
    torch.nn.init.eye_(quantizer.codebook_projection.weight_FZ)
    return quantizer


def latent(batch=3, channels=4):
    return torch.randn(batch, channels, *PYRAMID.finest, generator=torch.Generator().manual_seed(0))


def vectors(number, channels, seed=0):
    return torch.randn(1, number, channels, generator=torch.Generator().manual_seed(seed))


def own_loss(quantizer, z_BlZ):
    """The term on a level, where what coarser levels show does not matter."""
    tokens_Bl = quantizer.nearest(z_BlZ)
    return quantizer.own_loss(z_BlZ, torch.zeros_like(z_BlZ), tokens_Bl, 0, Pyramid.square(1))


def test_every_registered_quantizer_is_tested():
    assert {parse(line, "quantizer")[0].name for line in QUANTIZERS} == set(REGISTRY)


# ------------------------------------------------------------------------------------- for each of them


@pytest.mark.parametrize("line", EVERY)
def test_a_code_is_rounded_to_itself(line, make_loud):
    """Whatever the projection has become: a picture that is made of codes has these tokens."""
    for quantizer in (quantizer_of(line), make_loud(quantizer_of(line))):
        tokens_1V = torch.arange(quantizer.num_codes)[None]
        codes_1VZ = quantizer.codes(tokens_1V)
        assert codes_1VZ.shape == (1, quantizer.num_codes, 4)
        assert torch.equal(quantizer.nearest(codes_1VZ), tokens_1V)
        assert quantizer.num_codes == codes_of(line, 24) == len(quantizer.usage_V)


@pytest.mark.parametrize("line", EVERY)
def test_a_picture_of_no_change_has_a_gradient(line):
    """A code of zeros in the coarsest level, and nothing finer: norms of a map of zeros would overflow."""
    tokenizer = VQTokenizer(
        levels=(1, 2, 4),
        channels=8,
        channel_multipliers=(1, 1, 1),
        norm_groups=4,
        latent_channels=8,
        codebook_size=32,
        quantizer=line,
    )
    if tokenizer.quantizer.has_a_code_of_zeros:
        tokenizer.reconstruct(torch.zeros(2, 8, 4, 4)).square().mean().backward()
        gradients = [parameter.grad for parameter in tokenizer.decoder.parameters()]
        assert all(gradient.isfinite().all() for gradient in gradients)
        return

    codes_VZ = tokenizer.quantizer.codes(torch.arange(tokenizer.quantizer.num_codes))
    assert line.startswith("vq") or codes_VZ.norm(dim=-1).min() > 0


@pytest.mark.parametrize("line", EVERY)
def test_training_sampling_and_decoding_take_one_walk(line):
    """Teacher forcing shows what sampling sees, bit for bit, and both end where decoding ends."""
    quantizer = quantizer_of(line)
    quantized = quantizer(latent(), PYRAMID)
    torch.testing.assert_close(quantized.f_hat_BZhw, quantizer.sum_of(quantized.tokens_BL, PYRAMID))
    inputs_BLZ = quantizer.teacher_forcing(quantized.tokens_BL, PYRAMID)
    f_hat_BZhw = quantizer.start(3, PYRAMID)
    for level, span in enumerate(PYRAMID.spans):
        if level:
            seen_BlZ = quantizer.input_for(f_hat_BZhw, level, PYRAMID)
            assert torch.equal(seen_BlZ, inputs_BLZ[:, span.start - 1 : span.stop - 1])

        share_BlV = torch.nn.functional.one_hot(quantized.tokens_BL[:, span], quantizer.num_codes).float()
        mixed_BZhw = quantizer.add_mixed(f_hat_BZhw, share_BlV, level, PYRAMID)
        f_hat_BZhw = quantizer.add_level(f_hat_BZhw, quantized.tokens_BL[:, span], level, PYRAMID)
        torch.testing.assert_close(mixed_BZhw, f_hat_BZhw)
    assert torch.equal(f_hat_BZhw, quantizer.sum_of(quantized.tokens_BL, PYRAMID))


@torch.no_grad()
@pytest.mark.parametrize("line", EVERY)
def test_it_stays_float32_whatever_the_autocast(line):
    """Tokens made under bf16 would not be the tokens that were trained on."""
    quantizer = quantizer_of(line)
    exact = quantizer(latent(), PYRAMID)
    exact_inputs = quantizer.teacher_forcing(exact.tokens_BL, PYRAMID)
    with torch.autocast("cpu", torch.bfloat16):
        inside = quantizer(latent(), PYRAMID)
        inputs = quantizer.teacher_forcing(inside.tokens_BL, PYRAMID)
    assert torch.equal(inside.tokens_BL, exact.tokens_BL)
    assert torch.equal(inside.f_hat_BZhw, exact.f_hat_BZhw)
    assert torch.equal(inputs, exact_inputs)


@pytest.mark.parametrize("line", EVERY)
def test_all_that_is_trained_gets_a_gradient(line):
    """A second process would wait for ever for a gradient that never comes."""
    quantizer = quantizer_of(line).train()
    f_BZhw = latent().requires_grad_()
    quantized = quantizer(f_BZhw, PYRAMID)
    (quantized.loss + quantized.f_hat_BZhw.square().mean()).backward()
    idle = [name for name, p in quantizer.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle
    assert f_BZhw.grad.any()
    assert quantizer_of("vq(learning=ema)").codebook_VZ.requires_grad is False


@pytest.mark.parametrize("line", EVERY)
def test_a_few_steps_lower_the_loss(line, make_tokenizer):
    """Encoder, codes and decoder learn together on pictures that have something to learn."""
    tokenizer = make_tokenizer(quantizer=line, latent_channels=8, seed=1).train()
    side = torch.linspace(-1, 1, 8)
    pictures = torch.stack(
        [a * side[:, None] + b * side for a, b in itertools.product((-0.4, 0.4), repeat=2)]
    )
    pictures_BCHW = pictures[:, None].expand(-1, 3, -1, -1)
    tokenizer.quantizer.scale_to(tokenizer.latent(pictures_BCHW).detach().square().mean().sqrt())
    optimizer = torch.optim.AdamW([p for p in tokenizer.parameters() if p.requires_grad], lr=3e-3)
    errors = []
    for _ in range(40):
        rebuilt_BCHW, quantized = tokenizer(pictures_BCHW)
        error = (rebuilt_BCHW - pictures_BCHW).square().mean()
        errors.append(float(error.detach()))
        optimizer.zero_grad()
        (error + quantized.loss).backward()
        optimizer.step()
    assert sum(errors[-5:]) < 0.5 * sum(errors[:5])


@pytest.mark.parametrize("line", EVERY)
def test_saved_and_loaded_it_is_the_same(line, make_tokenizer, tmp_path):
    """Fixed codes, averages and the line itself are part of the model."""
    tokenizer = make_tokenizer(quantizer=line, seed=3)
    tokenizer.save_pretrained(tmp_path)
    loaded = VQTokenizer.from_pretrained(tmp_path)
    assert loaded.config["quantizer"] == line
    assert type(loaded.quantizer) is type(tokenizer.quantizer)
    ours, theirs = tokenizer.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    pictures_BCHW = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded.encode(pictures_BCHW), tokenizer.encode(pictures_BCHW))


def test_images_may_be_shown_from_their_coarsest_levels_alone():
    """The decoder gets the map of the first levels; tokens and loss are those of all."""
    quantizer, f_BZhw = quantizer_of("vq"), latent()
    whole = quantizer(f_BZhw, PYRAMID)
    some = quantizer(f_BZhw, PYRAMID, torch.tensor([1, 3, 4]))
    assert torch.equal(some.tokens_BL, whole.tokens_BL)
    assert torch.equal(some.loss, whole.loss)
    for image, levels in enumerate((1, 3, 4)):
        f_hat_BZhw = quantizer.start(1, PYRAMID)
        for level, span in enumerate(PYRAMID.spans[:levels]):
            tokens_Bl = whole.tokens_BL[image : image + 1, span]
            f_hat_BZhw = quantizer.add_level(f_hat_BZhw, tokens_Bl, level, PYRAMID)
        torch.testing.assert_close(some.f_hat_BZhw[image], f_hat_BZhw[0])


@pytest.mark.parametrize("line", ["cosine(channels=16)", "simvq", "fsq(levels=[8, 8, 8, 5])", "bsq(bits=12)"])
@pytest.mark.parametrize("rms", [0.02, 30.0])
def test_codes_start_as_large_as_what_they_stand_for(line, rms):
    """Codes a hundred times as large would be one code: that of zero, or of the mean."""
    quantizer = quantizer_of(line, codes=512, channels=16)
    quantizer.scale_to(torch.tensor(rms))
    f_BZhw = rms * latent(32, 16)
    quantized = quantizer(f_BZhw, PYRAMID)
    finest_BlZ = quantizer.codes(quantized.tokens_BL[:, PYRAMID.spans[-1]])
    within = quantizer.codebook_projection if line != "simvq" else None
    expected = rms * ((len(within.weight_FZ) / 16) ** 0.5 if within else 1.0)
    assert expected / 2 < float(finest_BlZ.square().mean().sqrt()) < 2 * expected
    assert len(quantized.tokens_BL.unique()) > 200


# -------------------------------------------------------------------------------------------- fsq


@pytest.mark.parametrize("levels", [[8, 8, 8, 5], [3, 4], [7, 5, 5, 5], [8, 6, 5]])
def test_the_codes_of_fsq_and_their_numbers_are_the_published_ones(levels):
    ours = in_their_channels(f"fsq(levels={levels})", len(levels))
    theirs = TheirFSQ(levels)
    tokens_V = torch.arange(math.prod(levels))
    codes_VF = ours.codes(tokens_V)
    torch.testing.assert_close(codes_VF, theirs.indices_to_codes(tokens_V))
    assert torch.equal(theirs.codes_to_indices(codes_VF).long(), tokens_V)
    assert torch.equal(ours.nearest(codes_VF[None])[0], tokens_V)


@pytest.mark.parametrize("levels", [[8, 5, 2], [3, 4, 6]])
def test_fsq_rounds_to_the_nearest_of_its_codes(levels):
    """Each channel on its own is the whole search."""
    quantizer = in_their_channels(f"fsq(levels={levels})", 3)
    z_BlZ = vectors(2000, 3)
    codes_VZ = quantizer.codes(torch.arange(quantizer.num_codes))
    assert torch.equal(quantizer.nearest(z_BlZ)[0], torch.cdist(z_BlZ[0], codes_VZ).argmin(1))


def test_fsq_with_odd_levels_rounds_as_the_published_one_with_a_hard_bound():
    """Its bound is a thousandth wider, so what lies that near the middle of two values may differ."""
    levels = [7, 5, 3]
    quantizer, theirs = in_their_channels(f"fsq(levels={levels})", 3), TheirFSQ(levels, bound_hard_clamp=True)
    z_BlZ = vectors(2000, 3)
    places_BlF = z_BlZ.clamp(-1, 1) * (torch.tensor(levels) // 2)
    clear_Bl = ((places_BlF - places_BlF.floor() - 0.5).abs() > 0.01).all(-1)
    ours_Bl, theirs_Bl = quantizer.nearest(z_BlZ), theirs(z_BlZ)[1].long()
    assert clear_Bl.float().mean() > 0.8
    assert torch.equal(ours_Bl[clear_Bl], theirs_Bl[clear_Bl])


# -------------------------------------------------------------------------------------------- bsq


@pytest.mark.parametrize("bits", [1, 5, 12])
def test_the_codes_of_bsq_and_their_numbers_are_the_published_ones(bits):
    ours = in_their_channels(f"bsq(bits={bits})", bits)
    theirs = TheirLFQ(dim=bits, spherical=True).eval()
    tokens_V = torch.arange(2**bits)
    codes_VF = ours.codes(tokens_V)
    torch.testing.assert_close(codes_VF, theirs.indices_to_codes(tokens_V))
    torch.testing.assert_close(codes_VF.norm(dim=1), torch.ones(2**bits))
    assert torch.equal(theirs(codes_VF[None])[1][0], tokens_V)

    z_BlZ = vectors(500, bits)
    assert torch.equal(ours.nearest(z_BlZ), theirs(z_BlZ)[1])
    assert torch.equal(ours.nearest(7 * z_BlZ), ours.nearest(z_BlZ))


def soft_shares(z_MF, temperature):
    """The probability of every code, directly: softmax over all codes of temperature times the cosine."""
    bits = z_MF.shape[1]
    signs_VF = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=bits)))
    return (temperature * normalize(z_MF, dim=1) @ (signs_VF * bits**-0.5).T).softmax(1)


def test_the_entropies_of_bsq_are_sums_over_all_codes():
    """Of one token the entropy is exact; of the mean it is that of bits which do not depend on each other."""
    quantizer = in_their_channels("bsq(bits=5, entropy=1, diversity=0, temperature=6)", 5)
    z_BlZ = vectors(40, 5)
    share_MV = soft_shares(z_BlZ[0], 6)
    direct = torch.special.entr(share_MV).sum(1).mean()
    torch.testing.assert_close(own_loss(quantizer, z_BlZ), direct)

    varied = in_their_channels("bsq(bits=5, entropy=0.5, diversity=3, temperature=6)", 5)
    signs_VF = torch.tensor(list(itertools.product((0.0, 1.0), repeat=5)))
    mean_F = share_MV.mean(0) @ signs_VF
    product_V = (signs_VF * mean_F + (1 - signs_VF) * (1 - mean_F)).prod(1)
    of_mean = torch.special.entr(product_V).sum()
    torch.testing.assert_close(own_loss(varied, z_BlZ), 0.5 * (direct - 3 * of_mean))
    assert of_mean >= torch.special.entr(share_MV.mean(0)).sum()
    torch.testing.assert_close(entropy_of_bits(mean_F), of_mean)


def test_the_entropy_of_bsq_s_tokens_equals_the_other_library_s():
    quantizer = in_their_channels("bsq(bits=6, entropy=1, diversity=0, temperature=8)", 6)
    z_BlZ = vectors(50, 6)
    _, parts = TheirLFQ(dim=6, spherical=True).train()(z_BlZ, inv_temperature=4.0, return_loss_breakdown=True)
    torch.testing.assert_close(own_loss(quantizer, z_BlZ), parts.per_sample_entropy, atol=1e-4, rtol=1e-4)


def test_the_entropies_of_bsq_are_trained_alone_with_training():
    """Encoding pictures costs nothing for them, and no process waits for another there."""
    quantizer = quantizer_of("bsq(bits=4)")
    plain = quantizer_of("bsq(bits=4, entropy=0)")
    assert torch.equal(quantizer.eval()(latent(), PYRAMID).loss, plain(latent(), PYRAMID).loss)
    assert not torch.equal(quantizer.train()(latent(), PYRAMID).loss, plain(latent(), PYRAMID).loss)


# ------------------------------------------------------------------------------------------------ vq

SHARES = torch.arange(1.0, 25) / 300  # of 24 codes


def test_a_rate_minimises_distance_plus_price_of_the_codes_that_were_used():
    """Written out once more, with a cost for each pair of vector and code."""
    quantizer, z_BlZ = quantizer_of("vq(rate=0.3)"), vectors(200, 4)
    quantizer.usage_V.copy_(SHARES)
    codes_VZ = quantizer.codebook_VZ.data
    share_V = (SHARES + 0.01 / 24) / 1.01
    worth = 0.3 * (share_V * codes_VZ.square().sum(1)).sum()
    cost_MV = torch.cdist(z_BlZ[0], codes_VZ).square() - worth * share_V.log()
    assert torch.equal(quantizer.nearest(z_BlZ)[0], cost_MV.argmin(1))
    assert not torch.equal(quantizer.nearest(z_BlZ), quantizer_of("vq").nearest(z_BlZ))


def test_a_rate_does_not_depend_on_how_large_latents_are():
    quantizer, z_BlZ = quantizer_of("vq(rate=0.3)"), vectors(200, 4)
    quantizer.usage_V.copy_(SHARES)
    tokens_Bl = quantizer.nearest(z_BlZ)
    quantizer.codebook_VZ.data *= 8
    assert torch.equal(quantizer.nearest(z_BlZ * 8), tokens_Bl)


def test_a_rate_is_nothing_while_all_codes_are_used_alike_and_costs_finite_where_one_is_not():
    quantizer, z_BlZ = quantizer_of("vq(rate=0.3)"), vectors(200, 4)
    assert torch.equal(quantizer.nearest(z_BlZ), quantizer_of("vq").nearest(z_BlZ))
    quantizer.usage_V.zero_()[3] = 1
    far_1Z = 50 * quantizer.codebook_VZ.data[:1]
    assert quantizer.nearest(far_1Z[None]).item() != 3


FORESEEN = "vq(rate=0.3, given=coarser)"


def loud(quantizer):
    """With an expectation that is as sure as a trained one; a new one expects all codes alike."""
    quantizer.expectation.codes.weight.data *= 50
    return quantizer


def test_a_price_by_what_coarser_levels_show_counts_a_cell_by_what_it_covers():
    """Written out once more: the error over all cells covered, plus the price of this cell's own surprise."""
    quantizer = quantizer_of(FORESEEN)
    quantizer.usage_V.copy_(SHARES)
    loud(quantizer)
    z_BlZ, seen_BlZ = latent().flatten(2).mT[:, :4], latent(4)[1:].flatten(2).mT[:, :4]
    codes_VZ = quantizer.codebook_VZ.data
    mean_V = (SHARES + 0.01 / 24) / 1.01
    mean_square = (mean_V * codes_VZ.square().sum(1)).sum()

    expected_BlV = quantizer.expectation(seen_BlZ / mean_square.sqrt(), 1, PYRAMID).exp()
    torch.testing.assert_close(expected_BlV.sum(-1), torch.ones(3, 4))
    price_BlV = -0.3 * mean_square * (0.95 * expected_BlV + 0.05 * mean_V).log()
    cost_BlV = 4 * torch.cdist(z_BlZ, codes_VZ.expand(3, -1, -1)).square() + price_BlV  # 2x2 of 4x4 cells
    tokens_Bl = quantizer.choose(z_BlZ, seen_BlZ, 1, PYRAMID)
    assert torch.equal(tokens_Bl, cost_BlV.argmin(-1))
    assert (tokens_Bl != quantizer.nearest(z_BlZ)).float().mean() > 0.1


def test_what_is_not_expected_at_all_has_a_price_all_the_same():
    """A cell that is quite unlike its surroundings can say so, whatever the expectation has become."""
    quantizer = quantizer_of(FORESEEN)
    quantizer.expectation.codes.bias.data[0] = 1e4  # all others: shares of exactly 0
    far_VZ = 50 * quantizer.codebook_VZ.data
    quantizer.codebook_VZ.data[5] = far_VZ[5]
    z_1lZ = far_VZ[5].expand(1, 16, -1)
    assert (quantizer.choose(z_1lZ, torch.zeros(1, 16, 4), 3, PYRAMID) == 5).all()


def test_a_foreseen_picture_has_the_same_tokens_alone_and_at_any_size_of_latents():
    """Otherwise a token cache would depend on its batches."""
    quantizer = loud(quantizer_of(FORESEEN, num_phi=0))
    tokens_BL = quantizer(latent(), PYRAMID).tokens_BL
    assert torch.equal(quantizer(latent()[1:2], PYRAMID).tokens_BL, tokens_BL[1:2])
    quantizer.codebook_VZ.data *= 8
    assert torch.equal(quantizer(latent() * 8, PYRAMID).tokens_BL, tokens_BL)

    half = loud(quantizer_of(FORESEEN)).bfloat16()
    rounded = quantizer_of(FORESEEN)
    rounded.load_state_dict({name: value.float() for name, value in half.state_dict().items()})
    seen_BlZ = latent().flatten(2).mT
    expected = half.expectation(seen_BlZ, 3, PYRAMID), rounded.expectation(seen_BlZ, 3, PYRAMID)
    assert torch.equal(*expected)


def test_an_expectation_knows_how_many_cells_a_cell_covers():
    """What 2x2 cells are likely to get depends on whether finer levels follow."""
    expectation = loud(quantizer_of(FORESEEN)).expectation
    first, second = (expectation(torch.zeros(1, 4, 4), 1, Pyramid.square(1, 2, side)) for side in (3, 4))
    assert not torch.allclose(first, second, atol=1e-2)


def test_an_expectation_learns_what_coarser_levels_settle_and_moves_nothing_else():
    """Its cells' tokens follow here from the sign of what is seen: in the end they cost next to nothing."""
    quantizer = quantizer_of(FORESEEN)
    z_BlZ, seen_BlZ = latent(8).flatten(2).mT, latent(9)[1:].flatten(2).mT
    tokens_Bl = (seen_BlZ[..., 0] > 0).long()
    optimizer = torch.optim.Adam(quantizer.expectation.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = quantizer.own_loss(z_BlZ, seen_BlZ, tokens_Bl, 3, PYRAMID)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item() / 0.01)
    assert losses[0] > 2
    assert losses[-1] < 0.2

    # In training the walk has the expectation's loss as well, in validation it has not
    gradients = []
    for training in (True, False):
        quantizer = loud(quantizer_of(FORESEEN)).train(training)
        f_BZhw = latent().requires_grad_()
        quantizer(f_BZhw, PYRAMID).loss.backward()
        gradients.append([f_BZhw.grad, quantizer.codebook_VZ.grad, quantizer.phi[0].weight.grad])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_a_restarted_code_is_expected_as_codes_are_on_the_whole():
    """What was expected of the vector that is gone would keep the new one from being chosen."""
    quantizer = loud(quantizer_of(FORESEEN))
    mean_W11 = quantizer.expectation.codes.weight.mean(0)
    chosen_V = torch.arange(24) == 5
    others_VW11 = quantizer.expectation.codes.weight[~chosen_V].clone()
    quantizer.replace(chosen_V, vectors(24, 4)[0])
    assert torch.equal(quantizer.codebook_VZ[5], vectors(24, 4)[0, 5])
    assert torch.equal(quantizer.expectation.codes.weight[5], mean_W11)
    assert torch.equal(quantizer.expectation.codes.weight[~chosen_V], others_VW11)


def redrawn(anew_BL):
    return Redrawn(anew_BL, torch.rand(*anew_BL.shape, 2, generator=torch.Generator().manual_seed(3)))


def test_tokens_are_drawn_anew_from_what_the_coarser_ones_let_expect_the_drawn_ones_too():
    """Written out once more. The tokens themselves, and what codes learn from, stay those of the picture."""
    quantizer = loud(quantizer_of(FORESEEN))
    plain = quantizer(latent(), PYRAMID)
    anew = redrawn(torch.rand(plain.tokens_BL.shape, generator=torch.Generator().manual_seed(4)) < 0.5)
    found = quantizer(latent(), PYRAMID, redrawn=anew)
    assert torch.equal(found.tokens_BL, plain.tokens_BL)
    assert torch.equal(found.loss, plain.loss)

    tokens_BL = plain.tokens_BL.clone()
    f_hat_BZhw = quantizer.start(len(tokens_BL), PYRAMID)
    for level, span in enumerate(PYRAMID.spans):
        seen_BlZ = quantizer.input_for(f_hat_BZhw, level, PYRAMID)
        drawn_Bl = draw(quantizer.expected(seen_BlZ, level, PYRAMID), anew.number_BL2[:, span])
        tokens_BL[:, span] = torch.where(anew.anew_BL[:, span], drawn_Bl, tokens_BL[:, span])
        f_hat_BZhw = quantizer.add_level(f_hat_BZhw, tokens_BL[:, span], level, PYRAMID)
    assert (tokens_BL != plain.tokens_BL).float().mean() > 0.3
    torch.testing.assert_close(found.f_hat_BZhw, f_hat_BZhw)

    # The picture's gradient reaches the encoder where nothing was drawn.
    f_BZhw = latent().requires_grad_()
    anew.anew_BL[0] = False
    quantizer(f_BZhw, PYRAMID, redrawn=anew).f_hat_BZhw.sum().backward()
    assert torch.equal(f_BZhw.grad[0], torch.ones_like(f_BZhw[0]))
    assert not f_BZhw.grad[1:].any()

    none = redrawn(torch.zeros_like(anew.anew_BL))
    assert torch.equal(quantizer(latent(), PYRAMID, redrawn=none).f_hat_BZhw, plain.f_hat_BZhw)


def test_levels_that_are_left_out_are_not_drawn_either():
    """An image that is rebuilt from its first two levels, all tokens of which are drawn anew."""
    quantizer = loud(quantizer_of(FORESEEN))
    number = len(latent())
    all_anew = redrawn(torch.ones(number, PYRAMID.num_tokens, dtype=torch.bool))
    whole = quantizer(latent(), PYRAMID, redrawn=all_anew).f_hat_BZhw
    two = quantizer(latent(), PYRAMID, torch.full((number,), 2), all_anew).f_hat_BZhw

    coarse = redrawn(torch.ones(number, PYRAMID.num_tokens, dtype=torch.bool))
    coarse.anew_BL[:, PYRAMID.spans[2].start :] = False
    assert torch.equal(quantizer(latent(), PYRAMID, torch.full((number,), 2), coarse).f_hat_BZhw, two)
    plain = quantizer(latent(), PYRAMID, torch.full((number,), 2)).f_hat_BZhw
    assert not any(torch.allclose(two, other, atol=1e-3) for other in (whole, plain))


def test_a_price_needs_a_rate():
    with pytest.raises(ValueError, match="given=coarser says what a token costs, so it needs a rate above 0"):
        quantizer_of("vq(given=coarser)")
    with pytest.raises(ValueError, match="given is one of usage, coarser, got 'finer'"):
        quantizer_of("vq(rate=0.1, given=finer)")


# ---------------------------------------------------------------------------------- simvq and cosine


def test_simvq_with_the_identity_is_the_plain_codebook():
    ours, plain = quantizer_of("simvq"), quantizer_of("vq")
    plain.codebook_VZ.data.copy_(ours.frozen_VZ)
    one, other = ours(latent(), PYRAMID), plain(latent(), PYRAMID)
    assert torch.equal(one.tokens_BL, other.tokens_BL)
    assert torch.equal(one.f_hat_BZhw, other.f_hat_BZhw)
    assert torch.equal(one.loss, other.loss)


def test_simvq_rounds_as_the_other_library_does(make_loud):
    ours, theirs = make_loud(quantizer_of("simvq")), TheirSimVQ(dim=4, codebook_size=24)
    theirs.frozen_codebook.copy_(ours.frozen_VZ)
    theirs.code_transform.weight.data.copy_(ours.codebook_map_ZZ.T)
    z_BlZ = vectors(200, 4)
    quantized, tokens, _ = theirs(z_BlZ)
    assert torch.equal(ours.nearest(z_BlZ), tokens)
    torch.testing.assert_close(ours.codes(tokens), quantized)


def test_the_fixed_codes_of_simvq_follow_from_the_seed():
    assert torch.equal(quantizer_of("simvq").frozen_VZ, quantizer_of("simvq").frozen_VZ)
    assert not torch.equal(quantizer_of("simvq").frozen_VZ, quantizer_of("simvq", seed=1).frozen_VZ)
    assert quantizer_of("simvq", codes=4096).frozen_VZ.std() == pytest.approx(0.5, rel=0.02)


def test_cosine_looks_at_directions_alone():
    """Neither the length of a vector nor that of a code changes a token or what it stands for."""
    quantizer, z_BlZ = quantizer_of("cosine(channels=3)"), vectors(200, 4)
    tokens_Bl, codes_BlZ = quantizer.nearest(z_BlZ), quantizer.codes(torch.arange(24))
    with torch.no_grad():
        quantizer.codebook_VZ *= torch.rand(24, 1) + 0.1
    assert torch.equal(quantizer.nearest(z_BlZ * (torch.rand(1, 200, 1) + 0.1)), tokens_Bl)
    torch.testing.assert_close(quantizer.codes(torch.arange(24)), codes_BlZ)


def test_cosine_rounds_as_the_other_library_does():
    ours = in_their_channels("cosine(channels=4)", 4)
    theirs = TheirVQ(dim=4, codebook_size=24, use_cosine_sim=True).eval()
    theirs._codebook.embed.copy_(normalize(ours.codebook_VZ.data, dim=1)[None])
    z_BlZ = vectors(200, 4)
    quantized, tokens, _ = theirs(z_BlZ)
    assert torch.equal(ours.nearest(z_BlZ), tokens)
    torch.testing.assert_close(ours.codes(tokens), quantized)


# ------------------------------------------------------------------------------------ moving averages


@pytest.mark.parametrize("line", ["vq", "cosine"])
def test_averaged_codes_move_as_the_other_library_s(line):
    """Three steps, so that counts and sums are averages of what they were."""
    cosine = line == "cosine"
    options = "channels=4, " if cosine else ""
    ours = quantizer_of(f"{line}({options}learning=ema, decay=0.8)")
    if cosine:
        torch.nn.init.eye_(ours.codebook_projection.weight_FZ)
    theirs = TheirVQ(4, 24, decay=0.8, threshold_ema_dead_code=0, use_cosine_sim=cosine).train()
    start_VZ = theirs._codebook.embed[0].clone()
    ours.fill(slice(0, 24), start_VZ)

    for step in range(3):
        z_BlZ = vectors(100, 4, seed=step)
        tokens_Bl = ours.nearest(z_BlZ)
        rows_MZ = ours.coordinates(z_BlZ[0])
        one_hot_MV = torch.nn.functional.one_hot(tokens_Bl[0], 24).float()
        assert torch.equal(theirs(z_BlZ)[1], tokens_Bl)
        ours.follow(one_hot_MV.sum(0), one_hot_MV.T @ rows_MZ)
        torch.testing.assert_close(ours.codebook_VZ.data, theirs._codebook.embed[0])


def test_averaged_codes_follow_the_published_formula():
    """Razavi et al. 2019: N <- d N + (1 - d) n, m <- d m + (1 - d) sum z, e = m / N."""
    quantizer = quantizer_of("vq(learning=ema, decay=0.9)", codes=2)
    quantizer.fill(slice(0, 2), torch.tensor([[1.0, 0, 0, 0], [0, 2.0, 0, 0]]))
    quantizer.follow(torch.tensor([3.0, 0.0]), torch.tensor([[6.0, 3.0, 0, 0], [0, 0, 0, 0]]))
    expected_VZ = torch.tensor([[(0.9 + 0.6) / 1.2, 0.3 / 1.2, 0, 0], [0, 2.0, 0, 0]])
    torch.testing.assert_close(quantizer.codebook_VZ.data, expected_VZ, atol=1e-4, rtol=1e-4)


# ------------------------------------------------------------------------------------------- sentences


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("vqq", "there is no quantizer 'vqq'; did you mean vq"),
        ("fsq", r"levels are the numbers of values of each channel, at least 2, such as \[8, 8, 8, 5\], got"),
        ("fsq(levels=[8, 1])", "at least 2"),
        ("fsq(levels=[16, 16, 16, 16, 16])", "make 1,048,576 codes, .* at most 65,536"),
        ("bsq(bits=13)", r"bits must be in 1 .. 12 \(a token has at most 4,096 codes, .*got 13"),
        ("bsq(entropy=-1)", "entropy and diversity must be at least 0"),
        ("bsq(bit=3)", "unknown key bit of bsq; did you mean bits"),
        ("cosine(channels=5)", "channels must be in 1 .. tokenizer.latent_channels = 4, got 5"),
        ("vq(gradient=steep)", "gradient is one of straight_through, rotation, got 'steep'"),
        ("vq(learning=slow)", "learning is one of gradient, ema, got 'slow'"),
        ("vq(learning=ema, decay=1)", r"decay must be in \(0, 1\), got 1"),
        ("vq(rate=-1)", r"rate must be in \[0, inf\), got -1"),
        ("vq + fsq", "there is one quantizer"),
        ("vq(simvq)", "there is one quantizer"),
        ("vq(learning=)", r"quantizer 'vq\(learning=\)' is not of the form name\(option=value\)"),
    ],
)
def test_what_is_no_quantizer_is_said_in_a_sentence(line, sentence):
    with pytest.raises(ValueError, match=sentence):
        quantizer_of(line)
