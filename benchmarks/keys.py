"""What fewer keys save: training steps and drawings of a generator that sees all, some levels, or some keys.

    python benchmarks/keys.py
    python benchmarks/keys.py --levels 1 2 3 4 5 7 9 12 16 21 27 36 48 64 --batch 1 --keys 256 --rounds 5

All contenders take turns, so that a slow minute slows all; ratios are to the first, within a round. Inputs
are random, a drawing is the passes level by level with a cache. No data set is read, nothing is kept.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Annotated

import var_pe  # noqa: F401  # before torch, whose threads it makes wait politely

# isort: split
import torch
import torch.nn.functional as F
from annotated_types import Ge
from machine import check_device, device_option, machine

from var_pe.comparison.step_time import seconds_in_turns, training_step
from var_pe.models.generator import VARTransformer
from var_pe.pages.tables import markdown_table
from var_pe.settings.command_line import check_options
from var_pe.stages.session import exit_with_sentence

CODES = 512
CHANNELS = 16


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    levels = [1, 2, 3, 4, 5, 6, 8, 10, 13, 16]
    sides = "sides of the levels' grids, coarse to fine, in tokens; default: VAR's ten"
    add("--levels", type=int, nargs="+", default=levels, metavar="N", help=sides)
    keys = "generator.most_keys of the generators that see some keys alone; default: %(default)s"
    add("--keys", type=int, default=64, metavar="N", help=keys)
    encoding = "position encoding of all generators; default: %(default)s"
    add("--encoding", default="rope", metavar="LINE", help=encoding)
    add("--dim", type=int, default=256, metavar="N", help="width of a token; default: %(default)s")
    add("--depth", type=int, default=4, metavar="N", help="blocks; default: %(default)s")
    add("--heads", type=int, default=4, metavar="N", help="attention heads; default: %(default)s")
    batch = "images in a step and in a drawing; default: %(default)s"
    add("--batch", type=int, default=2, metavar="N", help=batch)
    rounds = "timed steps and drawings of each generator; default: %(default)s"
    add("--rounds", type=int, default=10, metavar="N", help=rounds)
    precision = "what products are computed in; default: %(default)s"
    add("--precision", choices=("bf16", "float32"), default="float32", help=precision)
    device_option(parser)
    return parser.parse_args()


@exit_with_sentence()
def main() -> None:
    given = arguments()
    at_least_one = Annotated[int, Ge(1)]
    check_options(given, rounds=Annotated[int, Ge(2)], keys=at_least_one, batch=at_least_one)
    check_device(given.device)

    contenders: dict[str, dict[str, int | str]] = {
        "all keys": {},
        "all keys, again": {},
        "levels_before=1": {"levels_before": 1},
        f"most_keys={given.keys}, by score": {"most_keys": given.keys, "keys_by": "score"},
        f"most_keys={given.keys}, by sample": {"most_keys": given.keys, "keys_by": "sample"},
    }
    models = [
        VARTransformer(
            levels=given.levels,
            codebook_size=CODES,
            latent_channels=CHANNELS,
            encoding=given.encoding,
            dim=given.dim,
            depth=given.depth,
            num_heads=given.heads,
            **options,
        ).to(given.device)
        for options in contenders.values()
    ]

    columns = []
    for make in (step_of, drawing_of):
        seconds = seconds_in_turns([make(given, model) for model in models], rounds=given.rounds, warmup=2)
        columns.append([in_words(mine, seconds[0]) for mine in seconds])

    print(f"{given.rounds} rounds, " + ", ".join(f"{k} {v}" for k, v in machine(given.device).items()))
    rows = [[f"`{name}`", *cells] for name, *cells in zip(contenders, *columns, strict=True)]
    print(markdown_table(["a level sees", "step", "drawing"], rows))


def step_of(given: argparse.Namespace, model: VARTransformer) -> Callable[[], object]:
    """One training step on random inputs and tokens."""
    tokens = model.pyramid.num_tokens
    first = model.pyramid.spans[0].stop
    inputs_BLZ = torch.randn(given.batch, tokens - first, CHANNELS, device=given.device)
    labels_B = torch.zeros(given.batch, dtype=torch.long, device=given.device)
    tokens_BL = torch.randint(CODES, (given.batch, tokens), device=given.device)

    def loss() -> torch.Tensor:
        return F.cross_entropy(model(labels_B, inputs_BLZ).flatten(0, 1), tokens_BL.flatten())

    return training_step(model.train(), loss, given.precision)


def drawing_of(given: argparse.Namespace, model: VARTransformer) -> Callable[[], object]:
    """The passes of all levels, each with the cache of those before it."""
    positions = model.pyramid.positions(given.device)
    labels_B = torch.zeros(given.batch, dtype=torch.long, device=given.device)
    maps = [
        torch.randn(given.batch, span.stop - span.start, CHANNELS, device=given.device)
        for span in model.pyramid.spans
    ]

    @torch.no_grad()
    def passes() -> None:
        with torch.autocast(given.device, torch.bfloat16, enabled=given.precision == "bf16"):
            class_BC = model.class_embed(labels_B)
            x_BlC = model.first_level(class_BC, positions)
            cache = model.new_cache(x_BlC, model.pyramid)
            for level, inputs_BlZ in enumerate(maps):
                if level:
                    x_BlC = model.embed_inputs(inputs_BlZ)
                model.level_logits(x_BlC, class_BC, positions, level, cache)

    return passes


def in_words(mine: list[float], first: list[float]) -> str:
    """Median milliseconds, and the ratio to the first one: median and quartiles."""
    ratios = [own / base for own, base in zip(mine, first, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{1000 * statistics.median(mine):.1f} ms, {middle:.2f} ({low:.2f} .. {high:.2f})"


if __name__ == "__main__":
    main()
