"""Training steps of generators: their time, their share of the machine's matrix rate, and their memory.

    python benchmarks/training.py --reference ../VAR --precision float32 bf16
    python benchmarks/training.py --sizes 680 --compile none blocks whole --rounds 10
    python benchmarks/training.py --sizes d16 --precision bf16 --device cuda --json found.json

`steps.py` says what a step is; it is computed as a training on the device computes it, unless --precision
says otherwise. With a checkout of the public VAR code its class takes part as it is; from
the same weights its loss must be ours. All that is timed takes turns, round after round, with a plain matrix
product of the same type. On a processor each one's memory is measured in a process of its own. What is
counted: docs/speed.md.
"""

import argparse
import copy
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from statistics import median, quantiles
from typing import Annotated, TypedDict, cast, get_args

import var_pe  # noqa: F401  # before torch, whose threads it makes wait politely

# isort: split
import torch
from annotated_types import Ge
from machine import (
    DTYPES,
    check_device,
    device_option,
    json_option,
    machine,
    matrix_product,
    precision_option,
    precisions,
)
from public_var import reference_option
from steps import (
    COMPILED,
    SIZES,
    Size,
    build,
    check_equal_losses,
    compiled,
    operations_of_step,
    our_step,
    public_model,
    random_batch,
    their_step,
)

from var_pe.comparison.step_time import seconds_in_turns
from var_pe.encodings import build_encoding
from var_pe.files import write_json
from var_pe.models.generator import VARTransformer
from var_pe.models.kernels import Kernel, served_by
from var_pe.pages.tables import markdown_table
from var_pe.processes import peak_memory, reset_peak_memory
from var_pe.progress import size as in_bytes
from var_pe.pyramid import Pyramid
from var_pe.settings.command_line import check_options
from var_pe.settings.fields import Positive
from var_pe.stages.session import exit_with_sentence
from var_pe.training.precision import Settled

RULE = "rule"  # the kernels of attention that a training takes by itself
THEIRS = "VAR"
MATRICES = "matrix product"
WARMUP = 2
MEMORY_STEPS = 3


class Measured(TypedDict, total=False):
    """Of one contender at one size and precision, as --json writes it."""

    # why it was not measured: out of memory, or not offered on this device
    failure: str
    # the first call, with what it compiles
    first_seconds: float
    # median over the rounds
    milliseconds: float
    # of the plain matrix product's rate in the same round, median
    share_of_rate: float
    # how many times as fast as the public code in the same round: lower quartile, median, upper quartile
    against_var: list[float]
    # bytes: held at most by the process, and what of it a step needs beyond weights and optimizer
    peak: int
    step: int


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    reference_option(parser)
    sizes = "generators to time: tokens of an image, or a name; default: 30 130 680 2240"
    add("--sizes", nargs="+", choices=SIZES, default=["30", "130", "680", "2240"], help=sizes)
    add("--batch", type=int, metavar="N", help="images in a step; default: what belongs to the size")
    encoding = "position encoding of our generator; default: %(default)s"
    add("--encoding", default="learned", metavar="LINE", help=encoding)
    precision_option(parser, several=True)
    compiled = "which part of our generator is compiled; several are timed one after the other; default: none"
    add("--compile", nargs="+", choices=COMPILED, default=["none"], help=compiled)
    add(
        "--attention",
        nargs="+",
        choices=(RULE, *get_args(Kernel)),
        default=[RULE],
        help="kernel of our attention, for every length; default: as a training chooses",
    )
    rounds = "timed steps of each generator; default: %(default)s"
    add("--rounds", type=int, default=10, metavar="N", help=rounds)
    device_option(parser)
    add("--no-memory", action="store_true", help="start no processes that measure the memory of a step")
    json_option(parser, ", after every size")
    add("--memory-of", help=argparse.SUPPRESS)  # the contender of a process of its own
    return parser.parse_args()


@exit_with_sentence()
def main() -> None:
    given = arguments()
    check(given)
    if given.memory_of is not None:
        print(json.dumps(memory_of_step(given)))
        return

    found: dict[str, object] = {"machine": machine(given.device), "encoding": given.encoding}
    print(", ".join(f"{name} {value}" for name, value in machine(given.device).items()))
    for name in given.sizes:
        size = size_of(name, given)
        measured: dict[str, dict[str, Measured]] = {}
        found[name] = {"size": asdict(size), "precision": measured}
        generator = build(size, given.encoding)
        if given.reference is not None and given.encoding == "learned":
            check_equal_losses(generator, size, given)

        for precision in precisions(given.precision, given.device):
            print(f"\n{name}: {size.tokens} tokens, {size.depth} blocks, {size.dim} wide, ", end="")
            print(f"batch {size.batch}, {precision}\n", flush=True)
            measured[precision] = times = time_of_steps(generator, size, precision, given)
            if not given.no_memory and torch.device(given.device).type == "cpu":
                for contender in [name for name in contenders(given) if "failure" not in times[name]]:
                    times[contender] |= memory_in_a_process(contender, name, precision, given)
            print(table(times), flush=True)
            if given.json is not None:
                write_json(given.json, found)


def check(given: argparse.Namespace) -> None:
    """Everything that can be said before anything is built.

    Raises:
        ValueError: an option is out of range or cannot be used here.
    """
    check_options(given, rounds=Annotated[int, Ge(2)])
    if given.batch is not None:
        check_options(given, batch=Positive)
    if given.json is not None and given.json.is_dir():
        raise ValueError(f"--json {given.json} is a folder; name a file")
    check_device(given.device)
    for name in given.sizes:
        size = SIZES[name]
        pyramid = Pyramid.of(size.levels)
        build_encoding(given.encoding, dim=size.dim, num_heads=size.num_heads, depth=1, pyramid=pyramid)


def size_of(name: str, given: argparse.Namespace) -> Size:
    return SIZES[name] if given.batch is None else replace(SIZES[name], batch=given.batch)


# ------------------------------------------------------------------------------------------- what is timed


def contenders(given: argparse.Namespace) -> list[str]:
    """Ours under each way to compile and each kernel of attention, then the public code."""
    ours = [f"var_pe, {how}, {kernel}" for how in given.compile for kernel in given.attention]
    return ours if given.reference is None else [*ours, THEIRS]


def step_of(
    contender: str, generator: VARTransformer, size: Size, precision: Settled, given: argparse.Namespace
) -> Callable[[], None]:
    """One training step of a copy of the generator, or of the public class, always on the same batch."""
    batch = random_batch(size, given.device)
    if contender == THEIRS:
        return their_step(public_model(generator, given), batch, precision)
    _, how, kernel = contender.split(", ")
    step = our_step(compiled(copy.deepcopy(generator).to(given.device), how), batch, precision)

    def with_kernel() -> None:
        with served_by(cast(Kernel, kernel)):
            step()

    return step if kernel == RULE else with_kernel


# ------------------------------------------------------------------------------------------- measuring


def time_of_steps(
    generator: VARTransformer, size: Size, precision: Settled, given: argparse.Namespace
) -> dict[str, Measured]:
    """Every contender's time, in turns with the others and with a plain matrix product."""
    torch.compiler.reset()  # what an earlier size had compiled counts towards a limit
    found: dict[str, Measured] = {name: {} for name in contenders(given)}
    steps: dict[str, Callable[[], None]] = {}
    for name, measured in found.items():
        try:
            step = step_of(name, generator, size, precision, given)
            measured["first_seconds"] = first_call(step)
            if torch.device(given.device).type == "cuda":
                measured["step"] = memory_on_gpu(step)
            steps[name] = step
        except (RuntimeError, NotImplementedError) as error:  # the others are measured all the same
            measured["failure"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"

    product, operations = matrix_product(given.device, DTYPES[precision])
    *mine, products = seconds_in_turns([*steps.values(), product], rounds=given.rounds, warmup=WARMUP)
    seconds_of = dict(zip(steps, mine, strict=True))
    of_step = operations_of_step(size)
    for name, seconds in seconds_of.items():
        found[name]["milliseconds"] = 1000 * median(seconds)
        pairs = zip(seconds, products, strict=True)
        found[name]["share_of_rate"] = median(of_step / own * plain / operations for own, plain in pairs)
        if THEIRS in seconds_of and name != THEIRS:
            ratios = [theirs / own for own, theirs in zip(seconds, seconds_of[THEIRS], strict=True)]
            found[name]["against_var"] = quantiles(ratios, n=4)
    found[MATRICES] = {"milliseconds": 1000 * median(products), "share_of_rate": 1.0}
    return found


def first_call(step: Callable[[], None]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def memory_on_gpu(step: Callable[[], None]) -> int:
    """Bytes that a step needs beyond what is held between steps, which the allocator knows exactly."""
    step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - held


def memory_in_a_process(contender: str, name: str, precision: str, given: argparse.Namespace) -> Measured:
    """The memory of a contender, which has a process to itself."""
    line = [sys.executable, __file__, "--memory-of", contender, "--sizes", name, "--precision", precision]
    line += ["--encoding", given.encoding, "--device", given.device]
    if given.reference is not None:
        line += ["--reference", str(given.reference)]
    if given.batch is not None:
        line += ["--batch", str(given.batch)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"measuring the memory of {contender}: {done.stderr.strip().splitlines()[-1]}")
    found: Measured = json.loads(done.stdout.splitlines()[-1])
    return found


def memory_of_step(given: argparse.Namespace) -> Measured:
    """Bytes that steps of one contender need; the first one makes what stays, the optimizer's state."""
    size = size_of(given.sizes[0], given)
    device = torch.device(given.device)
    generator = build(size, given.encoding)
    step = step_of(given.memory_of, generator, size, given.precision[0], given)
    del generator
    step()

    if not reset_peak_memory(device):  # from what is held now, after what can be given back has been
        raise ValueError("this system does not say how much memory a step takes: leave it out by --no-memory")
    held = peak_memory(device)
    for _ in range(MEMORY_STEPS):
        step()
    peak = peak_memory(device)
    return {"peak": peak, "step": peak - held}


def table(measured: dict[str, Measured]) -> str:
    header = ["", "step (ms)", "times as fast as VAR", "share of matrix rate", "first call (s)"]
    header += ["memory of a step", "peak"]
    return markdown_table(header, [row(name, found) for name, found in measured.items()])


def row(name: str, found: Measured) -> Sequence[str]:
    if "failure" in found:
        return [name, found["failure"], *[""] * 5]

    against = ""
    if "against_var" in found:
        low, middle, high = found["against_var"]
        against = f"{middle:.2f} ({low:.2f} .. {high:.2f})"
    return [
        name,
        f"{found['milliseconds']:.1f}",
        against,
        f"{found['share_of_rate']:.1%}",
        f"{found['first_seconds']:.1f}" if "first_seconds" in found else "",
        in_bytes(found["step"]) if "step" in found else "",
        in_bytes(found["peak"]) if "peak" in found else "",
    ]


if __name__ == "__main__":
    main()
