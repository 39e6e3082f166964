"""Shows what trained models look at, several side by side; writes one page.

    python scripts/explain.py runs/fashion_vit
    python scripts/explain.py runs/shapes_vit --size 48 48
    python scripts/explain.py runs/fashion_learned runs/fashion_mixed runs/fashion_sinusoidal

Runs of classifiers: attention of every head and layer, rollout, Grad-CAM and EigenCAM on test images; with
--size, too, what plain ViTs look at before and after they are moved to another size. Runs of generators: what
each level looks at, by level and distance. All runs are of one kind.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import var_pe  # noqa: F401  # before torch, whose threads it makes wait politely

# isort: split
import torch
from torch import Tensor

from var_pe import settings
from var_pe.comparison.resolution_study import images_at
from var_pe.diagnosis.attributions import check_library
from var_pe.diagnosis.classifier_explanation import Examined, explain_classifiers
from var_pe.diagnosis.explanation import Explained, write_explanation
from var_pe.diagnosis.generator_explanation import Drawer, explain_generators
from var_pe.diagnosis.moved_attention import with_moved
from var_pe.models.classifier import Classifier
from var_pe.models.patches import padded
from var_pe.processes import say
from var_pe.pyramid import Grid
from var_pe.resampling.conventions import DEFAULT_CONVENTION, convention_of
from var_pe.settings.command_line import check_options, given_path
from var_pe.settings.fields import Positive
from var_pe.stages.config import Config
from var_pe.stages.draw import load_pipeline
from var_pe.stages.images import held_out_images
from var_pe.stages.models import load_classifier_of_images
from var_pe.stages.session import exit_with_sentence
from var_pe.stages.tokens import tokens_of_images


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("runs", type=given_path, nargs="+", metavar="RUN", help="folder of a finished run")
    parser.add_argument(
        "--images", type=int, metavar="N", help="test images; default: 6 of classifiers, 64 of generators"
    )
    parser.add_argument(
        "--output",
        type=given_path,
        metavar="HTML",
        help="page to write; default: explanation.html in the first run's folder",
    )

    # Another size
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="of plain ViTs: also what they look at in the same pictures at this size, in pixels",
    )
    parser.add_argument(
        "--resample",
        default=DEFAULT_CONVENTION,
        metavar="NAME",
        help="how learned position tables are resampled to --size, by a named convention; default: "
        f"{DEFAULT_CONVENTION}",
    )

    given = parser.parse_args()
    check_options(given, images=Positive, size=list[Positive])
    return given


@exit_with_sentence()
def main() -> None:
    given = arguments()
    output = given.output or given.runs[0] / "explanation.html"
    if output.is_dir():
        raise ValueError(
            f"--output {output} is a folder; name the page, such as {output / 'explanation.html'}"
        )

    convention_of(given.resample)
    explained = explain(given.runs, kind_of(given.runs), given.images, given.size, given.resample)
    command = shlex.join(["python", "scripts/explain.py", *sys.argv[1:]])
    write_explanation(explained, output, command)
    for line in explained.lines:
        say(line, sys.stdout)
    say(f"page: {os.path.relpath(output)}", sys.stdout)


def explain(
    runs: Sequence[Path], kind: str, images: int | None, size: Sequence[int] | None, resample: str
) -> Explained:
    alike = len({run.name for run in runs}) < len(runs)
    names = [str(run) if alike else run.name for run in runs]
    if kind == "generator":
        if size is not None:
            raise ValueError("--size is for classifiers: a generator attends from level to level")
        return explain_generators([drawer(*each, images or 64) for each in zip(names, runs, strict=True)])

    check_library()
    number = images or 6
    own = [examined(*each, number) for each in zip(names, runs, strict=True)]
    explained = explain_classifiers(own)
    if size is None:
        return explained
    height, width = size
    others = [moved(one, run, (height, width), resample) for one, run in zip(own, runs, strict=True)]
    return with_moved(explained, list(zip(own, others, strict=True)))


def kind_of(runs: Sequence[Path]) -> str:
    """The kind of model that all runs have.

    Raises:
        ValueError: a folder is no finished run of a classifier or generator, there are some of both kinds, or
            one is given twice.
    """
    kinds = set()
    for run in runs:
        if list(runs).count(run) > 1:
            raise ValueError(f"{run} is given more than once")
        there = [kind for kind in ("classifier", "generator") if (run / kind).is_dir()]
        if not (run / "config.yaml").exists() or not there:
            raise ValueError(f"{run} is not the folder of a finished run of a classifier or generator")
        kinds.add(there[0])
    if len(kinds) > 1:
        raise ValueError("classifiers and generators are looked at apart: give runs of one kind")
    return kinds.pop()


def config_of(run: Path) -> Config:
    return settings.load(Config, run / "config.yaml", [f"run={run}"])


def examined(name: str, run: Path, number: int) -> Examined:
    """A run's classifier and test images."""
    images = held_out_images(config_of(run), number)
    items = [images[index] for index in range(len(images))]
    pictures_BCHW = torch.stack([item["image"] for item in items])
    labels = [item["label"] for item in items]
    model = load_classifier_of_images(run / "classifier")
    return examined_by(name, model, pictures_BCHW, images.class_names, labels)


def examined_by(
    name: str, model: Classifier, pictures_BCHW: Tensor, class_names: Sequence[str], labels: Sequence[int]
) -> Examined:
    """Pictures that are padded are shown with their padding, so that maps lie where patches do."""
    if model.padding != "none":
        pictures_BCHW, _ = padded(pictures_BCHW, model.pyramid.finest, model.patch_size, None)
    return Examined(name, model, pictures_BCHW, class_names, labels)


def moved(own: Examined, run: Path, size: Grid, resample: str) -> Examined:
    """The same classifier at another size, and the same pictures there.

    Raises:
        ValueError: the size does not fit, or the encoding cannot move to it.
    """
    config = config_of(run)
    number = replace(config.classifier_training, validation_images=len(own.images_BCHW))
    pictures_BCHW, _ = images_at(replace(config, classifier_training=number), size)
    model = load_classifier_of_images(run / "classifier")
    model.set_input_size(size, resample=resample)
    return examined_by(own.name, model, pictures_BCHW, own.class_names, own.labels)


def drawer(name: str, run: Path, number: int) -> Drawer:
    """A run's generator, and tokens of test images; an image without a class is one of no class."""
    config = config_of(run)
    pipeline = load_pipeline(config)
    transformer, tokenizer = pipeline.transformer.eval(), pipeline.tokenizer.eval()
    tokens_BL, labels_B = tokens_of_images(held_out_images(config, number), tokenizer, transformer.pyramid)
    labels_B = torch.where((labels_B < 0) | (transformer.num_classes == 0), transformer.num_classes, labels_B)
    return Drawer(name, transformer, tokenizer, tokens_BL, labels_B)


if __name__ == "__main__":
    main()
