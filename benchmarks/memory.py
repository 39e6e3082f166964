"""What large tensors cost on a processor: memory that is returned to the system, pictures all at once.

    python benchmarks/memory.py
    python benchmarks/memory.py --sizes --precision float32

Training steps of generators, as glibc handles memory by itself, and as our scripts have it handled
(`var_pe.keep_freed_memory`). Each is a process of its own, since glibc stops to adapt once it is told
anything; both take turns, round after round. Medians, with the lowest and highest ratio of a round. Page
faults are pieces of 4 kB that the system had to clear and map, of one step. Then a decoder of VAR's shape, 32
wide, at several numbers of pictures at once, and as `reconstruct` chooses it. For Linux with glibc.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from statistics import median

import var_pe  # before torch, whose threads it makes wait politely

# isort: split
import torch
from machine import json_option, machine, precision_option
from public_var import FIXED
from steps import SIZES, build, our_step, random_batch

from var_pe.comparison.step_time import seconds_in_turns
from var_pe.files import write_json
from var_pe.models.tokenizer import VQTokenizer
from var_pe.pages.tables import markdown_table
from var_pe.settings.command_line import check_options
from var_pe.settings.fields import Positive
from var_pe.stages.session import exit_with_sentence
from var_pe.training.precision import Settled, autocast, settled

WAYS = ("returned", "kept")
WARMUP, STEPS = 2, 3  # of each process
DECODED = {"30": 64, "130": 64, "680": 8}  # pictures, by a size of which the levels are taken
AT_ONCE = (1, 2, 4, 8, 16, 32, 64)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    sizes = "generators to time; default: 30 130 680"
    add("--sizes", nargs="*", choices=SIZES, default=["30", "130", "680"], help=sizes)
    decoded = f"decoders to time, by their levels; default: {' '.join(DECODED)}"
    add("--decoded", nargs="*", choices=DECODED, default=list(DECODED), help=decoded)
    precision_option(parser)
    add("--rounds", type=int, default=3, metavar="N", help="timed rounds; default: %(default)s")
    json_option(parser)
    add("--way", choices=WAYS, help=argparse.SUPPRESS)  # of a process of its own
    return parser.parse_args()


@exit_with_sentence()
def main() -> None:
    given = arguments()
    check_options(given, rounds=Positive)
    precision = settled(given.precision, "cpu")
    if given.way is not None:
        print(json.dumps(of_step(given.sizes[0], precision, given.way)))
        return

    where = machine("cpu")
    print(
        f"{precision}, {given.rounds} rounds, " + ", ".join(f"{name} {each}" for name, each in where.items())
    )

    steps = {size: in_turns(size, precision, given.rounds) for size in given.sizes}
    if steps:
        print(f"\n{table_of_steps(steps)}", flush=True)
    drawn = {size: of_decoder(size, precision, given.rounds) for size in given.decoded}
    if drawn:
        print(f"\n{table_of_decoder(drawn)}")
    if given.json is not None:
        write_json(given.json, {"machine": where, "steps": steps, "decoder": drawn})


# --------------------------------------------------------------------------------- memory of training steps

Numbers = dict[str, list[float]]


def in_turns(size: str, precision: Settled, rounds: int) -> Numbers:
    """Milliseconds and page faults of a step, by the way."""
    found: Numbers = {f"{way} {what}": [] for way in WAYS for what in ("ms", "faults")}
    # Whatever sets malloc would set it for both.
    told = ("MALLOC_", "GLIBC_TUNABLES")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(told)}
    for _ in range(rounds):
        for way in WAYS:
            line = [sys.executable, __file__, "--sizes", size, "--precision", precision, "--way", way]
            answer = subprocess.run(
                line, env=environment, stdout=subprocess.PIPE, text=True, check=True
            ).stdout
            for what, number in json.loads(answer).items():
                found[f"{way} {what}"].append(number)
    return found


def of_step(size: str, precision: Settled, way: str) -> dict[str, float]:
    """What a step takes in this process: the median of a few."""
    if way == "kept":
        var_pe.keep_freed_memory()
    step = our_step(build(SIZES[size], "learned"), random_batch(SIZES[size], "cpu"), precision)
    for _ in range(WARMUP):
        step()

    before = page_faults()
    (seconds,) = seconds_in_turns([step], rounds=STEPS)
    return {"ms": 1000 * median(seconds), "faults": (page_faults() - before) / STEPS}


def page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def table_of_steps(steps: dict[str, Numbers]) -> str:
    header = ["tokens", "returned (ms)", "kept (ms)", "times as fast", "page faults, returned", "kept"]
    rows = []
    for size, found in steps.items():
        pairs = zip(found["returned ms"], found["kept ms"], strict=True)
        ratios = [returned / kept for returned, kept in pairs]
        row = [size, *(f"{median(found[f'{way} ms']):.0f}" for way in WAYS)]
        row += [f"{median(ratios):.2f} ({min(ratios):.2f} .. {max(ratios):.2f})"]
        rows.append(row + [f"{median(found[f'{way} faults']):,.0f}" for way in WAYS])
    return markdown_table(header, rows)


# ------------------------------------------------------------------------------------------- the decoder


def of_decoder(size: str, precision: Settled, rounds: int) -> Numbers:
    """Milliseconds of decoding, by the number of pictures at once; glibc by itself."""
    levels = SIZES[size].levels
    tokenizer = VQTokenizer(levels=levels, latent_channels=32, channels=32, num_phi=4, **FIXED).eval()
    pictures = DECODED[size]
    map_BZhw = torch.randn(pictures, 32, levels[-1], levels[-1])

    def at_once(number: int | None) -> None:
        tokenizer.slice_size = number
        with torch.no_grad(), autocast(precision, "cpu"):
            tokenizer.reconstruct(map_BZhw)

    numbers: Sequence[int | None] = [*(number for number in AT_ONCE if number <= pictures), None]
    draws = [partial(at_once, number) for number in numbers]
    seconds = seconds_in_turns(draws, rounds=rounds, warmup=1)
    names = ["chosen" if number is None else str(number) for number in numbers]
    return {name: [1000 * one for one in mine] for name, mine in zip(names, seconds, strict=True)}


def table_of_decoder(drawn: dict[str, Numbers]) -> str:
    names = [*map(str, AT_ONCE), "chosen"]
    rows = [
        [f"{size}, {DECODED[size]} pictures"]
        + [f"{median(found[name]):.0f}" if name in found else "" for name in names]
        for size, found in drawn.items()
    ]
    return markdown_table(["tokens (ms by pictures at once)", *names], rows)


if __name__ == "__main__":
    main()
