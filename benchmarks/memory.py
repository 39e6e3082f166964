"""What large tensors cost on a processor: memory that is returned to the system, pictures all at once.

    python benchmarks/memory.py --reference ../VAR
    python benchmarks/memory.py --sizes --precision float32

Training steps of generators, ours and the public VAR code's, as glibc handles memory by itself, and as our
scripts have it handled (`var_pe.keep_freed_memory`). Both ways take turns, round after round, each after a
step that does not count; medians, with the quartiles of the ratio. Page faults are pieces of 4 kB that the
system had to clear and map, of one step. Then a decoder of VAR's shape, 32 wide, at several numbers of
pictures at once, and as `reconstruct` chooses it. For Linux with glibc.
"""

import argparse
import ctypes
import resource
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median, quantiles

import var_pe  # before torch, whose threads it makes wait politely

# isort: split
import torch
from machine import json_option, machine, precision_option
from public_var import FIXED, reference_option
from steps import SIZES, build, our_step, public_model, random_batch, their_step

from var_pe.comparison.step_time import seconds_in_turns
from var_pe.files import write_json
from var_pe.models.tokenizer import VQTokenizer
from var_pe.pages.tables import markdown_table
from var_pe.settings.command_line import check_options
from var_pe.settings.fields import Positive
from var_pe.stages.session import exit_with_sentence
from var_pe.training.precision import Settled, autocast, settled

# glibc's own: at most so many pieces from the system at a time, and so much of the heap's end stays
MOST_PIECES, STAYS = 65536, 128 * 1024
DECODED = {"30": 64, "130": 64, "680": 8}  # pictures, by a size of which the levels are taken
AT_ONCE = (1, 2, 4, 8, 16, 32, 64)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    reference_option(parser)
    sizes = "generators to time; default: 30 130 680 2240"
    add("--sizes", nargs="*", choices=SIZES, default=["30", "130", "680", "2240"], help=sizes)
    precision_option(parser)
    add("--rounds", type=int, default=5, metavar="N", help="timed rounds; default: %(default)s")
    json_option(parser)
    given = parser.parse_args()
    given.device, given.encoding = "cpu", "learned"
    return given


@exit_with_sentence()
def main() -> None:
    given = arguments()
    check_options(given, rounds=Positive)
    precision = settled(given.precision, "cpu")
    where = machine("cpu")
    print(
        f"{precision}, {given.rounds} rounds, " + ", ".join(f"{name} {each}" for name, each in where.items())
    )

    steps = {name: found for size in given.sizes for name, found in of_steps(size, precision, given)}
    if steps:
        print(f"\n{table_of_steps(steps)}", flush=True)
    drawn = {size: of_decoder(size, precision, given.rounds) for size in DECODED}
    print(f"\n{table_of_decoder(drawn)}")
    if given.json is not None:
        write_json(given.json, {"machine": where, "steps": steps, "decoder": drawn})


# --------------------------------------------------------------------------------- memory of training steps

Numbers = dict[str, list[float]]


def return_freed_memory() -> None:
    """As glibc does by itself."""
    libc = ctypes.CDLL(None)
    libc.mallopt(var_pe.M_MMAP_MAX, MOST_PIECES)
    libc.mallopt(var_pe.M_TRIM_THRESHOLD, STAYS)
    libc.malloc_trim(0)


WAYS: dict[str, Callable[[], None]] = {"returned": return_freed_memory, "kept": var_pe.keep_freed_memory}


def of_steps(size: str, precision: Settled, given: argparse.Namespace) -> list[tuple[str, Numbers]]:
    """Ours, and with a reference the public code's."""
    generator, batch = build(SIZES[size], given.encoding), random_batch(SIZES[size], "cpu")
    steps = {f"{size} tokens, var_pe": our_step(generator, batch, precision)}
    if given.reference is not None:
        var = public_model(generator, given)
        steps[f"{size} tokens, VAR"] = their_step(var, batch, precision)
    return [(name, both_ways(step, given.rounds)) for name, step in steps.items()]


def both_ways(step: Callable[[], None], rounds: int) -> Numbers:
    """Milliseconds and page faults of steps."""
    found: Numbers = {f"{way} {what}": [] for way in WAYS for what in ("ms", "faults")}
    for _ in range(rounds):
        for way, set_malloc in WAYS.items():
            set_malloc()
            step()

            faults, began = page_faults(), time.perf_counter()
            step()
            found[f"{way} ms"].append(1000 * (time.perf_counter() - began))
            found[f"{way} faults"].append(page_faults() - faults)
    return found


def page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def table_of_steps(steps: dict[str, Numbers]) -> str:
    header = ["", "returned (ms)", "kept (ms)", "times as fast", "page faults, returned", "kept"]
    rows = []
    for name, found in steps.items():
        ratios = [
            returned / kept for returned, kept in zip(found["returned ms"], found["kept ms"], strict=True)
        ]
        low, middle, high = quantiles(ratios, n=4)
        row = [name, *(f"{median(found[f'{way} ms']):.0f}" for way in WAYS)]
        row += [f"{middle:.2f} ({low:.2f} .. {high:.2f})"]
        rows.append(row + [f"{median(found[f'{way} faults']):,.0f}" for way in WAYS])
    return markdown_table(header, rows)


# ------------------------------------------------------------------------------------------- the decoder


def of_decoder(size: str, precision: Settled, rounds: int) -> Numbers:
    """Milliseconds of decoding, by the number of pictures at once; glibc by itself."""
    return_freed_memory()
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
