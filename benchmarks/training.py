"""Training steps of generators: their time, their share of the machine's matrix rate, and their memory.

    python benchmarks/training.py --reference ../VAR
    python benchmarks/training.py --sizes 680 --compile none blocks whole --rounds 10
    python benchmarks/training.py --sizes d16 --precision bf16 --device cuda --json found.json

A step is forward, cross-entropy, backward and fused AdamW, under autocast with bf16, on random tokens. With a
checkout of the public VAR code its class takes part as it is; from the same weights its loss must be ours.
All that is timed takes turns, round after round, with a plain matrix product of the same type. On a processor
each one's memory is measured in a process of its own. What is counted: docs/speed.md.
"""

import argparse
import copy
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median, quantiles
from typing import Annotated, TypedDict, cast, get_args

import var_pe  # noqa: F401  # before torch, whose threads it makes wait politely

# isort: split
import torch
import torch.nn.functional as F
from annotated_types import Ge
from machine import check_device, default_device, machine, matrix_product
from public_var import FIXED, public_models
from torch import Tensor, nn

from var_pe.comparison.step_time import seconds_in_turns, training_step
from var_pe.encodings import build_encoding
from var_pe.files import write_json
from var_pe.models.attention import Kernel, served_by
from var_pe.models.generator import VARTransformer
from var_pe.models.tokenizer import VQTokenizer
from var_pe.pages.tables import markdown_table
from var_pe.processes import peak_memory, reset_peak_memory
from var_pe.progress import size as in_bytes
from var_pe.pyramid import Pyramid
from var_pe.settings.command_line import check_options, given_path
from var_pe.settings.fields import Positive
from var_pe.stages.session import exit_with_sentence
from var_pe.tasks.losses.tokens import token_losses
from var_pe.training.compilation import Compiled, make_ready

CLASSES = 1000
DTYPES = {"bf16": torch.bfloat16, "float32": torch.float32}
COMPILED = get_args(Compiled)
RULE = "rule"  # the kernels of attention that a training takes by itself
THEIRS = "VAR"
MATRICES = "matrix product"
WARMUP = 2
MEMORY_STEPS = 3


@dataclass(frozen=True)
class Size:
    """A generator and its batch."""

    levels: tuple[int, ...]
    depth: int
    dim: int
    num_heads: int
    batch: int
    codes: int = 4096
    latent_channels: int = 32

    @property
    def tokens(self) -> int:
        """Of one image."""
        return Pyramid.of(self.levels).num_tokens


VAR_256 = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
VAR_512 = (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)
VAR_1024 = (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64)

# By their names, which are the tokens of an image where that says enough
SIZES = {
    "30": Size((1, 2, 3, 4), 6, 192, 6, 256, codes=512, latent_channels=16),
    "130": Size((1, 2, 3, 4, 6, 8), 6, 256, 4, 64),
    "680": Size(VAR_256, 4, 512, 8, 4),
    "2240": Size(VAR_512, 4, 256, 4, 1),
    "9451": Size(VAR_1024, 2, 256, 4, 1),
    "d16": Size(VAR_256, 16, 1024, 16, 32),
    "tiny": Size((1, 2, 3), 2, 64, 2, 4, codes=16, latent_channels=4),
}


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
    add("--reference", type=given_path, metavar="DIR", help="a checkout of the public VAR repository")
    add("--sizes", nargs="+", choices=SIZES, default=["30", "130", "680", "2240"])
    add("--batch", type=int, help="images in a step (default: the size's own)")
    add("--encoding", default="learned", metavar="LINE", help="of our generator")
    add("--precision", nargs="+", choices=DTYPES, default=list(DTYPES))
    add("--compile", nargs="+", choices=COMPILED, default=["none"], help="our generator, compiled so")
    add(
        "--attention",
        nargs="+",
        choices=(RULE, *get_args(Kernel)),
        default=[RULE],
        help="kernel of our attention, for every length (default: as a training chooses)",
    )
    add("--rounds", type=int, default=10, help="steps of each that are timed")
    add("--device", default=default_device())
    add("--no-memory", action="store_true", help="leave out the processes that measure memory")
    add("--json", type=given_path, metavar="FILE", help="also write the numbers as JSON, after every size")
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

        for precision in given.precision:
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
    contender: str, generator: VARTransformer, size: Size, precision: str, given: argparse.Namespace
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


def build(size: Size, encoding: str) -> VARTransformer:
    generator = VARTransformer(
        levels=size.levels,
        codebook_size=size.codes,
        latent_channels=size.latent_channels,
        num_classes=CLASSES,
        encoding=encoding,
        dim=size.dim,
        depth=size.depth,
        num_heads=size.num_heads,
    )
    return generator.train()


def compiled(model: nn.Module, how: str) -> nn.Module:
    """The model, compiled at its first call as a training would compile it."""
    make_ready(model, cast(Compiled, how), checkpointing=False)
    return model


def public_model(generator: VARTransformer, given: argparse.Namespace) -> nn.Module:
    """VAR's class with the generator's weights; under an encoding that it lacks, with those of `learned`."""
    config = generator.config
    if given.encoding != "learned":
        generator = VARTransformer(**{**config, "encoding": "learned"})

    tokenizer = VQTokenizer(
        levels=config["levels"],
        codebook_size=config["codebook_size"],
        latent_channels=config["latent_channels"],
        channels=32,
        num_phi=4,
        **FIXED,
    )
    _, var = public_models(given.reference, tokenizer, generator)
    return var.train().to(given.device)


Batch = tuple[Tensor, Tensor, Tensor]


def random_batch(size: Size, device: str) -> Batch:
    """Labels, the inputs of all levels but the first, and tokens."""
    draw = torch.Generator().manual_seed(0)
    labels_B = torch.randint(CLASSES, (size.batch,), generator=draw)
    inputs_BLZ = torch.randn(size.batch, size.tokens - 1, size.latent_channels, generator=draw)
    tokens_BL = torch.randint(size.codes, (size.batch, size.tokens), generator=draw)
    return labels_B.to(device), inputs_BLZ.to(device), tokens_BL.to(device)


def our_step(generator: nn.Module, batch: Batch, precision: str) -> Callable[[], None]:
    labels_B, inputs_BLZ, tokens_BL = batch

    def loss() -> Tensor:
        return token_losses(generator(labels_B, inputs_BLZ), tokens_BL).mean()

    return training_step(generator, loss, precision)


def their_step(var: nn.Module, batch: Batch, precision: str) -> Callable[[], None]:
    labels_B, inputs_BLZ, tokens_BL = batch

    def loss() -> Tensor:
        logits_BLV = var(labels_B, inputs_BLZ)
        return F.cross_entropy(logits_BLV.view(-1, logits_BLV.shape[-1]), tokens_BL.view(-1))

    return training_step(var, loss, precision)


@torch.no_grad()
def check_equal_losses(generator: VARTransformer, size: Size, given: argparse.Namespace) -> None:
    """Whether the same weights give the same loss, in float32 and without dropped labels.

    Raises:
        ValueError: they do not, so that the two cannot be compared.
    """
    labels_B, inputs_BLZ, tokens_BL = random_batch(size, given.device)
    var = public_model(generator, given)
    var.cond_drop_rate = 0.0
    theirs = F.cross_entropy(var(labels_B, inputs_BLZ).flatten(0, 1), tokens_BL.flatten())
    ours = token_losses(copy.deepcopy(generator).to(given.device)(labels_B, inputs_BLZ), tokens_BL).mean()
    if not torch.isclose(ours, theirs, rtol=1e-4):
        raise ValueError(
            f"the same weights give a loss of {ours:.6f} here and of {theirs:.6f} in the public code"
        )


# ------------------------------------------------------------------------------------------- measuring


def time_of_steps(
    generator: VARTransformer, size: Size, precision: str, given: argparse.Namespace
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


def operations_of_step(size: Size) -> float:
    """Floating-point operations that a training step cannot do without.

    Each weight that every token passes counts 6 times for each token (twice forward, four times backward),
    and the modulations, which an image passes once, for each image. Attention is two products of a head's
    width for each pair of a query and a key that it may see, and four more backward. Nothing that is computed
    twice counts twice, and pairs that the mask of levels hides do not count.
    """
    dim, tokens = size.dim, size.tokens
    of_token = size.depth * 12 * dim**2 + dim * (size.codes + size.latent_channels)
    of_image = (6 * size.depth + 2) * dim**2

    counts = [side**2 for side in size.levels]
    pairs = sum(count * sum(counts[: level + 1]) for level, count in enumerate(counts))
    attention = 12 * size.depth * dim * pairs
    return float(size.batch * (6 * (of_token * tokens + of_image) + attention))


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
