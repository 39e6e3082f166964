"""The images that scores compare: real ones, their reconstructions, and drawn ones."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from var_pe.data.images import ImageDataset
from var_pe.data.sources import open_source
from var_pe.evaluation.folder import ImageFolder, to_uint8
from var_pe.models.tokenizer import VQTokenizer
from var_pe.stages.config import Config
from var_pe.stages.models import held_out_images


class RealImages(Dataset[tuple[Tensor, int]]):
    """A split as the scores see it: uint8 images of the config's size and channels, with labels."""

    def __init__(self, config: Config, train: bool) -> None:
        if config.data.streaming:
            if train:
                raise ValueError(
                    "evaluation.reference_split train needs images by number: set data.streaming=false"
                )
            self.images: Any = held_out_images(config, 2 * (config.evaluation.images or 5000))
        else:
            source = open_source(config.data, train=train)
            self.images = ImageDataset(source, config.data, train=False, seed=0)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        item = self.images[index]
        return to_uint8(item["image"]), item["label"]


class Reconstructions(Dataset[tuple[Tensor, int]]):
    """The same images through the tokenizer, as the generator could draw them at best; computed in blocks."""

    def __init__(self, images: RealImages, tokenizer: VQTokenizer, block: int = 256) -> None:
        self.images, self.tokenizer, self.block = images, tokenizer, block
        self._start, self._held = -1, torch.empty(0)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        start = index - index % self.block
        if start != self._start:
            items = [self.images.images[i] for i in range(start, min(start + self.block, len(self)))]
            images_BCHW = torch.stack([item["image"] for item in items]).to(self.tokenizer.device)
            self._start, self._held = (
                start,
                to_uint8(self.tokenizer.decode(self.tokenizer.encode(images_BCHW))).cpu(),
            )
            self._labels = [item["label"] for item in items]
        return self._held[index - start], self._labels[index - start]


class Labelled(Dataset[tuple[Tensor, int]]):
    """A folder of drawn images, whose class stands in the name of their folder."""

    def __init__(self, folder: Path) -> None:
        self.images = ImageFolder(folder)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        name = self.images.files[index].parent.name if self.images.files else ""
        return self.images[index], int(name) if name.isdecimal() else -1
