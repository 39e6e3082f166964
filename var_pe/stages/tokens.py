"""What stages train on, pyramid by pyramid: images, their tokens, and those held out."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import IterableDataset

from var_pe.data.images import ImageDataset
from var_pe.data.token_cache import TokenDataset, build_token_cache
from var_pe.models.tokenizer import VQTokenizer
from var_pe.progress import Counter
from var_pe.pyramid import Pyramid
from var_pe.stages.config import Config
from var_pe.stages.models import held_out_images, picture_box, training_images, weights_hash
from var_pe.tasks.pyramids import check_follows
from var_pe.tasks.validation import Box


def tokenizer_pyramids(config: Config) -> list[Pyramid]:
    """Those that the tokenizer's training draws from: its own levels, alone or as the first.

    Raises:
        ValueError: they are not the first, or the data are a stream.
    """
    return _beginning_with_levels(config, "tokenizer_training", config.tokenizer_training.pyramids)


def generator_pyramids(config: Config) -> list[Pyramid]:
    """Those that the generator's training draws from: the tokenizer's levels, alone or as the first.

    Raises:
        ValueError: they are not the first, the data are a stream, or the generator cannot follow one.
    """
    pyramids = _beginning_with_levels(config, "generator_training", config.generator_training.pyramids)
    check_follows(config.generator, pyramids[0], pyramids[1:])
    return pyramids


def _beginning_with_levels(config: Config, section: str, given: Sequence[Any]) -> list[Pyramid]:
    own = Pyramid.of(config.tokenizer.levels)
    pyramids = [Pyramid.of(levels) for levels in given] or [own]
    if pyramids[0] != own:
        raise ValueError(
            f"{section}.pyramids must begin with tokenizer.levels {own}, for which the run's images "
            f"are drawn, got {pyramids[0]}"
        )
    if config.data.streaming and len(pyramids) > 1:
        raise ValueError(f"{section}.pyramids needs images by number: set data.streaming=false")
    return pyramids


def at_grid(config: Config, tokenizer: VQTokenizer, pyramid: Pyramid) -> Config:
    """The config with images of the size that `pyramid` ends at."""
    height, width = (side * tokenizer.downsampling for side in pyramid.finest)
    return replace(config, data=config.data.at_size(height, width))


def images_at(
    config: Config, tokenizer: VQTokenizer, pyramids: Sequence[Pyramid], accelerator: Accelerator
) -> dict[Pyramid, Any]:
    """The training images of each pyramid, of the size that it ends at."""
    sizes = {pyramid: at_grid(config, tokenizer, pyramid) for pyramid in pyramids}
    return {p: training_images(sized, accelerator, config.tokenizer_seed) for p, sized in sizes.items()}


def held_out_at(
    config: Config, tokenizer: VQTokenizer, pyramids: Sequence[Pyramid], number: int | None = None
) -> dict[Pyramid, tuple[Any, Box]]:
    """The test images of each pyramid, or the first of them, and where in them the picture lies."""
    sizes = {pyramid: at_grid(config, tokenizer, pyramid) for pyramid in pyramids}
    return {p: (held_out_images(sized, number), picture_box(sized)) for p, sized in sizes.items()}


def cached_tokens(
    config: Config, tokenizer: VQTokenizer, images: ImageDataset, accelerator: Accelerator, pyramid: Pyramid
) -> TokenDataset:
    """The training set's tokens, encoded once and shared by every generator of the tokenizer's folder."""
    views = config.generator_training.views
    with Counter(views * len(images), "encoding", shown=accelerator.is_main_process) as counter:
        cache = build_token_cache(
            Path(config.tokenizer_run) / "tokens",
            images,
            lambda images_BCHW: tokenizer.encode(images_BCHW.to(tokenizer.device), pyramid).cpu(),
            views=views,
            batch_size=256,
            key={
                "tokenizer": weights_hash(Path(config.tokenizer_run) / "tokenizer"),
                "levels": [list(grid) for grid in pyramid.grids],
            },
            rank=accelerator.process_index,
            world=accelerator.num_processes,
            wait=accelerator.wait_for_everyone,
            progress=lambda done, total: counter.add(done * accelerator.num_processes - counter.count),
            vocabulary=len(tokenizer.quantizer.codebook_VZ),
        )
    say_skipped(images, accelerator)
    return TokenDataset(cache)


def encoded(config: Config, tokenizer: VQTokenizer, number: int, pyramid: Pyramid) -> tuple[Tensor, Tensor]:
    """Tokens and labels of the first test images; a missing label becomes unconditional later on."""
    images = held_out_images(at_grid(config, tokenizer, pyramid), number)
    tokens, labels = [], []
    for start in range(0, len(images), 256):
        items = [images[i] for i in range(start, min(start + 256, len(images)))]
        images_BCHW = torch.stack([item["image"] for item in items]).to(tokenizer.device)
        tokens.append(tokenizer.encode(images_BCHW, pyramid))
        labels += [item["label"] for item in items]
    return torch.cat(tokens), torch.tensor(labels, device=tokenizer.device)


def say_skipped(images: Any, accelerator: Accelerator) -> None:
    """How many pictures could not be read; with data.on_corrupt=stop there are none."""
    if skipped := skipped_by_all(images, accelerator):
        accelerator.print(f"{skipped} pictures could not be read and were passed over (data.on_corrupt=skip)")


def skipped_by_all(images: Any, accelerator: Accelerator) -> int:
    """Over all processes: a picture that several met counts once, but in a stream, which has no numbers."""
    unreadable = getattr(images, "unreadable", None)
    if unreadable is not None:
        met_N = accelerator.reduce(unreadable.int().to(accelerator.device), "sum")
        return int((met_N > 0).sum())
    skipped = torch.tensor(getattr(images, "skipped", 0), device=accelerator.device)
    streamed = isinstance(images, IterableDataset)
    return int(accelerator.reduce(skipped, "sum") if streamed else skipped)
