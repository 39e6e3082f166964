"""Programs written to files, run beside the model, and timed."""

import logging
import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from var_pe.encodings import PositionEncoding
from var_pe.interop.export.parts import LEAST_PATCHES, Part
from var_pe.models.kernels import served_by

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from torch.export import ExportedProgram

LIBRARIES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4  # of the largest difference, where outputs are of size 1 or smaller
MOST_OTHER_TOKENS = 0.01  # a latent midway between two codes is rounded to either
SIDES = {2: "height", 3: "width"}  # the first input's dimensions that are free where sizes are
TRACED_BATCH = 2  # images of the example that a program is traced with
COMPARED_BATCHES = (1, TRACED_BATCH, 3)


@dataclass(frozen=True)
class Exported:
    """A part that was written to files, and how much its programs differ from the model."""

    part: Part
    program: Path
    onnx: Path
    # largest difference of numbers, over the model's largest where that is above 1
    difference: float
    # share of whole numbers, such as tokens, that are others
    other: float


def check_libraries() -> None:
    """Checks that the libraries that write and run ONNX, optional dependencies, are installed.

    Raises:
        ValueError: it is not.
    """
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"ONNX is written and run by {', '.join(LIBRARIES)}; not installed: {', '.join(missing)}: "
            f"pip install {' '.join(missing)} (or var_pe with its extra: pip install -e '.[export]')"
        )


def export_part(part: Part, folder: Path) -> Exported:
    """Writes NAME.pt2 and NAME.onnx into a folder, for any number of images, and compares both to the model.

    Where sizes are free, also at sizes that were not traced.

    Raises:
        ValueError: the part cannot be exported, or a program's outputs are not the model's.
    """
    given = part.examples(TRACED_BATCH)
    if part.sizes is not None:
        given = part.sizes.examples(TRACED_BATCH, part.sizes.traced)
    part.run(given)  # what is kept for a size is made before the trace, which takes it for constants
    program = traced(part, given)

    files = (folder / f"{part.name}.pt2", folder / f"{part.name}.onnx")
    with quiet():
        torch.export.save(program, files[0])
    write_onnx(part, program, files[1])

    session, module = session_of(files[1]), torch.export.load(files[0]).module()
    difference, other = 0.0, 0.0
    for what, given in compared_examples(part):
        wanted = part.run(given)
        try:
            both = (replace(part, module=module).run(given), run_onnx(session, given))
        except Exception as error:  # what a trace takes for granted, or onnxruntime's own
            raise ValueError(f"{part.name}: a program refuses {what}: {in_short(error)}") from error
        for library, outputs in zip(("torch.export", "ONNX"), both, strict=True):
            of_numbers, of_tokens = compared(outputs, wanted)
            if not of_numbers <= TOLERANCE or of_tokens > MOST_OTHER_TOKENS:
                raise ValueError(
                    f"{part.name}: the program of {library} gives other outputs than the model for {what}: "
                    f"by {of_numbers:.1e}, where {TOLERANCE:g} is allowed, and {of_tokens:.1%} of "
                    f"its tokens, where {MOST_OTHER_TOKENS:.0%} is"
                )
            difference, other = max(difference, of_numbers), max(other, of_tokens)
    return Exported(part, *files, difference, other)


def compared_examples(part: Part) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """What programs are compared on, and what that is, in words."""
    for batch in COMPARED_BATCHES:
        yield f"{batch} images", part.examples(batch)
    if part.sizes is not None:
        for rows, columns in part.sizes.others:
            given = part.sizes.examples(TRACED_BATCH, (rows, columns))
            yield f"{TRACED_BATCH} images of {rows}x{columns} patches", given


def traced(part: Part, given: dict[str, Tensor]) -> "ExportedProgram":
    """torch.export's program, for any number of images, and of any size where sizes are free.

    Scores that an encoding makes of content are different for each image, and ONNX's translation of torch's
    fused attention does not take them: attention is then products and a softmax. Else, where sizes are free,
    one fused call serves all of them, as a program cannot choose by the number of tokens.

    Raises:
        ValueError: torch.export cannot trace the module.
    """
    shapes: tuple[dict[int, object], ...] = tuple(
        {part.batch_of[name]: torch.export.Dim.DYNAMIC} for name in given
    )
    kernel: AbstractContextManager[object] = nullcontext()
    if part.sizes is not None:
        for axis, name in SIDES.items():
            patches = torch.export.Dim(name, min=LEAST_PATCHES)
            shapes[0][axis] = part.sizes.patch_size * patches
        kernel = served_by("fused")
    if by_content(part.module):
        kernel = served_by("plain")

    try:
        with torch.no_grad(), quiet(), kernel:
            # Dynamo's trace takes sides that are symbols for the whole numbers that the model asks for.
            strict = part.sizes is not None
            return torch.export.export(
                part.module, tuple(given.values()), dynamic_shapes=shapes, strict=strict
            )
    except Exception as error:  # of many kinds, none of which a person can tell apart
        at = "" if part.sizes is None else " at every size (--size exports one)"
        raise ValueError(
            f"{part.name}: torch.export cannot follow the model{at}: {in_short(error)}"
        ) from error


def by_content(module: nn.Module) -> bool:
    """Whether an encoding in the module adds scores that depend on queries and keys."""
    encodings = [each for each in module.modules() if isinstance(each, PositionEncoding)]
    return any(encoding.uses("products") for encoding in encodings)


def write_onnx(part: Part, program: "ExportedProgram", file: Path) -> None:
    """The program as ONNX.

    torch's optimizer of ONNX graphs is left out: onnxscript 0.7 gives other outputs where halves of a tensor
    are written one after another, as a rotation writes them. onnxruntime optimizes what it loads.

    Raises:
        ValueError: an operation has no counterpart there.
    """
    axes = tuple({part.batch_of[name]: "batch"} for name in part.batch_of)
    if part.sizes is not None:
        axes[0].update(SIDES)
    try:
        with quiet():
            torch.onnx.export(
                program,
                (),
                file,
                input_names=list(part.batch_of),
                output_names=part.outputs,
                dynamic_shapes=axes,
                dynamo=True,
                optimize=False,
                verbose=False,
            )
    except Exception as error:  # as above
        raise ValueError(f"{part.name}: ONNX has no counterpart of the program: {in_short(error)}") from error


def session_of(file: Path) -> "InferenceSession":
    """onnxruntime on the processor, with as many threads as torch has.

    Raises:
        ValueError: it cannot run the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own, which have no name of their own
        raise ValueError(f"{file.name}: onnxruntime cannot run it: {in_short(error)}") from error


def run_onnx(session: "InferenceSession", given: dict[str, Tensor]) -> list[Tensor]:
    """The outputs; inputs that the network does not use are not in the file."""
    asked = {node.name for node in session.get_inputs()}
    feed = {name: tensor.contiguous().numpy() for name, tensor in given.items() if name in asked}
    return [torch.from_numpy(array) for array in session.run(None, feed)]


def compared(outputs: Sequence[Tensor], wanted: Sequence[Tensor]) -> tuple[float, float]:
    """The largest difference of numbers, relative to those above 1, and the share of other whole numbers."""
    difference, other = 0.0, 0.0
    for made, expected in zip(outputs, wanted, strict=True):
        if made.shape != expected.shape:
            return float("inf"), 1.0
        if not expected.numel():
            continue
        if expected.is_floating_point():
            size = max(1.0, float(expected.abs().max()))
            difference = max(difference, float((made - expected).abs().max()) / size)
        else:
            other = max(other, float((made != expected).float().mean()))
    return difference, other


def milliseconds(exported: Exported, batch: int, rounds: int) -> tuple[float, float]:
    """Of a call of the model and of onnxruntime, each the median of `rounds` in turn, after one of each."""
    session = session_of(exported.onnx)
    given = exported.part.examples(batch)
    eager, runtime = [], []
    for each in range(rounds + 1):
        began = time.perf_counter()
        exported.part.run(given)
        between = time.perf_counter()
        run_onnx(session, given)
        if each:
            eager.append(1000 * (between - began))
            runtime.append(1000 * (time.perf_counter() - between))
    return statistics.median(eager), statistics.median(runtime)


def in_short(error: Exception) -> str:
    """The first line with content of an error; the exporters' errors go on for pages."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[0][:200]}" if lines else type(cause).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' remarks on their own progress."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
