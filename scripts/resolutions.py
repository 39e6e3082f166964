"""Trains a ViT classifier under every encoding at the config's size, and measures each at other sizes.

    python scripts/resolutions.py --config shapes_vit.yaml --seeds 0 1 2 --sizes 16 24 32 48 64 32x64 \\
        --encodings none learned sinusoidal "mixed(learned=0.7, sinusoidal=0.3)" rope relative_bias peg

Nothing is fine-tuned at the other sizes: tables are resampled under the named convention, and everything else
is a function of the positions. Writes resolutions.json and resolutions.md. To go on after a stop, run the
same command again; more encodings, seeds, sizes or conventions add to what is there.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

from var_pe.comparison.resolution_study import FILE, as_markdown, parse_size, study_resolutions
from var_pe.comparison.trials import trial_options
from var_pe.files import write_json, write_text
from var_pe.resampling.conventions import CONVENTIONS, DEFAULT_CONVENTION
from var_pe.settings.command_line import parse_arguments
from var_pe.stages.config import Config
from var_pe.stages.session import exit_with_sentence, session


def options(parser: argparse.ArgumentParser) -> None:
    trial_options(parser, "_resolutions")
    parser.add_argument(
        "--sizes",
        nargs="+",
        required=True,
        metavar="SIZE",
        help="sizes to measure at, in pixels: 48, or 32x64 (height first)",
    )
    parser.add_argument(
        "--conventions",
        nargs="+",
        default=[DEFAULT_CONVENTION],
        metavar="NAME",
        help="how learned tables are resampled to another size, by whose convention: "
        f"{', '.join(CONVENTIONS)}; default: {DEFAULT_CONVENTION}",
    )


@exit_with_sentence()
def main() -> None:
    config, arguments = parse_arguments(None, description=__doc__ or "", schema=Config, extra=options)
    output = arguments.output or Path(f"{config.run}_resolutions")
    sizes = [parse_size(word) for word in arguments.sizes]

    with session(config.classifier_training) as accelerator:
        study = study_resolutions(
            config,
            arguments.encodings,
            arguments.seeds,
            sizes,
            arguments.conventions,
            output,
            accelerator,
        )

        if accelerator.is_main_process:
            table = as_markdown(study, study.sizes, study.conventions)
            write_json(output / FILE, asdict(study))
            write_text(output / "resolutions.md", table)
            print(f"\n{table}\n{output / 'resolutions.md'}")


if __name__ == "__main__":
    main()
