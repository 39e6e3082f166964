"""A run's folder around its training: whose settings it holds, how it is claimed, what is put in place."""

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from accelerate import Accelerator

from var_pe import settings
from var_pe.data.image_set import TrainingSet
from var_pe.data.sources import DataConfig, open_source
from var_pe.files import into_place, write_text
from var_pe.models.folder import SavedModel
from var_pe.processes import Processes
from var_pe.progress import number_of
from var_pe.pyramid import Pyramid
from var_pe.stages.begun import has_begun, training_of
from var_pe.stages.config import Config, Kind, saved_config
from var_pe.stages.models import (
    build_classifier,
    build_detector,
    build_generator,
    build_segmenter,
    build_tokenizer,
    find_tokenizer,
    weights_hash,
)
from var_pe.stages.tokens import say_passed_over
from var_pe.training.config import TrainingConfig
from var_pe.training.history import History, Rule, said_of
from var_pe.training.loop import Trained
from var_pe.training.notes import TrainingNotes
from var_pe.training.run import Run

# The settings that each kind of weights depends on
OF_TOKENIZER = ("data", "tokenizer", "tokenizer_training", "tokenizer_seed", "tokenizer_init_from")
SETTINGS: dict[Kind, tuple[str, ...]] = {
    "tokenizer": OF_TOKENIZER,
    "generator": (*OF_TOKENIZER, "tokenizer_run", "generator", "generator_training", "model", "seed"),
    "classifier": ("data", "model", "classifier", "classifier_training", "seed"),
    "encoder": ("data", "model", "classifier", "encoder", "encoder_training", "seed"),
    "segmenter": ("data", "model", "classifier", "segmenter", "segmenter_training", "seed"),
    "detector": ("data", "model", "classifier", "detector", "detector_training", "seed"),
}

# Fewer steps than this are remarked on. The shortest training of configs/ has 938.
FEW_STEPS = 500


def check_folders(config: Config) -> None:
    """Checks that tokenizer and generator do not share a folder, by whatever names.

    Raises:
        ValueError: they do, and would read each other's checkpoints.
    """
    if os.path.realpath(config.run) == os.path.realpath(config.tokenizer_run):
        raise ValueError(
            f"run={config.run} and tokenizer_run={config.tokenizer_run} are the same folder, but each "
            f"training needs its own"
        )


def say_already_there(model: Path, accelerator: Accelerator, extend: Rule | None) -> None:
    """Says that nothing is trained; and why not, if a rule was given that the model was not extended by."""
    asked = TrainingNotes.read(model).asked or ()
    unused = extend is not None and not any(entry.rule == extend for entry in asked)
    why = f"; --extend {extend} has no effect without more steps or epochs" if unused else ""
    Processes.of(accelerator).say(f"{model} is already there{why}")


def check_settings(folder: Path, config: Config, kind: Kind) -> None:
    """Checks that a training that was begun in this folder had the config's settings.

    Those that the weights do not depend on may differ, and so may the number of steps, which extends the run.
    A setting that was added after the run was made counts as its default or as what the run did without it
    (`stages/config.py`). A folder in which nothing was trained holds nobody to its config.yaml. Pictures may
    have moved, if they are the same.

    Raises:
        ValueError: the training was begun with other settings; the sentence names them. If no model can be
            built with the config's, as with an encoding that does not exist, it says that instead.
    """
    path = folder / "config.yaml"
    if not (path.exists() and has_begun(folder)):
        return

    everything = asdict(_with_short_levels(config))
    mine = {key: everything[key] for key in SETTINGS[kind]}
    saved = asdict(_with_short_levels(saved_config(path)))

    # Without a part of the pictures this seed chooses only what is validated on.
    if mine["data"]["limit"] is None and mine["data"]["train_share"] == 1:
        saved["data"]["subset_seed"] = mine["data"]["subset_seed"]

    changed = settings.differences({key: saved.get(key) for key in mine}, mine, Config)
    allowed = [f"{kind}_training.{name}:" for name in ("steps", "epochs")]
    if kind == "generator" and _learned_codes_of(folder, config):
        allowed.append("tokenizer_run:")  # moved together with it
    # A config.yaml of a person's own may leave it open; it is settled when a run is made.
    open_before = "_training.precision: auto -> "
    changed = [line for line in changed if not line.startswith(tuple(allowed)) and open_before not in line]

    # A misspelled line is also another line than the run's, but another folder would not help it.
    if changed:
        _check_builds(config, kind)

    # The codes that a generator learns are those of the tokenizer as it was.
    longer = ("tokenizer_training.steps:", "tokenizer_training.epochs:")
    if kind == "generator" and changed and all(line.startswith(longer) for line in changed):
        raise ValueError(
            f"{folder} learned the codes of {mine['tokenizer_run']} after another number of its steps "
            f"({'; '.join(changed)}): extend the tokenizer with --stage tokenizer, then train a generator "
            "in another folder (run=...)"
        )
    if changed and all(line.startswith("data.path:") for line in changed):
        changed = changed if not has_moved(folder, config.data) else []
    if changed:
        raise ValueError(
            f"{folder} was made with other settings: {'; '.join(changed)}; "
            f"choose another folder or set them back"
        )


def _with_short_levels(config: Config) -> Config:
    """The config with square grids written as one side, so that equal levels look equal."""
    grids = Pyramid.of(config.tokenizer.levels).grids
    levels = [rows if rows == columns else [rows, columns] for rows, columns in grids]
    return replace(config, tokenizer=replace(config.tokenizer, levels=levels))


def _check_builds(config: Config, kind: Kind) -> None:
    """Builds the model of the config without memory; that of an encoder or a head without what is around it.

    Raises:
        ValueError: a setting does not exist or does not fit the others.
    """
    with torch.device("meta"):
        if kind in ("tokenizer", "generator"):
            build_tokenizer(config)
        if kind == "generator":
            build_generator(config, num_classes=2)
        elif kind in ("classifier", "encoder"):
            build_classifier(config, num_classes=2)
        elif kind == "segmenter":
            build_segmenter(config, num_classes=2)
        elif kind == "detector":
            build_detector(config, num_classes=2)


def has_moved(folder: Path, data: DataConfig) -> bool:
    """Whether the pictures at data.path are those that a run was trained on, which lay elsewhere then."""
    history = History.read(folder)
    if history is None or history.training_set is None:
        return False
    return open_source(data, train=True).identity == history.training_set


def _learned_codes_of(folder: Path, config: Config) -> bool:
    """Whether the config's tokenizer is the one whose codes the run learned, wherever it lies."""
    history, tokenizer = History.read(folder), find_tokenizer(config)
    if history is None or history.tokenizer is None or not tokenizer.exists():
        return False
    return history.tokenizer == weights_hash(tokenizer)


def remarks_on_steps(training: TrainingConfig, kind: Kind, images: int | None) -> list[str]:
    """A sentence if the passes that a config asks for over a small set make very few steps; else nothing.

    Steps that a person asked for are not remarked on.
    """
    steps = training.steps_for(images)
    if training.steps or steps >= FEW_STEPS:
        return []
    return [
        f"{kind}_training.epochs={training.epochs:g} over {number_of(images or 0, 'image')} is "
        f"{number_of(steps, 'step')}, which is very few, however small the set is (the configs here take 900 "
        f"and more): set {kind}_training.steps"
    ]


def claim(folder: Path, kind: Kind, config: Config, history: History, accelerator: Accelerator) -> Run:
    """Takes the run folder for this training, writes the resolved config into it and starts the trackers.

    Raises:
        ValueError: another process holds the folder.
    """
    run, training = Run(folder, accelerator), training_of(config, kind)

    def write() -> None:
        history.write(folder)
        write_text(folder / "config.yaml", settings.to_yaml(config))

    run.processes.on_main(write)
    accelerator.trackers = []  # those of the stage before, whose folder is another
    if training.trackers:
        accelerator.project_configuration.logging_dir = str(folder)
        accelerator.init_trackers("tracking", init_kwargs={"trackio": of_trackio(folder)})

    steps, images = number_of(history.steps, "step"), number_of(training.batch, "image")
    run.processes.say(f"training the {kind} in {folder}: {steps} of {images}")
    for remark in remarks_on_steps(training, kind, history.images):
        run.processes.say(remark)
    if history.start is not None:
        run.processes.say(f"started from {history.start.run}: {'; '.join(history.start.moved)}")
    if len(history.asked) > 1:
        run.processes.say(said_of(history, training, folder))
    return run


def of_trackio(folder: Path) -> dict[str, object]:
    """How trackio calls a run: in one project with all others, so that they are compared; one that is resumed
    goes on in its own curves."""
    name = str(folder).strip("/").replace("/", " ")
    return {"name": name, "group": folder.parent.name, "resume": "allow", "embed": False}


def put_in_place(
    run: Run,
    kind: Kind,
    config: Config,
    trained: Trained,
    dataset: TrainingSet,
    history: History,
    class_names: Sequence[str],
) -> None:
    """Saves the averaged weights as the folder's finished model, whole or not at all; releases the folder."""
    model, training = trained.model, training_of(config, kind)
    assert isinstance(model, SavedModel)
    say_passed_over(dataset, run.processes)

    notes = TrainingNotes(
        step=trained.step,
        ema=True,
        seed=config.tokenizer_seed if kind == "tokenizer" else config.seed,
        class_names=tuple(class_names),
        keep=training.keep,
        validated=trained.validated,
        steps_done=trained.steps_done,
        asked=history.asked,
        tokenizer=history.tokenizer,
        start=history.start,
    )
    if trained.step != trained.steps_done:
        run.processes.say(
            f"the finished {kind} is the average of step {trained.step} of {trained.steps_done}, whose "
            f"validation was the best ({trained.validated:.4g}; keep={training.keep}): test images chose "
            "it, so scores on them may be better than on new images"
        )

    def write(partial: Path) -> None:
        model.save_pretrained(partial)
        notes.write(partial)

    run.processes.on_main(lambda: into_place(run.folder / kind, write))
    run.release()
