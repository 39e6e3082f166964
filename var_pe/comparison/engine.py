"""Runs what a study is missing: in this process, or a process for each cell, several at a time.

Whatever is done is kept in files, so the same call goes on after a stop or a kill at any point, and finds
nothing to do where all is done. A cell that fails is recorded with its sentence and not tried again unless
that is asked for; the others go on.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator

from var_pe.comparison.cells import finished, measure_cell, train_cell
from var_pe.comparison.other_sizes import check_sizes
from var_pe.comparison.results import CellResult
from var_pe.comparison.shared import prepare
from var_pe.comparison.study import Arm, Cell, Study, arms_of, cells_of
from var_pe.comparison.sweep import choose, chosen_for, sweeps, with_chosen
from var_pe.comparison.trials import slug
from var_pe.files import remove, write_json
from var_pe.processes import reset_peak_memory, say
from var_pe.progress import duration, number_of
from var_pe.stages.train import check_generator
from var_pe.training.checkpoints import steps_in
from var_pe.training.stopping import end_with_parent

SHARED = "shared"  # the key of what all cells share
TAKEN = 75  # exit status of a cell that another process is working on
STOPPED = (130, 143)  # of one that was asked to stop, and has saved
SECONDS_BETWEEN_LOOKS = 0.2


class Failed(ValueError):
    """Something that all cells need has failed."""


@dataclass(frozen=True)
class Plan:
    """A study with all its arms and cells."""

    study: Study
    arms: list[Arm]
    cells: list[Cell]

    @property
    def output(self) -> Path:
        return Path(self.study.output)

    def cell(self, key: str) -> Cell:
        """The cell called so, with its arm's learning rate and guidance."""
        return with_chosen(self.study, next(cell for cell in self.cells if cell.key == key))


def plan_of(study: Study) -> Plan:
    """The plan of a study, checked.

    Raises:
        ValueError: an arm cannot be trained, or a folder holds runs of other settings.
    """
    arms = arms_of(study)
    for arm in arms:
        check_sizes(arm.config, study)
    plan = Plan(study, arms, cells_of(study, arms))
    # A run that is there was trained with what was chosen for its arm.
    for cell in plan.cells:
        check_generator(with_chosen(study, cell).config)
    return plan


# ---------------------------------------------------------------------------------- what is known of cells


def failure_file(plan: Plan, key: str) -> Path:
    return plan.output / "cells" / f"{key}.failed.json"


def failure_of(plan: Plan, key: str) -> str | None:
    """The sentence with which a cell failed; None if it did not."""
    file = failure_file(plan, key)
    if not file.exists():
        return None
    return str(json.loads(file.read_text(encoding="utf-8"))["sentence"])


def record_failure(plan: Plan, key: str, sentence: str, trace: str = "") -> None:
    """Writes down that a cell has failed, with where in the code if that is known."""
    file = failure_file(plan, key)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {"sentence": sentence, "traceback": trace.splitlines()})


def result_of(plan: Plan, cell: Cell) -> CellResult | None:
    """A cell's result; None if it is not finished."""
    return finished(cell, plan.study)


def state_of(plan: Plan, cell: Cell) -> str:
    """Where a cell stands, for people."""
    if result_of(plan, cell) is not None:
        return "finished"
    failure = failure_of(plan, cell.key)
    if failure is not None:
        return f"failed: {failure}"
    if (cell.run / "generator").exists():
        return "trained, to be measured"
    done = max([0, *steps_in(cell.run / "checkpoints")])
    return f"begun, after step {done}" if done else "to be trained"


@contextmanager
def held(plan: Plan, key: str, *, wait: bool = False) -> Iterator[bool]:
    """Whether this process may work on a cell: no other does while the block lasts."""
    file = plan.output / "cells" / f"{key}.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


# ------------------------------------------------------------------------------------------- in one process


def run_here(plan: Plan, accelerator: Accelerator, *, retry: bool = False) -> None:
    """Everything that is missing, one after the other, in this process.

    All cells are trained before any is measured, so that memory which feature extractors leave behind does
    not count in a training's peak.
    """
    use_threads(plan.study)
    reset_peak_memory(accelerator.device)
    prepare(plan.study, plan.arms, accelerator)
    if sweeps(plan.study):
        for arm in plan.arms:
            choose(plan.study, arm, accelerator)

    todo = list(missing(plan, retry))
    progress = Progress(plan, len(todo))
    trained = []
    for cell in todo:
        number = plan.cells.index(next(each for each in plan.cells if each.key == cell.key)) + 1
        say(f"cell {number} of {len(plan.cells)}: {cell.arm.name}, seed {cell.seed}", sys.stdout)
        with held(plan, cell.key) as mine:
            if not mine:
                say("another process works on it", sys.stdout)
            elif attempt(plan, cell.key, partial(train_cell, cell, accelerator)):
                trained.append(cell)
        progress.done_with_one()

    for cell in trained:
        with held(plan, cell.key) as mine:
            if mine:
                attempt(plan, cell.key, partial(measure_cell, cell, plan.study, accelerator))


def missing(plan: Plan, retry: bool) -> Iterator[Cell]:
    """The cells that are to be done, with what was chosen for their arms; failed ones only to try again."""
    for cell in plan.cells:
        cell = with_chosen(plan.study, cell)
        if result_of(plan, cell) is not None:
            continue
        if failure_of(plan, cell.key) is not None:
            if not retry:
                continue
            remove(failure_file(plan, cell.key))
        yield cell


def attempt(plan: Plan, key: str, action: Callable[[], object]) -> bool:
    """Does it; an error is recorded, and False given back."""
    try:
        action()
    except Exception as error:  # whatever it is, the other cells go on
        known = isinstance(error, ValueError | OSError | FloatingPointError)
        words = " ".join(str(error).split())
        sentence = words if known and words else f"{type(error).__name__}: {words}"
        record_failure(plan, key, sentence, "" if known else traceback.format_exc())
        say(f"failed: {key}: {sentence}", sys.stderr)
        return False
    return True


def run_one(plan: Plan, key: str, accelerator: Accelerator) -> int:
    """What a process of its own does for one cell, or for what all share; its exit status."""
    end_with_parent(signal.SIGTERM)
    use_threads(plan.study)
    reset_peak_memory(accelerator.device)
    with held(plan, key, wait=key == SHARED) as mine:
        if not mine:
            return TAKEN
        if key == SHARED:
            return int(not attempt(plan, key, lambda: prepare(plan.study, plan.arms, accelerator)))

        arm = next((arm for arm in plan.arms if sweep_key(arm) == key), None)
        if arm is not None:
            return int(not attempt(plan, key, lambda: choose(plan.study, arm, accelerator)))

        cell = plan.cell(key)
        both = attempt(plan, key, lambda: train_cell(cell, accelerator)) and attempt(
            plan, key, lambda: measure_cell(cell, plan.study, accelerator)
        )
        return int(not both)


def sweep_key(arm: Arm) -> str:
    """The key of the choice of an arm's learning rate and guidance."""
    return f"sweep_{slug(arm.name)}"


def use_threads(study: Study) -> None:
    """Computes with the study's number of threads, which changes bits."""
    if study.threads:
        torch.set_num_threads(study.threads)


@contextmanager
def limited(study: Study) -> Iterator[None]:
    """Ends the process as SIGTERM does, which lets a training save, when the study's hours are over."""
    if not study.hours:
        yield
        return

    def over(*_: object) -> None:
        say(f"hours={study.hours:g} are over; the same command goes on", sys.stderr)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, 3600 * study.hours)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# ------------------------------------------------------------------------------------- in several processes


class Progress:
    """How far the study is, and how long the rest will take at the pace so far."""

    def __init__(self, plan: Plan, todo: int) -> None:
        self.total, self.todo = len(plan.cells), todo
        self.done, self.began = 0, time.monotonic()

    def done_with_one(self) -> None:
        self.done += 1
        left = self.todo - self.done
        if left:
            seconds = (time.monotonic() - self.began) / self.done * left
            share = (self.total - left) / self.total
            said = f"{number_of(left, 'cell')} of {self.total} to go ({share:.0%} done), about"
            say(f"{said} {duration(seconds)}", sys.stdout)


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
            say(f"{key}: another process works on it", sys.stdout)
        elif status in STOPPED or -status in (signal.SIGTERM, signal.SIGINT):
            sys.exit(status if status > 0 else 128 - status)
        else:
            if failure_of(self.plan, key) is None:
                how = f"ended with status {status}"
                if status < 0:
                    how = f"was ended by {signal.Signals(-status).name}"
                    how += " (perhaps for want of memory)" if -status == signal.SIGKILL else ""
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
        say("stopping the cells, which save first", sys.stderr)
        sys.exit(128 + signum)

    before = {signum: signal.signal(signum, stop) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        with limited(pool.plan.study):
            yield
    finally:
        pool.stop()
        for signum, handler in before.items():
            signal.signal(signum, handler)
