"""What `--dry-run --timed` prints: the time of a few real steps of every stage, scaled up to the config's.

The stages run as they are, with fewer steps and images, in a temporary folder. So everything that a training
writes is measured on real files, and the folders of the run are not touched.
"""

import io
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from var_pe.files import size_on_disk
from var_pe.models.transfer import ModelStart
from var_pe.processes import Processes
from var_pe.progress import duration, size
from var_pe.sampling.drawing import draw_images
from var_pe.stages.begun import training_of
from var_pe.stages.config import Config, Kind
from var_pe.stages.draw import load_pipeline
from var_pe.stages.images import held_out_images, training_images_at
from var_pe.stages.judge import judge_tokenizer
from var_pe.stages.plan import training_images_and_classes
from var_pe.stages.pyramids import generator_pyramids
from var_pe.stages.score import score_classifier, score_on_maps, score_tokenizer
from var_pe.stages.tokens import training_tokens
from var_pe.stages.train import (
    train_classifier,
    train_encoder,
    train_generator,
    train_on_maps,
    train_tokenizer,
)
from var_pe.tasks.generator import GeneratorTraining
from var_pe.tasks.pyramids import which_pyramid
from var_pe.tasks.tokenizer import TokenizerTraining
from var_pe.training.compilation import Compiled, chosen
from var_pe.training.config import TrainingConfig
from var_pe.training.log import read_log
from var_pe.training.run import CHECKPOINTS_KEPT
from var_pe.training.stopping import Interrupted

T = TypeVar("T", bound=TrainingConfig)

# Steps of each training, of which the first two warm up, and images that are encoded, validated and drawn.
STEPS = 8
WARMING_UP = 2
STEPS_OF_AN_ENTRY = 5
IMAGES = 256


@dataclass(frozen=True)
class Cost:
    """The cost of a stage, estimated from a short one of the same kind."""

    stage: str
    seconds: float
    # how often it does what, for people
    work: str
    # bytes that a process holds at most
    memory: int = 0
    # bytes of files that stay
    disk: int = 0


def timed_plan(config: Config, stage: str, accelerator: Accelerator) -> str:
    """The costs of a stage of scripts/train.py and of what it needs, a line each."""
    costs = time_stages(config, stage, accelerator)
    lines = [_line(cost) for cost in costs]
    seconds = sum(cost.seconds for cost in costs)
    disk = sum(cost.disk for cost in costs)
    where = f"on {accelerator.device.type}, processes: {accelerator.num_processes}"
    lines.append(f"timed: about {duration(seconds)} and {size(disk)} of disk in all, {where}")
    return "\n".join(lines)


def time_stages(config: Config, stage: str, accelerator: Accelerator) -> list[Cost]:
    """The costs of `stage` (a `Kind`) and of what it needs.

    Raises:
        ValueError: the config cannot be trained, or its data are not here.
    """
    costs_of = {
        "tokenizer": _tokenizer,
        "generator": _generator,
        "classifier": _classifier,
        "encoder": _encoder,
        "segmenter": _on_maps,
        "detector": _on_maps,
    }[stage]
    try:
        with _temporary_folder(accelerator) as folder, _quiet():
            return costs_of(config, shortened(config, folder, accelerator.device.type), accelerator)
    except Interrupted as stopped:
        raise Interrupted(stopped.signum, "stopped; the timed steps left no files") from None


def seconds_of_a_step(config: Config, kind: Kind, steps: int, accelerator: Accelerator) -> float:
    """The median time of a step of a training, of so many real ones in a temporary folder.

    What is logged now and then takes time as well, so a log entry is made of several steps.

    Raises:
        ValueError: the config cannot be trained, or its data are not here.
    """
    with _temporary_folder(accelerator) as folder, _quiet():
        number = WARMING_UP * STEPS_OF_AN_ENTRY + steps
        short = shortened(config, folder, accelerator.device.type, number, STEPS_OF_AN_ENTRY)
        if kind == "classifier":
            train_classifier(short, accelerator)
        else:
            tokenizer = train_tokenizer(short, accelerator)
        if kind == "generator":
            train_generator(short, tokenizer, accelerator)
        run = Path(short.tokenizer_run if kind == "tokenizer" else short.run)
        return statistics.median(_seconds_of_steps(run, training_of(config, kind).batch))


def shortened(config: Config, folder: Path, device: str, number: int = STEPS, log_every: int = 1) -> Config:
    """The config with few steps and few images, whose runs lie in `folder`; compiled as the whole will be."""
    data = config.data
    images = training_images_and_classes(config)[0]

    def short(training: T) -> T:
        # A stream has no length; which training needs steps of its own is said where it is planned.
        counted = images is not None or training.steps > 0
        steps = training.steps_for(images) if training.compile == "auto" and counted else 0
        return _shortened(training, chosen(training.compile, device, steps)[0], number, log_every)

    if not data.streaming:
        data = replace(data, limit=min(IMAGES, data.limit or IMAGES))

    # Weights to start from take no other time, but a part of a model is tuned from some.
    tuned = config.kind == "classifier" and config.classifier_training.tuned != "all"
    model = config.model if tuned else ModelStart()
    return replace(
        config,
        run=str(folder / "run"),
        tokenizer_run=str(folder / "tokenizer"),
        data=data,
        model=model,
        tokenizer_init_from=None,
        tokenizer_training=short(config.tokenizer_training),
        # All levels are trained in every timed step, as in most steps of the whole.
        generator_training=replace(short(config.generator_training), progressive=None),
        classifier_training=short(config.classifier_training),
        encoder_training=short(config.encoder_training),
        segmenter_training=short(config.segmenter_training),
        detector_training=short(config.detector_training),
    )


def _shortened(training: T, compiled: Compiled, number: int, log_every: int) -> T:
    return replace(
        training,
        steps=number,
        compile=compiled,
        log_every=log_every,
        save_every=number,
        validate_every=0,
        patience=0,
        preview_every=0,
        validation_images=min(IMAGES, training.validation_images),
        trackers=[],
    )


def _tokenizer(config: Config, short: Config, accelerator: Accelerator) -> list[Cost]:
    """A tokenizer's training, its scores on the test split and its verdict; nothing if it is there."""
    training = _unscored_tokenizer(config, short, accelerator)
    if training.seconds == 0 or config.data.streaming:
        return [training]

    tokenizer = train_tokenizer(short, accelerator)  # which is there now
    scores = _scores(config, short, lambda: score_tokenizer(short, tokenizer, accelerator))

    # As many test images as after the whole training; most of the time goes into networks that are loaded.
    began = monotonic()
    judge_tokenizer(short, tokenizer, accelerator)
    verdict = Cost("verdict", monotonic() - began, "on the tokenizer")
    return [training, *scores, verdict]


def _unscored_tokenizer(config: Config, short: Config, accelerator: Accelerator) -> Cost:
    """A tokenizer's training; nothing if it is there."""
    train_tokenizer(short, accelerator)
    if (Path(config.tokenizer_run) / "tokenizer").exists():
        return Cost("tokenizer", 0.0, f"is there, in {config.tokenizer_run}")
    return _training("tokenizer", config, config.tokenizer_training, Path(short.tokenizer_run))


def _generator(config: Config, short: Config, accelerator: Accelerator) -> list[Cost]:
    """A tokenizer, the tokens of the training images, a generator, and the images that it draws."""
    costs = _tokenizer(config, short, accelerator)
    tokenizer = train_tokenizer(short, accelerator).to(accelerator.device)  # which is there now
    processes = Processes.of(accelerator)
    images, classes, _ = training_images_and_classes(config)

    # The token cache, which a stream and a training without views do without
    if config.generator_training.views and images is not None:
        pyramids = generator_pyramids(short)
        sets = training_images_at(short, pyramids, tokenizer.downsampling, processes, short.tokenizer_seed)
        began = monotonic()
        training_tokens(short, tokenizer, sets, processes)
        times = images / min(images, IMAGES)
        seconds = (monotonic() - began) * times

        encoded = images * config.generator_training.views * len(sets)
        disk = round(size_on_disk(Path(short.tokenizer_run) / "tokens") * times)
        costs.append(Cost("token cache", seconds, f"{encoded} images, unless it is there", disk=disk))

    train_generator(short, tokenizer, accelerator)
    cost = _training("generator", config, config.generator_training, Path(short.run))
    if config.generator_training.progressive is not None:
        cost = replace(cost, work=f"{cost.work}; as if all levels were trained from the first step")
    costs.append(cost)

    # Drawing, which is a command of its own
    asked = config.sampling.images_per_class * max(1, classes)
    together = min(config.sampling.batch, IMAGES, asked)
    pipeline = load_pipeline(short)
    pipeline.to(accelerator.device)
    labels = [number % classes if classes else None for number in range(together)]
    began = monotonic()
    draw_images(pipeline, labels, range(together), config.sampling)
    seconds = (monotonic() - began) * asked / together / processes.world
    costs.append(Cost("drawing (scripts/sample.py)", seconds, f"{asked} images"))
    return costs


def _classifier(config: Config, short: Config, accelerator: Accelerator) -> list[Cost]:
    train_classifier(short, accelerator)
    training = _training("classifier", config, config.classifier_training, Path(short.run))
    return [training, *_scores(config, short, lambda: score_classifier(short, accelerator))]


def _encoder(config: Config, short: Config, accelerator: Accelerator) -> list[Cost]:
    assert config.encoder is not None
    costs, tokenizer = list[Cost](), None
    if config.encoder.method == "tokens":
        costs = [_unscored_tokenizer(config, short, accelerator)]
        tokenizer = train_tokenizer(short, accelerator)
    train_encoder(short, tokenizer, accelerator)
    return [*costs, _training("encoder", config, config.encoder_training, Path(short.run))]


def _on_maps(config: Config, short: Config, accelerator: Accelerator) -> list[Cost]:
    train_on_maps(short, accelerator)
    training = _training(config.kind, config, training_of(config, config.kind), Path(short.run))
    return [training, *_scores(config, short, lambda: score_on_maps(config.kind, short, accelerator))]


def _scores(config: Config, short: Config, score: Callable[[], object]) -> list[Cost]:
    """What scores on the whole test split take; nothing for a stream, whose length is not known."""
    if config.data.streaming:
        return []

    began = monotonic()
    score()
    images = len(held_out_images(config))
    seconds = (monotonic() - began) * images / len(held_out_images(short))
    return [Cost("scores", seconds, f"{images} test images")]


def _training(kind: Kind, config: Config, training: TrainingConfig, folder: Path) -> Cost:
    """The cost of a training whose short version was done in `folder`."""
    log = read_log(folder / "log.jsonl")
    steps = training.steps_for(training_images_and_classes(config)[0])
    warm = _warm_seconds(config, kind, folder) or _seconds_of_steps(folder, training.batch)
    seconds = sum(warm) / len(warm)

    # Seconds of a validation, at more images
    (short,) = (entry["validation_seconds"] for entry in log if "validation_seconds" in entry)
    validated = training.validation_images
    if not config.data.streaming:
        validated = len(held_out_images(config, validated))
    validating = short * validated / min(IMAGES, validated)
    validations = len(_times(steps, training.validate_every))

    # With keep=best a checkpoint holds a second average.
    (checkpoint,) = (folder / "checkpoints").glob("step_*")
    saved = size_on_disk(checkpoint)
    if training.keep == "best" and validations > 1:
        saved += size_on_disk(checkpoint / "ema.safetensors")
    kept = min(CHECKPOINTS_KEPT, len(_times(steps, training.save_every)))
    return Cost(
        kind,
        steps * seconds + validations * validating,
        f"{steps} steps of {duration(seconds)}, validations: {validations} of {duration(validating)}; "
        f"checkpoints kept: {kept} of {size(saved)}, "
        f"finished weights: {size(size_on_disk(folder / kind))}",
        round(1e9 * max(entry.get("peak_memory_gb", 0.0) for entry in log)),
        kept * saved + size_on_disk(folder / kind),
    )


def _seconds_of_steps(folder: Path, batch: int) -> list[float]:
    """The seconds of a step by each log entry of a short training, without those of warming up."""
    log = read_log(folder / "log.jsonl")
    return [batch / entry["images_per_second"] for entry in log if "images_per_second" in entry][WARMING_UP:]


def _warm_seconds(config: Config, kind: Kind, folder: Path) -> list[float]:
    """The seconds of each step of a short training, by its log, but for those that warm up.

    These are the first ones, and the first of every pyramid or with tokens that are drawn anew, in which a
    graph of its own may be compiled.
    """
    met: set[tuple[int, bool]] = set()
    warm = []
    for entry in read_log(folder / "log.jsonl"):
        if "images_per_second" in entry:
            step = int(entry["step"]) - 1
            of_step = _graph_of(config, kind, step)
            if step >= WARMING_UP and of_step in met:
                warm.append(training_of(config, kind).batch / entry["images_per_second"])
            met.add(of_step)
    return warm


def _graph_of(config: Config, kind: Kind, step: int) -> tuple[int, bool]:
    """What sets a step of a short training apart: its pyramid, and whether tokens are drawn anew."""
    training = training_of(config, kind)
    if isinstance(training, TokenizerTraining):
        pyramid = which_pyramid(config.tokenizer_seed, step, max(1, len(training.pyramids)))
        return pyramid, step >= training.redrawn.first_step(STEPS)
    if isinstance(training, GeneratorTraining):
        return which_pyramid(config.seed, step, max(1, len(training.pyramids))), False
    return 0, False


def _times(steps: int, every: int) -> set[int]:
    """The steps at which something is done `every` so many steps and at the end."""
    return {*range(every, steps + 1, every), steps} if every else {steps}


def _line(cost: Cost) -> str:
    memory = f"; {size(cost.memory)} of memory a process" if cost.memory else ""
    disk = f"; {size(cost.disk)} of disk" if cost.disk else ""
    return f"timed: {cost.stage}: about {duration(cost.seconds)}: {cost.work}{memory}{disk}"


@contextmanager
def _temporary_folder(accelerator: Accelerator) -> Iterator[Path]:
    """The same folder on every process of this machine; it is removed at the end, even after an error."""
    with tempfile.TemporaryDirectory(prefix="var_pe_timed_") as own:
        name = [own]
        if accelerator.num_processes > 1:
            broadcast_object_list(name)
        yield Path(name[0])
        accelerator.wait_for_everyone()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the stages print about runs that nobody will see."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield
