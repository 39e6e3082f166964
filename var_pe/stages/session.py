"""What every command needs around its work: the accelerator, and errors as one sentence."""

import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import NoReturn

from accelerate import Accelerator
from PIL import Image

from var_pe import end_at_once
from var_pe.processes import say
from var_pe.stages.accelerate_options import check_spread, refuse_options
from var_pe.stages.launcher import follow_launcher, unused_threads
from var_pe.training.config import TrainingConfig
from var_pe.training.precision import has_bf16
from var_pe.training.stopping import Interrupted, leave


@contextmanager
def session(*trainings: TrainingConfig) -> Iterator[Accelerator]:
    """An accelerator for a command; it is ended on every process, as gloo sometimes aborts otherwise.

    Ctrl-C ends the process at once, as SIGTERM does, even while it waits for other processes. Only a training
    (`training/stopping.py`) has something to finish.
    """
    follow_launcher()
    accelerator = start_accelerator(*trainings)
    if accelerator.device.type == "cpu" and accelerator.is_main_process:
        for remark in (unused_threads(), slow_precision(trainings)):
            if remark is not None:
                say(remark, sys.stderr)

    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield accelerator
    except Interrupted as stopped:
        leave(stopped.signum)
        if accelerator.is_main_process:
            say(stopped.sentence, sys.stderr)
        raise
    finally:
        accelerator.free_memory()
        accelerator.end_training()
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, before)


def slow_precision(trainings: Sequence[TrainingConfig]) -> str | None:
    """A sentence if a training asks for products in bf16 that this processor has no instructions for."""
    if has_bf16("cpu") or all(training.precision != "bf16" for training in trainings):
        return None
    return (
        "precision=bf16: this processor has no instructions for bfloat16, so a step may take up to fifty "
        "times as long as in float32; precision=auto, in the training's own section, would choose float32"
    )


def start_accelerator(*trainings: TrainingConfig) -> Accelerator:
    """One accelerator for all stages of a command, with the trackers of its trainings.

    Raises:
        ValueError: a tracker is not installed, an option of Accelerate would change weights, or the launcher
            started processes that do not find each other.
    """
    trackers = sorted({tracker for training in trainings for tracker in training.trackers})
    missing = [tracker for tracker in trackers if find_spec(tracker) is None]
    if missing:
        raise ValueError(f"trackers: {', '.join(missing)} is not installed (pip install {' '.join(missing)})")

    # The precision is the settings' alone, so Accelerate casts nothing itself.
    refuse_options(trainings)
    accelerator = Accelerator(log_with=trackers or None, project_dir=".", mixed_precision="no")
    check_spread(accelerator)
    return accelerator


def sentence_of(error: ValueError | OSError) -> str:
    """An error as one sentence; errors of the operating system begin with the file's name."""
    if isinstance(error, OSError) and error.filename:
        name = error.filename2 or error.filename  # the new name, where renaming failed
        missing = isinstance(error, FileNotFoundError)
        return f"{name} does not exist" if missing else f"{name}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def one_line_each() -> Callable[..., None]:
    """Shows warnings, in place of `warnings.showwarning`: each text once, as a line without its place."""
    seen: set[str] = set()

    def show(message: Warning | str, *_: object) -> None:
        text = " ".join(str(message).split())
        if text not in seen:
            seen.add(text)
            say(f"warning: {text}", sys.stderr)

    return show


def leave_at_once(stopped: Interrupted) -> NoReturn:
    """Ends this process without Python's clean-up of modules and compiled code, which takes seconds.

    All that is to be kept has been written, and a machine that is about to be taken away may be busy.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
    os._exit(128 + stopped.signum)


@contextmanager
def exit_with_sentence() -> Iterator[None]:
    """Turns errors that a user can cause into one line and status 2; a bug keeps its traceback.

    Warnings are a line each, too. Pillow's warning of large pictures is left out, as they are expected.
    """
    if signal.getsignal(signal.SIGINT) is end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    before = warnings.showwarning
    warnings.showwarning = one_line_each()
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    try:
        yield
    except Interrupted as stopped:
        leave_at_once(stopped)
    except KeyboardInterrupt:
        say("stopped", sys.stderr)
        sys.exit(130)
    except FloatingPointError as error:  # a training that diverged: neither a wrong setting nor a bug
        say(f"error: {error}", sys.stderr)
        sys.exit(1)
    except (ValueError, OSError) as error:  # a wrong setting or file, a full disk
        say(f"error: {sentence_of(error)}", sys.stderr)
        sys.exit(2)
    finally:
        warnings.showwarning = before
