"""VAR's formulas in plain torch functions over its state dicts, and its keys and shapes.

Written from Tian et al. 2024 and notes on the public code's behaviour; checked against that code's own
numbers in test_conversion.py, where our models are compared with it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def vqvae_shapes(
    *, levels, codes, latent, widths, blocks, phis, attention=True
) -> dict[str, tuple[int, ...]]:
    """`phis`: names below quantize.quant_resi, such as `qresi`, `qresi_ls.0` or `0`."""
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(key: str, *weight: int) -> None:
        shapes[f"{key}.weight"], shapes[f"{key}.bias"] = weight, weight[:1]

    def residual(key: str, before: int, after: int) -> None:
        layer(f"{key}.norm1", before)
        layer(f"{key}.conv1", after, before, 3, 3)
        layer(f"{key}.norm2", after)
        layer(f"{key}.conv2", after, after, 3, 3)
        if before != after:
            layer(f"{key}.nin_shortcut", after, before, 1, 1)

    def attend(key: str, width: int) -> None:
        if attention:
            layer(f"{key}.norm", width)
            layer(f"{key}.qkv", 3 * width, width, 1, 1)
            layer(f"{key}.proj_out", width, width, 1, 1)

    first, last, lowest = widths[0], widths[-1], len(widths) - 1
    for part, way, order, more in (
        ("encoder", "down", range(len(widths)), 0),
        ("decoder", "up", range(lowest, -1, -1), 1),
    ):
        before = last if more else first
        layer(f"{part}.conv_in", *((last, latent) if more else (first, 3)), 3, 3)
        for i in order:
            for b in range(blocks + more):
                residual(f"{part}.{way}.{i}.block.{b}", before, widths[i])
                before = widths[i]
                if i == lowest:
                    attend(f"{part}.{way}.{i}.attn.{b}", before)
            if i != (0 if more else lowest):
                layer(f"{part}.{way}.{i}.{way}sample.conv", before, before, 3, 3)
        residual(f"{part}.mid.block_1", last, last)
        attend(f"{part}.mid.attn_1", last)
        residual(f"{part}.mid.block_2", last, last)
        layer(f"{part}.norm_out", first if more else last)
        layer(f"{part}.conv_out", *((3, first) if more else (latent, last)), 3, 3)
    for key in ("quant_conv", "post_quant_conv", *(f"quantize.quant_resi.{name}" for name in phis)):
        layer(key, latent, latent, 3, 3)
    return shapes | {
        "quantize.embedding.weight": (codes, latent),
        "quantize.ema_vocab_hit_SV": (levels, codes),
    }


def var_shapes(
    *, tokens, levels, codes, latent, dim, depth, heads, classes, shared=False, hidden=None
) -> dict[str, tuple[int, ...]]:
    """`heads` None: no attention norm."""
    hidden = hidden or 4 * dim
    shapes: dict[str, tuple[int, ...]] = {
        "pos_start": (1, 1, dim),
        "pos_1LC": (1, tokens, dim),
        "lvl_1L": (1, tokens),
        "attn_bias_for_masking": (1, 1, tokens, tokens),
        "class_emb.weight": (classes + 1, dim),
        "lvl_embed.weight": (levels, dim),
    }
    layers = {"word_embed": (dim, latent), "head_nm.ada_lin.1": (2 * dim, dim), "head": (codes, dim)}
    if shared:
        layers["shared_ada_lin.1"] = (6 * dim, dim)
    for i in range(depth):
        block = f"blocks.{i}"
        layers |= {f"{block}.attn.proj": (dim, dim)}
        layers |= {f"{block}.ffn.fc1": (hidden, dim), f"{block}.ffn.fc2": (dim, hidden)}
        shapes |= {f"{block}.attn.{name}": (dim,) for name in ("q_bias", "v_bias", "zero_k_bias")}
        shapes[f"{block}.attn.mat_qkv.weight"] = (3 * dim, dim)
        if heads is not None:
            shapes[f"{block}.attn.scale_mul_1H11"] = (1, heads, 1, 1)
        if shared:
            shapes[f"{block}.ada_gss"] = (1, 1, 6, dim)
        else:
            layers[f"{block}.ada_lin.1"] = (6 * dim, dim)
    for key, weight in layers.items():
        shapes |= {f"{key}.weight": weight, f"{key}.bias": weight[:1]}
    return shapes


# the tokenizer


def conv(w: State, key: str, x: Tensor, **options) -> Tensor:
    return F.conv2d(x, w[f"{key}.weight"], w[f"{key}.bias"], **options)


def norm(w: State, key: str, x: Tensor) -> Tensor:
    return F.group_norm(x, 32, w[f"{key}.weight"], w[f"{key}.bias"], eps=1e-6)


def residual(w: State, key: str, x: Tensor) -> Tensor:
    h = conv(w, f"{key}.conv1", F.silu(norm(w, f"{key}.norm1", x)), padding=1)
    h = conv(w, f"{key}.conv2", F.silu(norm(w, f"{key}.norm2", h)), padding=1)
    return h + (conv(w, f"{key}.nin_shortcut", x) if f"{key}.nin_shortcut.weight" in w else x)


def attend(w: State, key: str, x: Tensor) -> Tensor:
    if f"{key}.norm.weight" not in w:
        return x
    q, k, v = conv(w, f"{key}.qkv", norm(w, f"{key}.norm", x)).flatten(2).chunk(3, dim=1)
    weights = (q.mT @ k * q.shape[1] ** -0.5).softmax(dim=-1)
    return x + conv(w, f"{key}.proj_out", (v @ weights.mT).view_as(x))


def middle(w: State, part: str, x: Tensor) -> Tensor:
    x = attend(w, f"{part}.mid.attn_1", residual(w, f"{part}.mid.block_1", x))
    return residual(w, f"{part}.mid.block_2", x)


def resolution(w: State, key: str, x: Tensor) -> Tensor:
    b = 0
    while f"{key}.block.{b}.norm1.weight" in w:
        x = attend(w, f"{key}.attn.{b}", residual(w, f"{key}.block.{b}", x))
        b += 1
    return x


def latent(w: State, images: Tensor) -> Tensor:
    x, i = conv(w, "encoder.conv_in", images, padding=1), 0
    while f"encoder.down.{i}.block.0.norm1.weight" in w:
        x = resolution(w, f"encoder.down.{i}", x)
        if f"encoder.down.{i}.downsample.conv.weight" in w:
            x = conv(w, f"encoder.down.{i}.downsample.conv", F.pad(x, (0, 1, 0, 1)), stride=2)
        i += 1
    x = F.silu(norm(w, "encoder.norm_out", middle(w, "encoder", x)))
    return conv(w, "quant_conv", conv(w, "encoder.conv_out", x, padding=1), padding=1)


def decoded(w: State, f_hat: Tensor) -> Tensor:
    x = conv(w, "decoder.conv_in", conv(w, "post_quant_conv", f_hat, padding=1), padding=1)
    x = middle(w, "decoder", x)
    for i in reversed(range(sum(key.endswith(".block.0.norm1.weight") for key in w if "decoder.up" in key))):
        x = resolution(w, f"decoder.up.{i}", x)
        if i:
            x = conv(w, f"decoder.up.{i}.upsample.conv", F.interpolate(x, scale_factor=2), padding=1)
    x = F.silu(norm(w, "decoder.norm_out", x))
    return conv(w, "decoder.conv_out", x, padding=1).clamp(-1, 1)


def phi(w: State, h: Tensor, k: int, levels: int) -> Tensor:
    names = sorted({key.rsplit(".", 1)[0] for key in w if key.startswith("quantize.quant_resi.")})
    if not names:
        return h
    edge = 1 / (3 * len(names)) if len(names) == 4 else 1 / (2 * len(names))
    ticks = torch.linspace(edge, 1 - edge, len(names), dtype=torch.float64)
    chosen = names[int((ticks - k / (levels - 1)).abs().argmin())]
    return 0.5 * h + 0.5 * conv(w, chosen, h, padding=1)


def add_level(w: State, f_hat: Tensor, tokens: Tensor, k: int, grids) -> Tensor:
    h = w["quantize.embedding.weight"][tokens].mT.unflatten(2, grids[k])
    h = h if grids[k] == grids[-1] else F.interpolate(h, size=grids[-1], mode="bicubic")
    return f_hat + phi(w, h, k, len(grids))


def seen_by(f: Tensor, grid) -> Tensor:
    return F.adaptive_avg_pool2d(f, grid).flatten(2).mT


def walked(w: State, f: Tensor, grids) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens of a latent map, the transformer's inputs, the quantized map."""
    f_hat, tokens, inputs = torch.zeros_like(f), [], []
    for k, grid in enumerate(grids):
        tokens.append(torch.cdist(seen_by(f - f_hat, grid), w["quantize.embedding.weight"]).argmin(-1))
        f_hat = add_level(w, f_hat, tokens[-1], k, grids)
        if k + 1 < len(grids):
            inputs.append(seen_by(f_hat, grids[k + 1]))
    return torch.cat(tokens, 1), torch.cat(inputs, 1), f_hat


# the transformer


def affine(w: State, key: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{key}.weight"], w[f"{key}.bias"])


def attention(w: State, key: str, x: Tensor, mask: Tensor) -> Tensor:
    dim = x.shape[-1]
    bias = torch.cat([w[f"{key}.q_bias"], torch.zeros(dim), w[f"{key}.v_bias"]])
    scale = w.get(f"{key}.scale_mul_1H11")
    heads = dim // 64 if scale is None else scale.shape[1]
    three = F.linear(x, w[f"{key}.mat_qkv.weight"], bias).chunk(3, dim=-1)
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in three)
    if scale is None:
        q = q * 0.25 / (dim // heads) ** 0.5
    else:
        q, k = (
            F.normalize(q, dim=-1) * scale.clamp(max=torch.tensor(100.0).log()).exp(),
            F.normalize(k, dim=-1),
        )
    mixed = (q @ k.mT + mask).softmax(dim=-1) @ v
    return affine(w, f"{key}.proj", mixed.transpose(1, 2).flatten(2))


def logits(w: State, labels: Tensor, inputs: Tensor, grids) -> Tensor:
    level = torch.cat([torch.full((h * w_,), k) for k, (h, w_) in enumerate(grids)])
    mask = torch.where(level[:, None] >= level, 0.0, -torch.inf)
    cond = w["class_emb.weight"][labels]
    x = torch.cat([cond[:, None] + w["pos_start"], affine(w, "word_embed", inputs)], dim=1)
    x = x + w["lvl_embed.weight"][level] + w["pos_1LC"]
    dim, i = x.shape[-1], 0
    while f"blocks.{i}.attn.proj.weight" in w:
        block = f"blocks.{i}"
        if "shared_ada_lin.1.weight" in w:
            six = (
                affine(w, "shared_ada_lin.1", F.silu(cond)).unflatten(1, (1, 6, dim)) + w[f"{block}.ada_gss"]
            )
        else:
            six = affine(w, f"{block}.ada_lin.1", F.silu(cond)).unflatten(1, (1, 6, dim))
        gate1, gate2, scale1, scale2, shift1, shift2 = six.unbind(2)
        plain = F.layer_norm(x, (dim,), eps=1e-6)
        x = x + gate1 * attention(w, f"{block}.attn", plain * (1 + scale1) + shift1, mask)
        plain = F.layer_norm(x, (dim,), eps=1e-6) * (1 + scale2) + shift2
        hidden = F.gelu(affine(w, f"{block}.ffn.fc1", plain), approximate="tanh")
        x, i = x + gate2 * affine(w, f"{block}.ffn.fc2", hidden), i + 1
    scale, shift = affine(w, "head_nm.ada_lin.1", F.silu(cond))[:, None].chunk(2, dim=-1)
    return affine(w, "head", F.layer_norm(x, (dim,), eps=1e-6) * (1 + scale) + shift)


def greedy(vqvae: State, var: State, labels: Tensor, grids, cfg: float) -> Tensor:
    """The likeliest tokens level by level, the whole sequence computed anew for each: no cache."""
    nobody = torch.full_like(labels, len(var["class_emb.weight"]) - 1)
    length, width = sum(h * w for h, w in grids), vqvae["quantize.embedding.weight"].shape[1]
    inputs, f_hat = torch.zeros(len(labels), length - 1, width), torch.zeros(len(labels), width, *grids[-1])
    tokens, start = [], 0
    for k, (h, w) in enumerate(grids):
        t = cfg * k / (len(grids) - 1)
        both = (1 + t) * logits(var, labels, inputs, grids) - t * logits(var, nobody, inputs, grids)
        tokens.append(both[:, start : start + h * w].argmax(-1))
        f_hat, start = add_level(vqvae, f_hat, tokens[-1], k, grids), start + h * w
        if k + 1 < len(grids):
            seen = seen_by(f_hat, grids[k + 1])
            inputs[:, start - 1 : start - 1 + seen.shape[1]] = seen
    return torch.cat(tokens, 1)
