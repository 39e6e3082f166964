"""Inception: torch-fidelity's own numbers, and a weights file that is read but never run."""

import os
import pickle
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import nn
from torch_fidelity import feature_extractor_inceptionv3 as theirs

from tests.evaluation.tiny import pictures
from var_pe.evaluation import inception
from var_pe.evaluation.inception import InceptionFeatures


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory) -> Path:
    """Weights of the right shapes; He-normal, since torch's own initialisation gives features of 1e-8."""
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theirs, "load_state_dict_from_url", lambda *args, **kwargs: {})
        patch.setattr(theirs.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        model = theirs.FeatureExtractorInceptionV3("inception", ["2048"])
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(model.state_dict(), path)
    return path


def test_inception_is_torch_fidelitys(inception_weights):
    """Its number is called FID, so it has to be the one that papers print."""
    ours = InceptionFeatures(inception_weights)
    net = theirs.FeatureExtractorInceptionV3(
        "reference", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(inception_weights)
    )
    images = pictures(2)
    found, (features_BF, logits_BV) = ours(images), net(images)
    assert features_BF.std() > 0.01
    torch.testing.assert_close(found.features_BF, features_BF, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.logits_BV, logits_BV, rtol=1e-4, atol=1e-5)
    assert ours.comparable
    assert ours.name == "inception"
    assert len(ours.weights_sha256) == 64


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "save", [torch.save, lambda trap, path: path.write_bytes(pickle.dumps(trap, protocol=2))]
)
def test_a_weights_file_is_not_run(tmp_path, save):
    """torch-fidelity would unpickle it, and a pickle is a program."""
    save({"fc.weight": Trap(tmp_path / "sprung")}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"weights\.pth holds objects other than tensors"):
        InceptionFeatures(tmp_path / "weights.pth")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"state_dict": {"fc.weight": torch.zeros(1)}}, "must hold a flat dict of tensors"),
        ({"fc.weight": torch.zeros(1008, 2048)}, r"has other tensors than .*6726825d\.pth: .*Missing key"),
        (None, "is not a file"),
    ],
)
def test_another_file_than_inceptions_is_one_sentence(tmp_path, content, sentence):
    """torchvision's Inception, a training checkpoint and a slip of the pen are what people give."""
    path = tmp_path / "weights.pth"
    if content is not None:
        torch.save(content, path)
    with pytest.raises(ValueError, match=rf"--inception-weights .*weights\.pth {sentence}"):
        InceptionFeatures(path)


def test_without_a_network_the_ways_out_are_named(tmp_path, monkeypatch):
    """Offline is where most people meet this line."""

    def offline(*args, **kwargs):
        raise URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(ValueError, match="--inception-weights FILE, or use --features efficientnet_lite0"):
        InceptionFeatures()


def test_a_damaged_download_is_not_used(tmp_path, monkeypatch):
    """A file cut short by a full disk stays in torch.hub's folder, which does not look again."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / inception.FILE_NAME).write_bytes(b"half")
    with pytest.raises(ValueError, match="is damaged, its sha256 does not begin with 6726825d"):
        InceptionFeatures()
