"""Frozen networks that show pictures at several depths: what perceptual terms compare and critics look at.

Pictures are in [-1, 1], grey or in colour, of any size; gradients pass through to them. Letters: `B` images,
`C` channels, `h w` a map's sides, which every stage has its own of.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from var_pe.models.classifier import Classifier
from var_pe.models.efficientnet_lite import STRIDE, EfficientNetLite, load_efficientnet_lite
from var_pe.models.hierarchy.classifier import HierarchicalClassifier
from var_pe.models.vit import ViTClassifier


class FeatureStages(nn.Module):
    """A frozen, trained network; a subclass defines `maps`."""

    # stands in the log
    name: str
    # whether a gradient at the pictures has itself a gradient
    twice_differentiable = True
    # of each stage's map
    channels: tuple[int, ...]

    def freeze(self, weights: Sequence[Tensor] | None = None) -> None:
        """Puts the network into evaluation for good; without `weights` each stage counts the same."""
        self.eval().requires_grad_(False)
        if weights is None:
            weights = [torch.full((width,), 1 / len(self.channels)) for width in self.channels]
        for index, weight_C in enumerate(weights):
            self.register_buffer(f"weight_{index}", weight_C)

    def weight_of(self, stage: int) -> Tensor:
        """The weight of a squared difference in each channel of a stage, (C,)."""
        return self.get_buffer(f"weight_{stage}")

    def train(self, mode: bool = True) -> "FeatureStages":
        """Stays in evaluation, whatever trains around it."""
        return super().train(False)

    def maps(self, images_BCHW: Tensor) -> list[Tensor]:
        """The map of each stage, (B, C, h, w), of pictures with the channels that the network takes."""
        raise NotImplementedError

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        return self.maps(images_BCHW)


def enlarged(images_BCHW: Tensor, height: int, width: int) -> Tensor:
    """Pictures of that size, bilinear; those that have it are left as they are."""
    if images_BCHW.shape[-2:] == (height, width):
        return images_BCHW
    return F.interpolate(images_BCHW, (height, width), mode="bilinear", antialias=True, align_corners=False)


class LiteStages(FeatureStages):
    """EfficientNet-Lite at strides 2, 4, 8, 16 and 32, the last block of each; of Lite0 16 to 320 channels.

    Sides below 64 are enlarged to 64, so that the coarsest map is not a single cell, and all others to the
    next multiple of 32, which meets the padding that the network was trained with.
    """

    # of the network's seven stages those after which the map is halved, and the last
    TAKEN = (0, 1, 2, 4, 6)
    SMALLEST = 64

    def __init__(self, name: str = "efficientnet_lite0", network: EfficientNetLite | None = None) -> None:
        super().__init__()
        self.name = name
        self.network = load_efficientnet_lite(name) if network is None else network
        self.network.to(memory_format=torch.channels_last)
        self.channels = tuple(self.network.widths[stage] for stage in self.TAKEN)
        self.freeze()

    def maps(self, images_BCHW: Tensor) -> list[Tensor]:
        height, width = (max(self.SMALLEST, -(-side // STRIDE) * STRIDE) for side in images_BCHW.shape[-2:])
        pixels_BCHW = 127.5 * (enlarged(images_BCHW, height, width).expand(-1, 3, -1, -1) + 1)
        pixels_BCHW = ((pixels_BCHW - 127) / 128).contiguous(memory_format=torch.channels_last)

        found = self.network.forward_stages(pixels_BCHW)
        return [found[stage] for stage in self.TAKEN]


class ClassifierStages(FeatureStages):
    """A classifier of our own: its patches' tokens after each quarter of the blocks.

    Pictures are brought to the size that it was trained on. A classifier of grey pictures sees no colour.

    Raises:
        ValueError: the pictures are in colour and the classifier is not.
    """

    # attention's fused kernels have no second derivative, nor have turned queries and keys
    twice_differentiable = False

    def __init__(self, classifier: ViTClassifier, name: str, image_channels: int) -> None:
        super().__init__()
        takes = channels_taken(classifier, name, image_channels)
        depth = len(classifier.blocks)
        layers = sorted({max(1, round(depth * quarter / 4)) - 1 for quarter in (1, 2, 3, 4)})
        self.name, self.takes, self.classifier = name, takes, classifier
        self.channels = (classifier.norm.normalized_shape[0],) * len(layers)
        self._seen: list[Tensor] = []
        for layer in layers:
            classifier.blocks[layer].register_forward_hook(self._see)
        self.freeze()

    def _see(self, block: nn.Module, given: object, tokens_BLC: Tensor) -> None:
        self._seen.append(tokens_BLC)

    def maps(self, images_BCHW: Tensor) -> list[Tensor]:
        self._seen = []
        resized_BCHW = enlarged(images_BCHW, *self.classifier.image_size)
        self.classifier.forward_tokens(resized_BCHW.expand(-1, self.takes, -1, -1))

        # Without the prefix tokens, which come first
        rows, columns = self.classifier.pyramid.finest
        patches = [tokens_BLC[:, -rows * columns :] for tokens_BLC in self._seen]
        self._seen = []
        return [rearrange(x_BLC, "B (h w) C -> B C h w", h=rows, w=columns) for x_BLC in patches]


class HierarchyStages(FeatureStages):
    """A classifier of our own in stages: the map that each gives. Pictures as in `ClassifierStages`.

    Raises:
        ValueError: the pictures are in colour and the classifier is not.
    """

    # attention's fused kernels have no second derivative, nor have turned queries and keys
    twice_differentiable = False

    def __init__(self, classifier: HierarchicalClassifier, name: str, image_channels: int) -> None:
        super().__init__()
        self.takes = channels_taken(classifier, name, image_channels)
        self.name, self.classifier = name, classifier
        self.channels = tuple(shape.dim for shape in classifier.shapes)
        self.freeze()

    def maps(self, images_BCHW: Tensor) -> list[Tensor]:
        resized_BCHW = enlarged(images_BCHW, *self.classifier.image_size)
        return self.classifier.forward_features(resized_BCHW.expand(-1, self.takes, -1, -1))


class StagesOfSeveral(FeatureStages):
    """Several networks as one: the maps of each, one network after another, each weighted as by itself."""

    def __init__(self, networks: Sequence[FeatureStages]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.name = " + ".join(network.name for network in networks)
        self.twice_differentiable = all(network.twice_differentiable for network in networks)
        self.channels = tuple(width for network in networks for width in network.channels)
        stages = [(network, stage) for network in networks for stage in range(len(network.channels))]
        self.freeze([network.weight_of(stage) for network, stage in stages])

    def maps(self, images_BCHW: Tensor) -> list[Tensor]:
        return [map_BChw for network in self.networks for map_BChw in network(images_BCHW)]


def channels_taken(classifier: Classifier, name: str, image_channels: int) -> int:
    """The channels that a classifier takes, of which pictures must not have more.

    Raises:
        ValueError: they have.
    """
    takes = int(classifier.config["image_channels"])
    if image_channels > takes:
        raise ValueError(
            f"{name} classifies pictures of {takes} channel, but data.channels is {image_channels}: name "
            "a classifier of colour pictures"
        )
    return takes


# VGG16 (Simonyan & Zisserman 2015, configuration D): widths of the convolutions between the poolings
VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
# what LPIPS takes from pictures in [-1, 1], and divides by
LPIPS_SHIFT = (-0.030, -0.088, -0.188)
LPIPS_SCALE = (0.458, 0.448, 0.450)


class VGG16Stages(FeatureStages):
    """VGG16 before each of its five poolings, as LPIPS takes it (Zhang et al. 2018, version 0.1).

    The convolutions are called as in torchvision's weights. Sides below 16, which five poolings would not
    leave a cell of, are enlarged to 16.

    Args:
        heads: LPIPS's linear heads, one non-negative weight a channel; None: untrained, for a test.
    """

    SMALLEST = 16

    def __init__(self, heads: Sequence[Tensor] | None = None) -> None:
        super().__init__()
        self.name = "vgg16"
        self.channels = tuple(widths[-1] for widths in VGG16)

        layers: list[nn.Module] = []
        self.taken: list[int] = []
        before = 3
        for stage, widths in enumerate(VGG16):
            if stage:
                layers.append(nn.MaxPool2d(2))
            for width in widths:
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
                before = width
            self.taken.append(len(layers) - 1)
        self.features = nn.ModuleList(layers)

        self.register_buffer("shift", torch.tensor(LPIPS_SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(LPIPS_SCALE)[:, None, None], persistent=False)
        self.freeze(heads)

    def maps(self, images_BCHW: Tensor) -> list[Tensor]:
        height, width = (max(self.SMALLEST, side) for side in images_BCHW.shape[-2:])
        x_BChw = enlarged(images_BCHW, height, width).expand(-1, 3, -1, -1)
        x_BChw = (x_BChw - self.get_buffer("shift")) / self.get_buffer("scale")

        found = []
        for index, layer in enumerate(self.features):
            x_BChw = layer(x_BChw)
            if index in self.taken:
                found.append(x_BChw)
        return found
