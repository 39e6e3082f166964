"""VAR's counts of code use: a converted tokenizer keeps them for the way back, nothing else reads them."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from var_pe.files import remove, written_whole
from var_pe.models.foreign_weights import read_state
from var_pe.models.tokenizer import VQTokenizer

# how much each level used each code of late, by its name in VAR's files: only VAR's training reads it
HITS = "quantize.ema_vocab_hit_SV"
FILE = "var_statistics.safetensors"


def attach_hits(tokenizer: VQTokenizer, hits_SV: Tensor, what: str) -> None:
    """Hands the tokenizer how often each level used each code; `what` names their file in errors.

    They are no part of its own weights.

    Raises:
        ValueError: a count is negative or not finite, or they are counts of another codebook.
    """
    if hits_SV.shape[1] != tokenizer.config["codebook_size"]:
        raise ValueError(
            f"{what}: {HITS} counts {hits_SV.shape[1]} codes, there are {tokenizer.config['codebook_size']}"
        )
    if not hits_SV.is_meta and not (hits_SV.isfinite() & (hits_SV >= 0)).all():
        raise ValueError(f"{what}: {HITS} counts how often codes are used, it must be finite and at least 0")
    tokenizer.quantizer.register_buffer("var_hits_SV", hits_SV.detach().clone(), persistent=False)


def has_hits(tokenizer: VQTokenizer) -> bool:
    """Whether it carries statistics that a file of VAR's came with."""
    return hasattr(tokenizer.quantizer, "var_hits_SV")


def hits_of(tokenizer: VQTokenizer) -> Tensor:
    """The statistics that VAR's file came with, else zeros, as VAR's code starts them."""
    zeros_SV = torch.zeros(tokenizer.pyramid.num_levels, tokenizer.config["codebook_size"])
    return getattr(tokenizer.quantizer, "var_hits_SV", zeros_SV).float().clone()


def save_hits(tokenizer: VQTokenizer, folder: Path) -> None:
    """Writes them beside a saved tokenizer, whose own weights file does not hold them.

    Saving a tokenizer without statistics removes those of another one that lay in the folder.
    """
    if not has_hits(tokenizer):
        return remove(folder / FILE)

    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(folder / FILE) as draft:
        save_file({HITS: hits_of(tokenizer)}, draft)


def load_hits(tokenizer: VQTokenizer, folder: Path) -> None:
    """Reads them back, for a tokenizer that carries none yet.

    Raises:
        ValueError: the file is damaged or of another tokenizer.
    """
    path = folder / FILE
    if has_hits(tokenizer) or not path.exists():
        return

    hits_SV = read_state(path).get(HITS)
    if hits_SV is None:
        raise ValueError(f"{path} lacks {HITS}")
    if hits_SV.dim() != 2:
        raise ValueError(f"{path}: {HITS} must have 2 axes, got {tuple(hits_SV.shape)}")
    attach_hits(tokenizer, hits_SV, str(path))
