"""The arguments of our models' constructors, read from the shapes of VAR's state dicts."""

from collections.abc import Mapping
from typing import TypedDict

from torch import Tensor

from var_pe.interop.var.state_dicts import VAR, VQVAE, count, plain_state, shape_of
from var_pe.pyramid import Pyramid

HEAD_DIM = 64  # of all VARs; a file shows it only where attention is normalised

# published for pictures of 256, 512 and 1024 pixels
LADDERS = (
    (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
    (1, 2, 3, 4, 6, 9, 13, 18, 24, 32),
    (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64),
)


class TokenizerSettings(TypedDict):
    """Arguments of VQTokenizer."""

    levels: list[int | list[int]]
    image_channels: int
    codebook_size: int
    latent_channels: int
    channels: int
    channel_multipliers: list[int]
    blocks_per_resolution: int
    attention: bool
    num_phi: int


class TransformerSettings(TypedDict):
    """Arguments of VARTransformer."""

    levels: list[int | list[int]]
    codebook_size: int
    latent_channels: int
    num_classes: int
    dim: int
    depth: int
    num_heads: int
    mlp_ratio: float
    qk_norm: bool
    shared_adaln: bool


def published_patch_nums(var_state: Mapping[str, object]) -> tuple[int, ...]:
    """The published ladder with as many tokens and levels as the checkpoint.

    Raises:
        ValueError: there is none.
    """
    state = plain_state(var_state, VAR)
    tokens = shape_of(state, "pos_1LC", 3, VAR)[1]
    levels = shape_of(state, "lvl_embed.weight", 2, VAR)[0]

    for ladder in LADDERS:
        if Pyramid.square(*ladder).num_tokens == tokens and len(ladder) == levels:
            return ladder
    raise ValueError(
        f"{VAR} has {tokens} tokens on {levels} levels, unlike all published grids: give its own "
        f"(patch_nums, --patch-nums)"
    )


def tokenizer_settings(state: Mapping[str, Tensor], pyramid: Pyramid) -> tuple[TokenizerSettings, bool]:
    """VQTokenizer's arguments, and whether its phis are named as one per level (`share_quant_resi=0`).

    Raises:
        ValueError: a tensor is missing, or VQTokenizer has no such widths or phis.
    """
    codes, latent_channels = shape_of(state, "quantize.embedding.weight", 2, VQVAE)
    channels, image_channels = shape_of(state, "encoder.conv_in.weight", 4, VQVAE)[:2]
    num_phi, phi_per_level = _phis(state, pyramid)

    settings = TokenizerSettings(
        levels=_levels(pyramid),
        image_channels=image_channels,
        codebook_size=codes,
        latent_channels=latent_channels,
        channels=channels,
        channel_multipliers=_multipliers(state, channels),
        blocks_per_resolution=count(state, "encoder.down.0.block."),
        attention="encoder.mid.attn_1.norm.weight" in state,
        num_phi=num_phi,
    )
    return settings, phi_per_level


def transformer_settings(state: Mapping[str, Tensor], pyramid: Pyramid) -> TransformerSettings:
    """VARTransformer's arguments.

    Raises:
        ValueError: a tensor is missing, or the width or the number of tokens does not fit.
    """
    labels, dim = shape_of(state, "class_emb.weight", 2, VAR)
    tokens = shape_of(state, "pos_1LC", 3, VAR)[1]
    if tokens != pyramid.num_tokens:
        raise ValueError(f"{VAR} has {tokens} tokens, the grids {pyramid} have {pyramid.num_tokens}")

    # Heads have scales of their own where attention is normalised; elsewhere their width is known.
    scales = "blocks.0.attn.scale_mul_1H11"
    qk_norm = scales in state
    if not qk_norm and dim % HEAD_DIM:
        raise ValueError(f"{VAR} without attention norm has heads of {HEAD_DIM} channels, its width is {dim}")
    num_heads = shape_of(state, scales, 4, VAR)[1] if qk_norm else dim // HEAD_DIM

    return TransformerSettings(
        levels=_levels(pyramid),
        codebook_size=shape_of(state, "head.weight", 2, VAR)[0],
        latent_channels=shape_of(state, "word_embed.weight", 2, VAR)[1],
        num_classes=labels - 1,
        dim=dim,
        depth=count(state, "blocks."),
        num_heads=num_heads,
        mlp_ratio=shape_of(state, "blocks.0.ffn.fc1.weight", 2, VAR)[0] / dim,
        qk_norm=qk_norm,
        shared_adaln="shared_ada_lin.1.weight" in state,
    )


def _levels(pyramid: Pyramid) -> list[int | list[int]]:
    return [h if h == w else [h, w] for h, w in pyramid.grids]


def _multipliers(state: Mapping[str, Tensor], channels: int) -> list[int]:
    resolutions = range(count(state, "encoder.down."))
    widths = [shape_of(state, f"encoder.down.{i}.block.0.conv1.weight", 4, VQVAE)[0] for i in resolutions]

    if widths[:1] != [channels] or any(width % channels for width in widths):
        raise ValueError(
            f"{VQVAE}: the widths per resolution must be multiples of conv_in's, {channels}, "
            f"and start there, got {widths}"
        )
    return [width // channels for width in widths]


def _phis(state: Mapping[str, Tensor], pyramid: Pyramid) -> tuple[int, bool]:
    """How many phis there are, and whether there is one for each level."""
    if "quantize.quant_resi.qresi.weight" in state:
        return 1, False
    number = count(state, "quantize.quant_resi.qresi_ls.")
    if number:
        return number, False

    number = count(state, "quantize.quant_resi.")
    if number not in (0, pyramid.num_levels):
        raise ValueError(
            f"{VQVAE} has a phi for each of {number} levels, but grids of {pyramid.num_levels} are given"
        )
    return number, number > 0
