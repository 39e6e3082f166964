"""ViTs of timm, torchvision and DINOv2 as our classifier, with the same logits."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from var_pe.encodings.resample import check_table
from var_pe.interop.vit_names import ViTWeights
from var_pe.models.vit import ViTClassifier
from var_pe.pyramid import Pyramid

SAME_BIAS = 1e-6  # how far two biases of a class row may differ and still be called one
RELATIVE = "relative_position_bias_table"
SHARED_TABLES = (f"rel_pos_bias.{RELATIVE}", f"shared_rel_pos.{RELATIVE}")  # BEiT, timm's relative ViT
BLOCK_TABLES = (f"attn.{RELATIVE}", f"attn.rel_pos.{RELATIVE}")


def convert(
    state_dict: Mapping[str, Any],
    *,
    source: str,
    image_size: int | Sequence[int],
    patch_size: int,
    num_heads: int,
    pool: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> ViTClassifier:
    """A classifier with copies of the weights, float32, in evaluation mode; without a head, its features.

    `image_size` is the one that the position table was made for (2x8 and 4x4 have equal tables);
    `set_input_size(..., resample=...)` then moves it, by the library's own convention: `timm`,
    `torchvision`, and `dinov2` or, with registers, `dinov2_reg`.

    Args:
        source: `timm` (VisionTransformer, VisionTransformerRelPos with tables, BEiT), `torchvision`
            (VisionTransformer) or `dinov2` (the backbone).
        pool: `class_token` or `mean`, which the weights do not always tell: by default the mean where there
            is an fc_norm or no class token.
        mean: with `std`, per channel, what the library normalises images in [0, 1] by: it moves into the
            patch kernel, and the classifier takes images in [-1, 1]. None: images as the library's model.
    Raises:
        ValueError: a weight is missing, unknown or of another shape, or the source is another.
    """
    weights, ours = ViTWeights(state_dict, source), dict[str, Tensor]()
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if height % patch_size or width % patch_size:
        raise ValueError(f"image sides must be multiples of patch_size {patch_size}, got {height}x{width}")
    pyramid = Pyramid(((height // patch_size, width // patch_size),))
    settings = _stem(weights, patch_size, mean, std, ours)
    settings |= _tokens(weights, settings["dim"], pool, ours)
    settings |= _encoding(weights, pyramid, num_heads, ours)
    settings |= _blocks(weights, settings["dim"], ours)
    settings |= _head(weights, settings["dim"], ours)
    weights.check_all_taken()
    with torch.device("meta"):
        model = ViTClassifier(
            image_size=(height, width), num_heads=num_heads, qk_norm=False, gelu="exact", **settings
        )
    model.load_state_dict(ours, assign=True)
    return model.eval()


def _stem(
    weights: ViTWeights,
    patch_size: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    ours: dict[str, Tensor],
) -> dict[str, Any]:
    """Like its neighbours below: reads weights into `ours` and returns the settings that follow from them."""
    kernel_OIhw = weights.take("patch_embed.proj.weight", -1, -1, patch_size, patch_size)
    bias_C = weights.take("patch_embed.proj.bias", len(kernel_OIhw))
    if mean is not None and std is not None:
        kernel_OIhw, bias_C = _normalising(kernel_OIhw, bias_C, mean, std)
    ours |= {"patch_embed.weight": kernel_OIhw, "patch_embed.bias": bias_C}
    return {"dim": kernel_OIhw.shape[0], "image_channels": kernel_OIhw.shape[1], "patch_size": patch_size}


def _normalising(
    kernel_OIhw: Tensor, bias_C: Tensor, mean: Sequence[float], std: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """The patch map of x in [-1, 1] that does what the given one does to ((x + 1) / 2 - mean) / std."""
    mean_I, std_I = torch.tensor(mean), torch.tensor(std)
    bias_C = bias_C + torch.einsum("OIhw,I->O", kernel_OIhw, (0.5 - mean_I) / std_I)
    return kernel_OIhw / (2 * std_I)[:, None, None], bias_C


def _tokens(weights: ViTWeights, dim: int, pool: str | None, ours: dict[str, Tensor]) -> dict[str, Any]:
    """Class token, then registers; a class token that is not read at the end is one more register."""
    pool = pool or ("class_token" if "cls_token" in weights and "fc_norm.weight" not in weights else "mean")
    names = [name for name in ("cls_token", "reg_token") if name in weights]
    if pool == "class_token" and "cls_token" not in names:
        raise ValueError(
            f"pool class_token: the {weights.source} state dict lacks {weights.theirs('cls_token')}"
        )
    if names:
        ours["prefix_tokens_PC"] = torch.cat([weights.take(name, 1, -1, dim)[0] for name in names])
    return {"pool": pool, "registers": len(ours.get("prefix_tokens_PC", ())) - (pool == "class_token")}


def _encoding(
    weights: ViTWeights, pyramid: Pyramid, num_heads: int, ours: dict[str, Tensor]
) -> dict[str, Any]:
    tokens_PC = ours.get("prefix_tokens_PC", torch.zeros(0, len(ours["patch_embed.bias"])))
    parts: dict[str, dict[str, Tensor]] = {}
    if "pos_embed" in weights:
        parts["learned"] = {"table_LC": _absolute(weights, pyramid, tokens_PC)}
    if tables := _relative(weights, pyramid, num_heads, len(tokens_PC)):
        line = "relative_bias" if len(tables) == weights.depth > 1 else "relative_bias(shared=true)"
        parts[line] = {"table_NHyx": torch.stack(tables)}
    for index, tensors in enumerate(parts.values()):
        place = f"position_encoding.parts.{index}." if len(parts) > 1 else "position_encoding."
        tensors["grids_K2"] = torch.tensor(pyramid.grids)
        ours |= {place + name: tensor for name, tensor in tensors.items()}
    return {"encoding": " + ".join(parts) or "none"}


def _absolute(weights: ViTWeights, pyramid: Pyramid, tokens_PC: Tensor) -> Tensor:
    """The table's rows of patches; a token's own row is added to the token, which is all that it does."""
    table_LC = weights.take("pos_embed", 1, -1, tokens_PC.shape[1])[0]
    name = weights.theirs("pos_embed")
    check_table(table_LC, name)
    placed = {0, len(tokens_PC)} if weights.source == "timm" else {1}
    prefix = len(table_LC) - pyramid.num_tokens
    if prefix not in placed or prefix > len(tokens_PC):
        raise ValueError(
            f"{name} has {len(table_LC)} rows, a grid of {'x'.join(map(str, pyramid.finest))} with "
            f"{' or '.join(map(str, sorted(placed)))} prefix rows needs "
            f"{' or '.join(str(pyramid.num_tokens + rows) for rows in sorted(placed))}: "
            f"image_size is the one that the table was made for"
        )
    tokens_PC[:prefix] += table_LC[:prefix]
    return table_LC[prefix:]


def _relative(weights: ViTWeights, pyramid: Pyramid, num_heads: int, prefix: int) -> list[Tensor]:
    """A table (H, 2h - 1, 2w - 1) for all blocks or one each; timm's displacements are ours."""
    names = [name for name in SHARED_TABLES if name in weights]
    for block in range(weights.depth):
        names += [name for part in BLOCK_TABLES if (name := f"blocks.{block}.{part}") in weights]
    height, width = (2 * side - 1 for side in pyramid.finest)
    tables = []
    for name in names:
        table_RH = weights.take(name, height * width + 3 * (prefix > 0), num_heads)
        check_table(table_RH, name)
        spatial_RH = fold_class_rows(table_RH, name) if prefix else table_RH
        tables.append(spatial_RH.T.unflatten(1, (height, width)))
    return tables


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


def _blocks(weights: ViTWeights, dim: int, ours: dict[str, Tensor]) -> dict[str, Any]:
    if not weights.depth:
        raise ValueError(f"the {weights.source} state dict has no blocks")
    hidden = len(weights.take("blocks.0.mlp.fc1.weight", -1, dim))
    linear = {"attn.proj": (dim, dim), "mlp.fc1": (hidden, dim), "mlp.fc2": (dim, hidden)}
    shapes: dict[str, tuple[int, ...]] = {"norm1": (dim,), "norm2": (dim,), **linear}
    scales = {
        "ls1.gamma": "scale1",
        "ls2.gamma": "scale2",
        "gamma_1": "scale1",
        "gamma_2": "scale2",
    }  # or BEiT's
    for start in (f"blocks.{block}." for block in range(weights.depth)):
        for name, shape in shapes.items():
            ours[f"{start}{name}.weight"] = weights.take(f"{start}{name}.weight", *shape)
            ours[f"{start}{name}.bias"] = weights.take(f"{start}{name}.bias", shape[0])
        ours[f"{start}attn.qkv.weight"] = weights.take(f"{start}attn.qkv.weight", 3 * dim, dim)
        ours |= _query_and_value_bias(weights, f"{start}attn.", dim)
        for theirs, scale in scales.items():
            if start + theirs in weights:
                ours[f"{start}{scale}.gain_C"] = weights.take(start + theirs, dim)
    scaled = "blocks.0.scale1.gain_C" in ours
    return {"depth": weights.depth, "mlp_ratio": hidden / dim, "layer_scale": 1e-5 if scaled else 0.0}


def _query_and_value_bias(weights: ViTWeights, start: str, dim: int) -> dict[str, Tensor]:
    """A key's bias adds one number, query times bias, to all scores of a query: the softmax drops it."""
    if f"{start}qkv.bias" in weights:
        query_C, _, value_C = weights.take(f"{start}qkv.bias", 3 * dim).chunk(3)
    elif f"{start}q_bias" in weights:  # BEiT, which has none for keys
        query_C, value_C = (weights.take(f"{start}{name}_bias", dim) for name in "qv")
    else:
        query_C, value_C = torch.zeros(dim), torch.zeros(dim)
    return {f"{start}q_bias": query_C, f"{start}v_bias": value_C}


def _head(weights: ViTWeights, dim: int, ours: dict[str, Tensor]) -> dict[str, Any]:
    norm = "fc_norm" if "fc_norm.weight" in weights else "norm"
    ours |= {f"norm.{part}": weights.take(f"{norm}.{part}", dim) for part in ("weight", "bias")}
    if "head.weight" in weights:
        ours["head.weight"] = weights.take("head.weight", -1, dim)
        ours["head.bias"] = weights.take("head.bias", len(ours["head.weight"]))
    classes = len(ours.get("head.weight", ()))
    return {"num_classes": classes, "final_norm": "pooled" if norm == "fc_norm" else "tokens"}
