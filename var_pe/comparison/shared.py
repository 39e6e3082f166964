"""What the cells of a study share: tokenizers, tokens, real pictures, and what is measured once.

All of it is kept in files, and a function does nothing where its result is there and still rests on the same.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator

from var_pe.comparison.exact import count_pictures
from var_pe.comparison.extractor_check import check_extractor
from var_pe.comparison.pictures import real_strips
from var_pe.comparison.results import Exact, Shared, TokenizerScores
from var_pe.comparison.step_time import NULL, generator_step, step_times
from var_pe.comparison.study import Arm, Study
from var_pe.comparison.trials import with_encoding
from var_pe.encodings.machinery.coordinates import FIXED, level_maps
from var_pe.encodings.machinery.share import span_dimensions
from var_pe.evaluation.records import read_metrics, versions
from var_pe.evaluation.shapes_reader import ShapeReader
from var_pe.files import KeptResults
from var_pe.models.tokenizer import VQTokenizer
from var_pe.processes import Processes
from var_pe.pyramid import Grid
from var_pe.seeding import mix
from var_pe.settings.files import show
from var_pe.stages.config import Config
from var_pe.stages.features import feature_extractor, judges
from var_pe.stages.images import RealImages, fingerprint, training_images_at
from var_pe.stages.judge import judge_tokenizer
from var_pe.stages.models import build_generator, weights_hash
from var_pe.stages.pyramids import generator_pyramids
from var_pe.stages.score import is_scored, score_tokenizer
from var_pe.stages.tokens import training_tokens
from var_pe.stages.train import train_tokenizer

FINGERPRINTS: dict[str, str] = {}  # of splits, by their settings
Part = Mapping[str, object] | Sequence[object]  # of what cells share, as JSON has it


def prepare(study: Study, arms: Sequence[Arm], accelerator: Accelerator) -> None:
    """Trains the tokenizers, encodes the training images, and measures what belongs to no cell alone.

    All of it is left in shared.json, part by part, so that more arms or seeds repeat nothing but the timed
    steps, which are timed in turns with those of the others.
    """
    for name in judges(arms[0].config):
        weights_of_extractor(name, arms[0].config.evaluation.inception_weights)

    tokenizers: dict[str, VQTokenizer] = {}
    for arm in arms:
        folder = arm.tokenizer_config.tokenizer_run
        if folder not in tokenizers:
            run = str(Path(study.output) / "none")  # no generator is trained here
            tokenizers[folder] = train_tokenizer(replace(arm.tokenizer_config, run=run), accelerator)
    cache_tokens(arms, tokenizers, accelerator)

    config = arms[0].config
    rests_on = {"data": fingerprint_of(config, train=False), "versions": versions()}
    kept = KeptResults[Part](Path(study.output) / "shared.json", {"rests_on": rests_on}, "parts")
    kept.add({"shared": measure_shared(study, arms, tokenizers, accelerator, kept)})


def shared_of(output: Path) -> Shared:
    """The shared results that `prepare` has saved."""
    there = json.loads((output / "shared.json").read_text(encoding="utf-8"))
    return cast(Shared, there["parts"]["shared"])


def cache_tokens(
    arms: Sequence[Arm], tokenizers: Mapping[str, VQTokenizer], accelerator: Accelerator
) -> None:
    """Encodes the training images of every arm, so that cells that run at one time need not."""
    processes = Processes.of(accelerator)
    done = set()
    for arm in arms:
        config = arm.config
        pyramids = generator_pyramids(config)
        wanted = repr((config.tokenizer_run, config.data, config.generator_training.views, pyramids))
        if wanted in done or not config.generator_training.views:
            continue
        done.add(wanted)

        tokenizer = tokenizers[config.tokenizer_run].to(accelerator.device)
        cell = tokenizer.downsampling
        images = training_images_at(config, pyramids, cell, processes, config.tokenizer_seed)
        training_tokens(config, tokenizer, images, processes)


def measure_shared(
    study: Study,
    arms: Sequence[Arm],
    tokenizers: Mapping[str, VQTokenizer],
    accelerator: Accelerator,
    kept: KeptResults[Part],
) -> Shared:
    """Scores of tokenizers and extractors, real pictures, the time of a step under every encoding."""
    of_tokenizers = []
    for folder, tokenizer in tokenizers.items():
        config = next(arm.tokenizer_config for arm in arms if arm.config.tokenizer_run == folder)
        of_tokenizers.append(scored_tokenizer(config, tokenizer, accelerator))

    def part(name: str, measure: Callable[[], Part]) -> Part:
        if name not in kept.results:
            kept.add({name: measure()})
        return kept.results[name]

    config = arms[0].config
    tokenizer = tokenizers[config.tokenizer_run].to(accelerator.device)
    classes = len(RealImages(config, train=False).images.class_names)
    of_pictures = repr((weights_hash(Path(config.tokenizer_run) / "tokenizer"), config.sampling))
    pictures = part(f"pictures {of_pictures}", lambda: list(real_strips(config, tokenizer, classes)))

    exact: dict[str, Part] = {}
    for folder, own in tokenizers.items() if study.count_pictures else ():
        arm = next(arm for arm in arms if arm.config.tokenizer_run == folder)
        digest = weights_hash(Path(folder) / "tokenizer")
        rests = (digest, arm.config.data.height, arm.config.data.width, arm.config.data.shapes_test)
        name = f"every picture {rests!r} {arm.config.generator_training.validation_images}"
        count = partial(count_pictures, arm.config, own.to(accelerator.device), Path(study.output))
        exact[folder] = part(name, count)

    checks = []
    for name in features_with_distances(config) if study.check_extractors else ():
        weights = config.evaluation.inception_weights
        made_by = weights_of_extractor(name, weights)
        check = partial(checked_extractor, config, name, accelerator)
        checks.append(part(f"extractor {name} {made_by}", check))

    # A step's time follows from models and batch.
    shapes = [(arm.name, arm.config.generator, arm.config.tokenizer) for arm in arms]
    trained = config.generator_training
    shape = repr((shapes, trained.batch, trained.precision, classes))
    digest = f"{mix(shape, study.timing_rounds, study.threads):016x}"
    steps = part(f"steps {digest}", lambda: list(timed_steps(study, arms, classes, accelerator)))
    found: Shared = {
        "tokenizers": of_tokenizers,
        "real": cast(list[str], pictures)[0],
        "reconstructed": cast(list[str], pictures)[1],
        "grids": [list(grid) for grid in tokenizer.pyramid.grids],
        "extractors": cast(list[dict[str, object]], checks),
        "times": {"steps": cast(list[dict[str, object]], steps)},
        "sinusoid": span_of_sinusoid(config, tokenizer),
        "maps": {kind: rotary_map(kind, tokenizer.pyramid.grids) for kind in FIXED},
    }
    if exact:
        found["exact"] = cast(dict[str, Exact], exact)
    return found


def checked_extractor(config: Config, name: str, accelerator: Accelerator) -> dict[str, object]:
    """Whether an extractor sees places."""
    extractor = feature_extractor(name, config.evaluation.inception_weights)
    return check_extractor(config, extractor, accelerator).as_json()


@lru_cache(maxsize=64)
def weights_of_extractor(name: str, inception_weights: str | None) -> str:
    """The hash of an extractor's weights; loading it takes a second, and every cell asks for it."""
    return feature_extractor(name, inception_weights).weights_sha256


def fingerprint_of(config: Config, *, train: bool) -> str:
    """The fingerprint of a split's images, computed once."""
    known = repr((config.data, train))
    if known not in FINGERPRINTS:
        FINGERPRINTS[known] = fingerprint(config, train=train)
    return FINGERPRINTS[known]


def features_with_distances(config: Config) -> list[str]:
    """The features of the evaluation that distances are taken between; what reads shapes has none."""
    return [name for name in config.evaluation.features if name != ShapeReader.name]


def check_scores(study: Study, arms: Sequence[Arm]) -> None:
    """Checks what arms are to be scored by, before any is trained.

    Raises:
        ValueError: guidance scales would have no distance to be chosen by, or the judge is missing or is an
            extractor, too.
    """
    for arm in arms:
        if study.guidances and not features_with_distances(arm.config):
            raise ValueError(
                f"guidances={show(study.guidances)} are chosen by the distance of the first of "
                f"evaluation.features, and {arm.name} has none there"
            )
        if study.judge is not None and study.judge in arm.config.evaluation.features:
            raise ValueError(
                f"judge={study.judge} is one of evaluation.features, too: a judge takes no part in distances"
            )
    if study.judge is not None and not (Path(study.judge) / "classifier").is_dir():
        raise ValueError(f"judge={study.judge} is not the folder of a classifier's run: train it first")


def scored_tokenizer(config: Config, tokenizer: VQTokenizer, accelerator: Accelerator) -> TokenizerScores:
    """The scores of a tokenizer under its own levels."""
    folder = Path(config.tokenizer_run)
    if not is_scored(config, folder, "tokenizer"):
        score_tokenizer(config, tokenizer, accelerator)
    entry = read_metrics(folder / "metrics.json")["tokenizer"]
    values = entry["values"]
    levels = range(tokenizer.pyramid.num_levels)
    return {
        "folder": config.tokenizer_run,
        "psnr": values["psnr"],
        "levels": [f"{height}x{width}" for height, width in tokenizer.pyramid.grids],
        "perplexity": [values[f"perplexity/level_{level}"] for level in levels],
        "usage": [values[f"usage/level_{level}"] for level in levels],
        "codebook_size": entry["codebook_size"],
        "num_images": entry["num_images"],
        "verdict": str(judge_tokenizer(config, tokenizer, accelerator)),
    }


def timed_steps(
    study: Study, arms: Sequence[Arm], classes: int, accelerator: Accelerator
) -> list[dict[str, object]]:
    """A training step of every arm in turns, beside that of `none`; nothing where no rounds are asked for."""
    if study.timing_rounds < 2:
        return []
    configs = {arm.name: arm.config for arm in arms}
    base = with_encoding(arms[0].config, NULL)

    def make_step(name: str) -> Callable[[], None]:
        config = configs.get(name, base)
        generator = build_generator(config, classes).train().to(accelerator.device)
        return generator_step(generator, config, classes, accelerator.device)

    times = step_times(list(configs), make_step, rounds=study.timing_rounds)
    return [asdict(time) for time in times]


def span_of_sinusoid(config: Config, tokenizer: VQTokenizer) -> dict[str, int]:
    """The dimensions of the sinusoid's span, of all that a table has about its mean."""
    if config.generator.dim % 4:
        return {}
    dimensions = span_dimensions(tokenizer.pyramid, config.generator.dim)
    return {"dimensions": dimensions, "of": tokenizer.pyramid.num_tokens - 1}


def rotary_map(kind: str, grids: tuple[Grid, ...]) -> list[list[float]]:
    """A fixed map of coordinates: of each level scale and offset along y, then along x."""
    scale_K2, offset_K2 = level_maps(kind, grids, torch.device("cpu"))
    return torch.stack([scale_K2, offset_K2], dim=2).flatten(1).tolist()
