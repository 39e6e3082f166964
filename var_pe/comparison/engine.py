"""Runs what a study is missing, in this process: all of it, or one cell.

Whatever is done is kept in files, so the same call goes on after a stop or a kill at any point, and finds
nothing to do where all is done. A cell that fails is recorded with its sentence and not tried again unless
that is asked for; the others go on.
"""

import fcntl
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator

from var_pe.comparison.cells import check_drawn_classifier, finished, measure_cell, train_cell
from var_pe.comparison.other_sizes import check_sizes
from var_pe.comparison.results import CellResult
from var_pe.comparison.shared import check_scores, prepare
from var_pe.comparison.study import Arm, Cell, Study, arms_of, cells_of
from var_pe.comparison.sweep import choose, sweeps, with_chosen
from var_pe.comparison.trials import slug
from var_pe.encodings.machinery.bands import can_be_remapped
from var_pe.files import remove, write_json
from var_pe.processes import reset_peak_memory, say
from var_pe.progress import duration, number_of
from var_pe.settings.files import show
from var_pe.stages.train import check_generator
from var_pe.training.checkpoints import steps_in
from var_pe.training.stopping import end_with_parent

SHARED = "shared"  # the key of what all cells share
TAKEN = 75  # exit status of a cell that another process is working on


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
        """The cell with this key, with its arm's learning rate and guidance.

        Raises:
            ValueError: there is none.
        """
        for cell in self.cells:
            if cell.key == key:
                return with_chosen(self.study, cell)
        raise ValueError(f"--cell {key}: this study has no such cell; --dry-run lists those that it has")


def plan_of(study: Study) -> Plan:
    """The plan of a study, checked.

    Raises:
        ValueError: an arm cannot be trained, or a folder holds runs of other settings.
    """
    arms = arms_of(study)
    check_scores(study, arms)
    for arm in arms:
        check_sizes(arm.config, study)
    if study.remaps and not any(can_be_remapped(arm.config.generator.encoding) for arm in arms):
        raise ValueError(
            f"remaps={show(study.remaps)}: no arm has rope in cells, whose waves they would slow down"
        )
    plan = Plan(study, arms, cells_of(study, arms))
    # A run that is there was trained with what was chosen for its arm.
    for cell in plan.cells:
        check_generator(with_chosen(study, cell).config)
        check_drawn_classifier(cell, study)
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
    """What is done of a cell, in words."""
    if result_of(plan, cell) is not None:
        return "finished"
    failure = failure_of(plan, cell.key)
    if failure is not None:
        return f"failed: {failure}"
    if (cell.run / "generator").exists():
        return "trained, to be measured"
    done = max([0, *steps_in(cell.run / "checkpoints")])
    return f"begun, after step {done}" if done else "to be trained"


def note_process(plan: Plan, cell: Cell, *, own: bool) -> None:
    """Notes whether a training has a process of its own, before it begins: its peak of memory rests on it."""
    if (cell.run / "generator").exists():
        return  # nothing is trained here
    file = plan.output / "cells" / f"{cell.key}.process.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {"own": own and had_own_process(plan, cell, otherwise=True)})


def had_own_process(plan: Plan, cell: Cell, *, otherwise: bool) -> bool:
    """Whether all of a cell's training was in processes of its own; `otherwise` if nobody noted it."""
    file = plan.output / "cells" / f"{cell.key}.process.json"
    return bool(json.loads(file.read_text(encoding="utf-8"))["own"]) if file.exists() else otherwise


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
                say("another process is working on it", sys.stdout)
            else:
                note_process(plan, cell, own=False)
                if attempt(plan, cell.key, partial(train_cell, cell, accelerator)):
                    trained.append(cell)
        progress.done_with_one()

    for number, cell in enumerate(trained, 1):
        say(f"measuring {number} of {len(trained)}: {cell.arm.name}, seed {cell.seed}", sys.stdout)
        with held(plan, cell.key) as mine:
            if mine:
                attempt(plan, cell.key, partial(measure_cell, cell, plan.study, accelerator))


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
    """Runs `action`; an error is recorded as the cell's failure. Returns whether there was none."""
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
    """Runs one cell, or what all cells share, in a process of its own; returns its exit status."""
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
        note_process(plan, cell, own=True)
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
        say(f"hours={study.hours:g} are over; to go on, run the same command again", sys.stderr)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, 3600 * study.hours)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
