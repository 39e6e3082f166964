"""What convolutions of single channels cost on a processor in bf16 and in float32: why some stay out of bf16.

    python benchmarks/depthwise.py

Forward pass, gradient of the input and gradient of the weights, milliseconds, medians of --rounds calls that
take turns. The strided ones are EfficientNet-Lite's (var_pe/models/efficientnet_lite.py: SameConv2d), the
others those of `peg` and `pyramid_peg` (var_pe/encodings/machinery/convolution.py).
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import var_pe  # noqa: F401  # before torch, whose threads it makes wait politely

# isort: split
import torch
import torch.nn.functional as F
from torch import Tensor

from var_pe.pages.tables import aligned_table
from var_pe.settings.command_line import check_options
from var_pe.settings.fields import Positive
from var_pe.stages.session import exit_with_sentence

IMAGES = 32
TYPES = {"bf16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Case:
    channels: int
    side: int
    kernel: int
    stride: int

    def __str__(self) -> str:
        return f"{self.channels} x {self.side} x {self.side}, kernel {self.kernel}, stride {self.stride}"


CASES = (Case(96, 32, 3, 2), Case(144, 16, 5, 2), Case(144, 16, 3, 1), Case(96, 6, 3, 1), Case(96, 6, 5, 1))


def calls(case: Case, dtype: torch.dtype) -> list[Callable[[], object]]:
    """Forward pass, gradient of the input, gradient of the weights."""
    shape = (IMAGES, case.channels, case.side, case.side)
    x_BChw = torch.randn(shape, dtype=dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(case.channels, 1, case.kernel, case.kernel, dtype=dtype, requires_grad=True)

    def forward() -> Tensor:
        return F.conv2d(x_BChw, weight, stride=case.stride, padding=case.kernel // 2, groups=case.channels)

    y_BChw = forward()
    gradient = torch.randn_like(y_BChw)
    backward = partial(torch.autograd.grad, y_BChw, grad_outputs=gradient, retain_graph=True)
    return [forward, partial(backward, inputs=x_BChw), partial(backward, inputs=weight)]


def milliseconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - begin)


@exit_with_sentence()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    rounds = "timed calls of each convolution; default: %(default)s"
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help=rounds)
    given = parser.parse_args()
    check_options(given, rounds=Positive)

    rows = [
        ["32 images of", *(f"{name}, {what}" for what in ("forward", "input", "weights") for name in TYPES)]
    ]
    for case in CASES:
        of_types = [calls(case, dtype) for dtype in TYPES.values()]
        turns = [call for of_one_kind in zip(*of_types, strict=True) for call in of_one_kind]
        times = [[milliseconds(call) for call in turns] for _ in range(given.rounds + 1)][1:]
        rows.append([str(case), *(f"{statistics.median(found):.2f}" for found in zip(*times, strict=True))])
    print(aligned_table(rows))


if __name__ == "__main__":
    main()
