"""Seeds: everything random comes from a generator seeded from numbers and names, never from global state."""

import hashlib

import torch
from torch import Tensor

# SplitMix64 (Steele et al. 2014): its step, and the factors of its finalizer, as int64
STEP = 0x9E3779B97F4A7C15 - 2**64
FACTORS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


def mix(*parts: int | str) -> int:
    """One seed in [0, 2**63) from numbers and names; unlike a sum, (seed, 1, 7) and (seed, 0, 8) differ."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator_for(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by `mix(*parts)`."""
    return torch.Generator().manual_seed(mix(*parts))


def random_bits(seed: int | Tensor, numbers: Tensor) -> Tensor:
    """64 random bits for each number, int64: of number n the output n (from 0 on) of SplitMix64 with `seed`.

    So each depends on its own number and seed alone, and all are found at once, alike on every device.
    """
    # int64 wraps around as uint64 does, but shifts its sign in.
    bits = seed + (numbers + 1) * STEP
    bits = (bits ^ shifted(bits, 30)) * FACTORS[0]
    bits = (bits ^ shifted(bits, 27)) * FACTORS[1]
    return bits ^ shifted(bits, 31)


def shifted(bits: Tensor, by: int) -> Tensor:
    """The bits of int64 numbers shifted to the right, zeros shifted in."""
    return (bits >> by) & ((1 << (64 - by)) - 1)
