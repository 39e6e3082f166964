"""The positions of timm's, torchvision's and DINOv2's ViTs, read from their weights as our encodings."""

import torch
from torch import Tensor

from var_pe.interop.vit.names import ViTWeights
from var_pe.pyramid import Pyramid

SAME_BIAS = 1e-6  # how far two biases of a class row may differ and still be called one
RELATIVE = "relative_position_bias_table"
SHARED_TABLES = (f"rel_pos_bias.{RELATIVE}", f"shared_rel_pos.{RELATIVE}")  # BEiT, timm's relative ViT
BLOCK_TABLES = ((f"attn.{RELATIVE}",), (f"attn.rel_pos.{RELATIVE}",))


def read_positions(
    weights: ViTWeights,
    pyramid: Pyramid,
    num_heads: int,
    expected: bool,
    ours: dict[str, Tensor],
) -> dict[str, str]:
    """Reads tables into `ours` and adds the rows of prefix tokens to these; returns the encoding's line.

    `expected`: whether the library's model has a table. Weights without any are also those of a file that
    lost it, and of models that turn queries and keys.

    Raises:
        ValueError: there is no table though there must be one, or the other way round; one does not belong
            to the grid of `pyramid`, or has class rows that our ViT has no counterpart for.
    """
    tokens_PC = ours.get("prefix_tokens_PC", torch.zeros(0, len(ours["patch_embed.bias"])))

    # The tables that are there, by the encoding that has them; both kinds are one sum.
    parts: dict[str, dict[str, Tensor]] = {}
    if "pos_embed" in weights:
        parts["learned"] = {"table_LC": _absolute(weights, pyramid, tokens_PC)}
    line, names = _relative_names(weights)
    if names:
        parts[line] = {"table_NHyx": _relative(weights, names, pyramid, num_heads, len(tokens_PC))}

    if parts and not expected:
        raise ValueError(
            f"like= has no positions, but the {weights.source} state dict has {' and '.join(parts)} ones"
        )
    if expected and not parts:
        raise ValueError(
            f"the {weights.source} state dict lacks {weights.theirs('pos_embed')}, and its blocks have no "
            f"relative tables"
        )

    for index, tensors in enumerate(parts.values()):
        prefix = f"position_encoding.parts.{index}." if len(parts) > 1 else "position_encoding."
        tensors["grids_K2"] = torch.tensor(pyramid.grids)
        for name, tensor in tensors.items():
            ours[prefix + name] = tensor

    return {"encoding": " + ".join(parts) or "none"}


def _absolute(weights: ViTWeights, pyramid: Pyramid, tokens_PC: Tensor) -> Tensor:
    """The table's rows of patches; a token's own row is added to the token, which is all that it does."""
    table_LC = weights.take("pos_embed", 1, -1, tokens_PC.shape[1])[0]

    # timm's tables have rows for all prefix tokens or for none, the others' for the class token.
    possible = sorted({0, len(tokens_PC)}) if weights.source == "timm" else [1]
    prefix = len(table_LC) - pyramid.num_tokens
    if prefix not in possible:
        height, width = pyramid.finest
        rows = " or ".join(str(number) for number in possible)
        needed = " or ".join(str(pyramid.num_tokens + number) for number in possible)
        raise ValueError(
            f"{weights.theirs('pos_embed')} has {len(table_LC)} rows, a grid of {height}x{width} "
            f"with {rows} prefix rows needs {needed}: image_size is the one that the table was made for"
        )

    tokens_PC[:prefix] += table_LC[:prefix]
    return table_LC[prefix:]


def _relative_names(weights: ViTWeights) -> tuple[str, list[str]]:
    """Our line, and the names of one table for all blocks, or of one each; no names if there are none."""
    for name in SHARED_TABLES:
        if name in weights:
            return "relative_bias(shared=true)", [name]

    part = weights.form(*BLOCK_TABLES)
    return "relative_bias", [f"blocks.{block}.{name}" for block in range(weights.depth) for name in part]


def _relative(weights: ViTWeights, names: list[str], pyramid: Pyramid, num_heads: int, prefix: int) -> Tensor:
    """Tables (N, H, 2h - 1, 2w - 1); timm's displacements are ours."""
    height, width = (2 * side - 1 for side in pyramid.finest)
    rows = height * width + (3 if prefix else 0)  # see `fold_class_rows`

    tables = []
    for name in names:
        table_RH = weights.take(name, rows, num_heads)
        spatial_RH = fold_class_rows(table_RH, name) if prefix else table_RH
        tables.append(spatial_RH.T.unflatten(1, (height, width)))
    return torch.stack(tables)


def fold_class_rows(table_RH: Tensor, name: str) -> Tensor:
    """A relative table without its last three rows: class to token, token to class, class to class.

    Our prefix tokens have no bias. What a query adds to all its scores does not change its attention, so
    a token's bias to the class can be taken off all its biases; the class's own two can only go if they are
    the same.

    Raises:
        ValueError: they are not.
    """
    to_tokens_H, from_tokens_H, to_itself_H = table_RH[-3:]
    if (to_tokens_H - to_itself_H).abs().max() > SAME_BIAS:
        raise ValueError(
            f"{name} has class rows that cannot be folded away: the class token's bias to itself differs "
            f"from the one to the patches, and our prefix tokens have none"
        )
    return table_RH[:-3] - from_tokens_H
