"""Which kernel serves which call of attention: the fastest, as measured."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

# plain: products and a softmax, one call that keeps Lq x Lk numbers for each head and image.
# products: as slices, but each by products and a softmax that are computed anew in the backward pass.
# fused: one call of torch's fused kernels, with the mask if there is one.
# slices: one fused call for the coarse levels, with their mask, and one for each other level, without.
# flex: FlexAttention, a compiled call that passes over what a mask of levels hides; its gradient needs CUDA.
Kernel = Literal["plain", "products", "fused", "slices", "flex"]
# those that cut a pass over several levels into parts
BY_PARTS = ("products", "slices", "flex")


@dataclass(frozen=True)
class Served:
    """Which kernel serves which number of keys: `plain` and `fused` up to so many, `beyond` all above."""

    plain: int
    fused: int
    beyond: Kernel = "slices"


# By device, whether numbers have 16 bits, whether gradients are needed, and whether scores get a bias: the
# fastest, as measured by benchmarks/attention.py. The fused kernels of processors give a bias no gradient.
# On CUDA 16 bits alone were measured (docs/speed.md), and 32 bits take the same. With a bias and gradients
# one masked call is a tenth faster at 680 tokens, but keeps its scores in every layer.
TABLE = {
    ("cpu", False, False, False): Served(plain=0, fused=128),
    ("cpu", False, False, True): Served(plain=0, fused=128),
    ("cpu", False, True, False): Served(plain=64, fused=512),
    ("cpu", False, True, True): Served(plain=256, fused=256),
    ("cpu", True, False, False): Served(plain=0, fused=128),
    ("cpu", True, False, True): Served(plain=0, fused=128),
    ("cpu", True, True, False): Served(plain=160, fused=160, beyond="products"),
    ("cpu", True, True, True): Served(plain=256, fused=256, beyond="products"),
    ("cuda", False, False, False): Served(plain=0, fused=64),
    ("cuda", False, False, True): Served(plain=0, fused=64),
    ("cuda", False, True, False): Served(plain=0, fused=1024),
    ("cuda", False, True, True): Served(plain=0, fused=64),
    ("cuda", True, False, False): Served(plain=0, fused=64),
    ("cuda", True, False, True): Served(plain=0, fused=64),
    ("cuda", True, True, False): Served(plain=0, fused=1024),
    ("cuda", True, True, True): Served(plain=0, fused=64),
}


def kernel_for(
    device: str, dtype: torch.dtype, query_length: int, key_length: int, needs_grad: bool, has_bias: bool
) -> Kernel:
    """The kernel for so many queries and keys on a device ("cpu"; all others are taken for "cuda").

    Parts with a bias that need gradients are computed anew in the backward pass: no layer keeps its scores.
    """
    served = TABLE["cpu" if device == "cpu" else "cuda", dtype.itemsize == 2, needs_grad, has_bias]
    if max(query_length, key_length) <= served.plain:
        return "plain"
    return "fused" if max(query_length, key_length) <= served.fused else served.beyond


@contextmanager
def served_by(kernel: Kernel) -> Iterator[None]:
    """For measurements: inside, one kernel serves every call, whatever the table says."""
    before = dict(TABLE)
    enough = 10**9
    every = Served(
        plain=enough if kernel == "plain" else 0, fused=enough if kernel == "fused" else 0, beyond=kernel
    )
    TABLE.update(dict.fromkeys(TABLE, every))
    try:
        yield
    finally:
        TABLE.update(before)
