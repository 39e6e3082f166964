"""The models of a checkout of the public VAR code (FoundationVision/VAR), with our models' weights.

Nothing of it is part of this repository: benchmarks are given a folder by `--reference`.
"""

import argparse
import contextlib
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

from torch import nn

from var_pe.interop.var.conversion import to_var
from var_pe.models.generator import VARTransformer
from var_pe.models.tokenizer import VQTokenizer
from var_pe.settings.command_line import given_path

# What VAR's tokenizer class has in its code and not in its arguments.
FIXED = {"channel_multipliers": (1, 1, 2, 2, 4), "blocks_per_resolution": 2, "image_channels": 3}


def reference_option(parser: argparse.ArgumentParser) -> None:
    """The folder that `public_models` takes."""
    help_ = "folder of a checkout of the public VAR code, which is then measured, too"
    parser.add_argument("--reference", type=given_path, metavar="DIR", help=help_)


def public_models(
    folder: Path, tokenizer: VQTokenizer, transformer: VARTransformer
) -> tuple[nn.Module, nn.Module]:
    """VQVAE and VAR of a checkout, as they are, with the weights of our two models.

    Raises:
        ValueError: the folder holds no checkout, or its classes cannot be built like our models.
    """
    check_fixed(tokenizer)
    VQVAE, VAR = public_classes(folder)
    vqvae_state, var_state = to_var(tokenizer, transformer)

    config, theirs = tokenizer.config, transformer.config
    sides = tuple(height for height, _ in transformer.pyramid.grids)
    shared_phi = "quantize.quant_resi.0.weight" in vqvae_state
    with contextlib.redirect_stdout(sys.stderr):  # it prints its settings
        vqvae = VQVAE(
            vocab_size=config["codebook_size"],
            z_channels=config["latent_channels"],
            ch=config["channels"],
            share_quant_resi=0 if shared_phi else config["num_phi"],
            v_patch_nums=sides,
            test_mode=True,
        )
        var = VAR(
            vae_local=vqvae,
            num_classes=transformer.num_classes,
            depth=theirs["depth"],
            embed_dim=theirs["dim"],
            num_heads=theirs["num_heads"],
            mlp_ratio=theirs["mlp_ratio"],
            shared_aln=theirs["shared_adaln"],
            attn_l2_norm=theirs["qk_norm"],
            patch_nums=sides,
        )

    vqvae.load_state_dict(vqvae_state, strict=True)
    var.load_state_dict(var_state, strict=True)
    return vqvae.to(transformer.device), var.to(transformer.device)


def check_fixed(tokenizer: VQTokenizer) -> None:
    """Whether VAR's tokenizer class can be built like this one.

    Raises:
        ValueError: it cannot.
    """
    for name, value in FIXED.items():
        found = tokenizer.config[name]
        if isinstance(value, tuple):
            found = tuple(found)
        if found != value:
            raise ValueError(
                f"VAR's tokenizer class has {name} {value}, this one {found}: compare with --depth"
            )


def public_classes(folder: Path) -> tuple[Callable[..., nn.Module], Callable[..., nn.Module]]:
    """VQVAE and VAR of a checkout.

    Raises:
        ValueError: the folder holds no checkout, or its code does not run here.
    """
    if not all((folder / name).is_file() for name in ("models/var.py", "models/vqvae.py", "dist.py")):
        raise ValueError(f"--reference {folder} is not a checkout of the public VAR repository")

    sys.path.insert(0, str(folder.resolve()))
    try:
        return importlib.import_module("models.vqvae").VQVAE, importlib.import_module("models.var").VAR
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--reference {folder}: its code does not load here: {error}") from error
