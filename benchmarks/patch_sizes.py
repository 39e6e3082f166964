"""What the size of patches brings and costs: a config's classifier trained with each, under the same seeds.

    python benchmarks/patch_sizes.py --config fashion_pretrain.yaml encoder=null classifier.padding=end
    python benchmarks/patch_sizes.py --config shapes_vit.yaml --patches 2 4 8 --seeds 0 1 2

All see the same pictures in the same order for the same number of steps. Accuracy is that of the finished
weights on the config's validation images; times are of the config's batch, training steps and answers, all
sizes in turns, so that a slow minute slows all. Trained runs lie in --output: the same command goes on there.
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, cast

import var_pe  # noqa: F401  # before torch, whose threads it makes wait politely

# isort: split
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from annotated_types import Ge
from machine import machine

from var_pe.comparison.costs import trainable
from var_pe.comparison.resolution_study import study_resolutions
from var_pe.comparison.statistics import summary
from var_pe.comparison.step_time import seconds_in_turns, training_step
from var_pe.files import write_json
from var_pe.models.classifier import Classifier
from var_pe.models.patches import patches_of
from var_pe.models.tuning import tune
from var_pe.models.vit import ViTClassifier
from var_pe.pages.numbers import percent
from var_pe.pages.tables import markdown_table
from var_pe.resampling.conventions import DEFAULT_CONVENTION
from var_pe.settings.command_line import check_options, given_path, parse_arguments
from var_pe.settings.fields import Positive
from var_pe.stages.config import Config
from var_pe.stages.models import build_classifier
from var_pe.stages.plan import training_images_and_classes
from var_pe.stages.session import exit_with_sentence, session
from var_pe.training.precision import autocast


@dataclass(frozen=True)
class Patches:
    """A size of patches: what classifiers reached with it, and what it takes."""

    patch_size: int
    # of a picture
    tokens: int
    # of the whole classifier
    parameters: int
    # shares of right answers, one for each seed
    accuracies: list[float]
    # of a batch, the median over rounds
    training_milliseconds: float
    answering_milliseconds: float


def options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    patches = "side of a patch of each classifier, in pixels; default: 2 4 8"
    add("--patches", type=int, nargs="+", default=[2, 4, 8], metavar="N", help=patches)
    seeds = "seeds that each size of patches is trained with; default: 0 1 2"
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help=seeds)
    rounds = "timed steps and answers of each size of patches; default: %(default)s"
    add("--rounds", type=int, default=10, metavar="N", help=rounds)
    output = "folder of the runs and the table; default: the config's run + _patches"
    add("--output", type=given_path, metavar="DIR", help=output)


@exit_with_sentence()
def main() -> None:
    config, given = parse_arguments(None, description=__doc__ or "", schema=Config, extra=options)
    check_options(given, rounds=Annotated[int, Ge(2)], patches=list[Positive])
    if config.kind != "classifier" or config.classifier is None or config.classifier.tubelet is not None:
        raise ValueError("sizes of patches are compared by classifiers of pictures: give a config of one")
    output = given.output or Path(f"{config.run}_patches")

    with session(config.classifier_training) as accelerator:
        found = measured(config, given.patches, given.seeds, given.rounds, output, accelerator)

    where = machine("cpu")
    about = {"machine": where, "data": asdict(config.data), "training": asdict(config.classifier_training)}
    write_json(output / "patches.json", {**about, "patches": [asdict(one) for one in found]})
    print(f"\n{given.rounds} rounds, " + ", ".join(f"{name} {value}" for name, value in where.items()))
    print(f"\n{table(found)}\n{output / 'patches.json'}")


def measured(
    config: Config, sizes: list[int], seeds: list[int], rounds: int, output: Path, accelerator: Accelerator
) -> list[Patches]:
    """Trains what is missing below `output`; a folder for each size of patches.

    Raises:
        ValueError: pictures are no multiple of a size and not padded, or its classifier cannot be built.
    """
    configs = [with_patches(config, size) for size in sizes]
    _, classes, _ = training_images_and_classes(config)
    steps, answers = [], []
    for one in configs:
        step, answer = batch_of(one, classes)
        steps.append(step)
        answers.append(answer)
    training = seconds_in_turns(steps, rounds=rounds, warmup=2)
    answering = seconds_in_turns(answers, rounds=rounds, warmup=2)

    found = []
    height, width = config.data.height, config.data.width
    for number, (size, one) in enumerate(zip(sizes, configs, strict=True)):
        assert one.classifier is not None, "a config of classifiers has been asked for"
        line, folder = one.classifier.encoding, output / f"patch_{size}"
        study = study_resolutions(
            one, [line], seeds, [(height, width)], [DEFAULT_CONVENTION], folder, accelerator
        )
        rows, columns = patches_of(height, width, size, one.classifier.padding)
        found.append(
            Patches(
                size,
                rows * columns,
                trainable(built(one, classes)),
                [answer.accuracy for answer in study.answers if answer.seed in seeds],
                1000 * statistics.median(training[number]),
                1000 * statistics.median(answering[number]),
            )
        )
    return found


def with_patches(config: Config, size: int) -> Config:
    assert config.classifier is not None, "a config of classifiers has been asked for"
    return replace(config, classifier=replace(config.classifier, patch_size=size))


def built(config: Config, classes: int) -> Classifier:
    """A new classifier, of which only that is trained which the config says."""
    model, training = build_classifier(config, classes), config.classifier_training
    if training.tuned != "all":
        tune(cast(ViTClassifier, model), training.tuned, training.lora, config.seed)
    return model


def batch_of(config: Config, classes: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """A training step, and the answers of a trained classifier, both of a batch of random pictures."""
    classifier, trained = built(config, classes), built(config, classes).eval()
    training, data = config.classifier_training, config.data
    images_BCHW = torch.randn(training.batch, data.channels, data.height, data.width)
    label_B = torch.randint(classes, (training.batch,))
    learn = training_step(
        classifier, lambda: F.cross_entropy(classifier(images_BCHW), label_B), training.precision
    )

    def answer() -> None:
        with torch.no_grad(), autocast(training.precision, "cpu"):
            trained(images_BCHW)

    return learn, answer


def table(found: list[Patches]) -> str:
    """A row for each size."""
    rows = []
    for one in found:
        over_seeds = summary(one.accuracies)
        rows.append(
            [
                str(one.patch_size),
                f"{one.tokens:,}",
                f"{one.parameters:,}",
                percent(over_seeds.mean, over_seeds.spread),
                f"{one.training_milliseconds:.0f}",
                f"{one.answering_milliseconds:.0f}",
            ]
        )
    header = ["patch", "tokens", "parameters", "accuracy", "ms a training step", "ms for a batch's answers"]
    return markdown_table(header, rows)


if __name__ == "__main__":
    main()
