"""What stands around every command's work: the accelerator, and its end on every process."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from accelerate import Accelerator

from var_pe.training.loop import TrainingConfig
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
