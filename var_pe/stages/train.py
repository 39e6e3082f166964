"""What each stage does, given a config: called by the scripts and by the comparison alike."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar, cast

from accelerate import Accelerator
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from var_pe import settings
from var_pe.data.augmented import Augmented
from var_pe.files import into_place
from var_pe.models.folder import SavedModel
from var_pe.models.generator import VARTransformer
from var_pe.models.tokenizer import VQTokenizer
from var_pe.models.vit import ViTClassifier
from var_pe.sampling.drawing import draw_images
from var_pe.sampling.pipeline import VARPipeline
from var_pe.stages.config import Config
from var_pe.stages.models import (
    DrawnImages,
    build_classifier,
    build_generator,
    build_tokenizer,
    held_out_images,
    initialise_from,
    length_of,
    load_model,
    training_images,
)
from var_pe.stages.tokens import (
    cached_tokens,
    encoded,
    generator_pyramids,
    held_out_at,
    images_at,
    say_skipped,
    tokenizer_pyramids,
)
from var_pe.tasks.classifier import ClassifierTask
from var_pe.tasks.generator import GeneratorTask
from var_pe.tasks.pyramids import one_of
from var_pe.tasks.tokenizer import TokenizerTask
from var_pe.training.loop import TrainingConfig, train
from var_pe.training.run import Run
from var_pe.training.stopping import Interrupted

M = TypeVar("M", bound=SavedModel)
NOT_TRAINED = (
    "sampling",
    "evaluation",
)  # sections that change no weights: they may differ in an existing run


def start_accelerator(*trainings: TrainingConfig) -> Accelerator:
    """One accelerator for all stages of a command.

    Raises:
        ValueError: the launcher started several processes that do not know of each other.
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


@contextmanager
def session(*trainings: TrainingConfig) -> Iterator[Accelerator]:
    """An accelerator for a command, and its end on every process: without it gloo aborts now and then."""
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


def train_tokenizer(config: Config, accelerator: Accelerator) -> VQTokenizer:
    """The tokenizer that the config names: loaded if its folder is complete, else trained (or resumed).

    Raises:
        ValueError: the folder holds a tokenizer of other settings.
    """
    mine = {
        "data": asdict(config.data),
        "tokenizer": asdict(config.tokenizer),
        "tokenizer_training": asdict(config.tokenizer_training),
        "tokenizer_seed": config.tokenizer_seed,
    }
    training, seed = config.tokenizer_training, config.tokenizer_seed

    def prepare() -> tuple[TokenizerTask, int, list[str]]:
        pyramids, model = tokenizer_pyramids(config), build_tokenizer(config)
        images = images_at(config, model, pyramids, accelerator)
        first, dataset = images[pyramids[0]], one_of([images[p] for p in pyramids], training.batch, seed)
        steps = training.steps_for(length_of(first))
        validation = held_out_at(config, model, pyramids, training.validation_images)
        task = TokenizerTask(model, dataset, pyramids, validation, training, steps=steps, seed=seed)
        return task, steps, list(first.class_names)

    return _trained(
        VQTokenizer, "tokenizer", config, config.tokenizer_run, mine, training, seed, prepare, accelerator
    )


def train_generator(config: Config, accelerator: Accelerator) -> VARTransformer:
    """The generator of the run's folder: loaded if complete, else trained, with the tokenizer it needs."""
    training, seed = config.generator_training, config.seed

    def prepare() -> tuple[GeneratorTask, int, list[str]]:
        if config.data.streaming and training.views:
            raise ValueError("data.streaming has no token cache: set generator_training.views=0")
        pyramids = generator_pyramids(config)
        tokenizer = train_tokenizer(config, accelerator).to(accelerator.device)
        images = images_at(config, tokenizer, pyramids, accelerator)
        first = images[pyramids[0]]
        names, steps = list(first.class_names), training.steps_for(length_of(first))
        sets = images
        if training.views:
            sets = {p: cached_tokens(config, tokenizer, of, accelerator, p) for p, of in images.items()}
        validation = {p: encoded(config, tokenizer, training.validation_images, p) for p in images}
        dataset = one_of([sets[pyramid] for pyramid in pyramids], training.batch, seed)
        model, preview = build_generator(config, len(names)), _preview(config, tokenizer)
        initialise_from(config, model, names)
        task = GeneratorTask(
            model, tokenizer, dataset, pyramids, validation, training, seed=seed, preview=preview
        )
        return task, steps, names

    mine = {key: value for key, value in asdict(config).items() if key not in (*NOT_TRAINED, "run")}
    return _trained(
        VARTransformer, "generator", config, config.run, mine, training, seed, prepare, accelerator
    )


def train_classifier(config: Config, accelerator: Accelerator) -> ViTClassifier:
    """The classifier of the run's folder: loaded if complete, else trained."""
    assert config.classifier is not None, "only a config with a classifier section trains one"
    training, seed = config.classifier_training, config.seed

    def prepare() -> tuple[ClassifierTask, int, list[str]]:
        images = training_images(config, accelerator, seed)
        if len(images.class_names) < 2:
            number = len(images.class_names)
            raise ValueError(f"a classifier needs at least two classes, {config.data.source} has {number}")
        dataset: Any = images
        if training.rand_augment:
            if config.data.streaming:
                raise ValueError(
                    "classifier_training.rand_augment needs images by number: set data.streaming=false"
                )
            dataset = Augmented(images, training.rand_augment, seed)
        if training.drawn_images:
            dataset = DrawnImages(Path(training.drawn_images))
        model = build_classifier(config, len(images.class_names))
        initialise_from(config, model, images.class_names)
        task = ClassifierTask(model, dataset, held_out_images(config, training.validation_images), training)
        return task, training.steps_for(length_of(dataset)), list(images.class_names)

    sections = ("data", "model", "classifier", "classifier_training", "seed")
    mine = {key: asdict(config)[key] for key in sections}
    return _trained(
        ViTClassifier, "classifier", config, config.run, mine, training, seed, prepare, accelerator
    )


def _trained(
    cls: type[M],
    kind: str,
    config: Config,
    folder: str,
    mine: dict[str, Any],
    training: TrainingConfig,
    seed: int,
    prepare: Callable[[], tuple[Any, int, list[str]]],
    accelerator: Accelerator,
) -> M:
    """Loads `folder/kind` if it is complete; else trains the task that `prepare` makes and puts it there."""
    weights = Path(folder) / kind
    check_settings(Path(folder), mine)
    if not weights.exists():
        task, steps, class_names = prepare()
        run = Run(folder, accelerator)
        run.processes.on_main(lambda: settings.save(config, Path(folder) / "config.yaml"))
        if training.trackers:
            accelerator.project_configuration.logging_dir = folder
            accelerator.init_trackers("tracking")
        accelerator.print(f"training the {kind} in {folder}: {steps} steps of {training.batch} images")
        ema = train(task, training, run, steps=steps, seed=seed)
        say_skipped(task.dataset, accelerator)

        def write(partial: Path) -> None:
            cast(ModelMixin, ema.model).save_pretrained(partial)
            notes = {"step": steps, "ema": True, "seed": seed, "class_names": class_names}
            (partial / "training.json").write_text(json.dumps(notes))

        run.processes.on_main(lambda: into_place(weights, write))
        run.release()
    return load_model(cls, weights)


def check_settings(folder: Path, mine: dict[str, Any]) -> None:
    """A setting that is younger than the run counts as its default.

    Raises:
        ValueError: the run folder was made with other settings, which are named.
    """
    path = folder / "config.yaml"
    if not path.exists():
        return
    saved = asdict(settings.load(Config, path))
    if changed := settings.differences({key: saved.get(key) for key in mine}, mine):
        raise ValueError(
            f"{folder} was made with other settings: {'; '.join(changed)}; "
            f"choose another folder or set them back"
        )


def _preview(config: Config, tokenizer: VQTokenizer) -> Callable[[VARTransformer], Tensor]:
    """Images of the run's own sampler settings: a column for each of the first ten classes, ten rows.

    At the trained size: another one is asked of the finished model.
    """
    sampling = replace(config.sampling, size=None, levels=None)

    def draw(model: VARTransformer) -> Tensor:
        classes = max(1, min(10, model.num_classes))
        pipeline = VARPipeline(tokenizer, model)
        labels = [None if model.num_classes == 0 else number % classes for number in range(10 * classes)]
        images_BCHW = draw_images(pipeline, labels, list(range(10 * classes)), sampling)
        return images_BCHW.float() / 127.5 - 1

    return draw
