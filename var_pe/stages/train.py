"""Trains the tokenizer, the generator or the classifier of a config, each in one function.

A stage returns the finished model if its folder holds one. Otherwise it makes images, tokens, model and task,
claims the run folder, trains, and puts the result in place. The folder is claimed last, so that a config that
is refused leaves no trace.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from accelerate import Accelerator
from torch import nn

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
)
from var_pe.stages.pyramids import generator_pyramids, tokenizer_pyramids
from var_pe.stages.tokens import held_out_tokens, say_passed_over, training_tokens
from var_pe.tasks.classifier import ClassifierTask
from var_pe.tasks.generator import GeneratorTask
from var_pe.tasks.pyramids import one_of
from var_pe.tasks.tokenizer import TokenizerTask
from var_pe.training.config import TrainingConfig
from var_pe.training.loop import train
from var_pe.training.notes import TrainingNotes
from var_pe.training.run import Run

# The settings that each kind of weights depends on
TOKENIZER_SETTINGS = ("data", "tokenizer", "tokenizer_training", "tokenizer_seed")
GENERATOR_SETTINGS = (
    *TOKENIZER_SETTINGS,
    "tokenizer_run",
    "generator",
    "generator_training",
    "model",
    "seed",
)
CLASSIFIER_SETTINGS = ("data", "model", "classifier", "classifier_training", "seed")


def train_tokenizer(config: Config, accelerator: Accelerator) -> VQTokenizer:
    """The tokenizer that the config names: loaded if it is finished, else trained (or resumed).

    Raises:
        ValueError: the folder holds a tokenizer with other settings, or is the generator's, too.
    """
    check_folders(config)
    folder = Path(config.tokenizer_run)
    training, seed = config.tokenizer_training, config.tokenizer_seed
    config = settled_config(config)
    everything = asdict(config)
    check_settings(folder, {key: everything[key] for key in TOKENIZER_SETTINGS})
    if (folder / "tokenizer").exists():
        say_already_there(folder / "tokenizer", accelerator)
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
    steps = training.steps_for(first.num_images)
    task = TokenizerTask(model, dataset, pyramids, held_out, training, steps=steps, seed=seed)

    run = claim(folder, "tokenizer", config, training, steps, accelerator)
    ema = train(task, training, run, steps=steps, seed=seed)
    notes = TrainingNotes(step=steps, ema=True, seed=seed, class_names=tuple(first.class_names))
    put_in_place(run, "tokenizer", ema.model, dataset, notes)
    return load_model(VQTokenizer, folder / "tokenizer")


def train_generator(config: Config, tokenizer: VQTokenizer, accelerator: Accelerator) -> VARTransformer:
    """The generator in the run's folder: loaded if it is finished, else trained on the tokenizer's codes.

    Raises:
        ValueError: the folder holds a generator with other settings, or this one cannot be trained.
    """
    folder = Path(config.run)
    training, seed = config.generator_training, config.seed
    config = settled_config(config)
    everything = asdict(config)
    check_settings(folder, {key: everything[key] for key in GENERATOR_SETTINGS})
    if (folder / "generator").exists():
        say_already_there(folder / "generator", accelerator)
        return load_model(VARTransformer, folder / "generator")

    # Images for each pyramid that a step may train on, augmented from the tokenizer's seed as its images were
    pyramids = check_generator(config)
    processes = Processes.of(accelerator)
    say_what_is_read(config.data, processes)
    tokenizer = tokenizer.to(accelerator.device)
    cell = tokenizer.downsampling
    images = training_images_at(config, pyramids, cell, processes, config.tokenizer_seed)

    # Their tokens, encoded once and cached; without views, every batch is encoded when it is used.
    first = images[pyramids[0]]
    steps = training.steps_for(first.num_images)
    training_sets: Mapping[Pyramid, TrainingSet] = images
    if training.views:
        training_sets = training_tokens(config, tokenizer, images, processes)
    dataset = one_of([training_sets[pyramid] for pyramid in pyramids], training.batch, seed)
    held_out = held_out_tokens(config, tokenizer, list(images), training.validation_images)

    model = build_generator(config, len(first.class_names))
    initialise_from(config, model, first.class_names)
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

    run = claim(folder, "generator", config, training, steps, accelerator)
    ema = train(task, training, run, steps=steps, seed=seed)
    notes = TrainingNotes(step=steps, ema=True, seed=seed, class_names=tuple(first.class_names))
    put_in_place(run, "generator", ema.model, dataset, notes)
    return load_model(VARTransformer, folder / "generator")


def train_classifier(config: Config, accelerator: Accelerator) -> ViTClassifier:
    """The classifier in the run's folder: loaded if it is finished, else trained.

    Raises:
        ValueError: the folder holds a classifier with other settings, or there are fewer than two classes.
    """
    assert config.classifier is not None, "only a config with a classifier section trains one"
    folder = Path(config.run)
    training, seed = config.classifier_training, config.seed
    config = settled_config(config)
    everything = asdict(config)
    check_settings(folder, {key: everything[key] for key in CLASSIFIER_SETTINGS})
    if (folder / "classifier").exists():
        say_already_there(folder / "classifier", accelerator)
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
    if training.rand_augment:
        if not isinstance(images, ImageDataset):
            raise ValueError(
                "classifier_training.rand_augment needs images by number: set data.streaming=false"
            )
        dataset = Augmented(images, training.rand_augment, seed)
    if training.drawn_images:
        dataset = DrawnImages(Path(training.drawn_images))

    model = build_classifier(config, len(class_names))
    initialise_from(config, model, class_names)
    held_out = held_out_images(config, training.validation_images)
    task = ClassifierTask(model, dataset, held_out, training)
    steps = training.steps_for(dataset.num_images)

    run = claim(folder, "classifier", config, training, steps, accelerator)
    ema = train(task, training, run, steps=steps, seed=seed)
    notes = TrainingNotes(step=steps, ema=True, seed=seed, class_names=class_names)
    put_in_place(run, "classifier", ema.model, dataset, notes)
    return load_model(ViTClassifier, folder / "classifier")


def say_what_is_read(data: DataConfig, processes: Processes) -> None:
    """Prints how many pictures of each class are trained and tested on, and what is left out."""
    for sentence in what_is_read(data):
        processes.say(sentence)


def check_generator(config: Config) -> list[Pyramid]:
    """The pyramids of the generator's training, checked; also called before the tokenizer is trained.

    Raises:
        ValueError: the generator cannot follow one of them, or a stream would have to be cached as tokens.
    """
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


def say_already_there(model: Path, accelerator: Accelerator) -> None:
    Processes.of(accelerator).say(f"{model} is already there")


def check_settings(folder: Path, mine: dict[str, Any]) -> None:
    """Checks that a run folder was made with these settings; those that change no weights may differ.

    A setting that was added after the run was made counts as its default.

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
    if changed:
        raise ValueError(
            f"{folder} was made with other settings: {'; '.join(changed)}; "
            f"choose another folder or set them back"
        )


def claim(
    folder: Path, kind: str, config: Config, training: TrainingConfig, steps: int, accelerator: Accelerator
) -> Run:
    """Takes the run folder for this training, writes the resolved config into it and starts the trackers.

    Raises:
        ValueError: another process holds the folder.
    """
    run = Run(folder, accelerator)
    run.processes.on_main(lambda: write_text(folder / "config.yaml", settings.to_yaml(config)))
    accelerator.trackers = []  # those of the stage before, whose folder is another
    if training.trackers:
        accelerator.project_configuration.logging_dir = str(folder)
        accelerator.init_trackers("tracking")

    run.processes.say(f"training the {kind} in {folder}: {steps} steps of {training.batch} images")
    return run


def put_in_place(run: Run, kind: str, model: nn.Module, dataset: TrainingSet, notes: TrainingNotes) -> None:
    """Saves the averaged weights as the folder's finished model, whole or not at all; releases the folder."""
    assert isinstance(model, SavedModel)
    say_passed_over(dataset, run.processes)

    def write(partial: Path) -> None:
        model.save_pretrained(partial)
        notes.write(partial)

    run.processes.on_main(lambda: into_place(run.folder / kind, write))
    run.release()
