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
from var_pe.interop.var_settings import HEAD_DIM, tokenizer_settings, transformer_settings
from var_pe.interop.var_state import (
    HITS,
    VAR,
    VQVAE,
    check_finite,
    check_state,
    fixed_buffers,
    plain_state,
    shape_of,
)
from var_pe.models.generator import VARTransformer
from var_pe.models.tokenizer import VQTokenizer
from var_pe.pyramid import Pyramid

NO_NORM = 0.25  # without attention norm VAR's softmax scale is this times ours, 1 / sqrt(head width)


def convert(
    vqvae_state: Mapping[str, Any], var_state: Mapping[str, Any], *, patch_nums: Sequence[int | Sequence[int]]
) -> tuple[VQTokenizer, VARTransformer]:
    """Our models with copies of VAR's weights; all but the grids is read from the shapes.

    The states are plain ones or training checkpoints, with or without the prefixes of DDP and
    `torch.compile`. `patch_nums` are sides or (rows, columns), coarse to fine.

    Raises:
        ValueError: a key is missing, unknown or of another shape, a buffer is not what `patch_nums` gives, a
            weight is not finite, or the two states do not belong together.
    """
    if not isinstance(patch_nums, Sequence) or isinstance(patch_nums, str):
        raise ValueError(
            f"patch_nums are sides from coarse to fine, such as (1, 2, 3, 4), got {patch_nums!r}"
        )
    pyramid = Pyramid.of(patch_nums)  # checks and normalises its entries
    vqvae, var = plain_state(vqvae_state, VQVAE), plain_state(var_state, VAR)
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
        ValueError: VAR's code has no such model, or a weight is not finite.
    """
    for is_so, rule in _rules(tokenizer, transformer):
        if not is_so:
            raise ValueError(f"not a model that VAR's code has: {rule}")
    check_finite(dict(tokenizer.named_parameters()), "the tokenizer")
    check_finite(dict(transformer.named_parameters()), "the transformer")
    return _vqvae_state(tokenizer), _var_state(transformer)


def _tokenizer(state: dict[str, Tensor], pyramid: Pyramid) -> VQTokenizer:
    settings, phi_per_level = tokenizer_settings(state, pyramid)
    with torch.device("meta"):
        tokenizer = VQTokenizer(**settings)
    if phi_per_level:
        tokenizer.register_to_config(**{PHI_PER_LEVEL: True})
    codes, levels = settings["codebook_size"], shape_of(state, HITS, 2, VQVAE)[0]
    hits_SV = torch.empty(levels, codes, device="meta")  # of any levels: one tokenizer serves many ladders
    check_state(state, _vqvae_state(tokenizer) | {HITS: hits_SV}, VQVAE)
    keep_hits(tokenizer, state[HITS])
    usage_V = state[HITS].new_full((codes,), 1 / codes)
    ours = to_ours(tokenizer, tokenizer_keys(tokenizer), state)
    tokenizer.load_state_dict(ours | {"quantizer.usage_V": usage_V}, assign=True)
    return tokenizer.eval()


def _transformer(state: dict[str, Tensor], pyramid: Pyramid) -> VARTransformer:
    settings = transformer_settings(state, pyramid)
    with torch.device("meta"):
        transformer = VARTransformer(**settings)
    check_state(state, _var_state(transformer), VAR)
    if not settings["qk_norm"]:
        state = with_queries_times(NO_NORM, state)
    grids_K2 = torch.tensor(pyramid.grids)  # read by Python only, whatever the device
    ours = to_ours(transformer, transformer_keys(transformer), state)
    transformer.load_state_dict(ours | {"position_encoding.grids_K2": grids_K2}, assign=True)
    return transformer.eval()


def keep_hits(tokenizer: VQTokenizer, hits_SV: Tensor) -> None:
    """Lets the tokenizer carry VAR's statistics of code use along for the way back; nothing here reads them.

    Raises:
        ValueError: they are no counts, or of another codebook.
    """
    if hits_SV.shape[1] != tokenizer.config["codebook_size"]:
        raise ValueError(
            f"{VQVAE}: {HITS} counts {hits_SV.shape[1]} codes, there are {tokenizer.config['codebook_size']}"
        )
    if not hits_SV.is_meta and not (hits_SV.isfinite() & (hits_SV >= 0)).all():
        raise ValueError(f"{VQVAE}: {HITS} counts how often codes are used, it must be finite and at least 0")
    tokenizer.quantizer.register_buffer("var_hits_SV", hits_SV.detach().clone(), persistent=False)


def has_hits(tokenizer: VQTokenizer) -> bool:
    """Whether it carries statistics of a file of VAR's."""
    return hasattr(tokenizer.quantizer, "var_hits_SV")


def kept_hits(tokenizer: VQTokenizer) -> Tensor:
    """The statistics that VAR's file came with, else zeros, as VAR's code starts them."""
    none_SV = torch.zeros(tokenizer.pyramid.num_levels, tokenizer.config["codebook_size"])
    return getattr(tokenizer.quantizer, "var_hits_SV", none_SV).float().clone()


def _vqvae_state(tokenizer: VQTokenizer) -> dict[str, Tensor]:
    return {**to_theirs(tokenizer, tokenizer_keys(tokenizer)), HITS: kept_hits(tokenizer)}


def _var_state(transformer: VARTransformer) -> dict[str, Tensor]:
    state = to_theirs(transformer, transformer_keys(transformer))
    if not transformer.config["qk_norm"]:
        state = with_queries_times(1 / NO_NORM, state)
    return state | fixed_buffers(transformer.pyramid, transformer.config["depth"], transformer.config["dim"])


def _rules(tokenizer: VQTokenizer, transformer: VARTransformer) -> list[tuple[bool, str]]:
    """What VAR's code fixes, and whether it is so here."""
    ours, theirs, table = tokenizer.config, transformer.config, transformer.position_encoding
    multipliers = ours["channel_multipliers"]
    return [
        (
            type(table) is Learned and table.scale == 1,  # a learned_grid is one, too, of one grid's rows
            f"its encoding is learned, got {theirs['encoding']}",
        ),
        (
            theirs["level_embedding"] == "learned",
            f"its level_embedding is learned, got {theirs['level_embedding']}",
        ),
        (
            tokenizer.pyramid == transformer.pyramid,
            f"both have one pyramid, got {tokenizer.pyramid} and {transformer.pyramid}",
        ),
        (
            (ours["codebook_size"], ours["latent_channels"])
            == (theirs["codebook_size"], theirs["latent_channels"]),
            f"both have one codebook, got {ours['codebook_size']} codes of width {ours['latent_channels']} "
            f"and {theirs['codebook_size']} of width {theirs['latent_channels']}",
        ),
        (
            transformer.pyramid.grids[0] == (1, 1),
            f"its first level is 1x1, got the pyramid {transformer.pyramid}",
        ),
        (
            theirs["qk_norm"] or theirs["dim"] == HEAD_DIM * theirs["num_heads"],
            f"without qk_norm its heads have {HEAD_DIM} channels, "
            f"got dim {theirs['dim']} and num_heads {theirs['num_heads']}",
        ),
        (
            ours["num_phi"] == 0 or ours["phi_ratio"] == 0.5,
            f"its phi_ratio is 0.5, got {ours['phi_ratio']}",
        ),
        (ours["norm_groups"] == 32, f"its norm_groups is 32, got {ours['norm_groups']}"),
        (
            all(multiplier % multipliers[0] == 0 for multiplier in multipliers),
            f"its channel_multipliers are multiples of the first, got {list(multipliers)}",
        ),
    ]
