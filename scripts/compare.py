"""Compares position encodings over seeds: trains what is missing, samples, scores, and writes a report.

    python scripts/compare.py --study tiny.yaml [key=value ...]
    python scripts/compare.py --config fashion_learned.yaml --encodings learned sinusoidal \\
        "mixed(learned=0.7, sinusoidal=0.3)" --seeds 0 1 2
    python scripts/compare.py --report runs/studies/tiny/comparison.json [--publish docs/studies/tiny]

A study is a file in configs/studies/, or is written on the command line (docs/studies.md). To go on after a
stop or a kill, run the same command again; more arms or seeds add to what is there. The report
(comparison.html, .md, .json, samples.png) is written into the output folder, beside the runs; --report
writes it anew from its .json, without any training, or with --publish a page of the documentation with charts
and data. The exit status is 1 if some cells failed.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import var_pe  # noqa: F401  # before torch, whose threads it makes wait politely

# isort: split
import torch

from var_pe.comparison.engine import Plan, failure_of, limited, plan_of, run_here, run_one
from var_pe.comparison.estimate import plan_lines, timed_lines
from var_pe.comparison.gathering import gather
from var_pe.comparison.pool import run_in_processes
from var_pe.comparison.publishing import publish
from var_pe.comparison.results import read
from var_pe.comparison.shared import shared_of
from var_pe.comparison.study import PRIMARY, Study
from var_pe.comparison.writing import FILES, write_report
from var_pe.processes import say
from var_pe.progress import number_of
from var_pe.settings.command_line import (
    check_options,
    describe,
    given_path,
    overrides_first,
    parse_arguments,
)
from var_pe.settings.fields import Positive
from var_pe.settings.loading import CONFIGS, load
from var_pe.stages.config import Config
from var_pe.stages.session import exit_with_sentence, session
from var_pe.training.config import TrainingConfig

USAGE = """%(prog)s --study FILE [key=value ...] [options]
       %(prog)s --config FILE --encodings LINE [LINE ...] [key.sub=value ...] [options]
       %(prog)s --report JSON [JSON ...] [--output DIR | --publish PAGE]"""


def engine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print what is compared and how far each cell is, and train nothing; a cell is one encoding, or "
        "another arm of a study, under one seed",
    )
    parser.add_argument(
        "--timed",
        action="store_true",
        help="with --dry-run: also do a few steps in a temporary folder, and print what the rest will take",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="run each cell in a process of its own, N at a time; default: one by one, in this process",
    )
    parser.add_argument("--retry", action="store_true", help="also run cells again that have failed before")
    parser.add_argument("--cell", metavar="KEY", help=argparse.SUPPRESS)


def options(parser: argparse.ArgumentParser) -> None:
    """The options of a study that is described on the command line, and what stands in its place."""
    parser.usage = USAGE
    study_option(parser)
    report_options(parser)

    # A study without a file
    parser.add_argument(
        "--encodings",
        nargs="+",
        metavar="LINE",
        help="with --config: position encodings; the others are compared with the first",
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        default=[0],
        metavar="N",
        help="seeds; every encoding is trained once with each, and at least two show a spread; default: 0",
    )
    parser.add_argument(
        "--output",
        type=given_path,
        metavar="DIR",
        help="folder of the runs and the report; default: the config's run + _comparison; the tokenizer that "
        "the runs share stays in the config's tokenizer_run; with --report: folder of the report",
    )

    parser.add_argument(
        "--primary",
        default=PRIMARY,
        metavar="NAME",
        help=f"score that encodings are ranked by, as metrics.json names it; default: {PRIMARY}",
    )
    engine_options(parser)


# What a command line must have
WAYS = (
    "--study FILE, or --config FILE with --encodings LINE [LINE ...], or --report JSON to write the report "
    "of a finished study anew"
)


def has_option(option: str, words: Sequence[str]) -> bool:
    """Whether a command line has this option."""
    return any(word == option or word.startswith(f"{option}=") for word in words)


def study_of(words: Sequence[str]) -> tuple[Study, argparse.Namespace]:
    """The study that a command line names or describes."""
    if has_option("--study", words):
        return study_of_file(words)
    if not any(has_option(option, words) for option in ("--config", "--help", "-h")):
        raise ValueError(f"give {WAYS}")

    config, arguments = parse_arguments(words, description=__doc__ or "", schema=Config, extra=options)
    if arguments.encodings is None:
        raise ValueError(f"--config {arguments.config} alone names no encodings to compare: give {WAYS}")
    if arguments.publish is not None:
        raise ValueError(f"--publish {arguments.publish} is for a finished study: give --report JSON, too")
    study = Study(
        config=arguments.config,
        output=str(arguments.output or f"{config.run}_comparison"),
        settings=arguments.overrides,
        encodings=arguments.encodings,
        seeds=arguments.seeds,
        primary=arguments.primary,
        timing_rounds=0,
        check_extractors=False,
    )
    return study, arguments


def study_of_file(words: Sequence[str]) -> tuple[Study, argparse.Namespace]:
    """The study of a file, with the keys that the command line overrides."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"keys, as written in FILE or as key=value:\n{describe(Study)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.usage = USAGE
    study_option(parser)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="keys that override FILE's")
    engine_options(parser)
    arguments = parser.parse_intermixed_args(overrides_first(words))

    file = given_path(arguments.study)
    if file.name == str(file) and not file.exists():
        file = CONFIGS / "studies" / file
    return load(Study, file, arguments.overrides), arguments


def study_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--study", metavar="FILE", help="a study's file: path, or name in configs/studies/")


def report_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--report",
        nargs="+",
        type=given_path,
        metavar="JSON",
        help="the comparison.json of a finished study: write its report anew, without any training",
    )
    parser.add_argument(
        "--publish",
        type=given_path,
        metavar="PAGE",
        help="with --report: write a page of the documentation instead, such as docs/studies/NAME",
    )


def report_again(words: Sequence[str]) -> None:
    """Writes the report of finished studies anew, from their results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.usage = USAGE
    report_options(parser)
    output = "folder of the report; default: that of the file"
    parser.add_argument("--output", type=given_path, metavar="DIR", help=output)
    given = parser.parse_args(words)
    if len(given.report) > 1 and (given.output or given.publish):
        raise ValueError(f"--output and --publish take one file, but --report names {len(given.report)}")
    if given.output and given.publish:
        raise ValueError("--publish writes a page instead of the report: leave out --output")

    for file in given.report:
        results, folder = read(file), given.output or file.parent
        if given.publish is None:
            say_report(write_report(results, folder), folder)
            continue
        for written in publish(results, given.publish):
            say(str(written), sys.stdout)


@exit_with_sentence()
def main(argv: Sequence[str] | None = None) -> None:
    words = list(sys.argv[1:] if argv is None else argv)
    if has_option("--report", words):
        report_again(words)
        return

    study, arguments = study_of(words)
    check_options(arguments, jobs=Positive)
    if arguments.timed and not arguments.dry_run:
        raise ValueError("--timed estimates how long a study would take: give --dry-run, too")
    plan = plan_of(study)

    if arguments.cell is not None:
        with session(*trainings(plan)) as accelerator:
            sys.exit(run_one(plan, arguments.cell, accelerator))
    if arguments.dry_run:
        print("\n".join(plan_lines(plan)))
        if arguments.timed:
            with session(*trainings(plan)) as accelerator:
                print("\n".join(timed_lines(plan, arguments.jobs or 1, accelerator)))
        return

    # Under a launcher of several processes, each process works on cells of its own.
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    jobs = arguments.jobs or (1 if launched else None)
    if jobs is not None:
        own = [word for word in words if word not in ("--retry",)]
        run_in_processes(plan, [sys.executable, __file__, *own], jobs, retry=arguments.retry)
        if os.environ.get("RANK", "0") != "0":
            return
        device = "cuda" if torch.cuda.is_available() else "cpu"
    else:
        with session(*trainings(plan)) as accelerator, limited(study):
            run_here(plan, accelerator, retry=arguments.retry)
            device = accelerator.device.type

    command = shlex.join(["python", "scripts/compare.py", *words])
    say("putting the results together", sys.stdout)
    results = gather(plan, shared_of(plan.output), command, own_processes=jobs is not None, device=device)
    say_report(write_report(results, plan.output), plan.output)
    failed = [cell for cell in plan.cells if failure_of(plan, cell.key) is not None]
    if failed:
        say(f"{number_of(len(failed), 'cell')} failed; to run them again, add --retry", sys.stderr)
        sys.exit(1)


def trainings(plan: Plan) -> tuple[TrainingConfig, TrainingConfig]:
    """The trainings of a study, whose trackers are started."""
    config = plan.arms[0].config
    return config.tokenizer_training, config.generator_training


def say_report(text: str, folder: Path) -> None:
    """Prints the report's first table and where its files are."""
    say(f"\n{text}\n", sys.stdout)
    for name in FILES:
        say(str(folder / name), sys.stdout)


if __name__ == "__main__":
    main()
