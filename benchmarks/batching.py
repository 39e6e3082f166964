"""Requests of mixed sizes, one by one and in batches of one size: images a second of a small dynamic ViT.

    python benchmarks/batching.py --requests 600

All ways take turns, round after round, after one that does not count; medians.
"""

import argparse
import statistics
import time

import var_pe  # noqa: F401  # before torch, whose threads it makes wait politely

# isort: split
import torch
from torch import Tensor

from var_pe.interop.batching import answered
from var_pe.models.vit import ViTClassifier
from var_pe.pages.tables import aligned_table
from var_pe.settings.command_line import check_options
from var_pe.settings.fields import Positive
from var_pe.stages.session import exit_with_sentence

SIZES = [(28, 28), (28, 40), (40, 28), (56, 56)]


def requests(number: int) -> list[tuple[int, Tensor]]:
    """Images whose sizes come in a random order."""
    numbers = torch.Generator().manual_seed(0)
    sizes = torch.randint(len(SIZES), (number,), generator=numbers).tolist()
    return [(key, torch.randn(1, *SIZES[size], generator=numbers)) for key, size in enumerate(sizes)]


@exit_with_sentence()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--requests", type=int, default=600, metavar="N", help="single images to answer; default: 600"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="timed rounds of all ways; default: 5"
    )
    given = parser.parse_args()
    check_options(given, requests=Positive, rounds=Positive)

    asked = requests(given.requests)
    model = ViTClassifier(
        image_size=(28, 28),
        image_channels=1,
        num_classes=10,
        patch_size=4,
        dim=64,
        depth=4,
        num_heads=2,
        encoding="sinusoidal",
        dynamic=True,
    ).eval()

    of_28 = SIZES[0][0] * SIZES[0][1]
    bounds = {1: (1, 1), 8: (8 * of_28, 32 * of_28), 32: (32 * of_28, 128 * of_28)}
    seconds: dict[int, list[float]] = {most: [] for most in bounds}
    for each in range(given.rounds + 1):
        for most, (batch_values, waiting_values) in bounds.items():
            began = time.perf_counter()
            answers = answered(model, asked, batch_values=batch_values, waiting_values=waiting_values)
            assert len(dict(answers)) == len(asked)
            if each:
                seconds[most].append(time.perf_counter() - began)

    rows = [["at most together", "at most waiting", "images a second"]]
    for most, taken in seconds.items():
        speed = len(asked) / statistics.median(taken)
        rows.append([f"{most} of 28x28", f"{bounds[most][1]:,} values", f"{speed:.0f}"])
    print(f"{len(asked)} requests of {len(SIZES)} sizes, threads: {torch.get_num_threads()}")
    print(aligned_table(rows))


if __name__ == "__main__":
    main()
