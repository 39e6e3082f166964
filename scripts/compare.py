"""Compares position encodings over seeds: trains what is missing, samples, scores, and writes a report.

    python scripts/compare.py --config fashion_learned.yaml --encodings learned sinusoidal \\
        "mixed(learned=0.7, sinusoidal=0.3)" --seeds 0 1 2

All runs share one tokenizer. It lies in the config's tokenizer_run, whatever --output is, and is trained if
it is not there yet. The report (comparison.md, .html, .json, pictures) is written into the output folder,
beside the runs. To go on after a stop, run the same command again; more encodings or seeds add to what is
there.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from var_pe.comparison.generator_study import compare
from var_pe.comparison.report import FILES, as_text, write_report
from var_pe.settings.command_line import given_path, parse_arguments
from var_pe.stages.config import Config
from var_pe.stages.session import exit_with_sentence, session


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--encodings",
        nargs="+",
        required=True,
        metavar="LINE",
        help="the others are compared with the first",
    )

    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        default=[0],
        metavar="N",
        help="give at least two to see a spread; default: 0",
    )

    parser.add_argument(
        "--output",
        type=given_path,
        help="folder of the runs and the report; the tokenizer that they share stays in the config's "
        "tokenizer_run; default: the config's run + _comparison",
    )


@exit_with_sentence()
def main(argv: Sequence[str] | None = None) -> None:
    config, arguments = parse_arguments(argv, description=__doc__ or "", schema=Config, extra=options)
    output = arguments.output or Path(f"{config.run}_comparison")

    with session(config.tokenizer_training, config.generator_training) as accelerator:
        comparison = compare(config, arguments.encodings, arguments.seeds, output, accelerator)

        if accelerator.is_main_process:
            description = write_report(comparison, output)
            print(f"\n{as_text(description)}\n\n{description.intro}")
            for name in FILES:
                print(os.path.relpath(output / name))


if __name__ == "__main__":
    main()
