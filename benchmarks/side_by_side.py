"""What a change of settings brings and costs: trainings of a classifier side by side, in one table.

    python benchmarks/side_by_side.py --config shapes_vit.yaml --seeds 0 1 2 --arm "plain:" \\
        --arm "stages: classifier.dim=32 'classifier.hierarchy=[windowed(blocks=2), full(blocks=2)]'"

An arm is a name, a colon and the settings that it changes, in quotes where they hold blanks. All arms see the
same pictures in the same order. Accuracy is that of the finished weights on the config's validation images;
times are of training steps with the config's batch, all arms in turns, so that a slow minute slows all.
Trained runs lie in --output: the same command goes on there.
"""

import argparse
import shlex
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import var_pe  # noqa: F401  # before torch, whose threads it makes wait politely

# isort: split
from accelerate import Accelerator
from annotated_types import Ge
from machine import machine
from patch_sizes import batch_of, built

from var_pe import settings
from var_pe.comparison.costs import minutes_of_training, trainable
from var_pe.comparison.resolution_study import answers_of
from var_pe.comparison.statistics import summary
from var_pe.comparison.step_time import seconds_in_turns
from var_pe.comparison.trials import Trial, check_distinct, slug, trials
from var_pe.files import write_json
from var_pe.pages.numbers import percent
from var_pe.pages.tables import markdown_table
from var_pe.resampling.conventions import DEFAULT_CONVENTION
from var_pe.settings.command_line import check_options, given_path, parse_arguments
from var_pe.stages.config import Config
from var_pe.stages.plan import training_images_and_classes
from var_pe.stages.session import exit_with_sentence, session
from var_pe.stages.train import train_classifier
from var_pe.training.log import read_log


@dataclass(frozen=True)
class Arm:
    """What classifiers of one arm reached, and what they take."""

    name: str
    # of the classifier while it is trained, adapters and prompts included
    parameters: int
    # of these, those that are trained
    trained: int
    # shares of right answers, one for each seed
    accuracies: list[float]
    # of a training step, the median over rounds
    milliseconds: float
    # of all steps of a training, one for each seed, as they came
    seconds: list[float]


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--arm",
        action="append",
        required=True,
        metavar="NAME:SETTINGS",
        help="an arm and what it changes, as in 'head: classifier_training.tuned=head'; may be repeated",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    parser.add_argument(
        "--rounds", type=int, default=10, help="steps of each arm that are timed; default: 10"
    )
    parser.add_argument("--output", type=given_path, help="default: the config's run + _side_by_side")


@exit_with_sentence()
def main() -> None:
    config, given = parse_arguments(None, description=__doc__ or "", schema=Config, extra=options)
    check_options(given, rounds=Annotated[int, Ge(2)])
    arms = arms_of(given.config, given.overrides, given.arm)
    output = given.output or Path(f"{config.run}_side_by_side")

    with session(config.classifier_training) as accelerator:
        found = measured(arms, given.seeds, given.rounds, output, accelerator)

    where = machine("cpu")
    settings_of = {name: asdict(arm) for name, arm in arms.items()}
    about = {"machine": where, "rounds": given.rounds, "seeds": given.seeds, "settings": settings_of}
    write_json(output / "side_by_side.json", {**about, "arms": [asdict(one) for one in found]})
    print(f"\n{given.rounds} rounds, " + ", ".join(f"{name} {value}" for name, value in where.items()))
    print(f"\n{table(found)}\n{output / 'side_by_side.json'}")


def arms_of(file: str, overrides: list[str], words: list[str]) -> dict[str, Config]:
    """The config of each arm by its name.

    Raises:
        ValueError: an arm has no name or the name of another, or changes what all have to share.
    """
    pairs = []
    for word in words:
        name, colon, changes = word.partition(":")
        if not colon or not name.strip() or "=" in name:
            raise ValueError(f"--arm is a name, a colon and settings, as in 'plain:', got {word!r}")
        pairs.append((name.strip(), settings.load(Config, file, [*overrides, *shlex.split(changes)])))
    check_distinct("names of arms", [slug(name) for name, _ in pairs])

    first = pairs[0][1]
    for name, config in pairs:
        if config.kind != "classifier" or config.classifier is None or config.classifier.tubelet is not None:
            raise ValueError(f"--arm {name}: arms are classifiers of pictures, and its settings make none")
        if (config.data.height, config.data.width) != (first.data.height, first.data.width):
            raise ValueError(f"--arm {name}: its pictures have another size than those of {pairs[0][0]}")
    return dict(pairs)


def measured(
    arms: Mapping[str, Config], seeds: list[int], rounds: int, output: Path, accelerator: Accelerator
) -> list[Arm]:
    """Trains what is missing below `output`; a folder for each arm.

    Raises:
        ValueError: the classifier of an arm cannot be built or trained; before any training, as far as its
            settings show it.
    """
    planned = {name: trials_of(name, config, seeds, output) for name, config in arms.items()}
    classes = {name: training_images_and_classes(config)[1] for name, config in arms.items()}
    steps = [batch_of(config, classes[name])[0] for name, config in arms.items()]
    timed = seconds_in_turns(steps, rounds=rounds, warmup=2)

    # Seed by seed, so that a table of fewer seeds can be had while the others are trained
    accuracies: dict[str, list[float]] = {name: [] for name in arms}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(len(seeds)):
        for name, config in arms.items():
            trial = planned[name][turn]
            accelerator.print(f"{name}, seed {trial.seed}")
            train_classifier(trial.config, accelerator)
            size = (config.data.height, config.data.width)
            (answer,) = answers_of(trial, [size], [DEFAULT_CONVENTION])
            accuracies[name].append(answer.accuracy)
            log = read_log(trial.run / "log.jsonl")
            seconds[name].append(60 * minutes_of_training(log, config.classifier_training.batch))

    found = []
    for (name, config), mine in zip(arms.items(), timed, strict=True):
        model = built(config, classes[name])
        parameters = sum(parameter.numel() for parameter in model.parameters())
        milliseconds = 1000 * statistics.median(mine)
        found.append(Arm(name, parameters, trainable(model), accuracies[name], milliseconds, seconds[name]))
    return found


def trials_of(name: str, config: Config, seeds: list[int], output: Path) -> list[Trial]:
    """An arm's runs, one for each seed."""
    assert config.classifier is not None, "arms are classifiers"
    return trials(config, [config.classifier.encoding], seeds, output / slug(name))


def table(found: list[Arm]) -> str:
    """A row for each arm."""
    rows = []
    for one in found:
        over_seeds = summary(one.accuracies)
        rows.append(
            [
                one.name,
                f"{one.parameters:,}",
                f"{one.trained:,}",
                percent(over_seeds.mean, over_seeds.spread),
                f"{one.milliseconds:.0f}",
                f"{statistics.mean(one.seconds):.0f}",
            ]
        )
    header = ["arm", "parameters", "trained", "accuracy", "ms a training step", "s of all steps"]
    return markdown_table(header, rows)


if __name__ == "__main__":
    main()
