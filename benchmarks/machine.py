"""The machine that a benchmark runs on: what it is, what it computes in, how fast it multiplies matrices."""

import argparse
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import torch

from var_pe.settings.command_line import given_path
from var_pe.training.precision import Precision, Settled, settled

PRECISIONS = get_args(Precision)  # what --precision takes
DTYPES: dict[Settled, torch.dtype] = {"bf16": torch.bfloat16, "float32": torch.float32}

# Rows and columns of the matrices whose product gives the rate
PROCESSOR_SIDE = 2048
GPU_SIDE = 8192


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


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_option(parser: argparse.ArgumentParser) -> None:
    """What `check_device` checks."""
    parser.add_argument(
        "--device", default=default_device(), help="torch's device, such as cpu or cuda; default: %(default)s"
    )


def precision_option(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """What products are computed in: one of `PRECISIONS`, or with `several` a list, one after the other."""
    meaning = "what products are computed in; auto is what a training takes by itself on the device"
    if several:
        meaning += "; several are measured one after the other"
    parser.add_argument(
        "--precision",
        nargs="+" if several else None,
        choices=PRECISIONS,
        default=["auto"] if several else "auto",
        help=f"{meaning}; default: auto",
    )


def json_option(parser: argparse.ArgumentParser, when: str = "") -> None:
    """The file that numbers go to, besides the table; `when` says when it is written, if not at the end."""
    help_ = f"also write the numbers into this file, as JSON{when}"
    parser.add_argument("--json", type=given_path, metavar="FILE", help=help_)


def check_device(device: str) -> None:
    """Whether a device can be used here.

    Raises:
        ValueError: it cannot.
    """
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # the second from a torch without CUDA
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {device} cannot be used here: {reason}") from error


def precisions(asked: Sequence[Precision], device: str) -> list[Settled]:
    """What is computed in, each once; `auto` is what a training takes by itself on such a device."""
    return list(dict.fromkeys(settled(one, torch.device(device).type) for one in asked))


def matrix_product(device: str, dtype: torch.dtype) -> tuple[Callable[[], object], float]:
    """A plain product of square random matrices, and its floating-point operations: the machine's rate."""
    side = GPU_SIDE if torch.device(device).type == "cuda" else PROCESSOR_SIDE
    left = torch.randn(side, side, device=device).to(dtype)
    right = torch.randn(side, side, device=device).to(dtype)
    return (lambda: left @ right), 2.0 * side**3
