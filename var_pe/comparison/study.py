"""A study: every encoding with every seed, trained, drawn and scored, everything else being equal.

What is finished is reused, so an interrupted study goes on by the same call.
"""

import hashlib
import json
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from var_pe.encodings import build_encoding
from var_pe.encodings.machinery.line import canonical
from var_pe.evaluation.features import FeatureSet
from var_pe.evaluation.records import versions
from var_pe.files import write_text
from var_pe.models.generator import GeneratorConfig
from var_pe.models.vit import ClassifierConfig
from var_pe.processes import Processes
from var_pe.pyramid import Pyramid
from var_pe.sampling.drawing import SamplingConfig
from var_pe.sampling.folder import image_path
from var_pe.stages.config import Config
from var_pe.stages.draw import draw_folder, load_pipeline
from var_pe.stages.models import weights_hash
from var_pe.stages.score import feature_extractor, score_images
from var_pe.stages.train import train_generator, train_tokenizer
from var_pe.training.progress import reset_peak_memory

PICTURES = 12  # images of each encoding that the report shows


@dataclass(frozen=True)
class Trial:
    """One run of a study: `config` is the study's own but for encoding, seed and run folder."""

    encoding: str
    seed: int
    config: Config


@dataclass(frozen=True)
class Result:
    """What one trial came to."""

    encoding: str
    seed: int
    run: str
    values: dict[str, float]  # scores by their names in metrics.json, and what `costs` measures
    records: dict[str, Any]  # what the scores rest on, as in metrics.json
    log: list[dict[str, Any]]  # entries of log.jsonl
    pictures: list[tuple[str, Path]]  # class and file; the same seeds in every trial


@dataclass(frozen=True)
class Comparison:
    """All results, the first encoding's first; `about` is what they have in common."""

    results: list[Result]
    about: dict[str, Any]

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

    Everything is trained before anything is scored: what the feature extractors leave behind in memory is no
    part of a training's peak.

    Raises:
        ValueError: of encodings, seeds and features before any training.
    """
    if config.classifier is not None:
        raise ValueError("a comparison trains generators, but the config has a classifier section")
    planned = trials(config, encodings, seeds, output)
    for name in config.evaluation.features:
        feature_extractor(name, config.evaluation.inception_weights)
    resettable = reset_peak_memory(accelerator.device)
    train_tokenizer(planned[0].config, accelerator)
    for number, trial in enumerate(planned, start=1):
        accelerator.print(f"run {number} of {len(planned)}: {trial.encoding}, seed {trial.seed}")
        train_generator(trial.config, accelerator)
    known: dict[tuple[str, str], FeatureSet] = {}
    found = [measured(trial, accelerator, known) for trial in planned]
    order = list(map(canonical, encodings))
    found.sort(key=lambda result: order.index(result.encoding))
    return Comparison(found, about(config, accelerator, resettable))


def trials(config: Config, encodings: Sequence[str], seeds: Sequence[int], output: Path) -> list[Trial]:
    """The runs of a study, seed by seed, each seed beginning with the next encoding.

    A machine that slows down then slows all encodings down, and none is always the first.

    Raises:
        ValueError: encodings cannot be built for this config (all such are named), or one is given twice.
    """
    if not encodings or not seeds:
        raise ValueError("a comparison needs at least one encoding and one seed")
    check_encodings(config, encodings)
    lines = [canonical(line) for line in encodings]
    for what, given in (("encodings", lines), ("seeds", list(seeds))):
        if repeated := [str(item) for item, count in Counter(given).items() if count > 1]:
            raise ValueError(f"{what} must differ, got {', '.join(repeated)} more than once")
    return [
        Trial(
            line,
            seed,
            under(replace(config, run=str(output / f"{slug(line)}_seed_{seed}"), seed=seed), line),
        )
        for turn, seed in enumerate(seeds)
        for line in rotated(lines, turn)
    ]


def under(config: Config, line: str) -> Config:
    """The config with the encoding of what it trains, generator or classifier, set to `line`."""
    if config.classifier is not None:
        return replace(config, classifier=replace(config.classifier, encoding=line))
    return replace(config, generator=replace(config.generator, encoding=line))


def rotated(lines: list[str], turn: int) -> list[str]:
    first = turn % len(lines)
    return lines[first:] + lines[:first]


def check_encodings(config: Config, encodings: Iterable[str]) -> None:
    model: GeneratorConfig | ClassifierConfig
    if config.classifier is None:
        model, pyramid = config.generator, Pyramid.of(config.tokenizer.levels)
    else:
        model, side = config.classifier, config.classifier.patch_size
        pyramid = Pyramid(((config.data.height // side, config.data.width // side),))
    wrong = []
    for line in encodings:
        try:
            build_encoding(line, dim=model.dim, num_heads=model.num_heads, depth=model.depth, pyramid=pyramid)
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise ValueError("; ".join(wrong))


def slug(line: str) -> str:
    """A folder's name for an encoding; where signs are lost, a short hash keeps a(b=-1) and a(b=1) apart."""
    plain = re.sub(r"[^A-Za-z0-9.]+", "_", line).strip("_")
    return plain if plain == line else f"{plain}_{hashlib.sha256(line.encode()).hexdigest()[:6]}"


def measured(trial: Trial, accelerator: Accelerator, known: dict[tuple[str, str], FeatureSet]) -> Result:
    """Draws and scores a trained run, unless that is done, and reads its costs."""
    config, run = trial.config, Path(trial.config.run)
    pipeline = load_pipeline(config)
    images = draw_folder(pipeline, config.sampling, run / "drawn", accelerator)
    records, log = scored(config, images, accelerator, known), read_log(run / "log.jsonl")
    values = {name: value for entry in records.values() for name, value in entry["values"].items()}
    values |= costs(log, config.generator_training.batch)
    values |= {
        "parameters": trainable(pipeline.transformer),
        "encoding_parameters": trainable(pipeline.transformer.position_encoding),
    }
    pictures = chosen_pictures(
        run / "drawn", config.sampling, pipeline.transformer.num_classes, pipeline.class_names
    )
    return Result(trial.encoding, trial.seed, trial.config.run, values, records, log, pictures)


def scored(
    config: Config, images: Path, accelerator: Accelerator, known: dict[tuple[str, str], FeatureSet]
) -> dict[str, Any]:
    """Records of the images' scores, made anew if images, data, features or versions have changed."""
    path, evaluation = images.parent / "scores.json", config.evaluation
    asked = {
        "images": json.loads((images.parent / "sampling.json").read_text()),
        "evaluation": asdict(evaluation),
        "data": asdict(config.data),
        "classifiers": [weights_hash(Path(name) / "classifier") for name in evaluation.features],
        "versions": versions(),
    }
    there = json.loads(path.read_text()) if path.exists() else {}
    if there.get("asked") == asked:
        return dict(there["records"])
    records = score_images(config, images, accelerator, features=evaluation.features, known=known)
    text = json.dumps({"asked": asked, "records": records}, indent=2)
    Processes.of(accelerator).on_main(lambda: write_text(path, text))
    return records


def read_log(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def costs(log: Sequence[dict[str, Any]], batch: int) -> dict[str, float]:
    """Last validation loss, seconds per step and peak memory (GB), as far as a log has them.

    Seconds per step: of the median rate, which pauses for validation and saving do not move, without the
    first entry, a cold step's.
    """
    found = {}
    if losses := [entry["validation/loss"] for entry in log if "validation/loss" in entry]:
        found["validation/loss"] = losses[-1]
    timed = [entry for entry in log if "images_per_second" in entry]
    if rates := [entry["images_per_second"] for entry in timed[1:]]:
        found["seconds_per_step"] = batch / statistics.median(rates)
    if timed:
        found["peak_memory_gb"] = max(entry["peak_memory_gb"] for entry in timed)
    return found


def trainable(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def chosen_pictures(
    folder: Path, sampling: SamplingConfig, num_classes: int, class_names: Sequence[str]
) -> list[tuple[str, Path]]:
    """The first image of each class, then the second of each ..., by number and not by looks."""
    classes = max(1, num_classes)
    rounds = [(label, turn) for turn in range(sampling.images_per_class) for label in range(classes)]
    names = list(class_names) or [str(label) if num_classes else "" for label in range(classes)]
    return [
        (names[label], image_path(folder, label * sampling.images_per_class + turn, sampling))
        for label, turn in rounds[:PICTURES]
    ]


def about(config: Config, accelerator: Accelerator, resettable: bool) -> dict[str, Any]:
    """What all trials have in common."""
    return {
        "tokenizer_run": config.tokenizer_run,
        "sampling": asdict(config.sampling),
        "evaluation": asdict(config.evaluation),
        "data": asdict(config.data),
        "generator_training": asdict(config.generator_training),
        "device": accelerator.device.type,
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "peak_memory_comparable": resettable,
        "versions": versions(),
    }
