"""Each weight's name and shape in the public VAR checkpoints, from its name in our models and back."""

import torch
from torch import Tensor, nn

from var_pe.models.generator import VARTransformer
from var_pe.models.tokenizer import VQTokenizer

# entry of a tokenizer's config: a phi for each level, named as by VAR's `share_quant_resi=0`
PHI_PER_LEVEL = "_phi_per_level"

# our part of a name and VAR's, replaced one after another
TOKENIZER_NAMES = (
    ("quantizer.codebook_VZ", "quantize.embedding.weight"),
    ("mid_block.resnets.0", "mid.block_1"),
    ("mid_block.resnets.1", "mid.block_2"),
    ("mid_block.attentions.0", "mid.attn_1"),
    ("down_blocks", "down"),
    ("resnets", "block"),
    ("attentions", "attn"),
    ("downsamplers.0", "downsample"),
    ("upsamplers.0", "upsample"),
    ("conv_shortcut", "nin_shortcut"),
    ("conv_norm_out", "norm_out"),
    ("group_norm", "norm"),
    ("to_q", "qkv"),
    ("to_k", "qkv"),
    ("to_v", "qkv"),
    ("to_out.0", "proj_out"),
)
TRANSFORMER_NAMES = (
    ("start_C", "pos_start"),
    ("position_encoding.table_LC", "pos_1LC"),
    ("level_embed.table_KC", "lvl_embed.weight"),
    ("class_embed.", "class_emb."),
    ("shared_modulation.", "shared_ada_lin.1."),
    ("head_modulation.", "head_nm.ada_lin.1."),
    (".modulation_6C", ".ada_gss"),
    (".modulation.", ".ada_lin.1."),
    (".qkv.", ".mat_qkv."),
    (".log_scale_H", ".scale_mul_1H11"),
    (".mlp.", ".ffn."),
)


def tokenizer_keys(tokenizer: VQTokenizer) -> dict[str, str]:
    """Our parameters' names to VAR's; three of ours are one of VAR's where attention has q, k and v."""
    last = len(tokenizer.config["channel_multipliers"]) - 1
    names = [(f"up_blocks.{i}.", f"up.{last - i}.") for i in range(last + 1)]  # VAR counts from the finest

    if tokenizer.config.get(PHI_PER_LEVEL, False):
        names += [("quantizer.phi.", "quantize.quant_resi.")]
    elif tokenizer.config["num_phi"] == 1:
        names += [("quantizer.phi.0.", "quantize.quant_resi.qresi.")]
    else:
        names += [("quantizer.phi.", "quantize.quant_resi.qresi_ls.")]

    return _keys(tokenizer, (*names, *TOKENIZER_NAMES))


def transformer_keys(transformer: VARTransformer) -> dict[str, str]:
    """Our parameters' names to VAR's."""
    return _keys(transformer, TRANSFORMER_NAMES)


def _keys(model: nn.Module, names: tuple[tuple[str, str], ...]) -> dict[str, str]:
    keys = {}
    for name, _ in model.named_parameters():
        keys[name] = name
        for ours, theirs in names:
            keys[name] = keys[name].replace(ours, theirs)
    return keys


def to_ours(model: nn.Module, keys: dict[str, str], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of VAR's weights under our names, in our shapes."""
    ours = {}
    for name, parameter in model.named_parameters():
        value = state[keys[name]].detach()
        third = _third(name)
        if third is not None:
            value = value.chunk(3)[third]
        ours[name] = value.reshape(parameter.shape).clone(memory_format=torch.contiguous_format)
    return ours


def to_theirs(model: nn.Module, keys: dict[str, str]) -> dict[str, Tensor]:
    """Copies of our weights under VAR's names, in VAR's shapes and float32."""
    parts: dict[str, dict[int, Tensor]] = {}
    for name, parameter in model.named_parameters():
        parts.setdefault(keys[name], {})[_third(name) or 0] = parameter.detach().float()

    theirs = {}
    for key, thirds in parts.items():
        theirs[key] = _shaped(key, torch.cat([thirds[i] for i in sorted(thirds)]))
    return theirs


def _third(name: str) -> int | None:
    """Which third of a `qkv` a parameter is, None where it is the whole."""
    for third, part in enumerate(("to_q", "to_k", "to_v")):
        if f".{part}." in name:
            return third
    return None


def _shaped(key: str, value: Tensor) -> Tensor:
    """Our tensor with the axes of length one that VAR's has."""
    if key.endswith((".qkv.weight", ".proj_out.weight")):  # 1 x 1 convolutions, linear layers here
        return value[:, :, None, None]
    if key.endswith(".scale_mul_1H11"):
        return value[None, :, None, None]
    if key == "pos_start" or key.endswith(".ada_gss"):
        return value[None, None]
    return value[None] if key == "pos_1LC" else value


def with_queries_times(factor: float, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """VAR's weights with its queries multiplied by `factor`: exact for a power of two."""
    scaled = dict(state)
    for key, value in state.items():
        if key.endswith(".attn.q_bias"):
            scaled[key] = value * factor
        elif key.endswith(".attn.mat_qkv.weight"):
            q, k, v = value.chunk(3)
            scaled[key] = torch.cat([q * factor, k, v])
    return scaled
