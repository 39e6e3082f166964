"""An extractor that is there at once, and pictures for it."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from var_pe.evaluation.classifier import ClassifierFeatures


def pictures(count: int, channels: int = 3, side: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=generator)


class TinyClassifier(nn.Module):
    """Stands for a ViT of ours; dropout shows whether it is in evaluation mode."""

    config: ClassVar = {"image_channels": 3}

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.dropout, self.head = nn.Linear(3 * 32 * 32, 8), nn.Dropout(0.5), nn.Linear(8, 5)

    def pooled(self, images_BCHW: Tensor) -> Tensor:
        return self.dropout(self.stem(images_BCHW.flatten(1)).relu())

    def forward_head(self, features_BF: Tensor) -> Tensor:
        return self.head(features_BF)


def tiny() -> ClassifierFeatures:
    torch.manual_seed(0)
    return ClassifierFeatures(TinyClassifier(), "tiny", "0" * 64)
