"""The public VAR code's checkpoints as our models, and back, bit for bit.

What no file contains is assumed to be as published: a phi is half convolution (`quant_resi=0.5`), codes are
compared by distance (`using_znorm=False`), group norms have 32 groups.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from var_pe.encodings.learned import Learned
from var_pe.interop.var.names import (
    PHI_PER_LEVEL,
    to_ours,
    to_theirs,
    tokenizer_keys,
    transformer_keys,
    with_queries_times,
)
from var_pe.interop.var.settings import HEAD_DIM, tokenizer_settings, transformer_settings
from var_pe.interop.var.state_dicts import (
    VAR,
    VQVAE,
    check_finite,
    check_state,
    fixed_buffers,
    plain_state,
    shape_of,
)
from var_pe.models.code_counts import HITS, attach_hits, hits_of
from var_pe.models.generator import VARTransformer
from var_pe.models.quantizers.vq import VQ
from var_pe.models.tokenizer import VQTokenizer
from var_pe.pyramid import Pyramid

NO_NORM = 0.25  # without attention norm VAR's softmax scale is this times ours, 1 / sqrt(head width)


def convert(
    vqvae_state: Mapping[str, object],
    var_state: Mapping[str, object],
    *,
    patch_nums: Sequence[int | Sequence[int]],
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

    # One codebook: as many codes as the transformer predicts, as wide as it reads them.
    codes, width = shape_of(vqvae, "quantize.embedding.weight", 2, VQVAE)
    wanted_codes = shape_of(var, "head.weight", 2, VAR)[0]
    wanted_width = shape_of(var, "word_embed.weight", 2, VAR)[1]
    if (codes, width) != (wanted_codes, wanted_width):
        raise ValueError(
            f"{VQVAE} has {codes} codes of width {width}, "
            f"{VAR} needs {wanted_codes} of width {wanted_width}: they do not belong together"
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
    for holds, rule in _rules(tokenizer, transformer):
        if not holds:
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

    # Statistics may be of more levels than the pyramid has: one tokenizer serves many ladders.
    codes = settings["codebook_size"]
    levels = shape_of(state, HITS, 2, VQVAE)[0]
    hits_SV = torch.empty(levels, codes, device="meta")
    check_state(state, _vqvae_state(tokenizer) | {HITS: hits_SV}, VQVAE)
    attach_hits(tokenizer, state[HITS], VQVAE)

    # VAR's file does not have our count of code use, which starts as if all codes were used equally.
    weights = to_ours(tokenizer, tokenizer_keys(tokenizer), state)
    usage_V = state[HITS].new_full((codes,), 1 / codes)
    tokenizer.load_state_dict(weights | {"quantizer.usage_V": usage_V}, assign=True)
    return tokenizer.eval()


def _transformer(state: dict[str, Tensor], pyramid: Pyramid) -> VARTransformer:
    settings = transformer_settings(state, pyramid)
    with torch.device("meta"):
        transformer = VARTransformer(**settings)
    check_state(state, _var_state(transformer), VAR)

    if not settings["qk_norm"]:
        state = with_queries_times(NO_NORM, state)
    weights = to_ours(transformer, transformer_keys(transformer), state)
    grids_K2 = torch.tensor(pyramid.grids)  # read by Python only, whatever the device
    transformer.load_state_dict(weights | {"position_encoding.grids_K2": grids_K2}, assign=True)
    return transformer.eval()


def _vqvae_state(tokenizer: VQTokenizer) -> dict[str, Tensor]:
    return {**to_theirs(tokenizer, tokenizer_keys(tokenizer)), HITS: hits_of(tokenizer)}


def _var_state(transformer: VARTransformer) -> dict[str, Tensor]:
    state = to_theirs(transformer, transformer_keys(transformer))
    if not transformer.config["qk_norm"]:
        state = with_queries_times(1 / NO_NORM, state)
    return state | fixed_buffers(transformer.pyramid, transformer.config["depth"], transformer.config["dim"])


def _rules(tokenizer: VQTokenizer, transformer: VARTransformer) -> list[tuple[bool, str]]:
    """What VAR's code fixes, each as whether it holds here and as the end of a sentence."""
    encoding = transformer.position_encoding
    of_tokenizer, of_transformer = tokenizer.config, transformer.config
    multipliers = of_tokenizer["channel_multipliers"]

    codes, width = of_tokenizer["codebook_size"], of_tokenizer["latent_channels"]
    predicted, read = of_transformer["codebook_size"], of_transformer["latent_channels"]
    dim, num_heads = of_transformer["dim"], of_transformer["num_heads"]

    return [
        (
            type(tokenizer.quantizer) is VQ and not tokenizer.quantizer.rate,
            "its quantizer is vq, a table of codes compared by distance alone, "
            f"got {of_tokenizer['quantizer']}",
        ),
        (
            type(encoding) is Learned and encoding.scale == 1,  # not its subclass, which has one grid's rows
            f"its encoding is learned, got {of_transformer['encoding']}",
        ),
        (
            of_transformer["levels_before"] is None,
            f"its levels see all coarser ones, got levels_before={of_transformer['levels_before']}",
        ),
        (
            of_transformer["most_keys"] is None,
            f"its levels see all keys, got most_keys={of_transformer['most_keys']}",
        ),
        (
            of_transformer["level_embedding"] == "learned",
            f"its level_embedding is learned, got {of_transformer['level_embedding']}",
        ),
        (
            tokenizer.pyramid == transformer.pyramid,
            f"both have one pyramid, got {tokenizer.pyramid} and {transformer.pyramid}",
        ),
        (
            (codes, width) == (predicted, read),
            f"both have one codebook, got {codes} codes of width {width} and {predicted} of width {read}",
        ),
        (
            transformer.pyramid.grids[0] == (1, 1),
            f"its first level is 1x1, got the pyramid {transformer.pyramid}",
        ),
        (
            of_transformer["qk_norm"] or dim == HEAD_DIM * num_heads,
            f"without qk_norm its heads have {HEAD_DIM} channels, got dim {dim} and num_heads {num_heads}",
        ),
        (
            of_tokenizer["num_phi"] == 0 or of_tokenizer["phi_ratio"] == 0.5,
            f"its phi_ratio is 0.5, got {of_tokenizer['phi_ratio']}",
        ),
        (of_tokenizer["norm_groups"] == 32, f"its norm_groups is 32, got {of_tokenizer['norm_groups']}"),
        (of_tokenizer["patch"] == 1, f"its patch is 1, got {of_tokenizer['patch']}"),
        (not of_tokenizer["shortcut"], "its tokenizer has no shortcut (tokenizer.shortcut=false)"),
        (
            all(multiplier % multipliers[0] == 0 for multiplier in multipliers),
            f"its channel_multipliers are multiples of the first, got {list(multipliers)}",
        ),
    ]
