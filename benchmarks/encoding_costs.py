"""What each position encoding costs: training steps of models in turn, held against `none`.

    python benchmarks/encoding_costs.py --config fashion_learned.yaml --rounds 30
    python benchmarks/encoding_costs.py --config shapes_vit.yaml --encodings learned rope relative_bias
    python benchmarks/encoding_costs.py --config imagenet256_learned.yaml --device cuda \
        generator_training.batch=32

Random tokens and pictures at the config's sizes, batch and precision: no data set is read, nothing is kept.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated

import var_pe  # noqa: F401  # before torch, whose threads it makes wait politely

# isort: split
import torch
import torch.nn.functional as F
from annotated_types import Ge
from machine import check_device, device_option, json_option, machine
from steps import COMPILED, compiled

from var_pe.comparison.step_time import StepTime, generator_step, step_times, training_step
from var_pe.comparison.trials import check_encodings, with_encoding
from var_pe.encodings import REGISTRY
from var_pe.files import write_json
from var_pe.pages.tables import markdown_table
from var_pe.settings.command_line import check_options, parse_arguments
from var_pe.stages.config import Config
from var_pe.stages.models import build_classifier, build_generator
from var_pe.stages.session import exit_with_sentence

# The others are lines by their bare name.
LINES = {"mixed": "mixed(learned=0.7, sinusoidal=0.3)", "blocks": "blocks(learned, size=2)"}
CLASSES = 10


def options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--encodings",
        nargs="+",
        default=every_encoding(),
        metavar="LINE",
        help="position encodings; default: all",
    )
    rounds = "timed steps of each encoding; default: %(default)s"
    add("--rounds", type=int, default=30, metavar="N", help=rounds)
    compiled = "which part of every model is compiled; default: %(default)s"
    add("--compile", choices=COMPILED, default="none", help=compiled)
    device_option(parser)
    json_option(parser)


def every_encoding() -> list[str]:
    """A line of each registered encoding."""
    return [LINES.get(name, name) for name in sorted(REGISTRY)]


@exit_with_sentence()
def main() -> None:
    config, arguments = parse_arguments(None, description=__doc__ or "", schema=Config, extra=options)
    check_options(arguments, rounds=Annotated[int, Ge(2)])
    check_encodings(config, arguments.encodings)
    check_device(arguments.device)

    torch.manual_seed(0)
    times = step_times(
        arguments.encodings,
        lambda line: step_of(with_encoding(config, line), arguments.device, arguments.compile),
        rounds=arguments.rounds,
    )

    where = machine(arguments.device)
    print(f"{arguments.rounds} rounds, " + ", ".join(f"{name} {value}" for name, value in where.items()))
    print(f"\n{table(times)}")
    if arguments.json is not None:
        write_json(arguments.json, {"machine": where, "times": [asdict(time) for time in times]})


def step_of(config: Config, device: str = "cpu", how: str = "none") -> Callable[[], None]:
    """One training step of the config's model, compiled as `how` says, on a batch of random data."""
    if config.classifier is None:
        generator = compiled(build_generator(config, CLASSES).train().to(device), how)
        return generator_step(generator, config, CLASSES, device)
    return classifier_step(config, device, how)


def classifier_step(config: Config, device: str, how: str) -> Callable[[], None]:
    classifier = compiled(build_classifier(config, CLASSES).train().to(device), how)
    batch = config.classifier_training.batch

    shape = (batch, config.data.channels, config.data.height, config.data.width)
    images_BCHW = torch.randn(shape, device=device)
    label_B = torch.randint(CLASSES, (batch,), device=device)

    def loss() -> torch.Tensor:
        return F.cross_entropy(classifier(images_BCHW), label_B)

    return training_step(classifier, loss, config.classifier_training.precision)


def table(times: list[StepTime]) -> str:
    header = ["encoding", "step (ms)", "against `none`", "quartiles"]
    rows = [
        [
            f"`{time.encoding}`",
            f"{time.milliseconds:.1f}",
            f"{time.ratio:.3f}",
            f"{time.low:.3f} .. {time.high:.3f}",
        ]
        for time in times
    ]
    return markdown_table(header, rows)


if __name__ == "__main__":
    main()
