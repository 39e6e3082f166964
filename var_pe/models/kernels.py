"""Which kernel serves which call of attention: the fastest, as measured."""

from collections.abc import Iterator, Mapping
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

    def __str__(self) -> str:
        return f"plain up to {self.plain} keys, fused up to {self.fused}, then {self.beyond}"


# By device, type of numbers, and whether gradients are needed and scores get a bias (`row_for`): the fastest,
# as measured by benchmarks/attention.py. The fused kernels of processors give a bias no gradient. On CUDA
# 16 bits alone were measured (docs/speed.md), and 32 bits take the same. With a bias and gradients one masked
# call is a tenth faster at 680 tokens, but keeps its scores in every layer.
# A training notes the rows of its device and keeps to them, whatever stands here when it goes on.
TABLE = {
    "cpu, 32 bits": Served(plain=0, fused=128),
    "cpu, 32 bits, bias": Served(plain=0, fused=128),
    "cpu, 32 bits, gradients": Served(plain=64, fused=512),
    "cpu, 32 bits, gradients, bias": Served(plain=256, fused=256),
    "cpu, 16 bits": Served(plain=0, fused=128),
    "cpu, 16 bits, bias": Served(plain=0, fused=128),
    "cpu, 16 bits, gradients": Served(plain=160, fused=160, beyond="products"),
    "cpu, 16 bits, gradients, bias": Served(plain=256, fused=256, beyond="products"),
    "cuda, 32 bits": Served(plain=0, fused=64),
    "cuda, 32 bits, bias": Served(plain=0, fused=64),
    "cuda, 32 bits, gradients": Served(plain=0, fused=1024),
    "cuda, 32 bits, gradients, bias": Served(plain=0, fused=64),
    "cuda, 16 bits": Served(plain=0, fused=64),
    "cuda, 16 bits, bias": Served(plain=0, fused=64),
    "cuda, 16 bits, gradients": Served(plain=0, fused=1024),
    "cuda, 16 bits, gradients, bias": Served(plain=0, fused=64),
}


def kind_of(device: str) -> str:
    """Whose rows serve a device ("cpu", "cuda", "mps" ...): all but processors are taken for "cuda"."""
    return "cpu" if device == "cpu" else "cuda"


def row_for(device: str, dtype: torch.dtype, *, needs_grad: bool, has_bias: bool) -> str:
    """The name of a row of the table."""
    bits = 16 if dtype.itemsize == 2 else 32
    gradients = ", gradients" if needs_grad else ""
    bias = ", bias" if has_bias else ""
    return f"{kind_of(device)}, {bits} bits{gradients}{bias}"


def rows_for(device: str) -> dict[str, Served]:
    """All rows that serve a device."""
    return {name: row for name, row in TABLE.items() if name.startswith(f"{kind_of(device)}, ")}


def kernel_for(
    device: str, dtype: torch.dtype, query_length: int, key_length: int, needs_grad: bool, has_bias: bool
) -> Kernel:
    """The kernel for so many queries and keys on a device.

    Parts with a bias that need gradients are computed anew in the backward pass: no layer keeps its scores.
    """
    served = TABLE[row_for(device, dtype, needs_grad=needs_grad, has_bias=has_bias)]
    if max(query_length, key_length) <= served.plain:
        return "plain"
    return "fused" if max(query_length, key_length) <= served.fused else served.beyond


@contextmanager
def serving(rows: Mapping[str, Served]) -> Iterator[None]:
    """Inside, these rows take the place of the table's of the same names."""
    before = dict(TABLE)
    TABLE.update(rows)
    try:
        yield
    finally:
        TABLE.clear()
        TABLE.update(before)


@contextmanager
def served_by(kernel: Kernel) -> Iterator[None]:
    """For measurements: inside, one kernel serves every call, whatever the table says."""
    enough = 10**9
    every = Served(
        plain=enough if kernel == "plain" else 0, fused=enough if kernel == "fused" else 0, beyond=kernel
    )
    with serving(dict.fromkeys(TABLE, every)):
        yield
