"""Several pyramids in one training: which one each step draws, and whether a generator can follow them."""

from collections.abc import Sequence
from typing import Protocol, TypeVar, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset

from var_pe.data.image_set import Batch, TrainingSet, count_unreadable
from var_pe.data.images import ImageDataset
from var_pe.data.sampler import Draw
from var_pe.data.token_cache import TokenDataset
from var_pe.encodings import PositionEncoding, build_encoding
from var_pe.encodings.machinery.level import LevelEmbedding
from var_pe.models.generator import GeneratorConfig
from var_pe.processes import Processes
from var_pe.pyramid import Pyramid
from var_pe.seeding import mix

Item = TypeVar("Item", covariant=True)


class NumberedSet(TrainingSet, Protocol[Item]):
    """Images or tokens that are read by `Draw`."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: Draw, /) -> Item: ...


def which_pyramid(seed: int, step: int, number: int) -> int:
    """The index, among `number` pyramids, of the one that `step` trains on; the same on every process."""
    return mix(seed, "pyramid", step) % number


class OneOfSeveral(Dataset[Item]):
    """The same images under several pyramids; the draw number gives the step, and the step the pyramid."""

    def __init__(self, datasets: Sequence[NumberedSet[Item]], batch: int, seed: int) -> None:
        """`batch` is the number of images of one optimizer step, over all processes."""
        self.datasets, self.batch, self.seed = datasets, batch, seed

    @property
    def num_images(self) -> int:
        return len(self.datasets[0])

    def passed_over(self, processes: Processes) -> int:
        """How many different pictures could not be read so far, under any pyramid."""
        # Images are known by number, so a picture that fails at several sizes counts once. Token caches only
        # know how many failed.
        unreadable: list[Tensor] = []
        for images in self.datasets:
            if isinstance(images, ImageDataset):
                unreadable.append(images.unreadable)
        if unreadable:
            return count_unreadable(torch.stack(unreadable).any(0), processes)
        return max(dataset.passed_over(processes) for dataset in self.datasets)

    def __len__(self) -> int:
        return len(self.datasets[0])

    def _of_step(self, draw: Draw) -> NumberedSet[Item]:
        step = draw.draw_number // self.batch
        return self.datasets[which_pyramid(self.seed, step, len(self.datasets))]

    def __getitem__(self, draw: Draw) -> Item:
        return self._of_step(draw)[draw]

    def __getitems__(self, draws: Sequence[Draw]) -> Sequence[Item] | Batch:
        """The items of a micro-batch, which all belong to one step; tokens are read as one batch."""
        dataset = self._of_step(draws[0])
        if isinstance(dataset, TokenDataset):
            return dataset.__getitems__(draws)
        return [dataset[draw] for draw in draws]


def one_of(datasets: Sequence[TrainingSet], batch: int, seed: int) -> TrainingSet:
    """The set to train on, `batch` images a step: that of each step's pyramid, or the only one."""
    if len(datasets) == 1:
        return datasets[0]

    # Several sets are read by number: a config that streams several pyramids has been refused.
    return OneOfSeveral(cast(Sequence[NumberedSet[object]], datasets), batch, seed)


def check_follows(config: GeneratorConfig, own: Pyramid, others: Sequence[Pyramid]) -> None:
    """Checks that a generator made for `own` can be trained on the `others`, by calling every hook once.

    All of it happens on the meta device, where shapes are computed and no memory is taken.

    Raises:
        ValueError: the encoding or the level embedding cannot follow one of them.
    """
    with torch.device("meta"):
        encoding = build_encoding(
            config.encoding, dim=config.dim, num_heads=config.num_heads, depth=config.depth, pyramid=own
        ).eval()
        levels = LevelEmbedding(config.level_embedding, dim=config.dim, pyramid=own)

    for pyramid in others:
        try:
            ask_each_hook(encoding, config, pyramid)
            levels(pyramid.positions("meta"))
        except ValueError as error:
            raise ValueError(f"generator_training.pyramids has {pyramid}, but {error}") from error


def check_moves(config: GeneratorConfig, own: Pyramid, other: Pyramid, convention: str) -> None:
    """Checks that a generator made for `own` can be moved to `other`, its tables resampled.

    Raises:
        ValueError: it cannot.
    """
    encoding = build_encoding(
        config.encoding, dim=config.dim, num_heads=config.num_heads, depth=config.depth, pyramid=own
    )
    encoding.set_pyramid(other, convention)
    LevelEmbedding(config.level_embedding, dim=config.dim, pyramid=own).check_levels(other)


@torch.no_grad()
def ask_each_hook(encoding: PositionEncoding, config: GeneratorConfig, pyramid: Pyramid) -> None:
    """Calls every hook of an encoding on the meta device: it may refuse other grids in any of them."""
    context = encoding.prepare(pyramid.positions("meta"))
    x_BLC = torch.zeros(1, pyramid.num_tokens, config.dim, device="meta")
    encoding.embed(x_BLC, context)
    encoding.rotate(x_BLC.unflatten(2, (config.num_heads, -1)).transpose(1, 2), context, 0)
    encoding.bias(context, context, 0)
    encoding.refine(x_BLC, context, 0)
