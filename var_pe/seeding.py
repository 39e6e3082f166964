"""Seeds: everything random comes from a generator seeded from numbers and names, never from global state."""

import hashlib

import torch


def mix(*parts: int | str) -> int:
    """One seed in [0, 2**63) from numbers and names; unlike a sum, (seed, 1, 7) and (seed, 0, 8) differ."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator_for(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by `mix(*parts)`."""
    return torch.Generator().manual_seed(mix(*parts))
