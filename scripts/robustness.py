"""Measures how trained classifiers break: attacks, common corruptions, shifts, crops, turns, other data.

    python scripts/robustness.py runs/fashion_vit
    python scripts/robustness.py runs/fashion_robust/*_seed_* --images 500 --against shapes noise
    python scripts/robustness.py runs/fashion_vit --defences jpeg=50 bits=3 median=3 gaussian=1
    python scripts/robustness.py runs/fashion_vit --generator runs/fashion_learned

Runs of the same encoding that differ in their seed alone share a column, with mean and spread. Writes
robustness.json, with every number, and robustness.md, with tables, into --output.
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import var_pe  # noqa: F401  # before torch, whose threads it makes wait politely

# isort: split
import torch

from var_pe import settings
from var_pe.comparison.robustness_study import (
    NOISE,
    Questions,
    as_markdown,
    check_generator,
    study_robustness,
    subjects_of,
)
from var_pe.data.sources import BY_NAME
from var_pe.evaluation import attacks, outliers
from var_pe.evaluation.defences import parse_defence
from var_pe.evaluation.records import versions
from var_pe.files import check_writable, write_json, write_text
from var_pe.processes import say
from var_pe.settings.command_line import check_options, given_path
from var_pe.settings.fields import Positive, PositiveFloat
from var_pe.stages.config import Config
from var_pe.stages.draw import load_pipeline
from var_pe.stages.session import exit_with_sentence


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("runs", type=given_path, nargs="+", metavar="RUN", help="folder of a classifier's finished run")
    add("--images", type=int, default=1000, metavar="N", help="test images; default: 1000")
    add(
        "--epsilons",
        type=float,
        nargs="+",
        default=[1.0, 2.0, 4.0, 8.0],
        metavar="E",
        help="by how much attacks may change a pixel at most, in steps of 1/255 of the range of brightness; "
        "default: 1 2 4 8",
    )

    add("--steps", type=int, default=10, metavar="N", help="steps of the attack PGD; default: 10")

    # Other data, and what pictures are put through
    add(
        "--against",
        nargs="+",
        choices=[NOISE, *BY_NAME],
        metavar="DATA",
        help="other data, which a classifier should notice, some of "
        f"{', '.join([NOISE, *BY_NAME])}; default: shapes (unless the runs' own) and noise",
    )
    add(
        "--generator",
        type=given_path,
        metavar="RUN",
        help="a generator's run, whose bits also tell other data apart",
    )
    add(
        "--defences",
        nargs="+",
        default=[],
        metavar="NAME=STRENGTH",
        help="what pictures are put through before they are classified, such as jpeg=50 (quality) bits=3 "
        "median=3 (pixels) gaussian=1 (pixels); measured are right answers lost and attacks held off",
    )

    seeds = "seed of noise, and of the directions and starts of attacks; default: 0"
    add("--seed", type=int, default=0, metavar="N", help=seeds)
    add("--output", type=given_path, metavar="DIR", help="folder of the results; default: the first run's")

    given = parser.parse_args()
    check_options(given, images=Positive, epsilons=list[PositiveFloat], steps=Positive)
    return given


@exit_with_sentence()
def main() -> None:
    given = arguments()
    attacks.check_library()
    outliers.check_library()
    defences = tuple(dict.fromkeys(parse_defence(word) for word in given.defences))
    output = given.output or given.runs[0]
    configs = [config_of(run) for run in given.runs]
    subjects = subjects_of(given.runs, configs)
    against = given.against or [name for name in ("shapes", NOISE) if name != configs[0].data.source]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = None
    if given.generator is not None:
        trained = config_of(given.generator)
        generator = load_pipeline(trained).to(device)
        check_generator(generator, trained.generator_training.label_drop, configs[0])
    output.mkdir(parents=True, exist_ok=True)
    check_writable(output)

    questions = Questions(
        given.images, tuple(given.epsilons), given.steps, tuple(against), given.seed, defences
    )
    study = study_robustness(subjects, questions, generator, device, lambda line: say(line, sys.stdout))

    table = as_markdown(study)
    write_json(output / "robustness.json", {**asdict(study), "versions": versions()})
    write_text(output / "robustness.md", table)
    say(f"\n{table}\n{output / 'robustness.md'}", sys.stdout)


def config_of(run: Path) -> Config:
    """The config of a run, which may have been moved.

    Raises:
        ValueError: the folder is no run's.
    """
    if not (run / "config.yaml").exists():
        raise ValueError(f"{run} is not the folder of a run")
    return settings.load(Config, run / "config.yaml", [f"run={run}"])


if __name__ == "__main__":
    main()
