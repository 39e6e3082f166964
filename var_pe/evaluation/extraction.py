"""Computes the features of a set of images, on one process or shared by several."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from var_pe.evaluation.features import FeatureExtractor, FeatureSet
from var_pe.processes import Processes


class ScoredImages(Protocol):
    """Images by number, each as uint8 (C, H, W) with its label, -1 where that is not known."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Tensor, int]: ...


def extract(
    extractor: FeatureExtractor,
    images: ScoredImages,
    *,
    batch_size: int = 64,
    processes: Processes = Processes(),
    on_progress: Callable[[int], object] = lambda number: None,
) -> FeatureSet:
    """Features of all images, in order: each process computes those of its share and gets the whole set.

    The batch size changes the last digits of the features and nothing else. `on_progress(n)` is called when
    this process is done with n more images.

    Raises:
        ValueError: there are no images, or they have different sizes.
    """
    if len(images) == 0:
        raise ValueError("features need at least one image, got an empty set")

    extractor = extractor.to(processes.device).eval()
    share = processes.share(len(images))
    parts = []
    for start in range(share.start, share.stop, batch_size):
        numbers = range(start, min(start + batch_size, share.stop))
        images_BCHW, labels_B = _batch(images, numbers)
        found = extractor(images_BCHW.to(processes.device))
        parts.append(FeatureSet(found.features_BF.cpu(), found.logits_BV.cpu(), labels_B))
        on_progress(len(numbers))

    return _join(processes.gather(parts))


def _batch(images: ScoredImages, numbers: range) -> tuple[Tensor, Tensor]:
    pictures, labels = [], []
    for number in numbers:
        image_CHW, label = images[number]
        pictures.append(image_CHW)
        labels.append(int(label))

        if image_CHW.shape != pictures[0].shape:
            raise ValueError(
                f"all images must have the same size, got {tuple(image_CHW.shape)} at {number} "
                f"and {tuple(pictures[0].shape)} at {numbers[0]}"
            )
    return torch.stack(pictures), torch.tensor(labels)


def _join(parts: list[FeatureSet]) -> FeatureSet:
    return FeatureSet(
        torch.cat([part.features_NF for part in parts]),
        torch.cat([part.logits_NV for part in parts]),
        torch.cat([part.labels_N for part in parts]),
    )
