"""Compares ladders of levels: trains tokenizers of several ladders and downsampling factors for equal time.

    python scripts/ladders.py --config fashion.yaml
    python scripts/ladders.py --config clipart.yaml --minutes 5 --generator-minutes 5

Rows are `LEVELS_by_FACTOR`, such as 1-2-3-4_by_8; without --rows they are the config's own ladder and those
around it, of 14 to 260 tokens. Each row is a process of its own. It first times a few steps to turn its
minutes into a number of steps, which is kept. Writes ladders.md and ladders.json after every row. To go on
after a stop, run the same command again; more rows add to what is there.
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from var_pe.comparison.ladder_study import (
    Ladder,
    Minutes,
    check_judge,
    ladders_for,
    measured_row,
    parse_ladder,
    plan_of,
    write_study,
)
from var_pe.settings.command_line import check_options, given_path, parse_arguments
from var_pe.settings.fields import NonNegativeFloat, PositiveFloat
from var_pe.stages.config import Config
from var_pe.stages.session import exit_with_sentence, session
from var_pe.training.stopping import end_with_parent

# Tells the process of a row which process started it
STARTED_BY = "VAR_PE_LADDERS"


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", nargs="+", metavar="LEVELS_by_FACTOR", help="train only these rows")
    parser.add_argument(
        "--minutes",
        type=float,
        default=5.0,
        metavar="M",
        help="minutes of training for each tokenizer; default: 5",
    )
    parser.add_argument(
        "--generator-minutes",
        type=float,
        default=0.0,
        metavar="M",
        help="minutes of training for a generator on each tokenizer's tokens; default: 0, no generator",
    )

    parser.add_argument(
        "--judge",
        default="efficientnet_lite1",
        metavar="NAME",
        help="feature extractor that compares reconstructions with images, as in evaluation.features; "
        "default: efficientnet_lite1",
    )

    output = "folder of the rows and results; default: the config's run + _ladders"
    parser.add_argument("--output", type=given_path, metavar="DIR", help=output)
    parser.add_argument(
        "--dry-run", action="store_true", help="print the rows and what they will take, and train nothing"
    )


@exit_with_sentence()
def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    config, arguments = parse_arguments(argv, description=__doc__ or "", schema=Config, extra=options)
    check_options(arguments, minutes=PositiveFloat, generator_minutes=NonNegativeFloat)
    minutes = Minutes(arguments.minutes, arguments.generator_minutes)
    output = arguments.output or Path(f"{config.run}_ladders")
    ladders = [parse_ladder(word) for word in arguments.rows] if arguments.rows else ladders_for(config)

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "scripts/ladders.py starts a process for each row: start it with python, without a launcher"
        )
    plan = plan_of(config, ladders, minutes, arguments.judge, output)
    check_judge(config, arguments.judge)
    print(plan, flush=True)
    if arguments.dry_run:
        return

    if len(ladders) > 1:
        for ladder in ladders:
            in_a_process(argv, ladder)
    else:
        follow_the_study()
        with session(config.tokenizer_training, config.generator_training) as accelerator:
            measured_row(config, ladders[0], minutes, arguments.judge, output, accelerator)
    print(f"\n{write_study(config, minutes, arguments.judge, output)}\n{output / 'ladders.md'}", flush=True)


def in_a_process(argv: Sequence[str], ladder: Ladder) -> None:
    """Trains one row in another process by this script; waits for its end, even after Ctrl-C.

    Raises:
        SystemExit: the row failed; it has printed why.
    """
    words = [sys.executable, __file__, *argv, "--rows", str(ladder)]
    row = subprocess.Popen(words, env={**os.environ, STARTED_BY: str(os.getpid())})
    while row.poll() is None:
        try:
            row.wait()
        except KeyboardInterrupt:  # which a terminal sends to the row, too: it saves and ends
            row.terminate()
    if row.returncode:
        sys.exit(row.returncode if row.returncode > 0 else 128 - row.returncode)


def follow_the_study() -> None:
    """Lets the process of a row save and end when the process that started it ends."""
    if STARTED_BY in os.environ:
        end_with_parent(signal.SIGTERM)
        if os.environ[STARTED_BY] != str(os.getppid()):
            sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    main()
