"""The terms of the tokenizer's picture: what each pulls at, how they are weighed, and that off means off."""

import math

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from var_pe.models.discriminators import PatchDiscriminator
from var_pe.models.feature_stages import FeatureStages
from var_pe.processes import Processes
from var_pe.tasks.losses.adversarial import (
    MEMORY,
    R1_EVERY,
    AdversarialConfig,
    Adversary,
    discriminator_loss,
    lecam_penalty,
    r1_penalty,
    tokenizer_loss,
)
from var_pe.tasks.losses.augmentation import NUMBERS, augmented, moved, recoloured, uniforms
from var_pe.tasks.losses.colour import hue_errors
from var_pe.tasks.losses.last_layer import LastLayer
from var_pe.tasks.losses.perceptual import perceptual_distance
from var_pe.tasks.losses.picture import PictureLoss, adaptive_weight, shares
from var_pe.tasks.losses.reconstruction import reconstruction_terms
from var_pe.tasks.tokenizer_quality import validate_tokenizer

DRAWS = torch.arange(4)


class Eyes(FeatureStages):
    """Two convolutions with a trained network's manners."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.name, self.channels = "eyes", (4, 6)
        self.first, self.second = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)
        self.freeze()

    def maps(self, images_BCHW: Tensor) -> list[Tensor]:
        first = F.silu(self.first(images_BCHW))
        return [first, F.silu(self.second(first))]


def pictures(count=4, seed=0):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


class AnswersByBrightness(nn.Module):
    """A discriminator whose only logit is the picture's mean."""

    def forward(self, maps):
        return [maps[0].mean((1, 2, 3), keepdim=True)]


def adversary(steps=100, **options):
    config = AdversarialConfig(**({"weight": 0.5, "start": 0.0, "warmup": 0.0} | options))
    return Adversary(
        PatchDiscriminator(3, 8, 1, spectral=True, seed=0), None, config, steps=steps, seed=0, log_every=50
    )


@pytest.fixture
def decoder():
    """Two convolutions of which the last makes the picture."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.SiLU(), nn.Conv2d(5, 3, 3, padding=1))


def loss_of(decoder, weights, **options):
    last_layer = LastLayer(decoder[-1], Processes())
    last_layer.watch()
    terms = {"l1": 1.0, "l2": 1.0, "perceptual": 0.0} | weights
    return PictureLoss(terms, last_layer, **({"log_every": 50} | options))


def latents():
    return torch.randn(4, 2, 16, 16, generator=torch.Generator().manual_seed(2))


# ------------------------------------------------------------------------------------------- all terms


@pytest.mark.parametrize("step", [0, 1])
def test_without_further_terms_the_loss_is_what_it_was(decoder, step):
    """Bit for bit, also in the steps that log which term rules."""
    rebuilt = decoder(latents())
    terms = reconstruction_terms(rebuilt, pictures())
    wanted = 1.0 * terms["l1"] + 0.5 * terms["l2"]
    wanted_gradients = torch.autograd.grad(wanted, decoder.parameters())

    loss, values = loss_of(decoder, {"l2": 0.5}, log_every=2)(decoder(latents()), pictures(), DRAWS, step)
    assert torch.equal(loss, wanted)
    gradients = torch.autograd.grad(loss, decoder.parameters())
    assert all(torch.equal(a, b) for a, b in zip(gradients, wanted_gradients, strict=True))
    assert ("gradient_share/l1" in values) == (step == 0)


def test_a_game_that_has_not_begun_changes_nothing(decoder):
    """Before its start the discriminator is shown nothing and says nothing."""
    opponent = adversary(start=0.5)
    loss, _ = loss_of(decoder, {}, adversary=opponent)(decoder(latents()), pictures(), DRAWS, 49)
    assert torch.equal(loss, loss_of(decoder, {})(decoder(latents()), pictures(), DRAWS, 49)[0])
    assert opponent.loss(49) is None


def test_the_loss_is_the_weighted_sum_of_its_terms_in_value_and_gradient(decoder):
    """Gradients are taken term by term at the picture, and must add up to those of the plain sum."""
    eyes, opponent = Eyes(), adversary(adaptive_limit=0.0)
    rebuilt = decoder(latents())
    terms = reconstruction_terms(rebuilt, pictures())
    wanted = terms["l1"] + 2 * terms["l2"] + 0.3 * perceptual_distance(eyes, rebuilt, pictures())
    wanted = wanted + 0.5 * opponent.term(rebuilt, pictures(), DRAWS)
    wanted_gradients = torch.autograd.grad(wanted, decoder.parameters())

    again = adversary(adaptive_limit=0.0)
    term = loss_of(decoder, {"l2": 2.0, "perceptual": 0.3}, network=eyes, adversary=again)
    loss, values = term(decoder(latents()), pictures(), DRAWS, 0)
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(torch.autograd.grad(loss, decoder.parameters()), wanted_gradients)
    assert float(values["adversarial/weight"]) == 0.5


@pytest.mark.parametrize("pixels", [1, 2])
def test_the_last_layers_gradient_is_the_one_that_a_pass_through_the_model_gives(pixels):
    """It is computed from what the layer was given, without such a pass."""
    torch.manual_seed(1)
    decoder = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.SiLU(), nn.Conv2d(5, 3 * pixels**2, 3, padding=1)
    )
    last_layer = LastLayer(decoder[-1], Processes())
    last_layer.watch()
    rebuilt = F.pixel_shuffle(decoder(latents()[:, :, ::pixels, ::pixels]), pixels)
    loss = (rebuilt - pictures()).abs().mean()
    (at_picture,) = torch.autograd.grad(loss, rebuilt, retain_graph=True)
    (wanted,) = torch.autograd.grad(loss, decoder[-1].weight)
    torch.testing.assert_close(last_layer.gradients({"it": at_picture})["it"], wanted)


def test_the_shares_say_which_term_rules():
    """Three times the gradient is three quarters of it."""
    found = shares({"l1": torch.tensor([3.0, 0.0]), "perceptual": torch.tensor([0.0, 1.0])})
    assert {name: float(share) for name, share in found.items()} == {
        "gradient_share/l1": 0.75,
        "gradient_share/perceptual": 0.25,
    }


def test_the_adaptive_weight_is_the_ratio_of_norms_up_to_its_limit():
    """VQGAN's equation 7; a discriminator that says nothing would get all the weight in the world."""
    at_layer = {"l1": torch.tensor([3.0, 0.0]), "l2": torch.tensor([0.0, 4.0])}
    assert float(adaptive_weight(at_layer | {"adversarial": torch.tensor([0.0, 2.0])}, 10)) == pytest.approx(
        2.5
    )
    assert float(adaptive_weight(at_layer | {"adversarial": torch.tensor([0.0, 0.0])}, 10)) == 10


def test_the_adversarial_term_has_as_much_gradient_as_the_others_together(decoder):
    """What a weight of 1 then means does not depend on how sure the discriminator is."""
    term = loss_of(decoder, {}, adversary=adversary(weight=1.0, adaptive_limit=1e9))
    rebuilt = decoder(latents())
    _, values = term(rebuilt, pictures(), DRAWS, 0)
    plain = sum(reconstruction_terms(rebuilt, pictures()).values())
    others = torch.autograd.grad(plain, decoder[-1].weight)[0].norm()
    _, alone = loss_of(decoder, {"l1": 0.0, "l2": 0.0}, adversary=adversary(weight=1.0, adaptive_limit=0.0))(
        decoder(latents()), pictures(), DRAWS, 0
    )
    rebuilt = decoder(latents())
    term = adversary().term(rebuilt, pictures(), DRAWS)
    its = torch.autograd.grad(term, decoder[-1].weight)[0].norm()
    assert float(values["adversarial/weight"]) == pytest.approx(float(others / its), rel=1e-3)
    assert float(alone["gradient_share/adversarial"]) == pytest.approx(1.0)


def test_the_weight_rises_once_the_game_has_begun():
    """An untrained discriminator at full weight would only add noise."""
    opponent = adversary(steps=100, weight=2.0, start=0.5, warmup=0.1)
    weights = [opponent.weight(step) for step in (0, 49, 50, 54, 59, 99)]
    assert weights == pytest.approx([0.0, 0.0, 0.2, 1.0, 2.0, 2.0])
    assert adversary(steps=10, start=0.99).plays(9)  # of the last step at the latest, however few there are


# ------------------------------------------------------------------------------------------- colour


def test_hues_are_compared_in_flat_coloured_places_alone():
    """An orange that became yellow is 30 degrees off; a contour or a grey has no hue to get wrong."""
    image, rebuilt = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    image[:, :, :, :4] = torch.tensor([1.0, 0.0, -1.0])[:, None, None]  # orange, beside grey
    rebuilt[:, :, :, :4] = torch.tensor([0.0, 0.0, -1.0])[:, None, None]  # a weaker yellow
    degrees, kept = hue_errors(rebuilt, image)
    assert len(degrees) == 8 * 3
    torch.testing.assert_close(degrees, torch.full_like(degrees, 30.0), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(kept, torch.full_like(kept, 0.5))
    degrees, kept = hue_errors(torch.zeros_like(image), image)
    assert float(degrees.mean()) == pytest.approx(90.0)
    assert float(kept.mean()) == 0.0


# ------------------------------------------------------------------------------------------- perceptual


def test_a_step_down_the_perceptual_distance_comes_closer():
    """And only the reconstruction is moved, never the image."""
    eyes, images = Eyes(), pictures(seed=1).requires_grad_()
    rebuilt = pictures().requires_grad_()
    distance = perceptual_distance(eyes, rebuilt, images)
    distance.backward()
    assert images.grad is None
    closer = rebuilt.detach() - 0.1 * rebuilt.grad / rebuilt.grad.norm()
    assert perceptual_distance(eyes, closer, images) < distance
    assert float(perceptual_distance(eyes, images, images)) == 0.0


def test_a_map_of_zeros_has_a_gradient():
    """ReLUs leave places where no channel is active, and a root has no slope at zero."""
    eyes = Eyes()
    nn.init.zeros_(eyes.first.weight)
    nn.init.zeros_(eyes.first.bias)
    rebuilt = pictures().requires_grad_()
    perceptual_distance(eyes, rebuilt, pictures(seed=1)).backward()
    assert rebuilt.grad.isfinite().all()


# ------------------------------------------------------------------------------------------- the game


def test_hinge_and_non_saturating_losses_are_the_published_ones():
    """At logits of 2 for images and -0.5 for reconstructions."""
    image, rebuilt = [torch.full((1, 1, 2, 2), 2.0)], [torch.full((1, 1, 2, 2), -0.5)]
    assert float(discriminator_loss(image, rebuilt, "hinge")) == pytest.approx((0 + 0.5) / 2)
    assert float(tokenizer_loss(rebuilt, "hinge")) == pytest.approx(0.5)
    cross = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-0.5))) / 2
    assert float(discriminator_loss(image, rebuilt, "non_saturating")) == pytest.approx(cross)
    assert float(tokenizer_loss(rebuilt, "non_saturating")) == pytest.approx(math.log(1 + math.exp(0.5)))


def test_every_head_counts_the_same():
    """The finest map has hundreds of times as many places as the coarsest."""
    heads = [torch.full((1, 1, 16, 16), 1.0), torch.full((1, 1, 1, 1), -3.0)]
    assert float(tokenizer_loss(heads, "hinge")) == pytest.approx(1.0)


def test_the_tokenizers_term_moves_no_discriminator_and_is_fought():
    """Each player's gradient stays with it, and they pull against each other."""
    opponent, rebuilt = adversary(), pictures().requires_grad_()
    term = opponent.term(rebuilt, pictures(seed=1), DRAWS)
    term.backward()
    assert all(parameter.grad is None for parameter in opponent.module.parameters())
    assert all(parameter.requires_grad for parameter in opponent.module.parameters())

    loss, _ = opponent.loss(1)
    rebuilt.grad = None
    loss.backward()
    assert rebuilt.grad is None
    assert all(parameter.grad is not None for parameter in opponent.module.parameters())
    with torch.no_grad():
        for parameter in opponent.module.parameters():
            parameter -= 0.05 * parameter.grad
    assert opponent.term(rebuilt, pictures(seed=1), DRAWS) > term


def test_r1_is_half_the_squared_gradient():
    """Of logits that are a scalar product, that is half the squared length."""
    images, weight = pictures().requires_grad_(), torch.randn(3, 16, 16)
    logits = [(images * weight).sum((1, 2, 3))[:, None, None, None]]
    assert float(r1_penalty(logits, images)) == pytest.approx(float(weight.square().sum() / 2), rel=1e-4)


def test_r1_comes_every_sixteenth_step_with_sixteen_times_the_weight():
    """As StyleGAN2 has it: it is the dearest part of the loss."""
    losses = []
    for r1 in (0.0, 2.0):
        opponent = adversary(r1=r1)
        opponent.term(pictures(), pictures(seed=1), DRAWS)
        losses.append(opponent.loss(R1_EVERY))
    penalty = losses[1][1]["discriminator/r1"]
    assert float(losses[1][0] - losses[0][0]) == pytest.approx(float(32 * penalty), rel=1e-4)

    opponent.term(pictures(), pictures(seed=1), DRAWS)
    assert "discriminator/r1" not in opponent.loss(R1_EVERY + 1)[1]


def test_lecam_holds_the_logits_to_the_other_sides_mean():
    """Tseng et al. 2021: what lies between the two means costs nothing."""
    image, rebuilt = (
        [torch.tensor([1.0, -2.0])[:, None, None, None]],
        [torch.tensor([0.5])[:, None, None, None]],
    )
    found = lecam_penalty(image, rebuilt, torch.tensor(2.0), torch.tensor(-1.0))
    assert float(found) == pytest.approx((2.0**2 + 0) / 2 + 1.5**2)


@pytest.mark.parametrize(
    ("image", "rebuilt", "said"),
    [(3.0, -3.0, "has won"), (0.01, 0.005, "has died"), (1.0, 0.4, ""), (-0.5, 0.7, "")],
)
def test_a_game_that_is_over_is_said_once(capsys, image, rebuilt, said):
    """A person who is not told trains on against noise, or against nothing."""
    config = AdversarialConfig(weight=0.5, start=0.0)
    opponent = Adversary(AnswersByBrightness(), None, config, steps=100, seed=0, log_every=1)
    images, of_rebuilt = torch.full((1, 3, 2, 2), image), torch.full((1, 3, 2, 2), rebuilt)
    for step in range(3 * MEMORY):
        opponent.term(of_rebuilt, images, DRAWS[:1])
        opponent.loss(step)
        opponent.after_step(step, Processes(), torch.ones(()))
    printed = capsys.readouterr().out
    assert printed.count("\n") == bool(said)
    assert said in printed


# ------------------------------------------------------------------------------------------- augmentation


def test_without_a_kind_pictures_stay_as_they_are():
    images = pictures()
    assert augmented(images, torch.rand(4, NUMBERS), []) is images
    neutral = torch.tensor([[0.5, 0.5, 0.5]]).expand(4, -1)
    torch.testing.assert_close(recoloured(images, neutral), images)
    torch.testing.assert_close(moved(images, torch.full((4, 2), 0.5)), images)


@pytest.mark.parametrize(
    "kinds", [["color"], ["translation"], ["cutout"], ["color", "translation", "cutout"]]
)
def test_gradients_pass_every_change(kinds):
    """Otherwise the tokenizer would learn nothing of what the discriminator saw; in double precision."""
    images = pictures(2).double().requires_grad_()
    numbers = uniforms(torch.arange(2), NUMBERS, 0)
    assert not torch.equal(augmented(images, numbers, kinds), images)
    assert torch.autograd.gradcheck(lambda x: augmented(x, numbers, kinds)[:, :, ::5, ::5], images)


def test_pictures_are_moved_over_zeros_and_cut_by_half_a_side():
    """A shift of an eighth, and a box that is inside the picture at the middle of its range."""
    ones = torch.ones(2, 1, 16, 16)
    shifted = moved(ones, torch.tensor([[0.0, 0.5], [0.999, 0.5]]))
    assert shifted[0, 0, :2].sum() == 0 == shifted[1, 0, -2:].sum()
    assert shifted[0, 0, 2:].min() == shifted[1, 0, :-2].min() == 1
    holed = augmented(ones, torch.full((2, NUMBERS), 0.5), ["cutout"])
    assert int((holed[0, 0] == 0).sum()) == 8 * 8


def test_changes_belong_to_the_image_and_not_to_its_batch():
    """Any process that meets an image changes it alike, also after a resume."""
    numbers = uniforms(torch.arange(100, 164), NUMBERS, 5, "augmentation")
    assert torch.equal(numbers[7:9], uniforms(torch.tensor([107, 108]), NUMBERS, 5, "augmentation"))
    assert not torch.equal(numbers, uniforms(torch.arange(100, 164), NUMBERS, 6, "augmentation"))
    assert 0 <= numbers.min() < 0.02
    assert 0.98 < numbers.max() < 1
    assert numbers.mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_validation_tells_how_much_colour_is_left_where_there_is_some(make_tokenizer, channels):
    """Grey pictures have no hue, and a mean over nothing would be NaN."""
    tokenizer = make_tokenizer(image_channels=channels)
    images = [{"image": torch.ones(channels, 8, 8), "label": 0} for _ in range(3)]
    if channels == 3:
        images[1]["image"][1:] = -1.0  # red
    held_out = {tokenizer.pyramid: (images, (0, 0, 8, 8))}
    found = validate_tokenizer(tokenizer, held_out, Accelerator(cpu=True))
    assert ("validation/hue_error" in found) == ("validation/chroma_kept" in found) == (channels == 3)
    if channels == 3:
        rebuilt = tokenizer.decode(tokenizer.encode(images[1]["image"][None]))
        degrees, kept = hue_errors(rebuilt, images[1]["image"][None])
        assert found["validation/hue_error"] == pytest.approx(float(degrees.mean()), abs=1e-3)
        assert found["validation/chroma_kept"] == pytest.approx(float(kept.mean()), abs=1e-5)
