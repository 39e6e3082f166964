"""What stands around every command's work: errors as one sentence, and the accelerator."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from accelerate import Accelerator

from var_pe.training.config import TrainingConfig
from var_pe.training.stopping import Interrupted


@contextmanager
def session(*trainings: TrainingConfig) -> Iterator[Accelerator]:
    """An accelerator for a command; ended on every process, without which gloo aborts now and then."""
    accelerator = start_accelerator(*trainings)
    try:
        yield accelerator
    except Interrupted as stopped:
        if accelerator.is_main_process:
            print(stopped.sentence, file=sys.stderr)
        raise
    finally:
        accelerator.free_memory()
        accelerator.end_training()


def start_accelerator(*trainings: TrainingConfig) -> Accelerator:
    """One accelerator for all stages of a command, with the trackers of its trainings.

    Raises:
        ValueError: a tracker is not installed, or the launcher started several processes that do not know of
            each other.
    """
    trackers = sorted({tracker for training in trainings for tracker in training.trackers})
    if missing := [tracker for tracker in trackers if find_spec(tracker) is None]:
        raise ValueError(f"trackers: {', '.join(missing)} is not installed (pip install {' '.join(missing)})")

    accelerator = Accelerator(log_with=trackers or None, project_dir=".")
    asked = int(os.environ.get("WORLD_SIZE", 1))
    if accelerator.num_processes != asked:
        raise ValueError(
            f"the launcher started {asked} processes but each runs alone; "
            f"on processors without a GPU set ACCELERATE_USE_CPU=true before accelerate launch"
        )
    return accelerator


def sentence_of(error: ValueError | OSError) -> str:
    """What a person reads of an error: the system's own ones name the file first."""
    if isinstance(error, OSError) and error.filename:
        name = error.filename2 or error.filename  # of a renaming: what was to be there
        missing = isinstance(error, FileNotFoundError)
        return f"{name} does not exist" if missing else f"{name}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def exit_with_sentence() -> Iterator[None]:
    """Around a script's main: what a person caused ends in one line and status 2, a bug keeps its trace."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except FloatingPointError as error:  # a training that went wrong: neither a wrong setting nor a bug
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except (ValueError, OSError) as error:  # an output that is a file, a picture that is none, a full disk
        print(f"error: {sentence_of(error)}", file=sys.stderr)
        sys.exit(2)
