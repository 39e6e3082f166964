"""Which kernel computes attention to all levels fastest: what `TABLE` in var_pe/models/kernels.py rests on.

    python benchmarks/attention.py --precision float32 bf16 --seconds 600
    python benchmarks/attention.py --precision bf16 --device cuda --seconds 240 --json attention.json

One layer's attention on VAR's levels, with random queries, keys and values; with gradients, forward and
backward. All kernels of a case take turns, round after round, after one that does not count; medians. With a
bias it is `relative_bias`, a look-up for each layer. Memory is the most above what was there before.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated

import var_pe  # noqa: F401  # before torch, whose threads it makes wait politely

# isort: split
import torch
from annotated_types import Ge
from machine import DTYPES, json_option, precision_option, precisions

from var_pe.encodings import build_encoding
from var_pe.files import write_json
from var_pe.models.attention import all_levels, attend, coarse_levels, compiled_flex
from var_pe.models.initialisation import initialise
from var_pe.models.kernels import Kernel, served_by
from var_pe.pages.tables import aligned_table
from var_pe.processes import peak_memory, reset_peak_memory
from var_pe.pyramid import Pyramid
from var_pe.settings.command_line import check_options
from var_pe.settings.fields import Positive, PositiveFloat
from var_pe.stages.session import exit_with_sentence
from var_pe.training.precision import Settled

# The last levels of 2 and 4 cells of ours, and VAR's at 256, 512 and 1024 pixels, by their numbers of tokens
LADDERS = {
    30: (1, 2, 3, 4),
    130: (1, 2, 3, 4, 6, 8),
    680: (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
    2240: (1, 2, 3, 4, 6, 9, 13, 18, 24, 32),
    9451: (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64),
}
# Most bytes of one head's scores, over all heads and images, at which plain products are still tried
MOST_SCORES = {"cpu": 1 << 30, "cuda": 8 << 30}


@dataclass(frozen=True)
class Case:
    tokens: int
    precision: Settled
    needs_grad: bool
    has_bias: bool

    def __str__(self) -> str:
        gradients = "with" if self.needs_grad else "without"
        bias = "a bias" if self.has_bias else "no bias"
        return f"{self.tokens} tokens, {self.precision}, {gradients} gradients, {bias}"


@dataclass(frozen=True)
class Candidate:
    """A kernel, and for slices the number of levels that share the call with a mask."""

    kernel: Kernel
    coarse: int = 0


@dataclass
class Found:
    """What was measured of a candidate in a case."""

    name: str
    # of each round
    milliseconds: list[float] = field(default_factory=list)
    memory_mb: float | None = None
    # why it was not measured
    failure: str = ""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu", help="torch's device; default: cpu")
    add(
        "--lengths",
        type=int,
        nargs="+",
        default=[680, 2240, 130, 30, 9451],
        metavar="TOKENS",
        help=f"tokens of an image, of {', '.join(map(str, LADDERS))}; default: 680 2240 130 30 9451",
    )
    precision_option(parser, several=True)
    add(
        "--tokens",
        type=int,
        metavar="N",
        help="tokens of all images of a call together; default: 8192, on CUDA 49152",
    )
    add("--heads", type=int, metavar="N", help="attention heads; default: 8, on CUDA 16")
    add("--head-dim", type=int, metavar="N", help="width of a head; default: 32, on CUDA 64")
    add("--rounds", type=int, default=7, metavar="N", help="timed calls of each kernel; default: %(default)s")
    add(
        "--seconds",
        type=float,
        default=600.0,
        metavar="S",
        help="no new case is begun after so many seconds; default: 600",
    )
    json_option(parser, ", after every case")
    given = parser.parse_args()

    check_options(
        given,
        tokens=Annotated[int | None, Ge(1)],
        heads=Annotated[int | None, Ge(1)],
        head_dim=Annotated[int | None, Ge(1)],
        rounds=Positive,
        seconds=PositiveFloat,
    )
    unknown = [length for length in given.lengths if length not in LADDERS]
    if unknown:
        raise ValueError(f"--lengths takes some of {', '.join(map(str, LADDERS))}, got {unknown[0]}")
    if given.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no CUDA device here")

    on_gpu = given.device == "cuda"
    given.tokens = given.tokens or (49152 if on_gpu else 8192)
    given.heads = given.heads or (16 if on_gpu else 8)
    given.head_dim = given.head_dim or (64 if on_gpu else 32)
    return given


def cases(lengths: Sequence[int], kinds: Sequence[Settled]) -> list[Case]:
    """The most important ones first: training without a bias."""
    found = []
    for needs_grad, has_bias in ((True, False), (True, True), (False, False), (False, True)):
        for precision in kinds:
            found += [Case(length, precision, needs_grad, has_bias) for length in lengths]
    return found


def candidates(case: Case, device: str, scores: int) -> dict[str, Candidate]:
    """What can serve a case, by its name; `scores` is the bytes of one layer's scores."""
    tokens_K = [side * side for side in LADDERS[case.tokens]]
    found = {"one call, masked": Candidate("fused")}
    if scores <= MOST_SCORES[device]:
        found["plain products"] = Candidate("plain")

    # Slices with short, usual and long calls for the coarse levels
    usual = coarse_levels(tokens_K)
    for coarse in sorted({max(1, usual - 2), usual, min(len(tokens_K) - 1, usual + 1)}):
        found[f"slices, {sum(tokens_K[:coarse])} coarse"] = Candidate("slices", coarse)
    found[f"products, {sum(tokens_K[:usual])} coarse"] = Candidate("products", usual)

    # FlexAttention has no gradient on processors, and a bias would have to be a function of two tokens.
    if not case.has_bias and (device == "cuda" or not case.needs_grad):
        found["flex"] = Candidate("flex", usual)
    return found


def runner(case: Case, candidate: Candidate, options: argparse.Namespace) -> Callable[[], None]:
    """What computes one layer's attention once."""
    pyramid = Pyramid.square(*LADDERS[case.tokens])
    shape = (max(1, options.tokens // case.tokens), case.tokens, 3, options.heads, options.head_dim)
    qkv_BL3HD = torch.randn(shape, device=options.device, dtype=DTYPES[case.precision])
    qkv_BL3HD.requires_grad_(case.needs_grad)
    weight_BLHD = torch.randn_like(qkv_BL3HD[:, :, 0])

    # Where the tokens are is known before the first layer.
    encoding = build_encoding(
        "relative_bias" if case.has_bias else "none",
        dim=options.heads * options.head_dim,
        num_heads=options.heads,
        depth=1,
        pyramid=pyramid,
    )
    initialise(encoding, 0)
    encoding.to(options.device)
    with torch.set_grad_enabled(case.needs_grad):
        context = all_levels(encoding, pyramid.positions(options.device), candidate.kernel, candidate.coarse)

    def run() -> None:
        with served_by(candidate.kernel), torch.set_grad_enabled(case.needs_grad):
            q, k, v = qkv_BL3HD.permute(2, 0, 3, 1, 4)
            y_BLHD = attend(q, k, v, context, 0, dropout=0.0, scale=1.0)
            if case.needs_grad:
                y_BLHD.backward(weight_BLHD)
                qkv_BL3HD.grad = None

    return run


def measure(case: Case, options: argparse.Namespace) -> list[Found]:
    """All candidates of a case, taking turns."""
    compiled_flex.cache_clear()  # compiled for each case, as a training has one
    batch = max(1, options.tokens // case.tokens)
    scores = batch * options.heads * case.tokens**2 * DTYPES[case.precision].itemsize

    runners: dict[str, Callable[[], None]] = {}
    found = {}
    for name, candidate in candidates(case, options.device, scores).items():
        found[name] = Found(name)
        try:
            run = runner(case, candidate, options)
            run()  # does not count: compiles, allocates
            found[name].memory_mb = memory_of(run, torch.device(options.device))
            runners[name] = run
        except (RuntimeError, NotImplementedError) as error:  # out of memory, or not offered by this torch
            found[name].failure = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"

    for turn in range(options.rounds):
        names = list(runners)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            found[name].milliseconds.append(timed(runners[name], options.device))
    return list(found.values())


def memory_of(run: Callable[[], None], device: torch.device) -> float | None:
    """MB that a run holds at most above what was held before; None where the system does not count."""
    if not reset_peak_memory(device):
        return None
    before = peak_memory(device)
    run()
    return (peak_memory(device) - before) / 1e6


def timed(run: Callable[[], None], device: str) -> float:
    """Milliseconds of a run; on CUDA the mean of five in a row, by the device's own clock."""
    if device == "cpu":
        began = time.perf_counter()
        run()
        return 1000 * (time.perf_counter() - began)

    first = torch.cuda.Event(enable_timing=True)
    last = torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    first.record()
    for _ in range(5):
        run()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) / 5


def table(found: Sequence[Found]) -> str:
    """A line for each candidate, the fastest first."""
    measured = sorted((one for one in found if one.milliseconds), key=lambda one: middle(one))
    rows = [["kernel", "ms", "to the fastest", "MB"]]
    for one in measured:
        memory = "-" if one.memory_mb is None else f"{one.memory_mb:.0f}"
        rows.append([one.name, f"{middle(one):.2f}", f"{middle(one) / middle(measured[0]):.2f}", memory])
    rows += [[one.name, one.failure, "", ""] for one in found if one.failure]
    return aligned_table(rows)


def middle(one: Found) -> float:
    return statistics.median(one.milliseconds)


@exit_with_sentence()
def main() -> None:
    options = arguments()
    began = time.monotonic()
    torch.manual_seed(0)
    machine = (
        torch.cuda.get_device_name() if options.device == "cuda" else f"{torch.get_num_threads()} threads"
    )
    print(f"torch {torch.__version__}, {options.device}: {machine}", flush=True)

    waiting = cases(options.lengths, precisions(options.precision, options.device))
    results = []
    while waiting and time.monotonic() - began < options.seconds:
        case = waiting.pop(0)
        found = measure(case, options)
        print(f"\n{case}\n{table(found)}", flush=True)

        results.append({**asdict(case), "found": [asdict(one) for one in found]})
        if options.json:
            left = [str(one) for one in waiting]
            about = {"torch": torch.__version__, "device": machine, "heads": options.heads}
            about |= {"head_dim": options.head_dim, "tokens_of_a_call": options.tokens}
            write_json(options.json, {**about, "cases": results, "not_reached": left})

    for case in waiting:
        print(f"not reached: {case}")


if __name__ == "__main__":
    main()
