"""Which picture each draw of an endless training run takes: a pure function of seed and draw number."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from var_pe.seeding import generator_for


class Draw(NamedTuple):
    """One draw from a data set; `draw_number` counts all images that the run draws, on all processes."""

    epoch: int
    index: int  # type: ignore[assignment]  # hides tuple.index
    draw_number: int

    @classmethod
    def of(cls, key: "Draw | int") -> "Draw":
        """A draw for a plain index, as used outside a training run: epoch 0, the index as draw number."""
        return key if isinstance(key, Draw) else cls(0, int(key), int(key))


class EndlessSampler:
    """Batches of `Draw` for `DataLoader(batch_sampler=...)`, from any draw on and without end.

    `batch` is the global batch; a process gets its contiguous share of it. Draw number n belongs to epoch
    n // length, so a batch may hold the end of one epoch and the beginning of the next.
    """

    def __init__(
        self,
        length: int,
        batch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
    ) -> None:
        if length < 1:
            raise ValueError(f"a sampler needs at least one image to draw from, got length {length}")
        if batch < 1 or batch % world:
            raise ValueError(
                f"the global batch must be a multiple of the process count, got {batch} over {world}"
            )
        if not 0 <= rank < world:
            raise ValueError(f"rank must lie in 0 .. world - 1, got rank {rank} of world {world}")
        if start < 0:
            raise ValueError(f"start must not be negative, got {start}")

        self.length, self.batch, self.start = length, batch, start
        self.seed = seed
        self.rank, self.world = rank, world

    def order(self, epoch: int) -> Tensor:
        """Indices in the order in which this epoch visits them."""
        return torch.randperm(self.length, generator=generator_for("order", self.seed, epoch))

    def __iter__(self) -> Iterator[list[Draw]]:
        share = self.batch // self.world
        first = self.start + self.rank * share
        order_epoch, order = -1, torch.empty(0)

        while True:
            draws: list[Draw] = []
            while len(draws) < share:
                # As many as are left of this epoch
                epoch, offset = divmod(first + len(draws), self.length)
                if epoch != order_epoch:
                    order_epoch, order = epoch, self.order(epoch)
                indices = order[offset : offset + share - len(draws)].tolist()
                numbers = range(first + len(draws), first + share)
                draws += [Draw(epoch, *each) for each in zip(indices, numbers, strict=False)]

            yield draws
            first += self.batch
