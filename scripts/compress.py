"""Measures smaller versions of a trained classifier: accuracy, bytes and speed on this machine.

    python scripts/compress.py --run runs/fashion_vit
    python scripts/compress.py --run runs/fashion_vit --images 2000 --batch 32

The versions have int8 or int4 weights, weights set to zero, or hidden channels left out, and are made from
the finished model without further training. To be timed, they take turns in every round. Writes compress.json
and compress.md into the run.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import var_pe  # noqa: F401  # before torch, whose threads it makes wait politely

# isort: split
import torch
from torch import Tensor

from var_pe import settings
from var_pe.data.image_set import stacked
from var_pe.evaluation.records import versions
from var_pe.files import check_writable, write_json, write_text
from var_pe.interop.compression import WAYS, check_library, stored_bytes
from var_pe.models.classifier import Classifier
from var_pe.pages.numbers import percent
from var_pe.pages.tables import markdown_table
from var_pe.processes import say
from var_pe.settings.command_line import check_options, given_path
from var_pe.settings.fields import Positive
from var_pe.stages.config import Config
from var_pe.stages.images import held_out_images
from var_pe.stages.models import load_classifier_of_images
from var_pe.stages.session import exit_with_sentence


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--run", type=given_path, required=True, metavar="DIR", help="a classifier's run")
    parser.add_argument("--images", type=int, default=1000, metavar="N", help="test images; default: 1000")
    parser.add_argument("--batch", type=int, default=32, metavar="N", help="images in a call; default: 32")
    parser.add_argument(
        "--rounds", type=int, default=15, metavar="N", help="timed calls of each version; default: 15"
    )
    given = parser.parse_args()
    check_options(given, images=Positive, batch=Positive, rounds=Positive)
    return given


@exit_with_sentence()
def main() -> None:
    given = arguments()
    run: Path = given.run
    if not (run / "config.yaml").exists() or not (run / "classifier").is_dir():
        raise ValueError(f"--run {run} is not the folder of a finished run of a classifier")
    check_library("torchao", "torchao")
    check_library("torch_pruning", "torch-pruning")
    check_writable(run)

    config = settings.load(Config, run / "config.yaml", [f"run={run}"])
    images = held_out_images(config, given.images)
    items = [images[index] for index in range(len(images))]
    images_NCHW = stacked(items)
    labels_N = torch.tensor([item["label"] for item in items])

    model = load_classifier_of_images(run / "classifier")
    models = {name: smaller(model) for name, smaller in WAYS.items()}
    accuracies = [accuracy(each, images_NCHW, labels_N, given.batch) for each in models.values()]
    speeds = milliseconds(list(models.values()), images_NCHW[: given.batch], given.rounds)

    found = {
        name: {"accuracy": share, "bytes": stored_bytes(models[name]), "milliseconds": speed}
        for name, share, speed in zip(models, accuracies, speeds, strict=True)
    }
    rows = [
        [name, percent(row["accuracy"], None), f"{row['bytes'] / 1000:.1f}", f"{row['milliseconds']:.1f}"]
        for name, row in found.items()
    ]
    number = min(given.batch, len(items))
    table = markdown_table(["weights", "accuracy (%)", "kB", f"ms for {number} images"], rows)
    about = {"images": len(items), "batch": number, "threads": torch.get_num_threads()}
    write_json(run / "compress.json", {"found": found, **about, "versions": versions()})
    write_text(run / "compress.md", table + "\n")
    say(
        f"{len(items)} test images, threads: {about['threads']}\n\n{table}\n{run / 'compress.md'}", sys.stdout
    )


@torch.no_grad()
def accuracy(model: Classifier, images_NCHW: Tensor, labels_N: Tensor, batch: int) -> float:
    guesses = [model(images_BCHW).argmax(1) for images_BCHW in images_NCHW.split(batch)]
    return float((torch.cat(guesses) == labels_N).float().mean())


@torch.no_grad()
def milliseconds(models: Sequence[Classifier], images_BCHW: Tensor, rounds: int) -> list[float]:
    """The median time of each model's call, in milliseconds.

    The models take turns in each of the `rounds`; one more round before them is not counted.
    """
    times: list[list[float]] = [[] for _ in models]
    for each in range(rounds + 1):
        for model, taken in zip(models, times, strict=True):
            began = time.perf_counter()
            model(images_BCHW)
            if each:
                taken.append(1000 * (time.perf_counter() - began))
    return [statistics.median(taken) for taken in times]


if __name__ == "__main__":
    main()
