"""Images per second of sampling with guidance, in float32 and bfloat16, beside the public VAR code's.

    python benchmarks/sampling.py --run runs/fashion_learned
    python benchmarks/sampling.py --depth 16 --batch 8 --reference ../VAR

Without a run, a model of VAR's shape with random weights. All that is timed takes turns, round after round;
the first round does not count. Medians, with the lowest and highest round. With a reference, both have the
same weights, and the tokens of greedy sampling must be equal.
"""

import argparse
import contextlib
import importlib
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, TypedDict

import var_pe  # noqa: F401  # before torch, whose threads it makes wait politely

# isort: split
import torch
from annotated_types import Ge
from torch import Tensor, nn

from var_pe import settings
from var_pe.files import write_json
from var_pe.interop.var.conversion import to_var
from var_pe.models.generator import VARTransformer
from var_pe.models.tokenizer import VQTokenizer
from var_pe.sampling.pipeline import VARPipeline
from var_pe.settings.command_line import check_options, given_path
from var_pe.settings.fields import Positive, PositiveFloat
from var_pe.stages.config import Config
from var_pe.stages.draw import load_pipeline
from var_pe.stages.session import exit_with_sentence

VAR_LEVELS = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
DTYPES = {"float32": None, "bfloat16": torch.bfloat16}
Draw = Callable[[], object]  # draws a batch of images, which is thrown away
# What VAR's tokenizer class has in its code and not in its arguments.
FIXED = {"channel_multipliers": (1, 1, 2, 2, 4), "blocks_per_resolution": 2, "image_channels": 3}


class Numbers(TypedDict, total=False):
    """What was found, as --output writes it."""

    batch: int
    guidance: float
    machine: dict[str, str | int]
    # with a reference: tokens of greedy sampling, and how many of them are equal
    greedy: dict[str, int]
    # of each round, by what draws and its type
    images_per_second: dict[str, list[float]]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--run", type=given_path, metavar="DIR", help="a trained run")
    which.add_argument("--depth", type=int, help="VAR's shape: so many blocks and heads, width 64 times that")
    add("--levels", type=int, nargs="+", default=VAR_LEVELS, help="with --depth: sides of the grids")
    add("--codes", type=int, default=4096, help="with --depth: size of the codebook")
    add("--channels", type=int, default=160, help="with --depth: width of the tokenizer")
    add("--reference", type=given_path, metavar="DIR", help="a checkout of the public VAR repository")
    add("--batch", type=int, default=64)
    add("--rounds", type=int, default=5, help="rounds that count")
    add("--guidance", type=float, default=1.5)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--output", type=given_path, help="also write the numbers as JSON")
    return parser.parse_args()


@exit_with_sentence()
def main() -> None:
    given = arguments()
    check(given)
    pipeline = (opened(given.run) if given.run else with_shape_of_var(given)).to(given.device)
    classes = pipeline.transformer.num_classes
    labels = [number % classes if classes else None for number in range(given.batch)]
    numbers: Numbers = {"batch": given.batch, "guidance": given.guidance, "machine": machine(given.device)}

    contenders = {"var_pe": ours(pipeline, labels, given.guidance)}
    if given.reference is not None:
        reference = Reference(given.reference, pipeline)
        numbers["greedy"] = equal_tokens(pipeline, reference, labels, given.guidance)
        print(f"greedy tokens: {numbers['greedy']['equal']} of {numbers['greedy']['tokens']} are equal")
        contenders["VAR"] = lambda: reference.images(labels, given.guidance)

    numbers["images_per_second"] = in_turns(contenders, given)
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

    try:
        torch.zeros(1, device=given.device).item()
    except (RuntimeError, AssertionError) as error:  # the second from a torch without CUDA
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {given.device} cannot be used here: {reason}") from error


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


def ours(pipeline: VARPipeline, labels: list[int | None], guidance: float) -> Draw:
    """What the pipeline is timed at."""
    generators = [torch.Generator().manual_seed(i) for i in range(len(labels))]
    return lambda: pipeline(labels, guidance_scale=guidance, generator=generators, output_type="pt")


class Reference:
    """The public code's models with the pipeline's weights, and what they draw."""

    def __init__(self, folder: Path, pipeline: VARPipeline) -> None:
        tokenizer, transformer = pipeline.tokenizer, pipeline.transformer
        check_fixed(tokenizer)
        VQVAE, VAR = public_classes(folder)
        vqvae_state, var_state = to_var(tokenizer, transformer)

        config, theirs = tokenizer.config, transformer.config
        sides = tuple(height for height, _ in transformer.pyramid.grids)
        shared_phi = "quantize.quant_resi.0.weight" in vqvae_state
        with contextlib.redirect_stdout(sys.stderr):  # it prints its settings
            self.vqvae = VQVAE(
                vocab_size=config["codebook_size"],
                z_channels=config["latent_channels"],
                ch=config["channels"],
                share_quant_resi=0 if shared_phi else config["num_phi"],
                v_patch_nums=sides,
                test_mode=True,
            )
            self.var = VAR(
                vae_local=self.vqvae,
                num_classes=transformer.num_classes,
                depth=theirs["depth"],
                embed_dim=theirs["dim"],
                num_heads=theirs["num_heads"],
                mlp_ratio=theirs["mlp_ratio"],
                shared_aln=theirs["shared_adaln"],
                attn_l2_norm=theirs["qk_norm"],
                patch_nums=sides,
            )

        self.vqvae.load_state_dict(vqvae_state, strict=True)
        self.var.load_state_dict(var_state, strict=True)
        self.vqvae.to(transformer.device).eval()
        self.var.to(transformer.device).eval()

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


def check_fixed(tokenizer: VQTokenizer) -> None:
    """Whether VAR's tokenizer class can be built like this one.

    Raises:
        ValueError: it cannot.
    """
    for name, value in FIXED.items():
        found = tokenizer.config[name]
        if isinstance(value, tuple):
            found = tuple(found)
        if found != value:
            raise ValueError(
                f"VAR's tokenizer class has {name} {value}, this one {found}: compare with --depth"
            )


def public_classes(folder: Path) -> tuple[Callable[..., nn.Module], Callable[..., nn.Module]]:
    """VQVAE and VAR of a checkout.

    Raises:
        ValueError: the folder holds no checkout, or its code does not run here.
    """
    if not all((folder / name).is_file() for name in ("models/var.py", "models/vqvae.py", "dist.py")):
        raise ValueError(f"--reference {folder} is no checkout of the public VAR repository")

    sys.path.insert(0, str(folder.resolve()))
    try:
        return importlib.import_module("models.vqvae").VQVAE, importlib.import_module("models.var").VAR
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--reference {folder}: its code does not load here: {error}") from error


# ------------------------------------------------------------------------------------------- measuring


def equal_tokens(
    pipeline: VARPipeline, reference: Reference, labels: list[int | None], guidance: float
) -> dict[str, int]:
    """How many tokens of greedy sampling are the same in both."""
    output = pipeline(labels, guidance_scale=guidance, top_k=1, output_type="tokens")
    equal_BL = output.images == reference.greedy_tokens(labels, guidance)
    return {"equal": int(equal_BL.sum()), "tokens": equal_BL.numel()}


def in_turns(contenders: dict[str, Draw], given: argparse.Namespace) -> dict[str, list[float]]:
    """Images per second of each round, by contender and type."""
    rates: dict[str, list[float]] = {f"{name} {dtype}": [] for dtype in DTYPES for name in contenders}
    for number in range(given.rounds + 1):
        for dtype in DTYPES:
            for name, draw in contenders.items():
                with computing_in(dtype, given.device):
                    seconds = timed(draw, given.device)
                if number:  # the first round warms up
                    rates[f"{name} {dtype}"].append(given.batch / seconds)
    return rates


@contextlib.contextmanager
def computing_in(dtype: str, device: str) -> Iterator[None]:
    wanted = DTYPES[dtype]
    with torch.autocast(torch.device(device).type, dtype=wanted, enabled=wanted is not None):
        yield


def timed(draw: Draw, device: str) -> float:
    began = time.perf_counter()
    draw()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def machine(device: str) -> dict[str, str | int]:
    """What the numbers were measured on."""
    name = torch.cuda.get_device_name() if torch.device(device).type == "cuda" else processor()
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def processor() -> str:
    """Its name, as well as the system knows it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if "model name" in line:
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


def report(numbers: Numbers) -> str:
    """Medians with the lowest and highest round, and how much faster we are than the reference."""
    where, rates = numbers["machine"], numbers["images_per_second"]
    lines = [
        f"batch {numbers['batch']}, guidance {numbers['guidance']}; {where['device']}, "
        f"{where['threads']} threads, torch {where['torch']}"
    ]

    for name, values in rates.items():
        lines.append(
            f"{name:<18} {statistics.median(values):8.2f} images/s   "
            f"({min(values):.2f} .. {max(values):.2f} in {len(values)} rounds)"
        )

    for dtype in DTYPES:
        if f"VAR {dtype}" in rates:
            pairs = zip(rates[f"var_pe {dtype}"], rates[f"VAR {dtype}"], strict=True)
            ratio = statistics.median(own / theirs for own, theirs in pairs)
            lines.append(f"{dtype}: var_pe is {ratio:.2f} times as fast (median of rounds)")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
