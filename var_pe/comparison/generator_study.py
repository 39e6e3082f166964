"""The study of generators: every encoding with every seed trained, drawn and scored.

What is finished is reused, so an interrupted study goes on by the same call.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypedDict

import torch
from accelerate import Accelerator

from var_pe.comparison.costs import costs, trainable
from var_pe.comparison.trials import Trial, labels, trials
from var_pe.data.classes import labels_of
from var_pe.evaluation.features import FeatureSet
from var_pe.evaluation.folder import to_uint8
from var_pe.evaluation.records import Record, read_metrics, versions
from var_pe.files import KeptResults
from var_pe.models.tokenizer import VQTokenizer
from var_pe.pages.sheets import Pixels
from var_pe.processes import Processes, reset_peak_memory
from var_pe.sampling.config import SamplingConfig
from var_pe.sampling.folder import drawn_with, image_path
from var_pe.stages.config import Config
from var_pe.stages.draw import draw_folder, load_pipeline
from var_pe.stages.images import fingerprint, held_out_images
from var_pe.stages.judge import judge_tokenizer
from var_pe.stages.score import feature_extractor, is_scored, judges, score_images, score_tokenizer
from var_pe.stages.train import train_generator, train_tokenizer
from var_pe.training.log import LogEntry, read_log
from var_pe.training.notes import TrainingNotes

PICTURES = 12  # images of each encoding that the report shows


class About(TypedDict):
    """What all runs of a comparison have in common."""

    tokenizer_run: str
    sampling: Mapping[str, object]
    evaluation: Mapping[str, object]
    data: Mapping[str, object]
    generator_training: Mapping[str, object]
    device: str
    processes: int
    threads: int
    # whether the peak of memory is known for each training alone
    peak_memory_comparable: bool
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Result:
    """The results of one trial."""

    encoding: str
    seed: int
    run: str
    # scores by their names in metrics.json, and what `costs` measures
    values: dict[str, float]
    # what the scores rest on, as in metrics.json
    records: Mapping[str, Record]
    # entries of log.jsonl
    log: list[LogEntry]
    # class and file; the same seeds in every trial
    pictures: list[tuple[str, Path]]


@dataclass(frozen=True)
class TokenizerScores:
    """What the tokenizer that all runs share does by itself, on the test split."""

    psnr: float
    # grids as a person writes them, and each level's perplexity and share of codes that occur
    levels: list[str]
    perplexity: list[float]
    usage: list[float]
    codebook_size: int
    num_images: int
    # whether it is good, and what to change
    verdict: str


@dataclass(frozen=True)
class RealPicture:
    """A test image of the class that a column of pictures shows, and what the tokenizer makes of it."""

    original: Pixels
    reconstruction: Pixels


@dataclass(frozen=True)
class Comparison:
    """All results, the first encoding's first; `about` is what they have in common."""

    results: list[Result]
    about: About
    tokenizer: TokenizerScores | None = None
    # one for each picture of a result, as far as the test split has images of that class
    real: list[RealPicture | None] = field(default_factory=list)

    @property
    def encodings(self) -> list[str]:
        return list(dict.fromkeys(result.encoding for result in self.results))

    @property
    def seeds(self) -> list[int]:
        return list(dict.fromkeys(result.seed for result in self.results))

    def values(self, encoding: str, key: str) -> dict[int, float]:
        """A quantity by seed; trials without it are left out."""
        mine = [result for result in self.results if result.encoding == encoding]
        return {result.seed: result.values[key] for result in mine if key in result.values}


def compare(
    config: Config, encodings: Sequence[str], seeds: Sequence[int], output: Path, accelerator: Accelerator
) -> Comparison:
    """Trains what is missing with one shared tokenizer, then draws and scores; runs lie below `output`.

    Raises:
        ValueError: of encodings, seeds and features before any training.
    """
    if config.classifier is not None:
        raise ValueError("a comparison trains generators, but the config has a classifier section")
    planned = trials(config, encodings, seeds, output)
    for name in config.evaluation.features:
        feature_extractor(name, config.evaluation.inception_weights)

    # Everything is trained before anything is scored, so that memory which feature extractors leave behind
    # does not count in a training's peak.
    peak_is_resettable = reset_peak_memory(accelerator.device)
    tokenizer = train_tokenizer(planned[0].config, accelerator)
    for number, trial in enumerate(planned, start=1):
        accelerator.print(f"run {number} of {len(planned)}: {trial.encoding}, seed {trial.seed}")
        train_generator(trial.config, tokenizer, accelerator)

    # What the tokenizer loses, no encoding can bring back.
    of_tokenizer = scored_tokenizer(config, tokenizer, accelerator)

    # The features of the reference images are computed once.
    reference_features: dict[tuple[str, str], FeatureSet] = {}
    results = [measured(trial, accelerator, reference_features) for trial in planned]

    order = labels(config, encodings)
    results.sort(key=lambda result: order.index(result.encoding))
    about = circumstances(config, accelerator, peak_is_resettable)
    classes = len(TrainingNotes.read(planned[0].run / "generator").class_names or ())
    return Comparison(results, about, of_tokenizer, real_pictures(config, tokenizer, classes))


def scored_tokenizer(config: Config, tokenizer: VQTokenizer, accelerator: Accelerator) -> TokenizerScores:
    """The scores of the tokenizer under its own levels."""
    folder = Path(config.tokenizer_run)
    if not is_scored(config, folder, "tokenizer"):
        score_tokenizer(config, tokenizer, accelerator)
    entry = read_metrics(folder / "metrics.json")["tokenizer"]
    values = entry["values"]
    levels = range(tokenizer.pyramid.num_levels)
    return TokenizerScores(
        psnr=values["psnr"],
        levels=[f"{height}x{width}" for height, width in tokenizer.pyramid.grids],
        perplexity=[values[f"perplexity/level_{level}"] for level in levels],
        usage=[values[f"usage/level_{level}"] for level in levels],
        codebook_size=entry["codebook_size"],
        num_images=entry["num_images"],
        verdict=str(judge_tokenizer(config, tokenizer, accelerator)),
    )


@torch.no_grad()
def real_pictures(config: Config, tokenizer: VQTokenizer, num_classes: int) -> list[RealPicture | None]:
    """A test image of the class of each picture that is shown; None where there is no further one."""
    images = held_out_images(config, config.generator_training.validation_images)
    numbers: dict[int, list[int]] = {}
    for number, label in enumerate(labels_of(images)):
        numbers.setdefault(label if num_classes else 0, []).append(number)

    found: list[RealPicture | None] = []
    for label in chosen_labels(config.sampling, num_classes):
        if not numbers.get(label):
            found.append(None)
            continue
        image_CHW = images[numbers[label].pop(0)]["image"]
        rebuilt_BCHW = tokenizer.decode(tokenizer.encode(image_CHW[None].to(tokenizer.device)))
        original, rebuilt = (
            to_uint8(each_CHW).permute(1, 2, 0).cpu().numpy() for each_CHW in (image_CHW, rebuilt_BCHW[0])
        )
        found.append(RealPicture(original, rebuilt))
    return found


def measured(
    trial: Trial, accelerator: Accelerator, reference_features: dict[tuple[str, str], FeatureSet]
) -> Result:
    """Draws and scores a trained run, unless that is done, and reads its costs."""
    config = trial.config
    pipeline = load_pipeline(config)
    images = draw_folder(pipeline, config.sampling, trial.run / "drawn", accelerator)
    records = scored(config, images, accelerator, reference_features)
    log = read_log(trial.run / "log.jsonl")

    values = {name: value for record in records.values() for name, value in record["values"].items()}
    step = TrainingNotes.read(trial.run / "generator").step
    values |= costs(log, config.generator_training.batch, step)
    values["parameters"] = trainable(pipeline.transformer)
    values["encoding_parameters"] = trainable(pipeline.transformer.position_encoding)

    pictures = chosen_pictures(
        trial.run / "drawn", config.sampling, pipeline.transformer.num_classes, pipeline.class_names
    )
    return Result(trial.encoding, trial.seed, config.run, values, records, log, pictures)


def scored(
    config: Config,
    images: Path,
    accelerator: Accelerator,
    reference_features: dict[tuple[str, str], FeatureSet],
) -> Mapping[str, Record]:
    """Records of the images' scores, made anew if images, data, features or versions have changed."""
    evaluation = config.evaluation
    names = judges(config)
    extractors = [feature_extractor(name, evaluation.inception_weights) for name in names]
    rests_on = {
        "images": drawn_with(images.parent),
        "evaluation": asdict(evaluation),
        "data": config.data.record(),
        "reference": fingerprint(config, train=evaluation.reference_split == "train"),
        "extractors": [extractor.weights_sha256 for extractor in extractors],
        "versions": versions(),
    }
    kept = KeptResults[Record](images.parent / "scores.json", {"asked": rests_on}, "records")
    if kept.results:
        return kept.results

    records = score_images(config, images, accelerator, features=names, known=reference_features)
    Processes.of(accelerator).on_main(lambda: kept.add(records))
    return records


def chosen_pictures(
    folder: Path, sampling: SamplingConfig, num_classes: int, class_names: Sequence[str]
) -> list[tuple[str, Path]]:
    """The first image of each class, then the second of each ..., by number and not by looks."""
    classes = max(1, num_classes)
    names = list(class_names)
    if not names:
        names = [str(label) if num_classes else "" for label in range(classes)]

    turns = Counter[int]()
    found = []
    for label in chosen_labels(sampling, num_classes):
        number = label * sampling.images_per_class + turns[label]
        turns[label] += 1
        found.append((names[label], image_path(folder, number, sampling, class_names)))
    return found


def chosen_labels(sampling: SamplingConfig, num_classes: int) -> list[int]:
    """The class of each picture that is shown; 0 without classes."""
    classes = max(1, num_classes)
    return (list(range(classes)) * sampling.images_per_class)[:PICTURES]


def circumstances(config: Config, accelerator: Accelerator, peak_is_resettable: bool) -> About:
    """The facts that all trials have in common."""
    return {
        "tokenizer_run": config.tokenizer_run,
        "sampling": asdict(config.sampling),
        "evaluation": asdict(config.evaluation),
        "data": asdict(config.data),
        "generator_training": asdict(config.generator_training),
        "device": accelerator.device.type,
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "peak_memory_comparable": peak_is_resettable,
        "versions": versions(),
    }
