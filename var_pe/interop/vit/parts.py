"""What the conversions share: the map from images to patches, and the biases of queries and values."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from var_pe.interop.vit.names import ViTWeights

Settings = dict[str, Any]  # keyword arguments of a classifier

# the ways in which biases are named; the second is BEiT's and Swin v2's, which have none for keys
BIASES = (("attn.qkv.bias",), ("attn.q_bias", "attn.v_bias"))


def read_stem(
    weights: ViTWeights,
    patch_size: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    ours: dict[str, Tensor],
) -> Settings:
    """The patch map, with the images' normalisation moved into it, and the settings that follow from it."""
    kernel_OIhw = weights.take("patch_embed.proj.weight", -1, -1, patch_size, patch_size)
    bias_C = weights.take("patch_embed.proj.bias", len(kernel_OIhw))

    if mean is not None and std is not None:
        kernel_OIhw, bias_C = _normalising(kernel_OIhw, bias_C, mean, std)
    elif mean is not None or std is not None:
        given = "std" if mean is None else "mean"
        raise ValueError(f"mean and std go together, got {given} alone")

    ours |= {"patch_embed.weight": kernel_OIhw, "patch_embed.bias": bias_C}
    return {"dim": kernel_OIhw.shape[0], "image_channels": kernel_OIhw.shape[1], "patch_size": patch_size}


def _normalising(
    kernel_OIhw: Tensor, bias_C: Tensor, mean: Sequence[float], std: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """The patch map of x in [-1, 1] that does what the given one does to ((x + 1) / 2 - mean) / std."""
    mean_I = _per_channel("mean", mean, kernel_OIhw.shape[1])
    std_I = _per_channel("std", std, kernel_OIhw.shape[1])
    if std_I.min() <= 0:
        raise ValueError(f"std must be above 0, got {std}")
    bias_C = bias_C + torch.einsum("OIhw,I->O", kernel_OIhw, (0.5 - mean_I) / std_I)
    return kernel_OIhw / (2 * std_I)[:, None, None], bias_C


def _per_channel(name: str, given: Sequence[float], channels: int) -> Tensor:
    try:
        numbers_I = torch.as_tensor(given, dtype=torch.float32)
    except (TypeError, ValueError):
        numbers_I = torch.empty(0)
    if numbers_I.shape != (channels,) or not numbers_I.isfinite().all():
        raise ValueError(
            f"{name} must be {channels} finite numbers, one a channel of the images, got {given}"
        )
    return numbers_I


def query_and_value_bias(
    weights: ViTWeights, start: str, biases: tuple[str, ...], dim: int
) -> dict[str, Tensor]:
    """A key's bias adds one number, query times bias, to all scores of a query: the softmax drops it."""
    if biases == BIASES[0]:
        query_C, _, value_C = weights.take(f"{start}{biases[0]}", 3 * dim).chunk(3)
    elif biases:
        query_C, value_C = (weights.take(f"{start}{name}", dim) for name in biases)
    else:
        query_C, value_C = torch.zeros(dim), torch.zeros(dim)
    return {f"{start}attn.q_bias": query_C, f"{start}attn.v_bias": value_C}
