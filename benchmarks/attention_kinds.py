"""What a stage's kind of attention costs: training steps of one stage at growing maps, held against `full`.

    python benchmarks/attention_kinds.py
    python benchmarks/attention_kinds.py --sides 14 28 56 --encodings none rope relative_bias --rounds 10
    python benchmarks/attention_kinds.py --kinds "full(blocks=2)" "local(blocks=2, radius=2)" --device cuda

A step is forward, backward and AdamW on random pictures, whose patches are single pixels, so that nearly all
of it is the stage. The kinds of one map and encoding take turns, so that a slow minute slows all. A kind that
cannot follow an encoding is left out, with a sentence. No data set is read, nothing is kept.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import var_pe  # noqa: F401  # before torch, whose threads it makes wait politely

# isort: split
import torch
import torch.nn.functional as F
from annotated_types import Ge
from machine import check_device, device_option, json_option, machine, precision_option

from var_pe.comparison.step_time import seconds_in_turns, training_step
from var_pe.files import write_json
from var_pe.models.hierarchy.classifier import HierarchicalClassifier
from var_pe.pages.tables import markdown_table
from var_pe.settings.command_line import check_options
from var_pe.stages.session import exit_with_sentence

KINDS = ("full(blocks=2)", "windowed(blocks=2)", "local(blocks=2)", "linear(blocks=2)")
CLASSES = 10


@dataclass(frozen=True)
class Cost:
    """A training step of a stage."""

    kind: str
    encoding: str
    tokens: int
    # median over rounds
    milliseconds: float
    # of its time to that of the first kind in the same round, the median
    ratio: float
    # on CUDA the most that was held during the steps, else 0
    memory_gb: float


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add(
        "--kinds",
        nargs="+",
        default=list(KINDS),
        metavar="LINE",
        help="stages, as lines of classifier.hierarchy; ratios are to the first",
    )
    encodings = ["none", "rope", "relative_bias"]
    add("--encodings", nargs="+", default=encodings, metavar="LINE", help="position encodings of the stages")
    sides = "side of each square map, in tokens; default: 14 28 56"
    add("--sides", type=int, nargs="+", default=[14, 28, 56], metavar="N", help=sides)
    add("--dim", type=int, default=96, metavar="N", help="width of a token; default: %(default)s")
    add("--heads", type=int, default=3, metavar="N", help="attention heads; default: %(default)s")
    add("--batch", type=int, default=4, metavar="N", help="images in a step; default: %(default)s")
    rounds = "timed steps of each kind; default: %(default)s"
    add("--rounds", type=int, default=10, metavar="N", help=rounds)
    precision_option(parser)
    device_option(parser)
    json_option(parser)
    return parser.parse_args()


@exit_with_sentence()
def main() -> None:
    given = arguments()
    at_least_one = Annotated[int, Ge(1)]
    check_options(
        given, rounds=Annotated[int, Ge(2)], dim=at_least_one, heads=at_least_one, batch=at_least_one
    )
    check_device(given.device)

    costs: list[Cost] = []
    for encoding in given.encodings:
        for side in given.sides:
            torch.manual_seed(0)
            costs += costs_of(given, encoding, side)

    where = machine(given.device)
    facts = where | {"dim": given.dim, "heads": given.heads, "batch": given.batch} | {"type": given.precision}
    print(f"{given.rounds} rounds, " + ", ".join(f"{name} {value}" for name, value in facts.items()))
    print(f"\n{table(costs)}")
    if given.json is not None:
        write_json(given.json, {"machine": facts, "costs": [asdict(cost) for cost in costs]})


def costs_of(given: argparse.Namespace, encoding: str, side: int) -> list[Cost]:
    """All kinds in turns, on maps of `side` x `side` tokens."""
    kinds: list[str] = []
    steps: list[Callable[[], None]] = []
    for kind in given.kinds:
        try:
            steps.append(step_of(given, kind, encoding, side))
            kinds.append(kind)
        except ValueError as error:
            print(f"left out at {side}x{side}: {error}")

    if not steps:
        return []
    seconds = seconds_in_turns(steps, rounds=given.rounds, warmup=2)
    return [
        Cost(kind, encoding, side**2, *middle(mine, seconds[0]), memory_of(step, given.device))
        for kind, mine, step in zip(kinds, seconds, steps, strict=True)
    ]


def step_of(given: argparse.Namespace, kind: str, encoding: str, side: int) -> Callable[[], None]:
    """One training step of a stage on random pictures of one pixel a token."""
    model = HierarchicalClassifier(
        image_size=(side, side),
        num_classes=CLASSES,
        hierarchy=[kind],
        encoding=encoding,
        patch_size=1,
        dim=given.dim,
        num_heads=given.heads,
        qk_norm=False,
    ).to(given.device)
    images_BCHW = torch.randn(given.batch, 3, side, side, device=given.device)
    label_B = torch.randint(CLASSES, (given.batch,), device=given.device)
    return training_step(model.train(), lambda: F.cross_entropy(model(images_BCHW), label_B), given.precision)


def middle(mine: Sequence[float], first: Sequence[float]) -> tuple[float, float]:
    """Median milliseconds, and the median ratio to the first kind in the same round."""
    ratios = [own / base for own, base in zip(mine, first, strict=True)]
    return 1000 * statistics.median(mine), statistics.median(ratios)


def memory_of(step: Callable[[], None], device: str) -> float:
    """Gigabytes on CUDA, measured in a step of its own."""
    if torch.device(device).type != "cuda":
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() / 1e9


def table(costs: Sequence[Cost]) -> str:
    """A row for each kind and encoding, a column for each number of tokens: milliseconds, and the ratio."""
    sizes = list(dict.fromkeys(cost.tokens for cost in costs))
    rows = []
    for kind, encoding in dict.fromkeys((cost.kind, cost.encoding) for cost in costs):
        cells = []
        for tokens in sizes:
            found = [c for c in costs if (c.kind, c.encoding, c.tokens) == (kind, encoding, tokens)]
            cells += [f"{cost.milliseconds:.1f} ({cost.ratio:.2f})" for cost in found] or [""]
        rows.append([f"`{kind}`", f"`{encoding}`", *cells])
    return markdown_table(["kind", "encoding", *(f"{tokens:,} tokens: ms (ratio)" for tokens in sizes)], rows)


if __name__ == "__main__":
    main()
