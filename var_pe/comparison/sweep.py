"""Chooses each arm's learning rate and guidance, on pictures that the study's own scores do not use.

So nobody wins by the default: a code of another amplitude may want another rate.
"""

import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from accelerate import Accelerator

from var_pe.comparison.places import nats_by_place
from var_pe.comparison.results import Chosen
from var_pe.comparison.shared import features_with_distances
from var_pe.comparison.study import Arm, Cell, Study
from var_pe.comparison.trials import slug
from var_pe.data.part import drawn
from var_pe.evaluation.features import EvaluationConfig, FeatureSet
from var_pe.files import KeptResults
from var_pe.models.tokenizer import VQTokenizer
from var_pe.processes import say
from var_pe.settings.loading import differences, load
from var_pe.stages.config import Config
from var_pe.stages.draw import draw_folder, load_pipeline
from var_pe.stages.features import feature_extractor
from var_pe.stages.images import RealImages
from var_pe.stages.models import load_model, weights_hash
from var_pe.stages.score import score_images
from var_pe.stages.tokens import tokens_of_images
from var_pe.stages.train import train_generator


def sweeps(study: Study) -> bool:
    """Whether the study chooses learning rates or guidance scales at all."""
    return bool(study.learning_rates or study.guidances)


def choose(study: Study, arm: Arm, accelerator: Accelerator) -> Chosen:
    """Trains the arm with every learning rate, then draws the best one with every guidance scale.

    A rate is judged by nats on test pictures that no validation uses, a guidance by its Frechet distance to
    training pictures.

    A rate at which the training diverges is not taken.

    Raises:
        ValueError: there are no such test pictures.
        FloatingPointError: the training diverges at every rate.
    """
    kept = kept_choice(study, arm)
    if kept.results:
        return kept.results["chosen"]

    config = arm.config
    training = config.generator_training
    tokenizer = load_model(VQTokenizer, Path(config.tokenizer_run) / "tokenizer").to(accelerator.device)
    real = RealImages(config, train=False)
    validated = set(drawn(len(real), training.validation_images, config.data.subset_seed))
    others = [number for number in range(len(real)) if number not in validated]
    others = others[: training.validation_images]
    if not others:
        raise ValueError(
            "learning_rates and guidances are chosen on test images that no validation uses, but "
            f"generator_training.validation_images={training.validation_images} takes all {len(real)}"
        )
    tokens_NL, labels_N = tokens_of_images(real.part(others).images, tokenizer, tokenizer.pyramid)

    nats: dict[str, float] = {}
    runs: dict[str, Config] = {}
    diverged: dict[str, FloatingPointError] = {}
    for rate in study.learning_rates or [training.learning_rate]:
        name = f"{rate:g}"
        steps = study.sweep_steps or training.steps
        run = Path(study.output) / "sweep" / f"{slug(arm.name)}_rate_{name}"
        own = replace(
            config,
            run=str(run),
            seed=study.sweep_seed,
            generator_training=replace(training, learning_rate=rate, steps=steps),
        )
        try:
            generator = train_generator(own, tokenizer, accelerator).to(accelerator.device)
        except FloatingPointError as error:
            say(f"{arm.name}, learning rate {name}: {error}", sys.stderr)
            diverged[name] = error
            continue
        nats[name] = float(nats_by_place(generator, tokenizer, tokens_NL, labels_N, generator.pyramid).mean())
        runs[name] = own
    if not nats:
        raise next(iter(diverged.values()))
    best = min(nats, key=lambda name: nats[name])

    distances = _distances(study, runs[best], accelerator)
    guidance = config.sampling.guidance_scale
    if distances:
        guidance = float(min(distances, key=lambda name: distances[name]))
    chosen: Chosen = {
        "learning_rate": runs[best].generator_training.learning_rate,
        "guidance": guidance,
        "nats": nats,
        "distances": distances,
    }
    if diverged:
        chosen["diverged"] = list(diverged)
    kept.add({"chosen": chosen})
    return chosen


def _distances(study: Study, config: Config, accelerator: Accelerator) -> dict[str, float]:
    """The Frechet distance of images drawn with each guidance scale; nothing where none are given."""
    evaluation = replace(config.evaluation, reference_split="train")
    known: dict[tuple[str, str], FeatureSet] = {}
    found = {}
    for guidance in study.guidances:
        name = f"{guidance:g}"
        own = replace(
            config, sampling=replace(config.sampling, guidance_scale=guidance), evaluation=evaluation
        )
        images = draw_folder(load_pipeline(own), own.sampling, Path(own.run) / f"drawn_{name}", accelerator)
        first = features_with_distances(config)[0]
        (record,) = score_images(own, images, accelerator, features=[first], known=known).values()
        extractor = feature_extractor(first, evaluation.inception_weights)
        key = "fid" if extractor.comparable else f"frechet_distance_{extractor.name}"
        found[name] = record["values"][key]
    return found


def kept_choice(study: Study, arm: Arm) -> KeptResults[Chosen]:
    """What was chosen for an arm, if it still rests on the same things."""
    config = replace(arm.config, run="none")

    # Rates rest on no score of drawn images, guidance scales on the first distance: more can be added later
    evaluation = EvaluationConfig()
    if study.guidances:
        evaluation = replace(config.evaluation, features=features_with_distances(config)[:1])

    path = Path(study.output) / "sweep" / f"{slug(arm.name)}.json"
    settings: Mapping[str, object] = {
        "learning_rates": list(study.learning_rates),
        "guidances": list(study.guidances),
        "steps": study.sweep_steps,
        "seed": study.sweep_seed,
        "config": unusual(replace(config, evaluation=evaluation)),
        "tokenizer": weights_hash(Path(config.tokenizer_run) / "tokenizer"),
    }
    kept = KeptResults[Chosen](path, {"asked": settings}, "found")
    if kept.results:
        return kept

    # In studies that were begun before scores could be added, choices rest on all of them
    before = KeptResults[Chosen](path, {"asked": {**settings, "config": unusual(config)}}, "found")
    return before if before.results else kept


def unusual(config: Config) -> list[str]:
    """The settings of a config that are not the defaults; what later versions add is not among them."""
    usual = load(Config, None, ["run=none", "tokenizer_run=none"])
    return differences(asdict(usual), asdict(config))


def chosen_for(study: Study, arm: Arm) -> Chosen | None:
    """What was chosen for an arm; None where nothing is to be, or it has not been yet."""
    there = (Path(arm.config.tokenizer_run) / "tokenizer").exists()
    return kept_choice(study, arm).results.get("chosen") if sweeps(study) and there else None


def with_chosen(study: Study, cell: Cell) -> Cell:
    """The cell with its arm's learning rate and guidance, where these were chosen."""
    chosen = chosen_for(study, cell.arm)
    if chosen is None:
        return cell
    config = cell.config
    training = replace(config.generator_training, learning_rate=chosen["learning_rate"])
    sampling = replace(config.sampling, guidance_scale=chosen["guidance"])
    return replace(cell, config=replace(config, generator_training=training, sampling=sampling))
