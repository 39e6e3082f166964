"""Says in plain words whether a model's positions fit its weights, another size and a task; writes a page.

    python scripts/diagnose.py runs/fashion_vit --size 56 56 --task classification
    python scripts/diagnose.py vit.pth --source timm --architecture vit_base_patch16_224 --size 384 384
    python scripts/diagnose.py vit.pth --source dinov2 --image-size 518 518 --num-heads 12

The first argument is a run, the folder of a saved model or pipeline, or a file with a state dict of timm,
torchvision or DINOv2.
"""

import argparse
import os

from var_pe.diagnosis.diagnose import diagnose
from var_pe.diagnosis.opening import Checkpoint
from var_pe.diagnosis.report import as_text, write_page
from var_pe.evaluation.evidence import TASKS, read_evidence
from var_pe.interop.vit.names import THEIRS
from var_pe.resampling.conventions import CONVENTIONS, DEFAULT_CONVENTION
from var_pe.settings.command_line import check_options, given_path
from var_pe.settings.fields import Positive
from var_pe.stages.session import exit_with_sentence


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )

    parser.add_argument(
        "path", type=given_path, metavar="RUN_OR_CHECKPOINT", help="run, folder or file to look at"
    )
    parser.add_argument(
        "--size", nargs=2, type=int, metavar=("H", "W"), help="also look at images of this size, in pixels"
    )
    parser.add_argument(
        "--resample",
        choices=CONVENTIONS,
        default=DEFAULT_CONVENTION,
        help="how learned position tables are resampled to --size, by a named convention; default: "
        f"{DEFAULT_CONVENTION}",
    )
    parser.add_argument("--task", choices=TASKS, help="what the model is to be used for")
    parser.add_argument(
        "--evidence",
        type=given_path,
        metavar="JSON",
        help="table of measured scores that a --task is judged by; default: docs/task_evidence.json",
    )
    parser.add_argument(
        "--output", type=given_path, help="page to write; default: diagnosis.html beside the model"
    )

    # What the weights of another library do not show
    parser.add_argument("--source", choices=THEIRS, help="for a file: library that it is from")
    parser.add_argument(
        "--architecture",
        type=os.path.expanduser,
        metavar="NAME",
        help="for a file of timm: the model's name, or a folder with its config.json",
    )
    parser.add_argument(
        "--image-size",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="for a file: size of its images, in pixels",
    )
    parser.add_argument(
        "--num-heads", type=int, metavar="N", help="for a file: number of its attention heads"
    )
    return parser.parse_args()


@exit_with_sentence()
def main() -> None:
    given = arguments()
    folder = given.path if given.path.is_dir() else given.path.parent
    output = given.output or folder / "diagnosis.html"
    if output.is_dir():
        raise ValueError(f"--output {output} is a folder; name the page, such as {output / 'diagnosis.html'}")

    diagnosis = diagnose(
        given.path,
        checkpoint_of(given),
        size=None if given.size is None else tuple(given.size),
        convention=given.resample,
        task=given.task,
        evidence=read_evidence(given.evidence),
    )
    write_page(diagnosis, output)
    print(f"{as_text(diagnosis)}\n\npage: {output}")


def checkpoint_of(given: argparse.Namespace) -> Checkpoint | None:
    """The description of a file that the options give; None for a folder, whose config describes it."""
    of_file = (given.source, given.architecture, given.image_size, given.num_heads)
    if of_file == (None, None, None, None):
        return None
    if given.source is None or given.path.is_dir():
        raise ValueError(
            "--source, --architecture, --image-size and --num-heads describe a file of another library: give "
            "--source and the path of a file"
        )
    if given.source == "timm" and given.architecture is None:
        raise ValueError("--source timm needs --architecture, which weights do not show")
    if given.source != "timm" and (given.architecture or None in (given.image_size, given.num_heads)):
        raise ValueError(f"--source {given.source} needs --image-size and --num-heads, and no --architecture")

    check_options(given, image_size=list[Positive], num_heads=Positive)
    image_size = None if given.image_size is None else tuple(given.image_size)
    return Checkpoint(given.source, image_size, given.num_heads, given.architecture)


if __name__ == "__main__":
    main()
