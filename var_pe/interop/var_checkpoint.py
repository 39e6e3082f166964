"""The public VAR code's checkpoints as our models, and back, bit for bit (Tian et al. 2024, public code).

What no file tells is taken to be as published: a phi is half convolution (`quant_resi=0.5`), codes are
compared by distance (`using_znorm=False`), group norms have 32 groups.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from var_pe.encodings.learned import Learned
from var_pe.interop.var_names import (
    PHI_PER_LEVEL,
    to_ours,
    to_theirs,
    tokenizer_keys,
    transformer_keys,
    with_queries_times,
)
from var_pe.interop.var_state import (
    HITS,
    VAR,
    VQVAE,
    check_hits,
    check_state,
    count,
    fixed_buffers,
    plain_state,
    shape_of,
)
from var_pe.models.generator import VARTransformer
from var_pe.models.tokenizer import VQTokenizer
from var_pe.pyramid import Pyramid

HEAD_DIM = 64  # of all VARs; a file tells only where attention is normalised
NO_NORM = 0.25  # without attention norm VAR's softmax scale is this times ours, 1 / sqrt(HEAD_DIM)
LADDERS = (
    (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),  # published for 256 pixels
    (1, 2, 3, 4, 6, 9, 13, 18, 24, 32),  # 512
    (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64),  # 1024
)


def convert(
    vqvae_state: Mapping[str, Any], var_state: Mapping[str, Any], *, patch_nums: Sequence[int | Sequence[int]]
) -> tuple[VQTokenizer, VARTransformer]:
    """Our models with copies of VAR's weights; all but the grids is read from the shapes.

    The states are plain ones or training checkpoints, with or without the prefixes of DDP and
    `torch.compile`. `patch_nums` are sides or (rows, columns), coarse to fine.

    Raises:
        ValueError: a key is missing, unknown or of another shape, a buffer is not what `patch_nums` gives, or
            the two states do not belong together.
    """
    pyramid = Pyramid(tuple(patch_nums))  # type: ignore[arg-type]  # checks and normalises its entries
    vqvae, var = plain_state(vqvae_state, VQVAE), plain_state(var_state, VAR)
    if "pos_1LC" in vqvae:
        raise ValueError(f"{VQVAE} is a transformer's: are the two exchanged?")
    codes_VZ = shape_of(vqvae, "quantize.embedding.weight", 2, VQVAE)
    wanted_VZ = shape_of(var, "head.weight", 2, VAR)[0], shape_of(var, "word_embed.weight", 2, VAR)[1]
    if codes_VZ != wanted_VZ:
        raise ValueError(
            f"{VQVAE} has {codes_VZ[0]} codes of width {codes_VZ[1]}, "
            f"{VAR} needs {wanted_VZ[0]} of width {wanted_VZ[1]}: they do not belong together"
        )
    return _tokenizer(vqvae, pyramid), _transformer(var, pyramid)


def to_var(
    tokenizer: VQTokenizer, transformer: VARTransformer
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The states of VQVAE and VAR, float32 copies, as the public code loads them strictly.

    The statistics of code use are those the tokenizer was converted with, else zeros.

    Raises:
        ValueError: VAR's code has no such model.
    """
    for is_so, rule in _rules(tokenizer, transformer):
        if not is_so:
            raise ValueError(f"not a model that VAR's code has: {rule}")
    return _vqvae_state(tokenizer), _var_state(transformer)


def published_patch_nums(var_state: Mapping[str, Any]) -> tuple[int, ...]:
    """The published ladder with as many tokens and levels as the checkpoint.

    Raises:
        ValueError: there is none.
    """
    state = plain_state(var_state, VAR)
    tokens, levels = shape_of(state, "pos_1LC", 3, VAR)[1], shape_of(state, "lvl_embed.weight", 2, VAR)[0]
    for ladder in LADDERS:
        if (Pyramid.square(*ladder).num_tokens, len(ladder)) == (tokens, levels):
            return ladder
    raise ValueError(
        f"{VAR} has {tokens} tokens on {levels} levels, as none of the published ones: give patch_nums"
    )


def _tokenizer(state: dict[str, Tensor], pyramid: Pyramid) -> VQTokenizer:
    codes_VZ = state["quantize.embedding.weight"]
    channels, image_channels = shape_of(state, "encoder.conv_in.weight", 4, VQVAE)[:2]
    num_phi, per_level = _phis(state, pyramid)
    with torch.device("meta"):
        tokenizer = VQTokenizer(
            levels=_levels(pyramid),
            image_channels=image_channels,
            codebook_size=codes_VZ.shape[0],
            latent_channels=codes_VZ.shape[1],
            channels=channels,
            channel_multipliers=_multipliers(state, channels),
            blocks_per_resolution=count(state, "encoder.down.0.block."),
            attention="encoder.mid.attn_1.norm.weight" in state,
            num_phi=num_phi,
        )
    if per_level:
        tokenizer.register_to_config(**{PHI_PER_LEVEL: True})
    expected = _vqvae_state(tokenizer)
    ladder_of_hits = shape_of(state, HITS, 2, VQVAE)[0]  # one tokenizer serves ladders of any length
    check_state(
        state,
        expected | {HITS: expected[HITS].new_empty(ladder_of_hits, len(codes_VZ), device="meta")},
        VQVAE,
    )
    check_hits(state[HITS])
    tokenizer.quantizer.register_buffer("var_hits_SV", state[HITS].detach().clone(), persistent=False)
    buffers = {"quantizer.usage_V": codes_VZ.new_full((len(codes_VZ),), 1 / len(codes_VZ))}
    tokenizer.load_state_dict(to_ours(tokenizer, tokenizer_keys(tokenizer), state) | buffers, assign=True)
    return tokenizer.eval()


def _multipliers(state: dict[str, Tensor], channels: int) -> list[int]:
    resolutions = range(count(state, "encoder.down."))
    widths = [shape_of(state, f"encoder.down.{i}.block.0.conv1.weight", 4, VQVAE)[0] for i in resolutions]
    if widths[:1] != [channels] or any(width % channels for width in widths):
        raise ValueError(
            f"{VQVAE}: the widths per resolution must be multiples of conv_in's, {channels}, "
            f"and start there, got {widths}"
        )
    return [width // channels for width in widths]


def _phis(state: dict[str, Tensor], pyramid: Pyramid) -> tuple[int, bool]:
    """How many smoothing convolutions, and whether they are named as one per level (`share_quant_resi=0`)."""
    if "quantize.quant_resi.qresi.weight" in state:
        return 1, False
    if number := count(state, "quantize.quant_resi.qresi_ls."):
        return number, False
    number = count(state, "quantize.quant_resi.")
    if number not in (0, pyramid.num_levels):
        raise ValueError(
            f"{VQVAE} has a phi for each of {number} levels, patch_nums has {pyramid.num_levels}"
        )
    return number, number > 0


def _transformer(state: dict[str, Tensor], pyramid: Pyramid) -> VARTransformer:
    labels, dim = shape_of(state, "class_emb.weight", 2, VAR)
    tokens = shape_of(state, "pos_1LC", 3, VAR)[1]
    if tokens != pyramid.num_tokens:
        raise ValueError(f"{VAR} has {tokens} tokens, patch_nums {pyramid} has {pyramid.num_tokens}")
    scales, qk_norm = "blocks.0.attn.scale_mul_1H11", "blocks.0.attn.scale_mul_1H11" in state
    if not qk_norm and dim % HEAD_DIM:
        raise ValueError(f"{VAR} without attention norm has heads of {HEAD_DIM} channels, its width is {dim}")
    with torch.device("meta"):
        transformer = VARTransformer(
            levels=_levels(pyramid),
            codebook_size=state["head.weight"].shape[0],
            latent_channels=state["word_embed.weight"].shape[1],
            num_classes=labels - 1,
            dim=dim,
            depth=count(state, "blocks."),
            num_heads=shape_of(state, scales, 4, VAR)[1] if qk_norm else dim // HEAD_DIM,
            mlp_ratio=shape_of(state, "blocks.0.ffn.fc1.weight", 2, VAR)[0] / dim,
            qk_norm=qk_norm,
            shared_adaln="shared_ada_lin.1.weight" in state,
        )
    check_state(state, _var_state(transformer), VAR)
    buffers = {"position_encoding.grids_K2": torch.tensor(pyramid.grids, device=state["pos_1LC"].device)}
    state = state if qk_norm else with_queries_times(NO_NORM, state)
    ours = to_ours(transformer, transformer_keys(transformer), state)
    transformer.load_state_dict(ours | buffers, assign=True)
    return transformer.eval()


def _vqvae_state(tokenizer: VQTokenizer) -> dict[str, Tensor]:
    none_SV = torch.zeros(tokenizer.pyramid.num_levels, tokenizer.config.codebook_size)
    hits_SV = getattr(tokenizer.quantizer, "var_hits_SV", none_SV)
    return {**to_theirs(tokenizer, tokenizer_keys(tokenizer)), HITS: hits_SV.clone()}


def _var_state(transformer: VARTransformer) -> dict[str, Tensor]:
    state = to_theirs(transformer, transformer_keys(transformer))
    if not transformer.config.qk_norm:
        state = with_queries_times(1 / NO_NORM, state)
    return state | fixed_buffers(transformer.pyramid, transformer.config.depth, transformer.config.dim)


def _levels(pyramid: Pyramid) -> list[int | list[int]]:
    return [h if h == w else [h, w] for h, w in pyramid.grids]


def _rules(tokenizer: VQTokenizer, transformer: VARTransformer) -> list[tuple[bool, str]]:
    """What VAR's code fixes, and whether it is so here."""
    ours, theirs, table = tokenizer.config, transformer.config, transformer.position_encoding
    multipliers = ours.channel_multipliers
    return [
        (
            isinstance(table, Learned) and table.scale == 1,
            f"its encoding is learned, got {theirs.encoding}",
        ),
        (
            theirs.level_embedding == "learned",
            f"its level_embedding is learned, got {theirs.level_embedding}",
        ),
        (
            tokenizer.pyramid == transformer.pyramid,
            f"both have one pyramid, got {tokenizer.pyramid} and {transformer.pyramid}",
        ),
        (
            (ours.codebook_size, ours.latent_channels) == (theirs.codebook_size, theirs.latent_channels),
            f"both have one codebook, got {ours.codebook_size} codes of width {ours.latent_channels} "
            f"and {theirs.codebook_size} of width {theirs.latent_channels}",
        ),
        (
            transformer.pyramid.grids[0] == (1, 1),
            f"its first level is 1x1, got the pyramid {transformer.pyramid}",
        ),
        (
            theirs.qk_norm or theirs.dim == HEAD_DIM * theirs.num_heads,
            f"without qk_norm its heads have {HEAD_DIM} channels, "
            f"got dim {theirs.dim} and num_heads {theirs.num_heads}",
        ),
        (
            ours.num_phi == 0 or ours.phi_ratio == 0.5,
            f"its phi_ratio is 0.5, got {ours.phi_ratio}",
        ),
        (ours.norm_groups == 32, f"its norm_groups is 32, got {ours.norm_groups}"),
        (
            all(multiplier % multipliers[0] == 0 for multiplier in multipliers),
            f"its channel_multipliers are multiples of the first, got {list(multipliers)}",
        ),
    ]
