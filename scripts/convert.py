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
from var_pe.stages.session import exit_with_sentence


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )

    # From VAR's files to a pipeline
    parser.add_argument("--vqvae", type=Path, metavar="FILE", help="VAR's tokenizer: .pth or .safetensors")
    parser.add_argument(
        "--var",
        type=Path,
        metavar="FILE",
        help="VAR's transformer: .pth or .safetensors, or a checkpoint of its training",
    )
    parser.add_argument(
        "--patch-nums",
        type=level,
        nargs="+",
        metavar="SIDE",
        help="grids of the levels, coarse to fine; default: the published grids with as many tokens "
        "(256 pixels: 680, 512: 2240, 1024: 9451)",
    )

    # And back
    parser.add_argument(
        "--to-var",
        type=Path,
        metavar="DIR",
        help="a pipeline folder, of which vae.pth and var.pth are written",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="a folder that does not exist yet"
    )
    given = parser.parse_args()

    if given.to_var is None and (given.vqvae is None or given.var is None):
        parser.error("give --vqvae and --var, or --to-var")
    if given.to_var is not None and (given.vqvae or given.var or given.patch_nums):
        parser.error("--to-var goes with --output only")
    return given


@exit_with_sentence()
def main() -> None:
    given = arguments()
    if given.output.exists():
        raise ValueError(f"--output {given.output} exists already; choose another or remove it")

    # Everything is read and checked first: the folder is written only if nothing is wrong with the files.
    if given.to_var:
        write = to_var_files(given.to_var)
    else:
        write = to_pipeline(given.vqvae, given.var, given.patch_nums)
    into_place(given.output, write)
    print(f"saved: {given.output}")


def to_pipeline(
    vqvae: Path, var: Path, patch_nums: list[int | tuple[int, int]] | None
) -> Callable[[Path], None]:
    """A function that writes the pipeline of two checkpoints into a folder."""
    var_state = read_state(var)
    if patch_nums is None:
        patch_nums = list(published_patch_nums(var_state))
    tokenizer, transformer = convert(read_state(vqvae), var_state, patch_nums=patch_nums)

    def write(folder: Path) -> None:
        VARPipeline(tokenizer, transformer).save_pretrained(folder)

    return write


def to_var_files(pipeline: Path) -> Callable[[Path], None]:
    """A function that writes the two checkpoints of a saved pipeline into a folder."""
    loaded = VARPipeline.from_folder(pipeline, "--to-var")
    vqvae_state, var_state = to_var(loaded.tokenizer, loaded.transformer)

    def write(folder: Path) -> None:
        torch.save(vqvae_state, folder / "vae.pth")
        torch.save(var_state, folder / "var.pth")

    return write


def level(word: str) -> int | tuple[int, int]:
    """`3` is a square grid, `2x3` two rows of three."""
    sides = re.fullmatch(r"(\d+)(?:x(\d+))?", word)
    if not sides:
        raise argparse.ArgumentTypeError(f"a level is a side or ROWSxCOLUMNS, got {word!r}")

    rows, columns = sides.groups()
    return int(rows) if columns is None else (int(rows), int(columns))


if __name__ == "__main__":
    main()
