"""EfficientNet-Lite as a feature extractor, whose weights need no network."""

import torch
import torch.nn.functional as F
from torch import Tensor

from var_pe.evaluation.features import FeatureExtractor, Features
from var_pe.models.efficientnet_lite import STRIDE, VARIANTS, load_efficientnet_lite

SPATIAL = "_spatial"  # ends the name of features that keep their places
STAGE_OF_STRIDE_16 = 4
CHANNELS = 7


class EfficientNetLiteFeatures(FeatureExtractor):
    """EfficientNet-Lite's 1,280 pooled features and 1,000 ImageNet logits.

    Images of any size are brought to a square by an antialiased bicubic (PIL's, but not rounded to whole
    pixel values) and clamped to [0, 255].

    Args:
        network: a key of `VARIANTS`.
        size: side the network sees; 128 takes a third of the time of Lite0's own 224 and is what we report.
    """

    def __init__(self, network: str = "efficientnet_lite0", size: int = 128) -> None:
        super().__init__()
        if size < STRIDE or size % STRIDE:
            raise ValueError(f"{network}'s size must be a multiple of {STRIDE}, got {size}")

        self.size = size
        self.name = network if size == 128 else f"{network}_{size}"
        self.weights_sha256 = VARIANTS[network].weights_sha256
        self.model = load_efficientnet_lite(network).to(memory_format=torch.channels_last)

    def describe(self, images_BCHW: Tensor) -> Features:
        features_BF = self.model.forward_features(self.seen(images_BCHW))
        return Features(features_BF, self.model.forward_head(features_BF))

    def seen(self, images_BCHW: Tensor) -> Tensor:
        """The images as the network sees them."""
        if images_BCHW.shape[-2:] != (self.size, self.size):
            images_BCHW = F.interpolate(
                images_BCHW, (self.size, self.size), mode="bicubic", antialias=True, align_corners=False
            ).clamp(0, 255)

        images_BCHW = (images_BCHW.expand(-1, 3, -1, -1) - 127) / 128
        return images_BCHW.contiguous(memory_format=torch.channels_last)


class SpatialLiteFeatures(EfficientNetLiteFeatures):
    """Features that keep their places: seven channels of the map at stride 16, flattened.

    Nash et al. 2021 (arXiv 2103.03841, section on sFID) take the first seven channels of Inception's 17x17
    map so; here the map is 8x8. Their Frechet distance is a spatial one, and not comparable with papers.
    """

    def __init__(self, network: str = "efficientnet_lite0", size: int = 128) -> None:
        super().__init__(network, size)
        self.name += SPATIAL

    def describe(self, images_BCHW: Tensor) -> Features:
        images_BCHW = self.seen(images_BCHW)
        map_BChw = self.model.forward_stages(images_BCHW)[STAGE_OF_STRIDE_16]
        logits_BV = self.model(images_BCHW)
        return Features(map_BChw[:, :CHANNELS].flatten(1), logits_BV)
