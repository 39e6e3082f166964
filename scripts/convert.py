"""Turns checkpoints of the public VAR code into a pipeline folder, or a pipeline into such checkpoints.

    python scripts/convert.py --vqvae vae_ch160v4096z32.pth --var var_d16.pth --output var_d16
    python scripts/convert.py --to-var var_d16 --output back

Weights are kept bit for bit. The way back writes vae.pth and var.pth, which VAR's code loads strictly.
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

import torch

from var_pe.files import into_place
from var_pe.interop.files import read_state
from var_pe.interop.var.conversion import convert, to_var
from var_pe.interop.var.settings import published_patch_nums
from var_pe.sampling.pipeline import VARPipeline
from var_pe.settings.command_line import exit_with_sentence


def level(word: str) -> int | tuple[int, int]:
    """`3` is a square grid, `2x3` two rows of three."""
    if not (sides := re.fullmatch(r"(\d+)(?:x(\d+))?", word)):
        raise argparse.ArgumentTypeError(f"a level is a side or ROWSxCOLUMNS, got {word!r}")
    return (int(sides[1]), int(sides[2])) if sides[2] else int(sides[1])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--vqvae", type=Path, metavar="FILE", help="VAR's tokenizer: .pth or .safetensors")
    parser.add_argument(
        "--var", type=Path, metavar="FILE", help="VAR's transformer: .pth or .safetensors, or of its training"
    )
    parser.add_argument(
        "--patch-nums",
        type=level,
        nargs="+",
        metavar="SIDE",
        help="grids of the levels, coarse to fine; default: the published ones with as many tokens "
        "(256 pixels: 680, 512: 2240, 1024: 9451)",
    )
    parser.add_argument(
        "--to-var", type=Path, metavar="DIR", help="a pipeline folder: write its vae.pth and var.pth"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="a folder that is not there"
    )
    given = parser.parse_args()
    if given.to_var is None and (given.vqvae is None or given.var is None):
        parser.error("give --vqvae and --var, or --to-var")
    if given.to_var is not None and (given.vqvae or given.var or given.patch_nums):
        parser.error("--to-var goes with --output only")
    return given


def from_var(
    vqvae: Path, var: Path, patch_nums: list[int | tuple[int, int]] | None
) -> Callable[[Path], None]:
    """What writes the pipeline folder; what is wrong with the files has been found when this returns."""
    var_state = read_state(var)
    patch_nums = patch_nums or list(published_patch_nums(var_state))
    tokenizer, transformer = convert(read_state(vqvae), var_state, patch_nums=patch_nums)

    def write(folder: Path) -> None:
        VARPipeline(tokenizer, transformer).save_pretrained(folder)

    return write


def back(pipeline: Path) -> Callable[[Path], None]:
    """What writes the two checkpoints of a pipeline folder."""
    loaded = VARPipeline.from_folder(pipeline, "--to-var")
    vqvae_state, var_state = to_var(loaded.tokenizer, loaded.transformer)

    def write(folder: Path) -> None:
        torch.save(vqvae_state, folder / "vae.pth")
        torch.save(var_state, folder / "var.pth")

    return write


@exit_with_sentence()
def main() -> None:
    given = arguments()
    if given.output.exists():
        raise ValueError(f"--output {given.output} exists already; choose another or remove it")
    write = back(given.to_var) if given.to_var else from_var(given.vqvae, given.var, given.patch_nums)
    into_place(given.output, write)
    print(f"saved: {given.output}")


if __name__ == "__main__":
    main()
