"""Which images of a set to look at, so that every class is seen."""

from collections.abc import Sequence

import torch

from var_pe.data.image_set import HeldOutImages
from var_pe.seeding import generator_for


def labels_of(images: HeldOutImages) -> list[int]:
    """The label of every image, -1 where it has none; reads the whole set."""
    return [images[index]["label"] for index in range(len(images))]


def from_all_classes(labels: Sequence[int], number: int, seed: int) -> list[int]:
    """The numbers of `number` images, or of all if there are fewer: one of each class, then a second, ...

    Within a class the order follows from the seed. If there are more classes than `number`, the seed decides
    which of them are left out. The answer goes class by class, by label.
    """
    order = torch.randperm(len(labels), generator=generator_for(seed, "from all classes")).tolist()
    by_class: dict[int, list[int]] = {}
    for index in order:
        by_class.setdefault(labels[index], []).append(index)

    # Round by round; the classes of a round are in the order in which the seed came upon them.
    chosen: list[int] = []
    most = max(map(len, by_class.values()), default=0)
    for turn in range(most):
        round_of = [images[turn] for images in by_class.values() if turn < len(images)]
        chosen += round_of[: number - len(chosen)]
    return sorted(chosen, key=lambda index: labels[index])
