"""LPIPS's two files: what is taken from them, and what is said where they are not what they should be."""

import pytest
import torch

from var_pe.interop import lpips
from var_pe.interop.lpips import load_lpips
from var_pe.models.feature_stages import VGG16Stages
from var_pe.tasks.losses.perceptual import perceptual_distance


@pytest.fixture
def files(tmp_path):
    """Generated weights under the published names."""
    torch.manual_seed(0)
    backbone = {name: value for name, value in VGG16Stages().state_dict().items() if "features" in name}
    heads = {
        f"lin{k}.model.1.weight": torch.rand(1, width, 1, 1) for k, width in enumerate(VGG16Stages().channels)
    }
    torch.save(backbone | {"classifier.0.bias": torch.zeros(2)}, tmp_path / "vgg16.pth")
    torch.save(heads, tmp_path / "heads.pth")
    return tmp_path / "vgg16.pth", tmp_path / "heads.pth", heads


def test_the_distance_is_that_of_lpips(files):
    """The article's equation 1: unit vectors, their squared difference by weight, the mean over places."""
    *paths, heads = files
    network = load_lpips(*paths)
    one, two = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    wanted = 0
    for k, (a, b) in enumerate(zip(network(one), network(two), strict=True)):
        a, b = (map / map.norm(dim=1, keepdim=True) for map in (a, b))
        wanted = wanted + ((a - b).square() * heads[f"lin{k}.model.1.weight"]).sum(1).mean()
    torch.testing.assert_close(perceptual_distance(network, one, two), wanted, rtol=1e-4, atol=1e-6)


def test_wrong_files_are_named_with_their_setting(files, tmp_path):
    """Swapped files would otherwise end in a list of keys."""
    backbone, heads, _ = files
    with pytest.raises(ValueError, match=r"lpips_weights .*vgg16.pth must hold lin0.model.1.weight"):
        load_lpips(backbone, backbone)
    with pytest.raises(
        ValueError, match=r"vgg16_weights .*heads.pth must hold torchvision's features.0.bias"
    ):
        load_lpips(heads, heads)
    with pytest.raises(ValueError, match="is not a file"):
        load_lpips(tmp_path / "none.pth", heads)


def test_without_network_or_file_one_sentence_says_what_to_give(files, monkeypatch, tmp_path):
    """The machine that trains often has no network."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))

    def offline(*arguments, **options):
        raise OSError("Name or service not known")

    monkeypatch.setattr(lpips.torch.hub, "download_url_to_file", offline)
    with pytest.raises(ValueError, match=r"vgg16-397923af.pth, .*perceptual.vgg16_weights=FILE"):
        load_lpips(None, files[1])
    with pytest.raises(ValueError, match=r"perceptual.vgg16_weights=.*none.pth is not a file"):
        load_lpips(tmp_path / "none.pth", None)
    with pytest.raises(ValueError, match=r"vgg.pth, .*perceptual.lpips_weights=FILE"):
        load_lpips(files[0], None)
