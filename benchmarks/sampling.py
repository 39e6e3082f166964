"""Images per second of sampling with guidance, and the time of one alone, beside the public VAR code's.

    python benchmarks/sampling.py --run runs/fashion_learned
    python benchmarks/sampling.py --depth 16 --batch 8 --precision float32 bf16 --reference ../VAR

Without a run, a model of VAR's shape with random weights. Products are computed as in a training on the
device, unless --precision says otherwise. All that is timed takes turns, round after round; the first round
does not count. Medians, with the lowest and highest round. With a
reference, both have the same weights, and the tokens of greedy sampling must be equal.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, TypedDict

import var_pe  # noqa: F401  # before torch, whose threads it makes wait politely

# isort: split
import torch
from annotated_types import Ge
from machine import check_device, device_option, machine, precision_option, precisions
from public_var import FIXED, public_models, reference_option
from torch import Tensor

from var_pe import settings
from var_pe.comparison.step_time import seconds_in_turns
from var_pe.files import write_json
from var_pe.models.generator import VARTransformer
from var_pe.models.tokenizer import VQTokenizer
from var_pe.sampling.pipeline import VARPipeline
from var_pe.settings.command_line import check_options, given_path
from var_pe.settings.fields import Positive, PositiveFloat
from var_pe.stages.config import Config
from var_pe.stages.draw import load_pipeline
from var_pe.stages.session import exit_with_sentence
from var_pe.training.precision import Settled, autocast

VAR_LEVELS = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
Draw = Callable[[], object]  # draws a batch of images, which is thrown away


class Numbers(TypedDict, total=False):
    """What was found, as --output writes it."""

    batch: int
    guidance: float
    machine: dict[str, str | int]
    # with a reference: tokens of greedy sampling, and how many of them are equal
    greedy: dict[str, int]
    # what products were computed in
    precision: list[Settled]
    # of each round, by what draws and its precision
    images_per_second: dict[str, list[float]]
    # seconds from the call to the image, for one image alone
    latency: dict[str, list[float]]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--run", type=given_path, metavar="DIR", help="folder of a generator's finished run")
    depth = "untrained models in VAR's shape: N blocks and heads, width 64 * N"
    which.add_argument("--depth", type=int, metavar="N", help=depth)
    levels = "with --depth: sides of the levels' grids, coarse to fine, in tokens; default: VAR's ten"
    add("--levels", type=int, nargs="+", default=list(VAR_LEVELS), metavar="N", help=levels)
    codes = "with --depth: size of the codebook; default: %(default)s"
    add("--codes", type=int, default=4096, metavar="N", help=codes)
    channels = "with --depth: width of the tokenizer; default: %(default)s"
    add("--channels", type=int, default=160, metavar="N", help=channels)
    reference_option(parser)
    precision_option(parser, several=True)
    add("--batch", type=int, default=64, metavar="N", help="images of a drawing; default: %(default)s")
    rounds = "timed rounds, in which all draw in turn; default: %(default)s"
    add("--rounds", type=int, default=5, metavar="N", help=rounds)
    guidance = "guidance scale, as sampling.guidance_scale; default: %(default)s"
    add("--guidance", type=float, default=1.5, metavar="SCALE", help=guidance)
    add("--fast", action="store_true", help="also time drawing with pipeline.enable_fast_sampling()")
    device_option(parser)
    output = "also write the numbers into this file, as JSON"
    add("--output", type=given_path, metavar="FILE", help=output)
    return parser.parse_args()


@exit_with_sentence()
def main() -> None:
    given = arguments()
    check(given)
    pipeline = (opened(given.run) if given.run else with_shape_of_var(given)).to(given.device)
    classes = pipeline.transformer.num_classes
    labels = [number % classes if classes else None for number in range(given.batch)]
    numbers: Numbers = {"batch": given.batch, "guidance": given.guidance, "machine": machine(given.device)}
    numbers["precision"] = precisions(given.precision, given.device)

    reference = None
    if given.reference is not None:
        reference = Reference(given.reference, pipeline)
        numbers["greedy"] = equal_tokens(pipeline, reference, labels, given.guidance)
        print(f"greedy tokens: {numbers['greedy']['equal']} of {numbers['greedy']['tokens']} are equal")

    seconds = in_turns(contenders(pipeline, reference, labels, given), given)
    numbers["images_per_second"] = {
        name: [given.batch / each for each in mine] for name, mine in seconds.items()
    }
    numbers["latency"] = in_turns(contenders(pipeline, reference, labels[:1], given), given)
    print(report(numbers))
    if given.output is not None:
        write_json(given.output, numbers)
    if given.reference is not None and numbers["greedy"]["equal"] < numbers["greedy"]["tokens"]:
        sys.exit("the reference draws other tokens with the same weights")


def check(given: argparse.Namespace) -> None:
    """Everything that can be said before anything is built.

    Raises:
        ValueError: an option is out of range or cannot be used here.
    """
    check_options(given, batch=Positive, rounds=Positive, depth=Positive, levels=list[Positive])
    check_options(given, channels=Positive, codes=Annotated[int, Ge(2)], guidance=PositiveFloat)
    if given.output is not None and given.output.is_dir():
        raise ValueError(f"--output {given.output} is a folder; name a file")

    check_device(given.device)


# ------------------------------------------------------------------------------------------- what is timed


def opened(run: str) -> VARPipeline:
    """A run's pipeline, its tokenizer where the run's config says or beside the run."""
    config = settings.load(Config, Path(run) / "config.yaml", [f"run={run}"])
    return load_pipeline(config)


def with_shape_of_var(given: argparse.Namespace) -> VARPipeline:
    """Random weights of unit gain: with VAR's small initial gates, tokens would hardly depend on others."""
    tokenizer = VQTokenizer(
        levels=given.levels,
        codebook_size=given.codes,
        latent_channels=32,
        channels=given.channels,
        num_phi=4,
        **FIXED,
    )
    transformer = VARTransformer(
        levels=given.levels,
        codebook_size=given.codes,
        latent_channels=32,
        dim=64 * given.depth,
        depth=given.depth,
        num_heads=given.depth,
        num_classes=1000,
    )

    generator = torch.Generator().manual_seed(0)
    for parameter in [*transformer.parameters(), tokenizer.quantizer.codebook_VZ]:
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5, generator=generator)
    torch.nn.init.normal_(tokenizer.quantizer.codebook_VZ, generator=generator)
    return VARPipeline(tokenizer.eval(), transformer.eval())


def contenders(
    pipeline: VARPipeline, reference: "Reference | None", labels: list[int | None], given: argparse.Namespace
) -> dict[str, Draw]:
    """Who draws these labels, by name."""
    found = {"var_pe": ours(pipeline, labels, given.guidance)}
    if given.fast:
        fast = VARPipeline(pipeline.tokenizer, pipeline.transformer)
        fast.enable_fast_sampling()
        found["var_pe fast"] = ours(fast, labels, given.guidance)
    if reference is not None:
        found["VAR"] = lambda: reference.images(labels, given.guidance)
    return found


def ours(pipeline: VARPipeline, labels: list[int | None], guidance: float) -> Draw:
    """What the pipeline is timed at."""
    generators = [torch.Generator().manual_seed(i) for i in range(len(labels))]
    return lambda: pipeline(labels, guidance_scale=guidance, generator=generators, output_type="pt")


class Reference:
    """The public code's models with the pipeline's weights, and what they draw."""

    def __init__(self, folder: Path, pipeline: VARPipeline) -> None:
        vqvae, var = public_models(folder, pipeline.tokenizer, pipeline.transformer)
        self.vqvae, self.var = vqvae.eval(), var.eval()

    def images(self, labels: list[int | None], guidance: float, top_k: int = 0) -> Tensor:
        """A batch, drawn by their code."""
        label_B = torch.tensor(labels, device=next(self.var.parameters()).device)
        return self.var.autoregressive_infer_cfg(B=len(labels), label_B=label_B, cfg=guidance, top_k=top_k)

    def greedy_tokens(self, labels: list[int | None], guidance: float) -> Tensor:
        """Read where the quantizer looks them up: the public method returns images only."""
        seen: list[Tensor] = []
        hook = self.vqvae.quantize.embedding.register_forward_hook(
            lambda module, inputs, output: seen.append(inputs[0].clone())
        )
        self.images(labels, guidance, top_k=1)
        hook.remove()
        return torch.cat(seen, dim=1)


# ------------------------------------------------------------------------------------------- measuring


def equal_tokens(
    pipeline: VARPipeline, reference: Reference, labels: list[int | None], guidance: float
) -> dict[str, int]:
    """How many tokens of greedy sampling are the same in both."""
    output = pipeline(labels, guidance_scale=guidance, top_k=1, output_type="tokens")
    equal_BL = output.images == reference.greedy_tokens(labels, guidance)
    return {"equal": int(equal_BL.sum()), "tokens": equal_BL.numel()}


def in_turns(contenders: dict[str, Draw], given: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each round, by contender and precision."""
    kinds = precisions(given.precision, given.device)
    draws = {f"{name} {kind}": (kind, draw) for kind in kinds for name, draw in contenders.items()}
    steps = [partial(computed_in, kind, draw, given.device) for kind, draw in draws.values()]
    return dict(zip(draws, seconds_in_turns(steps, rounds=given.rounds, warmup=1), strict=True))


def computed_in(precision: Settled, draw: Draw, device: str) -> None:
    with autocast(precision, torch.device(device).type):
        draw()


def report(numbers: Numbers) -> str:
    """Medians with the lowest and highest round, and how much faster we are than the reference."""
    where, rates, latency = numbers["machine"], numbers["images_per_second"], numbers["latency"]
    lines = [
        f"batch {numbers['batch']}, guidance {numbers['guidance']}; {where['device']}, "
        f"{where['threads']} threads, torch {where['torch']}"
    ]
    lines += [spread(name, values, "images/s") for name, values in rates.items()]
    lines += ratios({name: [1 / rate for rate in each] for name, each in rates.items()}, numbers["precision"])

    lines.append("one image alone")
    for name, seconds in latency.items():
        lines.append(spread(name, [1000 * each for each in seconds], "ms"))
    return "\n".join(lines + ratios(latency, numbers["precision"]))


def ratios(seconds: dict[str, list[float]], kinds: Sequence[Settled]) -> list[str]:
    """How many times as fast as the public code we are, a line for each precision and way of ours."""
    lines = []
    for kind in kinds:
        theirs = seconds.get(f"VAR {kind}")
        for name in ("var_pe", "var_pe fast"):
            mine = seconds.get(f"{name} {kind}")
            if mine is not None and theirs is not None:
                ratio = ratio_of(theirs, mine)
                lines.append(f"{kind}: {name} is {ratio:.2f} times as fast (median of rounds)")
    return lines


def spread(name: str, values: Sequence[float], unit: str) -> str:
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{name:<18} {middle:8.2f} {unit}   ({low:.2f} .. {high:.2f} in {len(values)} rounds)"


def ratio_of(above: Sequence[float], below: Sequence[float]) -> float:
    """The median over rounds."""
    return statistics.median(over / under for over, under in zip(above, below, strict=True))


if __name__ == "__main__":
    main()
