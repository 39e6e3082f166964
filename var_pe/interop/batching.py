"""Requests of many sizes answered in batches of one size each, with a bound on what is held at once."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

Key = TypeVar("Key", bound=Hashable)


def answered(
    model: Callable[[Tensor], Tensor],
    requests: Iterable[tuple[Key, Tensor]],
    *,
    batch_values: int,
    waiting_values: int,
) -> Iterator[tuple[Key, Tensor]]:
    """The answer to every request, an image (C, H, W) with its key, batch by batch.

    Requests wait with others of their shape until `batch_values` numbers (pixels, channels) are together;
    one larger than that goes alone. When more than `waiting_values` wait in all, the shape with the most of
    them goes at once, and when no more requests come, the rest. So at most `waiting_values` and one request
    wait at any time, and no batch is larger than `batch_values` or a single request.

    Raises:
        ValueError: a bound is below 1.
    """
    for name, value in (("batch_values", batch_values), ("waiting_values", waiting_values)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")

    waiting: OrderedDict[torch.Size, list[tuple[Key, Tensor]]] = OrderedDict()

    def held(shape: torch.Size) -> int:
        return len(waiting[shape]) * shape.numel()

    for key, image_CHW in requests:
        shape = image_CHW.shape
        waiting.setdefault(shape, []).append((key, image_CHW))
        if held(shape) + shape.numel() > batch_values:
            yield from _together(model, waiting.pop(shape))
        while sum(map(held, waiting)) > waiting_values:
            yield from _together(model, waiting.pop(max(waiting, key=held)))

    while waiting:
        yield from _together(model, waiting.popitem(last=False)[1])


@torch.no_grad()
def _together(
    model: Callable[[Tensor], Tensor], group: list[tuple[Key, Tensor]]
) -> Iterator[tuple[Key, Tensor]]:
    answers_BV = model(torch.stack([image_CHW for _, image_CHW in group]))
    yield from zip((key for key, _ in group), answers_BV, strict=True)
