"""Features and logits of images, from which scores are computed, and the base class of their extractors.

Letters: `B` images of a batch, `N` images of a set, `F` features, `V` classes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from var_pe.settings.fields import Doc, FilePath, NonNegative, section


@section
class EvaluationConfig:
    features: Annotated[
        list[FilePath],
        Doc(
            "feature extractors: inception, efficientnet_lite0, _lite1, _lite2, each of these with "
            "_spatial, shapes, or the folder of a classifier's run; pictures of data.source=shapes are "
            "scored by shapes in any case"
        ),
    ] = field(default_factory=lambda: ["efficientnet_lite0"])
    inception_weights: Annotated[
        FilePath | None, Doc("a local file with torch-fidelity's weights; null: downloaded")
    ] = None
    reference_split: Annotated[Literal["train", "test"], Doc("split whose real images are compared with")] = (
        "test"
    )
    images: Annotated[
        NonNegative,
        Doc(
            "largest number of reference images; 0: as many as were drawn; never more than half the "
            "split, whose other half gives the floor"
        ),
    ] = 5000


@dataclass(frozen=True)
class Features:
    """The features and logits of a batch, both float32, on the images' device."""

    features_BF: Tensor
    logits_BV: Tensor


@dataclass(frozen=True)
class FeatureSet:
    """The features, logits and labels of a set of images; on the CPU, in the images' order."""

    # float32
    features_NF: Tensor
    logits_NV: Tensor

    # int64, -1 where an image's class is not known
    labels_N: Tensor

    def __len__(self) -> int:
        return len(self.features_NF)

    def take(self, index: Tensor) -> "FeatureSet":
        """The images of these numbers, for instance the first 5,000, without another pass."""
        return FeatureSet(self.features_NF[index], self.logits_NV[index], self.labels_N[index])


class FeatureExtractor(nn.Module):
    """Images to features; a subclass defines `describe`, the rest is the same for all.

    Always float32, without autocast and TF32: rounding would enter the score as a difference between sets.
    """

    # stands in the names of scores, unless they are `comparable`
    name: str
    weights_sha256: str

    # axes of a batch: 5 where it looks at clips, (B, frames, C, H, W)
    axes: int = 4

    # true of FID's Inception alone: its scores may be set beside published ones
    comparable: bool = False

    def describe(self, images_BCHW: Tensor) -> Features:
        """Features and logits of float images in [0, 255]."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, images_BCHW: Tensor) -> Features:
        """Takes uint8 images, grey or RGB; a network for RGB sees grey three times.

        Raises:
            ValueError: the images are not uint8 of shape (B, 1 or 3, H, W).
        """
        right = images_BCHW.dim() == self.axes and images_BCHW.shape[-3] in (1, 3)
        if images_BCHW.dtype != torch.uint8 or not right:
            raise ValueError(
                f"{self.name} needs uint8 images of shape (B, 1 or 3, H, W), "
                f"got {images_BCHW.dtype} of shape {tuple(images_BCHW.shape)}"
            )

        with _full_precision(images_BCHW.device.type):
            found = self.describe(images_BCHW.float())
        return Features(found.features_BF.float(), found.logits_BV.float())


@contextmanager
def _full_precision(device_type: str) -> Iterator[None]:
    """Neither autocast nor TF32 inside the block; the switches stand as before when it ends."""
    matmul = torch.backends.cuda.matmul
    convolution: Any = torch.backends.cudnn
    switches: list[tuple[object, str, object]] = [
        (matmul, "allow_tf32", False),
        (convolution, "allow_tf32", False),
    ]
    if hasattr(matmul, "fp32_precision"):  # torch 2.9 renamed them and refuses a mixture of old and new names
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
