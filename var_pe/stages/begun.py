"""Trainings that were begun in a folder: what it says of them, and what a new number of steps means."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

from accelerate.utils import DistributedType

from var_pe import settings
from var_pe.models.kernels import Kernel, Served, rows_for
from var_pe.processes import Processes
from var_pe.pyramid import Grid
from var_pe.stages.config import Config, Kind
from var_pe.stages.models import find_tokenizer, weights_hash
from var_pe.training.checkpoints import steps_in
from var_pe.training.compilation import chosen
from var_pe.training.config import TrainingConfig
from var_pe.training.history import NUMBERS, History, Rule, Start, StepsAsked, asked_for
from var_pe.training.notes import TrainingNotes


def training_of(config: Config, kind: Kind) -> TrainingConfig:
    """The settings of the training of one kind of model."""
    found: dict[Kind, TrainingConfig] = {
        "tokenizer": config.tokenizer_training,
        "generator": config.generator_training,
        "classifier": config.classifier_training,
        "encoder": config.encoder_training,
        "segmenter": config.segmenter_training,
        "detector": config.detector_training,
    }
    return found[kind]


def has_begun(folder: Path) -> bool:
    """Whether the folder holds something that was trained: a checkpoint, or a finished model of any kind."""
    finished = any((folder / kind).exists() for kind in get_args(Kind))
    return finished or bool(steps_in(folder / "checkpoints"))


def is_finished(config: Config, folder: Path, kind: Kind) -> bool:
    """Whether the folder holds a finished model, of as many steps as the config asks for."""
    if not (folder / kind).exists():
        return False

    training, history = training_of(config, kind), History.read(folder)
    if history is not None:
        all_done = history.asked == TrainingNotes.read(folder / kind).asked
        return all_done and history.steps == training.steps_for(history.images)

    # A run of an earlier version has no history: its settings say how many steps it had.
    if not (folder / "config.yaml").exists():
        return True
    saved = training_of(settings.load(Config, folder / "config.yaml"), kind)
    return saved.steps == training.steps and (saved.steps > 0 or saved.epochs == training.epochs)


def ask(
    config: Config,
    folder: Path,
    kind: Kind,
    images: int | None,
    rule: Rule | None,
    tokenizer: str | None = None,
    *,
    training_set: str | None = None,
) -> History:
    """The run's history after the config's steps were asked for, on `images` training images.

    `training_set` identifies these images (None: a stream, unknown), and `tokenizer` is the hash of the
    tokenizer whose codes a generator is to learn.

    Raises:
        ValueError: the run cannot be extended or shortened to these steps, its training set has changed, or
            its steps were computed by another rule.
    """
    check_numbers(folder)
    training, done = training_of(config, kind), max([0, *steps_in(folder / "checkpoints")])
    steps, history = training.steps_for(images), History.read(folder)

    if not done:
        if (folder / kind).exists():
            setting = "tokenizer_init_from" if kind == "tokenizer" else "model.init_from"
            raise ValueError(
                f"{folder} is finished and has no checkpoint left to go on from, but {steps} steps are "
                f"asked for: start another run from its weights ({setting}={folder})"
            )
        return History((StepsAsked(0, steps),), images, tokenizer, training_set=training_set)

    # A run of an earlier version has no history: its settings say what it was asked for.
    if history is None:
        saved = training_of(settings.load(Config, folder / "config.yaml"), kind)
        history = History((StepsAsked(0, saved.steps_for(images)),), images, tokenizer, numbers=1)

    if history.images != images:
        raise ValueError(
            f"{folder} was trained for {done} steps on {history.images} images, and there are {images} now: "
            f"put the training set back, or train in another folder"
        )
    if history.training_set not in (None, training_set):
        raise ValueError(
            f"{folder} was trained for {done} steps on {history.images} images, and some of the {images} "
            f"that are in {config.data.path or config.data.source} now are different, or have other names "
            "or labels: put the training set back, or train in another folder"
        )

    # Earlier versions did not note it: what is there now counts from here on.
    history = replace(history, training_set=training_set)
    return asked_for(history, steps, done, rule, training, folder)


def with_ways(history: History, config: Config, kind: Kind, processes: Processes) -> History:
    """The history with all ways of computing that rounding depends on: what is compiled, and the kernels."""
    return with_kernels(with_compiled(history, config, kind, processes), kind, processes)


def with_kernels(history: History, kind: Kind, processes: Processes) -> History:
    """The history with the kernels of attention: this version's in a new training, as before in an old one.

    A training that has moved to another kind of device takes this version's there.

    Raises:
        ValueError: a kernel that it was begun with is not in this version.
    """
    here, before = rows_for(processes.device.type), history.kernels
    unknown = sorted({row.beyond for row in before.values()} - set(get_args(Kernel)))
    if unknown:
        raise ValueError(
            f"the {kind}'s training was begun by another version, whose attention is computed by a kernel "
            f"{unknown[0]} that is not here: finish it with that version, or train in another folder"
        )

    if any(before.get(name, row) != row for name, row in here.items()):
        processes.say(
            f"attention of the {kind} goes on by the kernels that its training was begun with; this version "
            f"would choose others"
        )
    return replace(history, kernels=here | before)


def with_compiled(history: History, config: Config, kind: Kind, processes: Processes) -> History:
    """The history with what this training compiles: chosen for a new one, as before in one that goes on.

    Raises:
        ValueError: there is no compiler here, or the whole of a model that FSDP splits is to be compiled.
    """
    training, device = training_of(config, kind), processes.device.type
    before = history.compiled
    try:
        compiled, why = chosen(before or training.compile, device, history.steps)
    except ValueError as error:
        begun = "the training was begun compiled, but " if before else ""
        raise ValueError(f"{kind}_training: {begun}{error}") from None

    accelerator = processes.accelerator
    split = accelerator is not None and accelerator.distributed_type == DistributedType.FSDP
    if compiled == "whole" and split:
        raise ValueError(
            f"{kind}_training.compile=whole would compile across the blocks that FSDP gathers one by one: "
            f"set {kind}_training.compile=blocks"
        )

    if compiled != "none" or "needs" in why:
        reason = f" ({why})" if why else ""
        processes.say(f"torch.compile of the {kind}: {compiled}{reason}")
    return replace(history, compiled=compiled)


def numbers_of(folder: Path) -> int | None:
    """The rule of numbers (`NUMBERS`) that the training in `folder` was begun under; None: none was begun."""
    if not has_begun(folder):
        return None
    history = History.read(folder)
    return 1 if history is None else history.numbers


def kernels_of(folder: Path) -> dict[str, Served]:
    """The kernels of attention that the training in `folder` was begun with; empty if it notes none."""
    history = History.read(folder) if has_begun(folder) else None
    return {} if history is None else history.kernels


def check_numbers(folder: Path) -> None:
    """Checks that a training that is resumed in `folder` computes its steps as the earlier ones were.

    Raises:
        ValueError: it was begun under another rule, and would end as a mixture of the two.
    """
    begun = numbers_of(folder)
    if begun not in (None, NUMBERS):
        raise ValueError(
            f"{folder} was begun by another version, whose training steps compute other numbers (by rule "
            f"{begun}, here it is {NUMBERS}): finish it with that version, or train in another folder"
        )


def steps_first_asked(folder: Path, steps: int) -> int:
    """What shares of steps are of: the steps first asked of the run in `folder`; `steps` for a new one."""
    history = History.read(folder) if steps_in(folder / "checkpoints") else None
    return steps if history is None else history.asked[0].steps


def start_of(folder: Path) -> Start | None:
    """The model that a run started from, as its history notes it; None before its first checkpoint.

    A run that has a checkpoint does not need that model any more.
    """
    history = History.read(folder) if steps_in(folder / "checkpoints") else None
    return None if history is None else history.start


def kept_grids(start: Start | None) -> list[Grid] | None:
    """The grids that the position encoding kept from the model that the run started from, if there is one."""
    return None if start is None or start.old_encoding is not None else start.kept_grids


def check_codes(config: Config) -> None:
    """Checks that the tokenizer is still the one whose codes the run's generator (or encoder) learns.

    Raises:
        ValueError: it is another one, to which the tokens mean other codes.
    """
    run, tokenizer = Path(config.run), find_tokenizer(config)
    known, history = TrainingNotes.read(run / "generator").tokenizer, History.read(run)
    if history is not None and steps_in(run / "checkpoints"):
        known = history.tokenizer

    if known is not None and tokenizer.exists() and known != weights_hash(tokenizer):
        raise ValueError(
            f"{run} learned the codes of another tokenizer than {config.tokenizer_run} holds now, since "
            "that was extended or trained anew: put its former weights back, or train in another folder"
        )
