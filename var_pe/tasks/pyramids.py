"""Several pyramids in one training: which one a step draws, and whether a generator can follow them all."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from var_pe.data.sampler import Draw
from var_pe.encodings import PositionEncoding, build_encoding
from var_pe.encodings.machinery.level import LevelEmbedding
from var_pe.models.generator import GeneratorConfig
from var_pe.pyramid import Pyramid
from var_pe.seeding import mix


def which_pyramid(seed: int, step: int, number: int) -> int:
    """Which of `number` pyramids optimizer step `step` trains on; the same on every process."""
    return mix(seed, "pyramid", step) % number


class OneOfSeveral(Dataset[dict[str, Any]]):
    """The same images under several pyramids; an image's place in the run says its step, and so which."""

    def __init__(self, datasets: Sequence[Any], batch: int, seed: int) -> None:
        """`batch` is the number of images of one optimizer step, over all processes."""
        self.datasets, self.batch, self.seed = datasets, batch, seed

    @property
    def unreadable(self) -> Tensor | None:
        """Which pictures could not be read so far under any pyramid; None of tokens, whose caches know it."""
        met = [images.unreadable for images in self.datasets if hasattr(images, "unreadable")]
        return torch.stack(met).any(0) if met else None

    @property
    def skipped(self) -> int:
        """How many different pictures could not be read when the tokens were made: the same in every set."""
        return max(getattr(images, "skipped", 0) for images in self.datasets)

    def __len__(self) -> int:
        return len(self.datasets[0])

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        return self.datasets[which_pyramid(self.seed, draw.draw_number // self.batch, len(self.datasets))][
            draw
        ]


def one_of(sets: Sequence[Any], batch: int, seed: int) -> Any:
    """The images to train on, `batch` a step: those of each step's pyramid, or of the only one."""
    return sets[0] if len(sets) == 1 else OneOfSeveral(sets, batch, seed)


def check_follows(config: GeneratorConfig, own: Pyramid, others: Sequence[Pyramid]) -> None:
    """Whether a generator made for `own` can be trained on the `others`, asked of one block's worth of it.

    Raises:
        ValueError: the encoding or the level embedding cannot follow one of them.
    """
    encoding = build_encoding(
        config.encoding, dim=config.dim, num_heads=config.num_heads, depth=config.depth, pyramid=own
    ).eval()
    levels = LevelEmbedding(config.level_embedding, dim=config.dim, pyramid=own)
    for pyramid in others:
        try:
            ask_each_hook(encoding, config, pyramid)
            levels(pyramid.positions())
        except ValueError as error:
            raise ValueError(f"generator_training.pyramids has {pyramid}, but {error}") from error


@torch.no_grad()
def ask_each_hook(encoding: PositionEncoding, config: GeneratorConfig, pyramid: Pyramid) -> None:
    """Every hook once: a member may refuse other grids in any of them."""
    context = encoding.prepare(pyramid.positions())
    x_BLC = torch.zeros(1, pyramid.num_tokens, config.dim)
    encoding.embed(x_BLC, context)
    encoding.rotate(x_BLC.unflatten(2, (config.num_heads, -1)).transpose(1, 2), context, 0)
    encoding.bias(context, context, 0)
    encoding.refine(x_BLC, context, 0)
