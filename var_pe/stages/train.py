"""Trains the tokenizer, the generator or the classifier of a config, each in one function.

A stage returns the finished model if its folder holds one. Otherwise it makes images, tokens, model and task,
claims the run folder, trains, and puts the result in place. The folder is claimed last, so that a config that
is refused leaves no trace.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml
from accelerate import Accelerator

from var_pe import settings
from var_pe.data.augmented import Augmented
from var_pe.data.counts import what_is_read
from var_pe.data.image_set import TrainingSet
from var_pe.data.images import ImageDataset
from var_pe.data.sources import DataConfig
from var_pe.files import into_place, write_text
from var_pe.models.folder import SavedModel
from var_pe.models.generator import VARTransformer
from var_pe.models.tokenizer import VQTokenizer
from var_pe.models.vit import ViTClassifier
from var_pe.processes import Processes
from var_pe.pyramid import Pyramid
from var_pe.stages.begun import Kind, ask, check_codes, is_finished, kept_grids, training_of
from var_pe.stages.config import Config, saved_config, settled_config
from var_pe.stages.images import (
    DrawnImages,
    held_out_images,
    held_out_images_at,
    training_images,
    training_images_at,
)
from var_pe.stages.models import (
    build_classifier,
    build_generator,
    build_tokenizer,
    initialise_from,
    load_model,
    start_tokenizer,
    weights_hash,
)
from var_pe.stages.pyramids import generator_pyramids, tokenizer_pyramids
from var_pe.stages.tokens import held_out_tokens, say_passed_over, training_tokens
from var_pe.tasks.classifier import ClassifierTask
from var_pe.tasks.generator import GeneratorTask
from var_pe.tasks.pyramids import one_of
from var_pe.tasks.tokenizer import TokenizerTask
from var_pe.training.history import History, Rule, said_of
from var_pe.training.loop import Trained, train
from var_pe.training.notes import TrainingNotes
from var_pe.training.run import Run

# The settings that each kind of weights depends on
TOKENIZER_SETTINGS = ("data", "tokenizer", "tokenizer_training", "tokenizer_seed", "tokenizer_init_from")
GENERATOR_SETTINGS = (
    *TOKENIZER_SETTINGS,
    "tokenizer_run",
    "generator",
    "generator_training",
    "model",
    "seed",
)
CLASSIFIER_SETTINGS = ("data", "model", "classifier", "classifier_training", "seed")


def train_tokenizer(config: Config, accelerator: Accelerator, extend: Rule | None = None) -> VQTokenizer:
    """The tokenizer that the config names: loaded if it is finished, else trained (or resumed, or extended).

    Raises:
        ValueError: the folder holds a tokenizer with other settings, cannot be extended so, or is the
            generator's, too.
    """
    check_folders(config)
    folder = Path(config.tokenizer_run)
    training, seed = config.tokenizer_training, config.tokenizer_seed
    config = settled_config(config)
    everything = asdict(config)
    check_settings(folder, {key: everything[key] for key in TOKENIZER_SETTINGS}, "tokenizer")
    if is_finished(config, folder, "tokenizer"):
        say_already_there(folder / "tokenizer", accelerator, extend)
        return load_model(VQTokenizer, folder / "tokenizer")

    # Images for each pyramid that a step may train on
    pyramids, model = tokenizer_pyramids(config), build_tokenizer(config)
    processes = Processes.of(accelerator)
    say_what_is_read(config.data, processes)
    cell = model.downsampling
    images = training_images_at(config, pyramids, cell, processes, seed)
    held_out = held_out_images_at(config, pyramids, cell, training.validation_images)

    first = images[pyramids[0]]
    dataset = one_of([images[pyramid] for pyramid in pyramids], training.batch, seed)
    history = ask(config, folder, "tokenizer", first.num_images, extend, training_set=first.identity)
    if history.start is None:
        history = replace(history, start=start_tokenizer(config, model))
    task = TokenizerTask(
        model,
        dataset,
        pyramids,
        held_out,
        training,
        steps=history.steps,
        seed=seed,
        trained_codes=history.start.codes if history.start else 0,
    )

    run = claim(folder, "tokenizer", config, history, accelerator)
    trained = train(task, training, run, steps=history.steps, seed=seed, asked=history.asked)
    put_in_place(run, "tokenizer", config, trained, dataset, history, first.class_names)
    return load_model(VQTokenizer, folder / "tokenizer")


def train_generator(
    config: Config, tokenizer: VQTokenizer, accelerator: Accelerator, extend: Rule | None = None
) -> VARTransformer:
    """The generator in the run's folder: loaded if it is finished, else trained on the tokenizer's codes.

    Raises:
        ValueError: the folder holds a generator with other settings or of other codes, or this one cannot be
            trained or extended so.
    """
    folder = Path(config.run)
    training, seed = config.generator_training, config.seed
    config = settled_config(config)
    pyramids = check_generator(config)
    if is_finished(config, folder, "generator"):
        say_already_there(folder / "generator", accelerator, extend)
        return load_model(VARTransformer, folder / "generator")

    # Images for each pyramid that a step may train on, augmented from the tokenizer's seed as its images were
    processes = Processes.of(accelerator)
    say_what_is_read(config.data, processes)
    tokenizer = tokenizer.to(accelerator.device)
    cell = tokenizer.downsampling
    images = training_images_at(config, pyramids, cell, processes, config.tokenizer_seed)
    first = images[pyramids[0]]
    codes = weights_hash(Path(config.tokenizer_run) / "tokenizer")
    history = ask(config, folder, "generator", first.num_images, extend, codes, training_set=first.identity)
    of_tokenizer = History.read(Path(config.tokenizer_run))
    if of_tokenizer and of_tokenizer.training_set not in (None, first.identity):
        processes.say(
            f"{config.tokenizer_run} was trained on other pictures than the generator is: some were added, "
            f"removed, exchanged or renamed since"
        )

    # Their tokens, encoded once and cached; without views, every batch is encoded when it is used.
    training_sets: Mapping[Pyramid, TrainingSet] = images
    if training.views:
        training_sets = training_tokens(config, tokenizer, images, processes)
    dataset = one_of([training_sets[pyramid] for pyramid in pyramids], training.batch, seed)
    held_out = held_out_tokens(config, tokenizer, list(images), training.validation_images)

    model = build_generator(config, len(first.class_names), kept_grids=kept_grids(history.start))
    if history.start is None:
        history = replace(history, start=initialise_from(config, model, first.class_names))
    task = GeneratorTask(
        model,
        tokenizer,
        dataset,
        pyramids,
        held_out,
        training,
        config.sampling,
        seed=seed,
        class_names=first.class_names,
    )

    run = claim(folder, "generator", config, history, accelerator)
    trained = train(task, training, run, steps=history.steps, seed=seed, asked=history.asked)
    put_in_place(run, "generator", config, trained, dataset, history, first.class_names)
    return load_model(VARTransformer, folder / "generator")


def train_classifier(config: Config, accelerator: Accelerator, extend: Rule | None = None) -> ViTClassifier:
    """The classifier in the run's folder: loaded if it is finished, else trained.

    Raises:
        ValueError: the folder holds a classifier with other settings, there are fewer than two classes, or it
            cannot be extended so.
    """
    assert config.classifier is not None, "only a config with a classifier section trains one"
    folder = Path(config.run)
    training, seed = config.classifier_training, config.seed
    config = settled_config(config)
    everything = asdict(config)
    check_settings(folder, {key: everything[key] for key in CLASSIFIER_SETTINGS}, "classifier")
    if is_finished(config, folder, "classifier"):
        say_already_there(folder / "classifier", accelerator, extend)
        return load_model(ViTClassifier, folder / "classifier")

    processes = Processes.of(accelerator)
    say_what_is_read(config.data, processes)
    images = training_images(config, processes, seed)
    class_names = tuple(images.class_names)
    if len(class_names) < 2:
        raise ValueError(
            f"a classifier needs at least two classes, {config.data.source} has {len(class_names)}"
        )

    # The training split, with or without RandAugment, or drawn images instead
    dataset: TrainingSet = images
    identity = images.identity
    if training.rand_augment:
        if not isinstance(images, ImageDataset):
            raise ValueError(
                "classifier_training.rand_augment needs images by number: set data.streaming=false"
            )
        dataset = Augmented(images, training.rand_augment, seed)
    if training.drawn_images:
        dataset = drawn = DrawnImages(Path(training.drawn_images), class_names)
        identity = drawn.identity

    history = ask(config, folder, "classifier", dataset.num_images, extend, training_set=identity)
    model = build_classifier(config, len(class_names), kept_grids=kept_grids(history.start))
    if history.start is None:
        history = replace(history, start=initialise_from(config, model, class_names))
    held_out = held_out_images(config, training.validation_images)
    task = ClassifierTask(model, dataset, held_out, training)

    run = claim(folder, "classifier", config, history, accelerator)
    trained = train(task, training, run, steps=history.steps, seed=seed, asked=history.asked)
    put_in_place(run, "classifier", config, trained, dataset, history, class_names)
    return load_model(ViTClassifier, folder / "classifier")


def say_what_is_read(data: DataConfig, processes: Processes) -> None:
    """Prints how many pictures of each class are trained and tested on, and what is left out."""
    for sentence in what_is_read(data):
        processes.say(sentence)


def check_generator(config: Config) -> list[Pyramid]:
    """The pyramids of the generator's training, checked; also called before the tokenizer is trained.

    Raises:
        ValueError: the generator cannot follow one of them, a stream would have to be cached as tokens, or
            the folder holds a generator with other settings or of other codes.
    """
    folder, everything = Path(config.run), asdict(settled_config(config))
    check_settings(folder, {key: everything[key] for key in GENERATOR_SETTINGS}, "generator")
    check_codes(config)
    if config.data.streaming and config.generator_training.views:
        raise ValueError("data.streaming has no token cache: set generator_training.views=0")
    return generator_pyramids(config)


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
    why = f"; --extend {extend} needs another number of steps or epochs than it has" if unused else ""
    Processes.of(accelerator).say(f"{model} is already there{why}")


def check_settings(folder: Path, mine: dict[str, Any], kind: Kind | None = None) -> None:
    """Checks that a run folder was made with these settings; those that change no weights may differ.

    So may the number of steps of the training of `kind`, which extends the run. A setting that was added
    after the run was made counts as its default.

    Raises:
        ValueError: the folder was made with other settings; the sentence names them.
    """
    path = folder / "config.yaml"
    if not path.exists():
        return

    saved = asdict(saved_config(path))

    # Runs from before data.subset_seed took the first images as stored, as null does. Without a limit it
    # chooses only what is validated on.
    if "subset_seed" not in (yaml.safe_load(path.read_text(encoding="utf-8")).get("data") or {}):
        saved["data"]["subset_seed"] = None
    if "data" in mine and mine["data"]["limit"] is None:
        saved["data"]["subset_seed"] = mine["data"]["subset_seed"]

    changed = settings.differences({key: saved.get(key) for key in mine}, mine, Config)
    allowed = [f"{kind}_training.{name}:" for name in ("steps", "epochs")]
    changed = [line for line in changed if not line.startswith(tuple(allowed))]

    # The codes that a generator learns are those of the tokenizer as it was.
    longer = ("tokenizer_training.steps:", "tokenizer_training.epochs:")
    if kind == "generator" and changed and all(line.startswith(longer) for line in changed):
        raise ValueError(
            f"{folder} learned the codes of {mine['tokenizer_run']} as it was before "
            f"({'; '.join(changed)}): extend the tokenizer by --stage tokenizer, then train a generator in "
            f"another folder (run=...)"
        )
    if changed:
        raise ValueError(
            f"{folder} was made with other settings: {'; '.join(changed)}; "
            f"choose another folder or set them back"
        )


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
        accelerator.init_trackers("tracking")

    run.processes.say(f"training the {kind} in {folder}: {history.steps} steps of {training.batch} images")
    if history.start is not None:
        run.processes.say(f"started from {history.start.run}: {'; '.join(history.start.moved)}")
    if len(history.asked) > 1:
        run.processes.say(said_of(history, training, folder))
    return run


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
            f"validation was the best ({trained.validated:.4g}; keep={training.keep})"
        )

    def write(partial: Path) -> None:
        model.save_pretrained(partial)
        notes.write(partial)

    run.processes.on_main(lambda: into_place(run.folder / kind, write))
    run.release()
