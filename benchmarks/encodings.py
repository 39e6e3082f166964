"""What each position encoding costs: training steps of models in turn, held against `none`.

    python benchmarks/encodings.py --config fashion_learned.yaml --rounds 30
    python benchmarks/encodings.py --config shapes_vit.yaml --encodings learned rope relative_bias

Random tokens and pictures at the config's sizes, batch and precision: no data set is read, nothing is kept.
"""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F

from var_pe.comparison.step_time import StepTime, step_times, training_step
from var_pe.comparison.study import check_encodings, under
from var_pe.encodings import REGISTRY
from var_pe.settings.command_line import check_options, exit_with_sentence, parse_arguments
from var_pe.stages.config import Config
from var_pe.stages.models import build_classifier, build_generator

LINES = {"mixed": "mixed(learned=0.7, sinusoidal=0.3)"}  # the others are lines by their bare name
CLASSES = 10


def options(parser: argparse.ArgumentParser) -> None:
    every = [LINES.get(name, name) for name in sorted(REGISTRY)]
    parser.add_argument("--encodings", nargs="+", default=every, metavar="LINE", help="default: all")
    parser.add_argument("--rounds", type=int, default=30, help="steps of each that are timed")


def step_of(config: Config) -> Callable[[], None]:
    """One training step of the config's model on a batch of random data."""
    if config.classifier is None:
        generator = build_generator(config, CLASSES).train()
        length, batch = generator.pyramid.num_tokens, config.generator_training.batch
        first = generator.pyramid.spans[0].stop
        labels_B = torch.randint(CLASSES, (batch,))
        inputs_BLZ = torch.randn(batch, length - first, config.tokenizer.latent_channels)
        target_BL = torch.randint(config.tokenizer.codebook_size, (batch, length))
        precision = config.generator_training.precision

        def loss() -> torch.Tensor:
            return F.cross_entropy(generator(labels_B, inputs_BLZ).flatten(0, 1), target_BL.flatten())

        return training_step(generator, loss, precision)
    classifier, batch = build_classifier(config, CLASSES).train(), config.classifier_training.batch
    images_BCHW = torch.randn(batch, config.data.channels, config.data.height, config.data.width)
    label_B = torch.randint(CLASSES, (batch,))
    return training_step(
        classifier,
        lambda: F.cross_entropy(classifier(images_BCHW), label_B),
        config.classifier_training.precision,
    )


def table(rows: list[StepTime]) -> str:
    lines = ["| encoding | step (ms) | against `none` | quartiles |", "| --- | --- | --- | --- |"]
    lines += [
        f"| `{row.encoding}` | {row.milliseconds:.1f} | {row.ratio:.3f} | {row.low:.3f} .. {row.high:.3f} |"
        for row in rows
    ]
    return "\n".join(lines)


@exit_with_sentence()
def main() -> None:
    config, arguments = parse_arguments(None, description=__doc__ or "", schema=Config, extra=options)
    check_options(arguments, rounds="[2, inf)")
    check_encodings(config, arguments.encodings)
    torch.manual_seed(0)
    rows = step_times(arguments.encodings, lambda line: step_of(under(config, line)), rounds=arguments.rounds)
    threads, version = torch.get_num_threads(), torch.__version__
    print(f"{arguments.rounds} rounds, {threads} threads, torch {version}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
