"""Trains segmenters and detectors on classifiers under every encoding, the classifier frozen and fine-tuned.

    python scripts/heads.py --config shapes_vit.yaml --output runs/shapes_vit_resolutions --seeds 0 1 2 \\
        --encodings learned sinusoidal "mixed(learned=0.7, sinusoidal=0.3)" rope relative_bias peg

The pictures are `shapes`, which come with masks and boxes. What is trained on the classifiers is said by the
configs of --tasks, from which only the sections of segmenter and detector are taken. They are scored at the
training size and, without further training, at twice that size. Writes task_evidence.json, which
scripts/diagnose.py quotes, and task_evidence.md. If --output is the folder of scripts/resolutions.py, its
classifiers are used, and their classification accuracies go into the json as well.
"""

import argparse
from pathlib import Path

from var_pe.comparison.head_study import as_markdown, study_heads
from var_pe.comparison.trials import trial_options
from var_pe.evaluation.evidence import write_evidence
from var_pe.files import write_text
from var_pe.settings import load
from var_pe.settings.command_line import parse_arguments
from var_pe.stages.config import Config
from var_pe.stages.session import exit_with_sentence, session

DEFAULT_TASKS = ("shapes_segmenter.yaml", "shapes_detector.yaml")


def options(parser: argparse.ArgumentParser) -> None:
    trial_options(parser, "_resolutions")
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=DEFAULT_TASKS,
        metavar="FILE",
        help=f"configs of a segmenter, a detector or both; default: {' '.join(DEFAULT_TASKS)}",
    )


@exit_with_sentence()
def main() -> None:
    config, arguments = parse_arguments(None, description=__doc__ or "", schema=Config, extra=options)
    on_maps = [load(Config, file, arguments.overrides) for file in arguments.tasks]
    output = arguments.output or Path(f"{config.run}_resolutions")

    with session(config.classifier_training) as accelerator:
        table = study_heads(config, on_maps, arguments.encodings, arguments.seeds, output, accelerator)

        if accelerator.is_main_process:
            write_evidence(table, output / "task_evidence.json")
            write_text(output / "task_evidence.md", as_markdown(table))
            print(f"\n{as_markdown(table)}\n{output / 'task_evidence.md'}")


if __name__ == "__main__":
    main()
