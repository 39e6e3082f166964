"""What every extractor promises: bytes in, exact float32 out, whatever the settings around it."""

import pytest
import torch

from tests.evaluation.tiny import pictures, tiny
from var_pe.evaluation.classifier import ClassifierFeatures
from var_pe.evaluation.features import FeatureExtractor


def test_a_classifier_sees_minus_one_to_one_and_does_not_drop_out():
    """It was trained on [-1, 1]; bytes would saturate it, dropout would make the score random."""
    extractor, images = tiny(), pictures(4)
    found = extractor(images)
    features_BF = extractor.model.stem((images.float() / 127.5 - 1).flatten(1)).relu()
    torch.testing.assert_close(found.features_BF, features_BF)
    torch.testing.assert_close(found.logits_BV, extractor.model.head(features_BF))
    assert not found.features_BF.requires_grad


def test_a_classifier_of_colour_sees_grey_three_times_one_of_grey_no_colour_at_all(make_vit):
    """Else torch says so in the first convolution, in its own words and after what may be hours."""
    grey = pictures(2, channels=1)
    colour = ClassifierFeatures(make_vit(image_size=(32, 32), patch_size=8), "colour", "0" * 64)
    torch.testing.assert_close(colour(grey).features_BF, colour(grey.expand(-1, 3, -1, -1)).features_BF)

    of_grey = ClassifierFeatures(
        make_vit(image_size=(32, 32), patch_size=8, image_channels=1), "grey", "0" * 64
    )
    assert len(of_grey(grey).features_BF) == 2
    with pytest.raises(ValueError, match="grey classifies pictures of 1 channel, but these have 3"):
        of_grey(pictures(2))


def test_a_classifier_that_is_set_to_another_size_is_named(make_vit):
    """Of several extractors it has to be plain which one it is."""
    extractor = ClassifierFeatures(make_vit(image_size=(32, 32), patch_size=8), "runs_vit", "0" * 64)
    with pytest.raises(ValueError, match="runs_vit: the classifier is set to grids of 4"):
        extractor(pictures(1, side=16))


def test_autocast_does_not_reach_the_features():
    """bfloat16 has three digits; a difference between sets may be smaller."""
    images, extractor = pictures(4), tiny()
    with torch.autocast("cpu", torch.bfloat16):
        found = extractor(images)
    assert found.features_BF.dtype == torch.float32
    assert torch.equal(found.features_BF, extractor(images).features_BF)


class SpyOnPrecision(FeatureExtractor):
    name = "spy"

    def describe(self, images_BCHW):
        self.seen = torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision
        raise RuntimeError("out of memory")


@pytest.fixture
def tf32_switches():
    """Matrix products and convolutions, both set to TF32 and put back afterwards."""
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("torch < 2.9 names them otherwise")
    switches = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = [switch.fp32_precision for switch in switches]
    for switch in switches:
        switch.fp32_precision = "tf32"
    yield switches
    for switch, value in zip(switches, before, strict=True):
        switch.fp32_precision = value


def test_tf32_is_off_for_the_features_and_as_it_was_afterwards(tf32_switches):
    """Convolutions on a GPU have ten bits by default; training keeps its own choice, also after an error."""
    spy = SpyOnPrecision()
    with pytest.raises(RuntimeError, match="out of memory"):
        spy(pictures(1))
    assert spy.seen == ("ieee", "ieee")
    assert [switch.fp32_precision for switch in tf32_switches] == ["tf32", "tf32"]


@pytest.mark.parametrize("images", [torch.zeros(2, 3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8)])
def test_only_batches_of_bytes_are_taken(images):
    """Floats in [0, 1] would pass for black pictures."""
    with pytest.raises(ValueError, match=r"tiny needs uint8 images of shape \(B, 1 or 3, H, W\), got torch"):
        tiny()(images)
