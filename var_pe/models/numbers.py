"""Random numbers of a drawing: each follows from its image, level and place alone."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from var_pe.pyramid import Grid, Pyramid
from var_pe.seeding import random_bits, shifted

# What a folder of drawn images calls this rule: by another one, the same seed gives other tokens.
RULE = "image, level, place"


def keys_of(generators: Sequence[torch.Generator], device: torch.device) -> Tensor:
    """A key for each image, int64 (B,): a number drawn from its generator, mixed with the generator's seed.

    A generator that is used once more gives another key. The seed counts as a whole: torch's CPU generators
    start from 32 bits of it, so that two of 50,000 images would share a key in one of four folders.
    """
    first = generators[0].device
    keys = []
    for generator in generators:
        drawn = torch.randint(2**62, (1,), generator=generator, device=generator.device)
        seed = (generator.initial_seed() + 2**63) % 2**64 - 2**63  # the int64 of the same 64 bits
        keys.append((drawn ^ seed).to(first))
    return torch.cat(keys).to(device)  # one copy for all


def token_keys(key_B: Tensor, pyramid: Pyramid) -> Tensor:
    """A key for each token, int64 (B, L), the same bits in any batch and on any device."""
    level_L = pyramid.positions(key_B.device).level_L
    place_L = _places(pyramid.grids, key_B.device)
    return random_bits(random_bits(key_B[:, None], level_L), place_L)


def uniform(key: Tensor) -> Tensor:
    """A number for each key, float32 in [0, 1): a multiple of 2^-23, so that nothing rounds to 1."""
    return shifted(key, 41).float() * 2**-23


def uniform_pairs(key: Tensor) -> Tensor:
    """Two independent numbers for each key, float32 (..., 2) in [0, 1)."""
    return torch.stack([uniform(key), uniform(key << 23)], dim=-1)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # kept for later calls
def _places(grids: tuple[Grid, ...], device: torch.device) -> Tensor:
    """Each token's place in its own level, row by row, int64 (L,). Kept: copying to a device waits for it."""
    return torch.cat([torch.arange(h * w) for h, w in grids]).to(device)
