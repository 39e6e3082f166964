"""What is diagnosed: a model with its positions, the grids it would have at a size, and its tokens."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from var_pe.encodings import PositionEncoding
from var_pe.models.generator import VARTransformer
from var_pe.models.tokenizer import VQTokenizer
from var_pe.models.vit import ViTClassifier
from var_pe.pyramid import Pyramid
from var_pe.stages.config import Config
from var_pe.stages.images import held_out_images

IMAGES = 32  # of the test split, through the model up to its first block


@dataclass(frozen=True)
class Subject:
    """A model with its positions, its origin, and what the origin tells about it."""

    name: str
    model: VARTransformer | ViTClassifier
    # of a run
    config: Config | None = None
    # of a generator's run or pipeline
    tokenizer: VQTokenizer | None = None
    # the table of another library's checkpoint, as it was stored
    absolute_LC: Tensor | None = None

    @property
    def encoding(self) -> PositionEncoding:
        return self.model.position_encoding

    def pyramid_at(self, size: tuple[int, int]) -> Pyramid:
        """The grids of images of `size` (height, width) in pixels.

        Raises:
            ValueError: a side does not fit, or the generator's tokenizer is not known.
        """
        if isinstance(self.model, ViTClassifier):
            step = self.model.patch_size
        elif self.tokenizer is None:
            raise ValueError(
                "--size of a generator needs its tokenizer: give its run or its pipeline's folder"
            )
        else:
            step = self.tokenizer.downsampling

        height, width = size
        if min(size) < 1 or height % step or width % step:
            raise ValueError(f"--size must be positive multiples of {step} pixels, got {height}x{width}")
        return self.model.pyramid.for_size(height // step, width // step)


@contextmanager
def tokens_recorded(encoding: PositionEncoding) -> Iterator[list[Tensor]]:
    """The tokens that the encoding gets before the first block, while the model runs in the `with` block."""
    tokens: list[Tensor] = []
    embed = encoding.embed

    def recording(x_BLC: Tensor, context: object) -> Tensor:
        tokens.append(x_BLC.detach().float())
        return embed(x_BLC, context)

    encoding.embed = recording  # type: ignore[method-assign]
    try:
        yield tokens
    finally:
        del encoding.embed


@torch.no_grad()
def tokens_before_positions(subject: Subject) -> tuple[Tensor, str]:
    """(B, L, C), and what they are tokens of: test images where the run's data are here, else noise."""
    images_BCHW, what = _images(subject)
    model = subject.model

    with tokens_recorded(subject.encoding) as tokens:
        if isinstance(model, ViTClassifier):
            model(images_BCHW)
        else:
            assert isinstance(model, VARTransformer), "a subject is one or the other"
            inputs_BLZ = _generator_inputs(model, subject.tokenizer, images_BCHW)
            labels_B = torch.arange(len(inputs_BLZ)) % max(1, model.num_classes)
            model(labels_B, inputs_BLZ)

    return tokens[0], what


def _generator_inputs(model: VARTransformer, tokenizer: VQTokenizer | None, images_BCHW: Tensor) -> Tensor:
    if tokenizer is not None:
        tokens_BL = tokenizer.encode(images_BCHW, model.pyramid)
        return tokenizer.quantizer.teacher_forcing(tokens_BL, model.pyramid)

    # Noise in place of the latents of all levels but the first, which has no input but the class.
    length = model.pyramid.num_tokens - model.pyramid.spans[0].stop
    shape = (len(images_BCHW), length, model.config["latent_channels"])
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _images(subject: Subject) -> tuple[Tensor, str]:
    """In [-1, 1], of the size that the model is set to."""
    if subject.config is not None:
        try:
            images = held_out_images(subject.config, IMAGES)
            return torch.stack([images[i]["image"] for i in range(len(images))]), "test images"
        except (ValueError, OSError):
            pass  # the data are elsewhere, which the description of the tokens mentions

    model = subject.model
    if isinstance(model, ViTClassifier):
        height, width = model.image_size
        channels = model.config["image_channels"]
    elif subject.tokenizer is not None:
        rows, columns = model.pyramid.finest
        height, width = rows * subject.tokenizer.downsampling, columns * subject.tokenizer.downsampling
        channels = subject.tokenizer.config["image_channels"]
    else:
        height, width, channels = 1, 1, 1  # only the number of a generator's inputs matters

    generator = torch.Generator().manual_seed(0)
    noise_BCHW = torch.rand(IMAGES, channels, height, width, generator=generator) * 2 - 1
    return noise_BCHW, "noise, as there are no images here"
