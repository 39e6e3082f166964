"""Changes the positions of one level at a time and measures what that costs every level; writes pages.

    python scripts/interventions.py --run runs/fashion_learned
    python scripts/interventions.py --pipeline var_d16 --images 100
    python scripts/interventions.py --config imagenet256.yaml --model var_d16
    python scripts/interventions.py --report runs/fashion_learned/interventions.json

A run is measured on its test split. A saved pipeline, such as a converted VAR model, is measured as --model
on the test split of --config, or as --pipeline on pictures that it draws itself, without guidance. Writes
interventions.html, .md, .png and .json into the folder; --report writes the other three anew from the .json.
"""

import argparse
import shlex
import sys
from pathlib import Path

import var_pe  # noqa: F401  # before torch, whose threads it makes wait politely

# isort: split
import torch
from torch import Tensor

from var_pe.diagnosis.intervention_report import FILES, answer, as_found, read_found, write_found
from var_pe.diagnosis.interventions import intervene, number_of_passes
from var_pe.evaluation.records import versions
from var_pe.files import check_writable
from var_pe.processes import say
from var_pe.progress import Counter
from var_pe.sampling.config import SamplingConfig
from var_pe.sampling.drawing import drawn
from var_pe.sampling.likelihood import check_same_classes
from var_pe.sampling.pipeline import VARPipeline
from var_pe.settings.command_line import RUN, check_options, given_path, parse_arguments
from var_pe.settings.fields import Positive
from var_pe.stages.config import Config
from var_pe.stages.draw import load_pipeline, weights_of
from var_pe.stages.images import held_out_images
from var_pe.stages.session import exit_with_sentence, session
from var_pe.stages.tokens import tokens_of_images

USED_SETTINGS = ("data",)  # settings that change the result
PIPELINE = "--pipeline"


def options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", type=given_path, metavar="DIR", help="with --config: the saved pipeline to measure")
    add("--images", type=int, default=200, metavar="N", help="images to measure; default: 200")
    add(
        "--batch",
        type=int,
        default=50,
        metavar="N",
        help="images at once, which does not change the result; default: 50",
    )
    add("--output", type=given_path, metavar="DIR", help="folder of the pages; default: the model's")
    report_option(parser)


def report_option(parser: argparse.ArgumentParser) -> None:
    """What stands in place of a model."""
    parser.add_argument(
        "--report",
        type=given_path,
        metavar="JSON",
        help="alone: write the pages of this interventions.json anew, without measuring",
    )


def main_of_report(words: list[str]) -> None:
    """Writes the pages anew from a saved interventions.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    report_option(parser)
    file = parser.parse_args(words).report
    write_found(read_found(file), file.parent)


@exit_with_sentence()
def main() -> None:
    words = sys.argv[1:]
    if any(word == "--report" or word.startswith("--report=") for word in words):
        main_of_report(words)
        return

    config, given = parse_arguments(
        words,
        description=__doc__ or "",
        schema=Config,
        extra=options,
        instead=(RUN, PIPELINE),
        used_settings=USED_SETTINGS,
    )
    check_options(given, images=Positive, batch=Positive)
    if given.model is not None and given.config is None:
        raise ValueError(
            "--model needs --config, whose data it is measured on; without data, give --pipeline"
        )
    saved = given.pipeline or given.model
    folder = given.output or Path(saved or config.run)
    folder.mkdir(parents=True, exist_ok=True)  # a wrong path fails before the work
    check_writable(folder)

    with session() as accelerator, torch.no_grad():
        pipeline = load_pipeline(config) if saved is None else VARPipeline.from_folder(Path(saved), PIPELINE)
        if given.pipeline is None:
            tokens_NL, labels_N = of_test_split(config, pipeline.to(accelerator.device), given.images)
            of = f"images of the test split of {config.data.source}"
        else:
            tokens_NL, labels_N = of_itself(pipeline.to(accelerator.device), given.images, given.batch)
            of = "pictures that the model drew itself"

        passes = number_of_passes(pipeline.transformer)
        with Counter(passes * len(tokens_NL), "measuring") as counter:
            done = intervene(
                pipeline.transformer,
                pipeline.tokenizer,
                tokens_NL,
                labels_N,
                batch=given.batch,
                on_progress=counter.add,
            )

    command = shlex.join(["python", "scripts/interventions.py", *words])
    found = as_found(done, of=of, command=command, weights=weights_of(pipeline), versions=versions())
    write_found(found, folder)
    say(" ".join(answer(found)), sys.stdout)
    for name in FILES:
        say(str(folder / name), sys.stdout)


def of_test_split(config: Config, pipeline: VARPipeline, number: int) -> tuple[Tensor, Tensor]:
    """Tokens and labels of test images.

    Raises:
        ValueError: they have another size than the model draws, or other classes.
    """
    transformer, tokenizer = pipeline.transformer, pipeline.tokenizer
    images = held_out_images(config, number)
    check_same_classes(pipeline.class_names, transformer.num_classes, images.class_names, config.data.source)
    rows, columns = (side * tokenizer.downsampling for side in transformer.pyramid.finest)
    if (config.data.height, config.data.width) != (rows, columns):
        raise ValueError(
            f"data.height={config.data.height} and data.width={config.data.width}, but the model was trained "
            f"on images of {rows}x{columns}, and its tables are of that size"
        )
    return tokens_of_images(images, tokenizer, transformer.pyramid)


def of_itself(pipeline: VARPipeline, number: int, batch: int) -> tuple[Tensor, Tensor]:
    """Tokens and labels of pictures drawn from the model's own distribution, the classes in turn."""
    classes = pipeline.transformer.num_classes
    plain = SamplingConfig(guidance_scale=0.0)
    parts, labels = [], []
    for start in range(0, number, batch):
        numbers = range(start, min(start + batch, number))
        own = [each % classes if classes else None for each in numbers]
        output = drawn(pipeline, own, numbers, plain, output_type="tokens")
        assert isinstance(output.images, Tensor), "tokens are a tensor"
        parts.append(output.images)
        labels += [-1 if label is None else label for label in own]
    return torch.cat(parts), torch.tensor(labels, device=parts[0].device)


if __name__ == "__main__":
    main()
