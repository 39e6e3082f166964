"""Discriminators: as large as the picture allows, alike under the same seed, and shifted by nothing."""

import pytest
import torch

from var_pe.models.discriminators import FeatureDiscriminator, PatchDiscriminator, halvings_for


@pytest.mark.parametrize(
    ("side", "halvings"), [(8, 1), (28, 1), (48, 1), (54, 1), (55, 2), (64, 2), (111, 2), (112, 3), (256, 3)]
)
def test_a_patch_is_less_than_the_picture(side, halvings):
    """A patch as large as the picture judges the whole, which a tokenizer gets right without help."""
    assert halvings_for(side, 2 * side) == halvings_for(2 * side, side) == halvings
    logits = PatchDiscriminator(1, 8, halvings, spectral=True, seed=0)([torch.zeros(2, 1, side, side)])
    assert logits[0].shape[:2] == (2, 1)


def test_pictures_too_small_for_patches_are_named():
    with pytest.raises(ValueError, match=r"at least 8 pixels a side, got 4x32.*discriminator=features"):
        halvings_for(4, 32)


@pytest.mark.parametrize(("halvings", "field"), [(1, 16), (2, 34), (3, 70)])
def test_the_receptive_field_is_the_one_that_is_said(halvings, field):
    """The rule of their size counts on it."""
    discriminator = PatchDiscriminator(1, 4, halvings, spectral=True, seed=0)
    picture = torch.randn(1, 1, 160, 160, requires_grad=True)
    (logits,) = discriminator([picture])
    middle = logits.shape[-1] // 2
    (gradient,) = torch.autograd.grad(logits[0, 0, middle, middle], picture)
    assert int((gradient[0, 0] != 0).any(0).sum()) == field


@pytest.mark.parametrize("spectral", [True, False])
def test_a_discriminator_follows_from_its_seed(spectral):
    """Spectral norms start from random vectors, which are not to come from torch's own generator."""
    states = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        states.append(FeatureDiscriminator([3, 5], 8, spectral=spectral, seed=4).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    other = FeatureDiscriminator([3, 5], 8, spectral=spectral, seed=5).state_dict()
    assert any(not torch.equal(states[0][name], other[name]) for name in other)


def test_spectral_norms_are_one():
    """This is what bounds how fast the discriminator's answer can change."""
    discriminator = PatchDiscriminator(3, 8, 1, spectral=True, seed=0)
    for _ in range(30):
        discriminator([torch.zeros(1, 3, 16, 16)])
    for layer in discriminator.layers:
        if isinstance(layer, torch.nn.Conv2d):
            assert float(torch.linalg.matrix_norm(layer.weight.flatten(1), 2)) == pytest.approx(1.0, abs=0.01)


def test_each_map_has_a_head_and_its_size_does_not_count():
    """Maps of one network differ by orders of magnitude."""
    discriminator = FeatureDiscriminator([4, 6], 8, spectral=False, seed=0)
    maps = [torch.randn(2, 4, 8, 8), torch.randn(2, 6, 4, 4)]
    logits = discriminator(maps)
    assert [tuple(head.shape) for head in logits] == [(2, 1, 8, 8), (2, 1, 4, 4)]
    for head, other in zip(logits, discriminator([100 * maps[0], maps[1] / 10]), strict=True):
        torch.testing.assert_close(head, other, rtol=1e-4, atol=1e-4)
