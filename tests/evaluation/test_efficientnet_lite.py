"""EfficientNet-Lite: the networks that their weights were trained in, and those weights only."""

import pytest
import torch

from tests.evaluation.tiny import pictures
from var_pe.evaluation.efficientnet_lite import EfficientNetLiteFeatures
from var_pe.models.efficientnet_lite import VARIANTS, EfficientNetLite, find_weights


@pytest.fixture(scope="module")
def lite0() -> EfficientNetLiteFeatures:
    return EfficientNetLiteFeatures()


@pytest.mark.parametrize(
    ("network", "wanted_F", "wanted_V", "best"),
    [
        (
            "efficientnet_lite0",
            [1.2809934, 0, 1.9693112, 0.4017669, 0, 0, 0, 0.9230061],
            [-0.1003196, 2.4268279, -1.0228935, 0.3743248],
            [782, 818, 470],
        ),
        (
            "efficientnet_lite1",
            [0, 0, 0.0075716, 0, 0, 0, 0, 0.5500782],
            [1.3799400, 3.5224879, -1.8488582, -1.6039938],
            [854, 782, 818],
        ),
        (
            "efficientnet_lite2",
            [0, 1.4520316, 0, 0, 0.0647282, 3.5298734, 0, 0],
            [-1.0132997, -0.2423535, -2.5534623, -2.1035302],
            [818, 619, 852],
        ),
    ],
)
def test_each_is_the_network_its_weights_were_trained_in(network, wanted_F, wanted_V, best):
    """Another padding, epsilon or activation would load the weights and ruin the features without a word.

    The numbers are those of PyPI efficientnet-lite-pytorch 0.1.0 at this size; its Lite0 is right on 17 of 20
    ImageNet pictures.
    """
    y, x = torch.meshgrid(torch.arange(128), torch.arange(128), indexing="ij")
    images = torch.stack([y * 2, x * 2, (x * y) % 256])[None].to(torch.uint8)
    found = EfficientNetLiteFeatures(network)(images)
    torch.testing.assert_close(found.features_BF[0, :8], torch.tensor(wanted_F), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.logits_BV[0, :4], torch.tensor(wanted_V), rtol=1e-4, atol=1e-4)
    assert found.logits_BV[0].topk(3).indices.tolist() == best


def test_folding_the_norms_changes_no_feature(lite0):
    """It is done for speed alone."""
    plain = EfficientNetLite().eval()
    plain.load_state_dict(torch.load(find_weights("efficientnet_lite0"), weights_only=True))
    images = pictures(2, side=128)
    with torch.no_grad():
        features_BF = plain.forward_features((images.float() - 127) / 128)
    torch.testing.assert_close(lite0(images).features_BF, features_BF, rtol=1e-4, atol=1e-4)


def test_lite0_sees_grey_as_rgb(lite0):
    """Fashion-MNIST has one channel, the network three."""
    grey = pictures(2, channels=1)
    found, wanted = lite0(grey), lite0(grey.repeat(1, 3, 1, 1))
    torch.testing.assert_close(found.features_BF, wanted.features_BF, rtol=1e-4, atol=1e-5)


def test_large_images_are_averaged_not_thinned_out(lite0):
    """Without antialiasing every third pixel of a checkerboard is a checkerboard again."""
    y, x = torch.meshgrid(torch.arange(384), torch.arange(384), indexing="ij")
    board = (((y + x) % 2) * 255).to(torch.uint8).expand(1, 3, -1, -1)
    flat = torch.full((1, 3, 128, 128), 127, dtype=torch.uint8)
    thinned = board[..., 1::3, 1::3]
    found, wanted, wrong = (lite0(images).features_BF for images in (board, flat, thinned))
    assert (found - wanted).norm() < 0.2 * (found - wrong).norm()


def test_lite0_without_its_package_says_what_to_install(monkeypatch):
    """The package is optional; a traceback of importlib would not name the extra."""
    missing = VARIANTS["efficientnet_lite0"]._replace(weights_package="var_pe_no_such_package")
    monkeypatch.setitem(VARIANTS, "efficientnet_lite0", missing)
    with pytest.raises(ValueError, match=r"needs its weights: pip install 'var_pe\[offline\]'"):
        EfficientNetLiteFeatures()


def test_lite0_with_other_weights_is_refused(monkeypatch):
    """Numbers of another release of the weights could not be compared with ours."""
    other = VARIANTS["efficientnet_lite0"]._replace(weights_sha256="1" * 64)
    monkeypatch.setitem(VARIANTS, "efficientnet_lite0", other)
    with pytest.raises(ValueError, match=r"needs a \.pth of sha256 1111"):
        EfficientNetLiteFeatures()


def test_lite0_only_takes_sizes_it_pads_as_trained():
    with pytest.raises(ValueError, match="size must be a multiple of 32, got 100"):
        EfficientNetLiteFeatures(size=100)
