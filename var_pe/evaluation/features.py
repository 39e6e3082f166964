"""What the scores look at: extractors that turn uint8 images into features and logits, and a pass over a set.

Inception is torch-fidelity's, so that its numbers compare with papers; the others need no download and are
never called FID. Letters: `B` images of a batch, `N` images of a set, `F` features, `V` classes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from var_pe.evaluation.efficientnet_lite import STRIDE, WEIGHTS_SHA256, load_efficientnet_lite0
from var_pe.evaluation.inception import load_inception
from var_pe.settings.rules import check_names, check_numbers


@dataclass(frozen=True)
class EvaluationConfig:
    features: list[str] = field(
        default_factory=lambda: ["efficientnet_lite0"]
    )  # each of: inception | efficientnet_lite0 | the folder of a classifier's run
    inception_weights: str | None = None  # a local file with torch-fidelity's weights; null: downloaded
    reference_split: str = "test"  # train | test: the real images to compare with
    images: int = (
        5000  # real images at most, 0: all; the floor compares two disjoint sets of at most half of them all
    )

    def __post_init__(self) -> None:
        check_names(self, reference_split=("train", "test"))
        check_numbers(self, images="[0, inf)")


@dataclass(frozen=True)
class Features:
    """What an extractor says about a batch; both float32, on the images' device."""

    features_BF: Tensor
    logits_BV: Tensor


@dataclass(frozen=True)
class FeatureSet:
    """What an extractor says about a set of images; float32 on the CPU, in the images' order."""

    features_NF: Tensor
    logits_NV: Tensor
    labels_N: Tensor | None = None

    def __len__(self) -> int:
        return len(self.features_NF)

    def take(self, index: Tensor) -> "FeatureSet":
        """The images at these places, for instance the first 5,000, without another pass."""
        labels_N = None if self.labels_N is None else self.labels_N[index]
        return FeatureSet(self.features_NF[index], self.logits_NV[index], labels_N)


class FeatureExtractor(nn.Module):
    """Images to features; a member writes `describe`, the rest is the same for all.

    Always float32, without autocast and TF32: rounding would enter the score as a difference between sets.
    """

    name: str  # goes into the scores' names unless comparable
    weights_sha256: str
    comparable: bool = False  # with papers: may its Frechet distance be called FID?

    def describe(self, images_BCHW: Tensor) -> Features:
        """Features and logits of float images in [0, 255]."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, images_BCHW: Tensor) -> Features:
        """Takes uint8 images, grey or RGB; a network for RGB sees grey three times.

        Raises:
            ValueError: the images are not uint8 of shape (B, 1 or 3, H, W).
        """
        if images_BCHW.dtype != torch.uint8 or images_BCHW.dim() != 4 or images_BCHW.shape[1] not in (1, 3):
            raise ValueError(
                f"{self.name} needs uint8 images of shape (B, 1 or 3, H, W), "
                f"got {images_BCHW.dtype} of shape {tuple(images_BCHW.shape)}"
            )
        with _full_precision(images_BCHW.device.type):
            found = self.describe(images_BCHW.float())
        return Features(found.features_BF.float(), found.logits_BV.float())


@contextmanager
def _full_precision(device_type: str) -> Iterator[None]:
    matmul: Any = torch.backends.cuda.matmul
    convolution: Any = torch.backends.cudnn
    switches: list[tuple[Any, str, Any]] = [(matmul, "allow_tf32", False), (convolution, "allow_tf32", False)]
    if hasattr(matmul, "fp32_precision"):  # torch 2.9 renamed them and does not bear a mixture
        switches = [(matmul, "fp32_precision", "ieee"), (convolution.conv, "fp32_precision", "ieee")]
    before = [getattr(owner, switch) for owner, switch, _ in switches]
    try:
        for owner, switch, exact in switches:
            setattr(owner, switch, exact)
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        for (owner, switch, _), value in zip(switches, before, strict=True):
            setattr(owner, switch, value)


class ClassifierFeatures(FeatureExtractor):
    """A classifier of our own, trained on the same data: it knows what ImageNet's networks never saw.

    Args:
        model: takes images in [-1, 1], of the size and channels it was trained on; has `forward_features`;
            `forward_head(features)` spares a second pass. It is put into evaluation mode.
        name: how the scores are labelled, for instance `fashion_vit`.
    """

    def __init__(self, model: nn.Module, name: str, weights_sha256: str) -> None:
        super().__init__()
        self.model, self.name, self.weights_sha256 = model.eval(), name, weights_sha256

    def describe(self, images_BCHW: Tensor) -> Features:
        model: Any = self.model
        images_BCHW = images_BCHW / 127.5 - 1
        features_BF = model.forward_features(images_BCHW)
        has_head = hasattr(model, "forward_head")
        return Features(features_BF, model.forward_head(features_BF) if has_head else model(images_BCHW))


class EfficientNetLite0Features(FeatureExtractor):
    """EfficientNet-Lite0's 1,280 pooled features and 1,000 ImageNet logits; its weights need no network.

    Images of any size are brought to a square by an antialiased bicubic (PIL's, but not rounded to whole
    pixel values) and clamped to [0, 255].

    Args:
        size: side the network sees; 128 takes a third of the time of its own 224 and is what we report.
    """

    def __init__(self, size: int = 128) -> None:
        super().__init__()
        if size < STRIDE or size % STRIDE:
            raise ValueError(f"efficientnet_lite0's size must be a multiple of {STRIDE}, got {size}")
        self.size = size
        self.name = "efficientnet_lite0" if size == 128 else f"efficientnet_lite0_{size}"
        self.weights_sha256 = WEIGHTS_SHA256
        self.model = load_efficientnet_lite0().to(memory_format=torch.channels_last)

    def describe(self, images_BCHW: Tensor) -> Features:
        if images_BCHW.shape[-2:] != (self.size, self.size):
            images_BCHW = F.interpolate(
                images_BCHW, (self.size, self.size), mode="bicubic", antialias=True, align_corners=False
            ).clamp(0, 255)
        images_BCHW = (images_BCHW.expand(-1, 3, -1, -1) - 127) / 128
        features_BF = self.model.forward_features(images_BCHW.contiguous(memory_format=torch.channels_last))
        return Features(features_BF, self.model.forward_head(features_BF))


class InceptionFeatures(FeatureExtractor):
    """FID's Inception (TensorFlow's of 2015, resize included) as torch-fidelity rebuilds it: 2,048 features.

    The logits are without bias, as the Inception score of papers has them.

    Args:
        weights: torch-fidelity's weights file; None downloads it once into torch.hub's folder.
    """

    name = "inception"
    comparable = True

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        self.model, self.weights_sha256 = load_inception(weights)

    def describe(self, images_BCHW: Tensor) -> Features:
        images_BCHW = images_BCHW.expand(-1, 3, -1, -1)
        features_BF, logits_BV = self.model(images_BCHW.to(torch.uint8))  # it insists on bytes
        return Features(features_BF, logits_BV)


def extract(
    extractor: FeatureExtractor,
    images: Sequence[Any],
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world: int = 1,
    gather: Callable[[list[Any]], list[Any]] | None = None,
    progress: Callable[[int], Any] | None = None,
) -> FeatureSet:
    """Passes a set of images through an extractor, in order; each process takes one contiguous share of it.

    The batch size changes the last digits of the features and nothing else.

    Args:
        images: a map-style set of uint8 CHW tensors, or of pairs (image, label).
        gather: with several processes, joins every process's list in the order of ranks:
            `accelerate.utils.gather_object`. All processes get the whole set.
        progress: called with the number of images done since the last call: `tqdm(...).update`.
    Raises:
        ValueError: no images, images of unequal sizes, or several processes without `gather`.
    """
    if len(images) == 0:
        raise ValueError("features need at least one image, got an empty set")
    if world > 1 and gather is None:
        raise ValueError(f"extract needs gather= when world > 1, got world = {world} and none")
    extractor = extractor.to(device).eval()
    first, last = rank * len(images) // world, (rank + 1) * len(images) // world
    parts = []
    for start in range(first, last, batch_size):
        index = range(start, min(start + batch_size, last))
        images_BCHW, labels_B = _stack([images[i] for i in index], index)
        found = extractor(images_BCHW.to(device))
        parts.append(FeatureSet(found.features_BF.cpu(), found.logits_BV.cpu(), labels_B))
        if progress is not None:
            progress(len(index))
    shares = [_join(parts)] if parts else []
    return _join(shares if gather is None else gather(shares))


def _stack(items: list[Any], index: range) -> tuple[Tensor, Tensor | None]:
    labelled = isinstance(items[0], tuple | list)
    images = [item[0] if labelled else item for item in items]
    for i, image in zip(index, images, strict=True):
        if image.shape != images[0].shape:
            raise ValueError(
                f"all images must have the same size, got {tuple(image.shape)} at {i} "
                f"and {tuple(images[0].shape)} at {index[0]}"
            )
    return torch.stack(images), torch.tensor([int(item[1]) for item in items]) if labelled else None


def _join(parts: list[FeatureSet]) -> FeatureSet:
    labels = [part.labels_N for part in parts if part.labels_N is not None]
    return FeatureSet(
        torch.cat([part.features_NF for part in parts]),
        torch.cat([part.logits_NV for part in parts]),
        torch.cat(labels) if labels else None,
    )
