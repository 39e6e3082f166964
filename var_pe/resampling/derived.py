"""Remembers what was last made of a weight that is not being trained, and never hands out a stale result."""

from collections import OrderedDict
from collections.abc import Callable, Hashable

import torch
from torch import Tensor


def _stamp(weight: Tensor) -> tuple[object, ...]:
    """Differs whenever the weight may."""
    memory = (weight.data_ptr(), weight.device, weight.stride())
    kind = (weight.dtype, weight.shape)
    return (*memory, *kind, weight._version)


class DerivedCache:
    """The results of the last `size` keys for one weight, dropped when the weight changes.

    A weight has changed when it lies elsewhere, has another device, dtype or shape, or was written to: torch
    counts writes in `_version`, though not those through `.data`. While the weight is trained nothing is
    kept. A compiled graph makes its result anew, and copies and pickles of a model start empty.
    """

    def __init__(self, size: int = 8) -> None:
        self.size = size
        self.clear()

    def clear(self) -> None:
        self.results: OrderedDict[Hashable, Tensor] = OrderedDict()
        self.weight: Tensor | None = None
        self.stamp: tuple[object, ...] = ()

    def __len__(self) -> int:
        return len(self.results)

    def __call__(self, weight: Tensor, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """`make()`, or what it gave for this key."""
        if torch.compiler.is_compiling():
            return make()
        if weight.is_inference() or (weight.requires_grad and torch.is_grad_enabled()):
            self.clear()
            return make()

        # Results of a weight that has changed are stale.
        stamp = _stamp(weight)
        if self.stamp != stamp:
            self.clear()
            self.weight = weight.detach()  # held: its memory cannot become another weight's
            self.stamp = stamp

        if key not in self.results:
            with torch.inference_mode(False), torch.no_grad():  # kept for later calls, which may train
                self.results[key] = make()

        # The keys used last stay.
        self.results.move_to_end(key)
        while len(self.results) > self.size:
            self.results.popitem(last=False)
        return self.results[key]

    def __deepcopy__(self, memo: dict[int, object]) -> "DerivedCache":
        return DerivedCache(self.size)

    def __reduce__(self) -> tuple[type["DerivedCache"], tuple[int]]:
        return DerivedCache, (self.size,)
