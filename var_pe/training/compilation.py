"""What a training compiles, by a rule of settings and device, and how it is told to a model.

Nothing here is timed: rounding depends on the choice, and weights must not depend on how busy a machine was.
"""

import logging
import warnings
from typing import Literal, Protocol, cast

import torch
from torch import nn

from var_pe.models.compiler import lacking_compiler

# none: nothing. blocks: the part that a model repeats, once for all its layers. whole: its forward pass.
Compiled = Literal["none", "blocks", "whole"]
Compile = Literal["auto", "none", "blocks", "whole"]

# From so many steps on, `auto` compiles: the seconds to a minute that it takes are then little of the whole.
AUTO_FROM_STEPS = 5000
DEVICES = ("cpu", "cuda")  # for which `auto` compiles

# Sizes are constants: several pyramids are several graphs. Dropout draws the numbers of the plain pass.
OPTIONS = {"dynamic": False, "options": {"fallback_random": True}}
MOST_GRAPHS = 64  # of one function; torch's own limit is 8, and beyond it nothing more is compiled


class Trainable(Protocol):
    """What diffusers' models offer to a training."""

    def compile_repeated_blocks(self, **options: object) -> None: ...

    def enable_gradient_checkpointing(self) -> None: ...


def chosen(compile: Compile, device: str, steps: int) -> tuple[Compiled, str]:
    """What is compiled in a training of so many steps on a device, and the reason in words (empty: as set).

    Raises:
        ValueError: compiling was asked for, and there is no compiler.
    """
    if compile == "none":
        return "none", ""

    lacking = lacking_compiler(device)
    if compile != "auto":
        if lacking:
            raise ValueError(f"compile={compile} needs {lacking}; compile=none does without")
        return compile, ""

    if steps < AUTO_FROM_STEPS:
        return "none", f"compile=auto compiles from {AUTO_FROM_STEPS:,} steps on"
    if device not in DEVICES:
        return "none", f"compile=auto compiles on {' and '.join(DEVICES)}, not on {device}"
    if lacking:
        return "none", f"compile=auto needs {lacking}"
    return "blocks", f"compile=auto, {steps:,} steps of at least {AUTO_FROM_STEPS:,}"


def make_ready(model: nn.Module, compiled: Compiled, *, checkpointing: bool) -> None:
    """Has the model compiled when it is first called, and its activations recomputed, both in place.

    Names of weights stay, and copies of the model are plain.
    """
    trainable = cast(Trainable, model)
    if checkpointing:
        trainable.enable_gradient_checkpointing()
    if compiled == "none":
        return

    # Splitting graphs where DDP exchanges gradients serves large graphs only, and not recomputed ones.
    torch._dynamo.config.cache_size_limit = max(MOST_GRAPHS, torch._dynamo.config.cache_size_limit)
    torch._dynamo.config.optimize_ddp = compiled == "whole" and not checkpointing

    # Remarks on caches that a graph need not fill, and on a CUDA that nothing asks for
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`")
    if compiled == "blocks":
        trainable.compile_repeated_blocks(**OPTIONS)
    else:
        model.compile(**OPTIONS)
