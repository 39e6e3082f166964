"""Writes models as programs of torch.export and ONNX, compares both with the model, and times ONNX beside it.

    python scripts/export.py --run runs/fashion_vit
    python scripts/export.py --run runs/fashion_mixed --output programs
    python scripts/export.py --run runs/fashion_vit --any-size
    python scripts/export.py --pipeline var_d16
    python scripts/export.py --encodings

A classifier or encoder becomes the program `classifier`, a tokenizer `encode` and `decode`, and a generator
these two and `level_0`, `level_1` and so on. Each is written as NAME.pt2 and NAME.onnx, and takes any number
of images of one size, which --size changes. With --any-size the program of a plain ViT takes images of every
size. --encodings instead tries small models under each encoding and prints which of them can be exported.
"""

import argparse
import sys
from pathlib import Path

import var_pe  # noqa: F401  # before torch, whose threads it makes wait politely

# isort: split
import torch

from var_pe import settings
from var_pe.files import check_writable
from var_pe.interop.export.any_size import any_size_parts
from var_pe.interop.export.parts import (
    LEAST_PATCHES,
    FreeSizes,
    Part,
    classifier_parts,
    generator_parts,
    tokenizer_parts,
)
from var_pe.interop.export.survey import LINES, table
from var_pe.interop.export.writing import (
    Exported,
    check_libraries,
    export_part,
    milliseconds,
)
from var_pe.models.tokenizer import VQTokenizer
from var_pe.processes import say
from var_pe.progress import number_of
from var_pe.resampling.conventions import CONVENTIONS, DEFAULT_CONVENTION
from var_pe.sampling.pipeline import VARPipeline
from var_pe.settings.command_line import check_options, given_path
from var_pe.settings.fields import Positive
from var_pe.stages.config import Config
from var_pe.stages.draw import load_pipeline
from var_pe.stages.models import load_classifier_of_images, load_model
from var_pe.stages.session import exit_with_sentence


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--run", type=given_path, metavar="DIR", help="a run, whose finished model is exported"
    )
    which.add_argument("--pipeline", type=given_path, metavar="DIR", help="a saved pipeline")
    which.add_argument("--classifier", type=given_path, metavar="DIR", help="a saved classifier")
    which.add_argument(
        "--encodings",
        nargs="*",
        metavar="LINE",
        help="only try these encodings on small models; without LINE: all",
    )

    # What is written
    parser.add_argument(
        "--output", type=given_path, metavar="DIR", help="folder; default: programs in the model's folder"
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="size of the images, in pixels; default: the model's own",
    )
    parser.add_argument(
        "--resample",
        choices=CONVENTIONS,
        help="how learned position tables are resampled to --size, or in a program of --any-size, by a named "
        f"convention; default: {DEFAULT_CONVENTION}",
    )
    parser.add_argument(
        "--any-size",
        action="store_true",
        help="one program for images of every size, of a plain ViT whose encoding can follow",
    )

    # How it is timed
    parser.add_argument(
        "--batch", type=int, default=16, metavar="N", help="images at once when timed; default: 16"
    )
    parser.add_argument(
        "--rounds", type=int, default=10, metavar="N", help="timed calls of each program; default: 10"
    )
    given = parser.parse_args()

    if given.encodings is not None and (given.output or given.size or given.resample or given.any_size):
        parser.error("--encodings tries small models and keeps no files: leave out other options")
    if given.resample and not (given.size or given.any_size):
        parser.error("--resample says how tables move to --size or follow --any-size: give one of them, too")
    if given.any_size and given.size:
        parser.error("--any-size leaves the size of images free: leave out --size")
    check_options(given, batch=Positive, rounds=Positive, size=list[Positive])
    return given


@exit_with_sentence()
def main() -> None:
    given = arguments()
    check_libraries()
    if given.encodings is not None:
        for row in table(given.encodings or LINES):
            say(row, sys.stdout)
        return

    parts = parts_of(given)
    source = given.run or given.pipeline or given.classifier
    folder = given.output or source / "programs"
    folder.mkdir(parents=True, exist_ok=True)
    check_writable(folder)
    say(f"{number_of(len(parts), 'program')} to export: {', '.join(part.name for part in parts)}", sys.stdout)
    for part in parts:
        say(described(export_part(part, folder), given.batch, given.rounds), sys.stdout)
        if part.sizes is not None:
            say(f"{part.name}: {free(part.sizes)}", sys.stdout)
    say(f"written to {folder}", sys.stdout)


def parts_of(given: argparse.Namespace) -> list[Part]:
    """The programs that the model named by the options is exported as.

    Raises:
        ValueError: there is no such model, or it cannot have the size that is asked for.
    """
    if given.pipeline is not None:
        return pipeline_parts(VARPipeline.from_folder(given.pipeline, "--pipeline"), given)
    if given.classifier is not None:
        return classifier_of(given.classifier, given)

    folder = given.run
    for kind in ("segmenter", "detector"):
        if (folder / kind).is_dir():
            raise ValueError(
                f"--run {folder} holds a {kind}; only classifiers, encoders, tokenizers and "
                f"generators can be exported"
            )
    for kind in ("classifier", "encoder"):
        if (folder / kind).is_dir():
            return classifier_of(folder / kind, given)
    if (folder / "generator").is_dir():
        config = settings.load(Config, folder / "config.yaml", [f"run={folder}"])
        return pipeline_parts(load_pipeline(config), given)
    if (folder / "tokenizer").is_dir():
        check_no_size(given)
        return tokenizer_parts(load_model(VQTokenizer, folder / "tokenizer"))
    raise ValueError(f"--run {folder} holds no finished classifier, encoder, tokenizer or generator")


def classifier_of(folder: Path, given: argparse.Namespace) -> list[Part]:
    model = load_classifier_of_images(folder)
    if given.any_size:
        return any_size_parts(model, given.resample or DEFAULT_CONVENTION)
    if given.size is not None:
        convention = given.resample or DEFAULT_CONVENTION
        model.set_input_size(given.size, convention)
        height, width = given.size
        say(
            f"moved to {height}x{width} pixels; learned tables, if there are any, by {convention}", sys.stdout
        )
    return classifier_parts(model)


def pipeline_parts(pipeline: VARPipeline, given: argparse.Namespace) -> list[Part]:
    check_no_size(given)
    transformer, tokenizer = pipeline.transformer.eval(), pipeline.tokenizer.eval()
    return [*tokenizer_parts(tokenizer), *generator_parts(transformer, tokenizer)]


def check_no_size(given: argparse.Namespace) -> None:
    """Refuses --size and --any-size where they would change nothing.

    Raises:
        ValueError: one is given.
    """
    if given.any_size:
        raise ValueError(
            "--any-size is for classifiers that are plain ViTs: tokenizers and generators are exported at "
            "their own size"
        )
    if given.size is not None:
        raise ValueError(
            "--size is for classifiers: tokenizers and generators are exported at their own size"
        )


def described(exported: Exported, batch: int, rounds: int) -> str:
    """One line: how close the program's outputs are to the model's, and how fast both are."""
    eager, runtime = milliseconds(exported, batch, rounds)
    other = f", {exported.other:.2%} other tokens" if exported.other else ""
    return (
        f"{exported.part.name}: largest difference {exported.difference:.1e}{other}; {batch} images take "
        f"{eager:.2f} ms in eager torch, {runtime:.2f} ms in onnxruntime ({eager / runtime:.2f} times as "
        f"fast), threads: {torch.get_num_threads()}"
    )


def free(sizes: FreeSizes) -> str:
    """Which sizes images may have, and at which ones the programs were compared."""
    step = sizes.patch_size
    least = LEAST_PATCHES * step
    compared = ", ".join(f"{rows * step}x{columns * step}" for rows, columns in sizes.others)
    return (
        f"sides of images are multiples of {step} pixels, at least {least}; traced at "
        f"{sizes.traced[0] * step}x{sizes.traced[1] * step}, compared at {compared} and its own size, too"
    )


if __name__ == "__main__":
    main()
