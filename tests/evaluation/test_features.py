"""What every extractor promises: bytes in, exact float32 out, whatever the settings around it."""

import pytest
import torch

from tests.evaluation.tiny import pictures, tiny
from var_pe.evaluation.features import FeatureExtractor


def test_a_classifier_sees_minus_one_to_one_and_does_not_drop_out():
    """It was trained on [-1, 1]; bytes would saturate it, dropout would make the score random."""
    extractor, images = tiny(), pictures(4)
    found = extractor(images)
    features_BF = extractor.model.stem((images.float() / 127.5 - 1).flatten(1)).relu()
    torch.testing.assert_close(found.features_BF, features_BF)
    torch.testing.assert_close(found.logits_BV, extractor.model.head(features_BF))
    assert not found.features_BF.requires_grad


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
