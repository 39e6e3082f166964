"""Runs what a study is missing in a process for each cell, several at a time."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from var_pe.comparison.engine import (
    SHARED,
    TAKEN,
    Plan,
    Progress,
    failure_file,
    failure_of,
    held,
    limited,
    missing,
    record_failure,
    result_of,
    sweep_key,
)
from var_pe.comparison.study import Study
from var_pe.comparison.sweep import chosen_for, sweeps
from var_pe.files import remove
from var_pe.processes import say

STOPPED = (130, 143)  # exit status of a cell that was asked to stop, and has saved
SECONDS_BETWEEN_LOOKS = 0.2


class Failed(ValueError):
    """Raised when what all cells share, such as the tokenizer, could not be made."""


def run_in_processes(plan: Plan, command: Sequence[str], jobs: int, *, retry: bool = False) -> None:
    """Everything that is missing, each cell in a process of its own, `jobs` of them at a time.

    `command` is the study's own command line, to which `--cell KEY` is added. Under a launcher of several
    processes each of these calls this, on its own GPU; a cell that another one works on is left to it.

    Raises:
        Failed: what all cells share could not be made.
    """
    environment = own_environment(plan.study)
    pool = Pool(plan, command, environment, jobs)
    with stopped_with_us(pool):
        remove(failure_file(plan, SHARED))
        pool.run([SHARED], done=lambda key: None)
        failure = failure_of(plan, SHARED)
        if failure is not None:
            raise Failed(failure)

        if sweeps(plan.study):
            arms = [arm for arm in plan.arms if chosen_for(plan.study, arm) is None]
            for arm in arms:
                remove(failure_file(plan, sweep_key(arm)))
            pool.run([sweep_key(arm) for arm in arms], done=lambda key: None)
            for arm in arms:
                failure = failure_of(plan, sweep_key(arm))
                if failure is not None:
                    raise Failed(f"{arm.name}: {failure}")

        todo = own_first([cell.key for cell in missing(plan, retry)])
        progress = Progress(plan, len(todo))
        pool.run(
            todo,
            done=lambda key: progress.done_with_one(),
            skip=lambda key: result_of(plan, plan.cell(key)) is not None,
        )

    # Cells that other processes have taken belong to the report, too.
    for cell in plan.cells:
        with held(plan, cell.key, wait=True):
            pass


def own_first(keys: Sequence[str]) -> list[str]:
    """The keys in the order in which this process of a launcher takes them: its share, then the others'."""
    rank, world = (
        int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"))
    )
    shares = [keys[start::world] for start in range(world)]
    return [key for share in (*shares[rank:], *shares[:rank]) for key in share]


def own_environment(study: Study) -> dict[str, str]:
    """The variables of a cell's process: alone, whatever launcher started this one, on one GPU of its own."""
    of_launchers = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    prefixes = ("TORCHELASTIC_", "GROUP_", "ROLE_", "ACCELERATE_", "FSDP_")
    kept = {"ACCELERATE_USE_CPU"}
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in kept or not (name in of_launchers or name.startswith(prefixes))
    }

    if study.threads:
        environment["OMP_NUM_THREADS"] = str(study.threads)
    if "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        mine = int(os.environ["LOCAL_RANK"])
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        devices = visible.split(",") if visible else list(map(str, range(torch.cuda.device_count())))
        environment["CUDA_VISIBLE_DEVICES"] = devices[mine % len(devices)]
    return environment


class Pool:
    """Processes of cells, at most so many at a time."""

    def __init__(self, plan: Plan, command: Sequence[str], environment: Mapping[str, str], jobs: int) -> None:
        self.plan, self.command, self.environment = plan, list(command), dict(environment)
        self.jobs = jobs
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def run(
        self,
        keys: Sequence[str],
        done: Callable[[str], object],
        skip: Callable[[str], bool] = lambda key: False,
    ) -> None:
        """A process for each key; `done(key)` is called after each that has ended.

        One that `skip(key)` says to be finished by then, by another call of the study, gets none.
        """
        waiting = list(keys)
        while waiting or self.running:
            while waiting and len(self.running) < self.jobs:
                key = waiting.pop(0)
                if skip(key):
                    done(key)
                else:
                    self._start(key)

            time.sleep(SECONDS_BETWEEN_LOOKS)
            for key, process in list(self.running.items()):
                status = process.poll()
                if status is not None:
                    del self.running[key]
                    self._ended(key, status)
                    done(key)

    def _start(self, key: str) -> None:
        folder = self.plan.output / "cells"
        folder.mkdir(parents=True, exist_ok=True)
        output = folder / f"{key}.txt"
        say(f"{key}: begun; it writes to {output}", sys.stdout)
        with output.open("ab") as text:
            self.running[key] = subprocess.Popen(
                [*self.command, "--cell", key],
                stdin=subprocess.DEVNULL,
                stdout=text,
                stderr=subprocess.STDOUT,
                env=self.environment,
            )

    def _ended(self, key: str, status: int) -> None:
        """Says how a cell's process ended, and records what it could not record itself."""
        if status == 0:
            say(f"{key}: done", sys.stdout)
        elif status == TAKEN:
            say(f"{key}: another process is working on it", sys.stdout)
        elif status in STOPPED or -status in (signal.SIGTERM, signal.SIGINT):
            sys.exit(status if status > 0 else 128 - status)
        else:
            if failure_of(self.plan, key) is None:
                how = f"ended with status {status}"
                if status < 0:
                    how = f"was ended by {signal.Signals(-status).name}"
                    how += " (perhaps memory ran out)" if -status == signal.SIGKILL else ""
                text = self.plan.output / "cells" / f"{key}.txt"
                record_failure(self.plan, key, f"its process {how}; what it wrote last is in {text}")
            say(f"{key}: failed: {failure_of(self.plan, key)}", sys.stderr)

    def stop(self) -> None:
        """Asks all processes to save and end, and waits for them."""
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            process.wait()


@contextmanager
def stopped_with_us(pool: Pool) -> Iterator[None]:
    """SIGTERM and Ctrl-C stop the cells' processes, which save first, and then this one."""

    def stop(signum: int, _: object) -> None:
        say("stopping the cells; they save first", sys.stderr)
        sys.exit(128 + signum)

    before = {signum: signal.signal(signum, stop) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        with limited(pool.plan.study):
            yield
    finally:
        pool.stop()
        for signum, handler in before.items():
            signal.signal(signum, handler)
