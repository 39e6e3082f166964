"""Whether a launcher started this process, is still waiting for it, and how many threads it gave it."""

import os
import signal
import sys
from pathlib import Path

import torch

from var_pe.processes import say
from var_pe.training.stopping import end_with_parent

# What is run as a launcher: a program's name, or a module after `python -m`
LAUNCHERS = {
    "accelerate",
    "accelerate-launch",
    "accelerate.commands.launch",
    "accelerate.commands.accelerate_cli",
    "torchrun",
    "torch.distributed.run",
    "torch.distributed.launch",
}

# Variables that only launchers set: Accelerate's of one process, that of several
SET_BY_LAUNCHERS = ("ACCELERATE_DYNAMO_USE_FULLGRAPH", "TORCHELASTIC_RUN_ID")

# How Accelerate's launcher is asked for a number of threads
THREAD_OPTIONS = ("--num_cpu_threads_per_process", "--num-cpu-threads-per-process")


def follow_launcher() -> None:
    """Stops this process when the launcher that started it ends, by SIGTERM.

    The launcher of one process passes no signal on: stopped by SIGTERM, it would leave the training running
    without anybody who knows of it. A process that was not started by a launcher outlives its parent, such as
    a shell that is left.

    Raises:
        SystemExit: the launcher has ended already.
    """
    parent = os.getppid()
    started = any(name in os.environ for name in SET_BY_LAUNCHERS)
    if started and is_launcher(parent):
        end_with_parent(signal.SIGTERM)
        if os.getppid() == parent:
            return
    elif not started or not adopts_orphans(parent):
        return
    say("stopped before anything was done: the launcher has ended", sys.stderr)
    sys.exit(128 + signal.SIGTERM)


def was_meant_for_several() -> bool:
    """Whether a launcher that started one process was asked for several; only its port tells."""
    parent = os.getppid()
    if "MASTER_PORT" not in os.environ or not is_launcher(parent):
        return False
    given = words_of(parent, "environ")
    return bool(given) and not any(word.startswith("MASTER_PORT=") for word in given)


def is_launcher(process: int) -> bool:
    return any(Path(word).name in LAUNCHERS for word in words_of(process, "cmdline"))


def adopts_orphans(process: int) -> bool:
    """Whether a process is one that becomes the parent of those whose own has ended."""
    words = words_of(process, "cmdline")
    return process == 1 or (bool(words) and Path(words[0]).name == "systemd")


def words_of(process: int, file: str) -> list[str]:
    """A process's command line (`cmdline`) or variables (`environ`); none where the system does not say."""
    try:
        line = Path(f"/proc/{process}/{file}").read_text(errors="replace")
    except OSError:
        return []
    return [word for word in line.split("\0") if word]


def unused_threads() -> str | None:
    """A sentence where a launcher gave this process one thread of several cores and nobody asked for that.

    Both launchers set OMP_NUM_THREADS=1 where it is not set: Accelerate's unless a file or an option says
    that it computes on processors, torchrun's for several processes.
    """
    if not any(name in os.environ for name in SET_BY_LAUNCHERS) or torch.get_num_threads() > 1:
        return None

    parent = os.getppid()
    chosen = any(word.startswith("OMP_NUM_THREADS=") for word in words_of(parent, "environ"))
    chosen |= any(word.split("=")[0] in THREAD_OPTIONS for word in words_of(parent, "cmdline"))
    cores = available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if chosen or cores < 2:
        return None

    return (
        f"computing with 1 of {cores} threads: the launcher set OMP_NUM_THREADS=1 without being asked; "
        f"for all, launch with --config_file configs/accelerate/cpu.yaml or set OMP_NUM_THREADS={cores}"
    )


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
