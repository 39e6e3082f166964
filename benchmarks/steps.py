"""Training steps of generators, which several benchmarks time: sizes, ours, the public code's.

A step is forward, cross-entropy, backward and fused AdamW, under autocast with bf16, on random tokens.
"""

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast, get_args

import var_pe  # noqa: F401  # before torch, whose threads it makes wait politely

# isort: split
import torch
import torch.nn.functional as F
from public_var import FIXED, public_models
from torch import Tensor, nn

from var_pe.comparison.step_time import training_step
from var_pe.models.generator import VARTransformer
from var_pe.models.tokenizer import VQTokenizer
from var_pe.pyramid import Pyramid
from var_pe.tasks.losses.tokens import token_losses
from var_pe.training.compilation import Compiled, make_ready
from var_pe.training.precision import Settled

CLASSES = 1000
COMPILED = get_args(Compiled)


@dataclass(frozen=True)
class Size:
    """A generator and its batch."""

    levels: tuple[int, ...]
    depth: int
    dim: int
    num_heads: int
    batch: int
    codes: int = 4096
    latent_channels: int = 32

    @property
    def tokens(self) -> int:
        """Of one image."""
        return Pyramid.of(self.levels).num_tokens


VAR_256 = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
VAR_512 = (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)
VAR_1024 = (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64)

# By their names, which are the tokens of an image where that says enough
SIZES = {
    "30": Size((1, 2, 3, 4), 6, 192, 6, 256, codes=512, latent_channels=16),
    "130": Size((1, 2, 3, 4, 6, 8), 6, 256, 4, 64),
    "680": Size(VAR_256, 4, 512, 8, 4),
    "2240": Size(VAR_512, 4, 256, 4, 1),
    "9451": Size(VAR_1024, 2, 256, 4, 1),
    "d16": Size(VAR_256, 16, 1024, 16, 32),
    "tiny": Size((1, 2, 3), 2, 64, 2, 4, codes=16, latent_channels=4),
}


def build(size: Size, encoding: str) -> VARTransformer:
    generator = VARTransformer(
        levels=size.levels,
        codebook_size=size.codes,
        latent_channels=size.latent_channels,
        num_classes=CLASSES,
        encoding=encoding,
        dim=size.dim,
        depth=size.depth,
        num_heads=size.num_heads,
    )
    return generator.train()


def compiled(model: nn.Module, how: str) -> nn.Module:
    """The model, compiled at its first call as a training would compile it."""
    make_ready(model, cast(Compiled, how), checkpointing=False)
    return model


def public_model(generator: VARTransformer, given: argparse.Namespace) -> nn.Module:
    """VAR's class with the generator's weights; under an encoding that it lacks, with those of `learned`."""
    config = generator.config
    if given.encoding != "learned":
        generator = VARTransformer(**{**config, "encoding": "learned"})

    tokenizer = VQTokenizer(
        levels=config["levels"],
        codebook_size=config["codebook_size"],
        latent_channels=config["latent_channels"],
        channels=32,
        num_phi=4,
        **FIXED,
    )
    _, var = public_models(given.reference, tokenizer, generator)
    return var.train().to(given.device)


Batch = tuple[Tensor, Tensor, Tensor]


def random_batch(size: Size, device: str) -> Batch:
    """Labels, the inputs of all levels but the first, and tokens."""
    draw = torch.Generator().manual_seed(0)
    labels_B = torch.randint(CLASSES, (size.batch,), generator=draw)
    inputs_BLZ = torch.randn(size.batch, size.tokens - 1, size.latent_channels, generator=draw)
    tokens_BL = torch.randint(size.codes, (size.batch, size.tokens), generator=draw)
    return labels_B.to(device), inputs_BLZ.to(device), tokens_BL.to(device)


def our_step(generator: nn.Module, batch: Batch, precision: Settled) -> Callable[[], None]:
    labels_B, inputs_BLZ, tokens_BL = batch

    def loss() -> Tensor:
        return token_losses(generator(labels_B, inputs_BLZ), tokens_BL).mean()

    return training_step(generator, loss, precision)


def their_step(var: nn.Module, batch: Batch, precision: Settled) -> Callable[[], None]:
    labels_B, inputs_BLZ, tokens_BL = batch

    def loss() -> Tensor:
        logits_BLV = var(labels_B, inputs_BLZ)
        return F.cross_entropy(logits_BLV.view(-1, logits_BLV.shape[-1]), tokens_BL.view(-1))

    return training_step(var, loss, precision)


@torch.no_grad()
def check_equal_losses(generator: VARTransformer, size: Size, given: argparse.Namespace) -> None:
    """Whether the same weights give the same loss, in float32 and without dropped labels.

    Raises:
        ValueError: they do not, so that the two cannot be compared.
    """
    labels_B, inputs_BLZ, tokens_BL = random_batch(size, given.device)
    var = public_model(generator, given)
    var.cond_drop_rate = 0.0
    theirs = F.cross_entropy(var(labels_B, inputs_BLZ).flatten(0, 1), tokens_BL.flatten())
    ours = token_losses(copy.deepcopy(generator).to(given.device)(labels_B, inputs_BLZ), tokens_BL).mean()
    if not torch.isclose(ours, theirs, rtol=1e-4):
        raise ValueError(
            f"the same weights give a loss of {ours:.6f} here and of {theirs:.6f} in the public code"
        )


def operations_of_step(size: Size) -> float:
    """Floating-point operations that a training step cannot do without.

    Each weight that every token passes counts 6 times for each token (twice forward, four times backward),
    and the modulations, which an image passes once, for each image. Attention is two products of a head's
    width for each pair of a query and a key that it may see, and four more backward. Nothing that is computed
    twice counts twice, and pairs that the mask of levels hides do not count.
    """
    dim, tokens = size.dim, size.tokens
    of_token = size.depth * 12 * dim**2 + dim * (size.codes + size.latent_channels)
    of_image = (6 * size.depth + 2) * dim**2

    counts = [side**2 for side in size.levels]
    pairs = sum(count * sum(counts[: level + 1]) for level, count in enumerate(counts))
    attention = 12 * size.depth * dim * pairs
    return float(size.batch * (6 * (of_token * tokens + of_image) + attention))
