"""Turns checkpoints of the public VAR code into a pipeline folder, or back; another library's ViT into ours.

    python scripts/convert.py --vqvae vae_ch160v4096z32.pth --var var_d16.pth --output var_d16
    python scripts/convert.py --to-var var_d16 --output back
    python scripts/convert.py --vit vit.pth --architecture vit_small_patch16_224.augreg_in1k --output vit

VAR's weights are kept bit for bit. The way back writes vae.pth and var.pth, which VAR's code loads strictly.
A ViT is written as a classifier that takes images in [-1, 1]; its outputs are compared with the library's.
"""

import argparse
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import var_pe  # noqa: F401  # before torch, whose threads it makes wait politely

# isort: split
import torch

from var_pe.files import into_place
from var_pe.interop.var.conversion import convert, to_var
from var_pe.interop.var.settings import published_patch_nums
from var_pe.interop.vit.architecture import CONFIG, normalisation_of, of_architecture, with_weights
from var_pe.interop.vit.conversion import convert as convert_vit
from var_pe.interop.vit.names import THEIRS, ViTWeights
from var_pe.models.foreign_weights import read_folder, read_state
from var_pe.sampling.pipeline import VARPipeline
from var_pe.settings.command_line import given_path
from var_pe.stages.session import exit_with_sentence


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )

    # From VAR's files to a pipeline
    parser.add_argument(
        "--vqvae", type=given_path, metavar="FILE", help="VAR's tokenizer: .pth or .safetensors"
    )
    parser.add_argument(
        "--var",
        type=given_path,
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

    # Another library's ViT
    parser.add_argument(
        "--vit",
        type=given_path,
        metavar="PATH",
        help="a ViT: file of weights, or folder as timm and the hub save it",
    )
    parser.add_argument(
        "--source", choices=THEIRS, default="timm", help="library that the ViT is from; default: timm"
    )
    parser.add_argument(
        "--architecture",
        type=os.path.expanduser,
        metavar="NAME",
        help="for timm: the model's name, best with its tag, or a folder with its config.json; default: the "
        "folder of --vit, if it has one",
    )
    parser.add_argument(
        "--image-size",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="size of the ViT's images in pixels, if it is not the architecture's own",
    )
    parser.add_argument(
        "--num-heads", type=int, metavar="N", help="attention heads, for torchvision and dinov2"
    )
    normalised = "that the ViT's images in [0, 1] were normalised by, one number a channel"
    parser.add_argument("--mean", type=float, nargs="+", help=f"mean {normalised}")
    parser.add_argument("--std", type=float, nargs="+", help=f"standard deviation {normalised}")
    parser.add_argument(
        "--entry", metavar="NAME", help="which weights of a file that has several, such as state_dict_ema"
    )

    # And back
    parser.add_argument(
        "--to-var",
        type=given_path,
        metavar="DIR",
        help="a saved pipeline, from which vae.pth and var.pth are written",
    )
    parser.add_argument(
        "--output",
        type=given_path,
        required=True,
        metavar="DIR",
        help="folder to write, which must not exist yet",
    )
    given = parser.parse_args()

    from_var = bool(given.vqvae or given.var or given.patch_nums)
    if given.to_var is not None and (from_var or given.vit):
        parser.error("--to-var takes no other option than --output")
    if given.vit is not None and from_var:
        parser.error("--vit converts a ViT: leave out --vqvae, --var and --patch-nums")
    if given.to_var is None and given.vit is None and (given.vqvae is None or given.var is None):
        parser.error("give --vqvae and --var, or --to-var, or --vit")
    for option in ("architecture", "image_size", "num_heads", "mean", "std", "entry"):
        if getattr(given, option) is not None and given.vit is None:
            parser.error(f"--{option.replace('_', '-')} describes a ViT: give --vit")
    return given


@exit_with_sentence()
def main() -> None:
    given = arguments()
    if given.output.exists():
        raise ValueError(f"--output {given.output} exists already; choose another or remove it")

    # Everything is read and checked first: the folder is written only if nothing is wrong with the files.
    if given.to_var:
        write = to_var_files(given.to_var)
    elif given.vit:
        write = to_classifier(given)
    else:
        write = to_pipeline(given.vqvae, given.var, given.patch_nums)
    into_place(given.output, write)
    print(f"saved: {given.output}")


def to_pipeline(
    vqvae: Path, var: Path, patch_nums: list[int | tuple[int, int]] | None
) -> Callable[[Path], None]:
    """A function that writes the pipeline of two checkpoints into a folder."""
    var_state = read_state(var)
    vqvae_state = read_state(vqvae)
    grids = patch_nums or list(published_patch_nums(var_state))
    tokenizer, transformer = convert(vqvae_state, var_state, patch_nums=grids)

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


def to_classifier(given: argparse.Namespace) -> Callable[[Path], None]:
    """A function that writes another library's ViT as our classifier into a folder."""
    entry = given.entry.split(".") if given.entry else ()
    state = read_folder(given.vit) if given.vit.is_dir() else read_state(given.vit)
    weights = ViTWeights(state, given.source, entry)

    # The library's model has what the weights do not show, and its outputs are compared with ours.
    architecture = given.architecture or (given.vit if (given.vit / CONFIG).exists() else None)
    theirs = None
    if given.source == "timm":
        if architecture is None:
            raise ValueError(
                "--architecture is needed, since weights do not show the activation, the pooling, and where "
                "norms stand with which epsilon: give the name of timm's architecture, or a folder with its "
                "config.json"
            )
        like = of_architecture(
            architecture, weights.classes, weights.channels, given.image_size, device="cpu"
        )
        theirs = with_weights(like, weights.state)
    elif given.architecture is not None:
        raise ValueError(f"--architecture names a model of timm, but --source is {given.source}")

    mean, std = normalisation(given, architecture)
    model = convert_vit(
        state,
        source=given.source,
        like=theirs,
        verify=theirs,
        image_size=given.image_size,
        num_heads=given.num_heads,
        mean=mean,
        std=std,
        entry=entry,
    )
    if not weights.classes:
        print("the weights have no classification head: the converted model gives features, no classes")
    return model.save_pretrained


def normalisation(
    given: argparse.Namespace, architecture: str | Path | None
) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation of the images, as given or as the model's config says."""
    if given.mean is not None and given.std is not None:
        return given.mean, given.std
    if given.mean is not None or given.std is not None:
        raise ValueError("--mean and --std go together")

    of_config = None if architecture is None else normalisation_of(architecture)
    if of_config is None:
        raise ValueError(
            "--mean and --std are needed, since weights do not show how images were normalised: give them, "
            "or as --architecture a name with its tag, such as vit_small_patch16_224.augreg_in1k, or a "
            "folder with timm's config.json"
        )
    return of_config


def level(word: str) -> int | tuple[int, int]:
    """`3` is a square grid, `2x3` two rows of three."""
    sides = re.fullmatch(r"(\d+)(?:x(\d+))?", word)
    if not sides:
        raise argparse.ArgumentTypeError(f"a level is a side or ROWSxCOLUMNS, got {word!r}")

    rows, columns = sides.groups()
    return int(rows) if columns is None else (int(rows), int(columns))


if __name__ == "__main__":
    main()
