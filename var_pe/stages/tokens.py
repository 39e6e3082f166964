"""The tokens that a generator is trained on and validated on."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from var_pe.data.image_set import HeldOutImages, TrainingSet, stacked
from var_pe.data.images import ImageDataset
from var_pe.data.streams import ImageStream
from var_pe.data.token_cache import TokenDataset, build_token_cache
from var_pe.models.tokenizer import VQTokenizer
from var_pe.processes import Processes
from var_pe.progress import Counter, number_of
from var_pe.pyramid import Pyramid
from var_pe.stages.config import Config
from var_pe.stages.images import held_out_images
from var_pe.stages.models import weights_hash
from var_pe.stages.pyramids import at_pyramid


def training_tokens(
    config: Config, tokenizer: VQTokenizer, images: Mapping[Pyramid, TrainingSet], processes: Processes
) -> dict[Pyramid, TokenDataset]:
    """The tokens of the training images under each pyramid, encoded by all processes together.

    They are encoded once and shared by all generators of the tokenizer.
    """
    folder, views = Path(config.tokenizer_run), config.generator_training.views
    weights = weights_hash(folder / "tokenizer")

    tokens: dict[Pyramid, TokenDataset] = {}
    for pyramid, own in images.items():
        assert isinstance(own, ImageDataset), "check_generator refuses to cache a stream"

        def encode(images_BCHW: Tensor, pyramid: Pyramid = pyramid) -> Tensor:
            return tokenizer.encode(images_BCHW.to(tokenizer.device), pyramid).cpu()

        with Counter(
            views * len(own), "encoding", shown=processes.is_main, processes=processes.world
        ) as counter:
            cache = build_token_cache(
                folder / "tokens",
                own,
                encode,
                processes,
                key={"tokenizer": weights, "levels": [list(grid) for grid in pyramid.grids]},
                vocabulary=tokenizer.quantizer.num_codes,
                views=views,
                on_progress=counter.add,
            )

        say_passed_over(own, processes)
        tokens[pyramid] = TokenDataset(cache)
    return tokens


def held_out_tokens(
    config: Config, tokenizer: VQTokenizer, pyramids: Sequence[Pyramid], number: int
) -> dict[Pyramid, tuple[Tensor, Tensor]]:
    """Tokens and labels of `number` test images under each pyramid; label -1 means no class."""
    found: dict[Pyramid, tuple[Tensor, Tensor]] = {}
    for pyramid in pyramids:
        images = held_out_images(at_pyramid(config, pyramid, tokenizer.downsampling), number)
        found[pyramid] = tokens_of_images(images, tokenizer, pyramid)
    return found


def tokens_of_images(
    images: HeldOutImages, tokenizer: VQTokenizer, pyramid: Pyramid
) -> tuple[Tensor, Tensor]:
    """Tokens and labels of all images of a set; label -1 means no class."""
    tokens, labels = [], []
    for indices in Processes().batches(len(images), 256):
        items = [images[i] for i in indices]
        tokens.append(tokenizer.encode(stacked(items).to(tokenizer.device), pyramid))
        labels += [item["label"] for item in items]
    return torch.cat(tokens), torch.tensor(labels, device=tokenizer.device)


def say_passed_over(images: TrainingSet, processes: Processes) -> None:
    """Prints how many pictures could not be read, or came in a stream without a label, if any."""
    number = images.passed_over(processes)
    if number:
        processes.say(
            f"passed over {number_of(number)} of training that cannot be read; another one took the place "
            "of each (data.on_corrupt=skip)"
        )

    unlabelled = images.left_out(processes) if isinstance(images, ImageStream) else 0
    if unlabelled:
        times = number_of(unlabelled, "time")
        processes.say(f"left out a picture without a label (empty or -1) {times}")
