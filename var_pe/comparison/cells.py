"""A cell of a study: trained, drawn from, measured, and what was found kept in files.

Each step is a function that does nothing where its result is there and still rests on the same things.
"""

import base64
import datetime
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from var_pe import settings
from var_pe.comparison.costs import costs, steadiness, trainable
from var_pe.comparison.other_sizes import is_measured, measured_at
from var_pe.comparison.pictures import chosen_pictures, pixels, strip
from var_pe.comparison.places import nats_by_place
from var_pe.comparison.results import CellResult, Curve, Record, Times, thinned
from var_pe.comparison.shared import fingerprint_of, weights_of_extractor
from var_pe.comparison.study import Cell, Study
from var_pe.evaluation.features import FeatureSet
from var_pe.evaluation.metrics import half_numbers
from var_pe.evaluation.records import read_metrics, versions
from var_pe.evaluation.token_histograms import token_histogram_distances
from var_pe.files import KeptResults, remove, written_whole
from var_pe.models.tokenizer import VQTokenizer
from var_pe.processes import say
from var_pe.sampling.folder import kept_tokens
from var_pe.sampling.pipeline import VARPipeline
from var_pe.seeding import mix
from var_pe.stages.begun import is_finished
from var_pe.stages.config import Config, settled_config
from var_pe.stages.draw import draw_folder, load_pipeline
from var_pe.stages.drawn_images import DrawnImages, Labelled
from var_pe.stages.features import described, feature_extractor, judges
from var_pe.stages.images import RealImages, fingerprint
from var_pe.stages.models import load_model, weights_hash
from var_pe.stages.run_folder import check_settings
from var_pe.stages.score import is_scored, score_classifier, score_images
from var_pe.stages.tokens import held_out_tokens, tokens_of_images
from var_pe.stages.train import train_classifier, train_generator
from var_pe.training.history import History
from var_pe.training.log import LogEntry, read_log
from var_pe.training.notes import TrainingNotes

POINTS = 400  # of a curve at most

# Logged values that say something of the machine and not of the training
OF_THE_MACHINE = ("images_per_second", "minutes_left", "peak_memory_gb", "validation_seconds")


def train_cell(cell: Cell, accelerator: Accelerator) -> None:
    """Trains the cell's generator, unless that is done, on the tokenizer that `prepare` has trained."""
    tokenizer = load_model(VQTokenizer, Path(cell.config.tokenizer_run) / "tokenizer")
    train_generator(cell.config, tokenizer, accelerator)


def rests_on(cell: Cell, study: Study) -> dict[str, object]:
    """Everything that a cell's result depends on; empty before it is trained."""
    config = cell.config
    if not (cell.run / "generator").exists():
        return {}

    evaluation = config.evaluation
    extractors = [weights_of_extractor(name, evaluation.inception_weights) for name in judges(config)]
    sampling = asdict(config.sampling)
    del sampling["batch"], sampling["classifier"]
    # as in results from before there was a choice
    if config.sampling.remap == "none":
        del sampling["remap"]
    if config.sampling.draws_per_image == 1:
        del sampling["draws_per_image"]
    elif config.sampling.classifier is not None:
        sampling["chosen_by"] = weights_hash(Path(config.sampling.classifier) / "classifier")
    return {
        "weights": weights_hash(cell.run / "generator"),
        "sampling": sampling,
        "evaluation": asdict(evaluation),
        "data": config.data.record(),
        "reference": fingerprint_of(config, train=evaluation.reference_split == "train"),
        "extractors": extractors,
        "judge": None if study.judge is None else weights_hash(Path(study.judge) / "classifier"),
        "drawn_classifier": study.drawn_classifier,
        "versions": versions(),
    }


def kept_result(cell: Cell, study: Study) -> KeptResults[CellResult]:
    """The cell's saved result, which is empty if none is saved or if what it depends on has changed."""
    return KeptResults(cell.run / "cell.json", {"rests_on": rests_on(cell, study)}, "results")


def sampling_seeds(cell: Cell, study: Study) -> list[int]:
    """The seeds that a cell is drawn with; the study's own comes first."""
    return [cell.config.sampling.seed, *study.sampling_seeds]


def finished(cell: Cell, study: Study) -> CellResult | None:
    """A cell's result, if it has every drawing, size and training that the study asks for."""
    found = kept_result(cell, study).results.get("cell")
    if found is None or any(str(seed) not in found["drawings"] for seed in sampling_seeds(cell, study)):
        return None
    if study.drawn_classifier is not None:
        config = config_of_drawn(cell, study.drawn_classifier)
        if not is_finished(config, Path(config.run), "classifier"):
            return None
    return found if is_measured(cell, study, found.get("sizes", [])) else None


def measure_cell(cell: Cell, study: Study, accelerator: Accelerator) -> None:
    """Draws and scores a trained cell with every sampling seed, and keeps what was found."""
    if finished(cell, study) is not None:
        return
    config, kept = cell.config, kept_result(cell, study)
    pipeline = load_pipeline(config)
    there = kept.results.get("cell")
    scored = score_drawings(cell, study, pipeline, there, accelerator)

    # Of the training: what its log says, and its last weights token by token
    log = read_log(cell.run / "log.jsonl")
    step = TrainingNotes.read(cell.run / "generator").step
    of_log = costs(log, config.generator_training.batch, step)
    times: Times = {"finished": datetime.datetime.now().astimezone().isoformat(timespec="seconds")}
    if "seconds_per_step" in of_log:
        times["seconds_per_step"] = of_log.pop("seconds_per_step")
    if "peak_memory_gb" in of_log:
        times["peak_memory_gb"] = of_log.pop("peak_memory_gb")

    transformer, tokenizer = pipeline.transformer, pipeline.tokenizer
    number = config.generator_training.validation_images
    pyramid = transformer.pyramid
    tokens_NL, labels_N = held_out_tokens(config, tokenizer, [pyramid], number)[pyramid]

    values = scored.drawings[str(config.sampling.seed)] | of_log | steadiness(log) | at_the_end(log, step)
    values["parameters"] = float(trainable(transformer))
    values["encoding_parameters"] = float(trainable(transformer.position_encoding))
    if study.drawn_classifier is not None:
        values |= classifier_of_drawn(cell, study.drawn_classifier, accelerator)

    pictures = chosen_pictures(
        cell.run / "drawn", config.sampling, transformer.num_classes, pipeline.class_names
    )
    result: CellResult = {
        "values": values,
        "drawings": scored.drawings,
        "curves": curves_of(log),
        "nats_by_place": nats_by_place(transformer, tokenizer, tokens_NL, labels_N, pyramid).tolist(),
        "records": scored.records,
        "floor": scored.floor,
        "picture": base64.b64encode(strip([pixels(file) for _, file in pictures])).decode(),
        "classes": [name for name, _ in pictures],
        "sizes": measured_at(cell, study, tokenizer, [] if there is None else there.get("sizes", [])),
        "times": times,
    }
    kept.add({"cell": result})


@dataclass(frozen=True)
class Scored:
    """The scores of a cell's drawings, by their seeds; what they rest on, and those of real images."""

    drawings: dict[str, dict[str, float]]
    records: dict[str, Record]
    floor: dict[str, float]


def score_drawings(
    cell: Cell, study: Study, pipeline: VARPipeline, there: CellResult | None, accelerator: Accelerator
) -> Scored:
    """Draws with every seed, each into a folder of its own, and scores what `there` has no scores of."""
    scored = Scored({}, {}, {})
    if there is not None:
        scored = Scored(there["drawings"], there["records"], there["floor"])

    config, output = cell.config, Path(study.output)
    known = ReferenceFeatures(output, config)
    for number, seed in enumerate(sampling_seeds(cell, study)):
        if str(seed) in scored.drawings:
            continue
        sampled = replace(config, sampling=replace(config.sampling, seed=seed))
        folder = cell.run / (f"drawn_{seed}" if number else "drawn")
        # At another size than was trained tokens are others, which are compared with none.
        as_trained = sampled.sampling.size is None and sampled.sampling.levels is None
        images = draw_folder(pipeline, sampled.sampling, folder, accelerator, keep_tokens=as_trained)
        found = score_images(sampled, images, accelerator, features=judges(config), known=known.sets)

        values, of_real = numbers_of_records(found)
        of_real_tokens: dict[str, float] = {}
        if as_trained:
            of_tokens, of_real_tokens = token_scores(sampled, pipeline, folder, output)
            values |= of_tokens
        if study.judge is not None:
            values |= judged(study.judge, config, images, accelerator)
        scored.drawings[str(seed)] = values
        if not number:
            scored.records.update(found)
            scored.floor.update(of_real | of_real_tokens)
    known.keep()
    return scored


def numbers_of_records(
    found: Mapping[str, Mapping[str, object]],
) -> tuple[dict[str, float], dict[str, float]]:
    """All values of records that are single numbers, and those of real images, by the same names.

    What a classifier recognises of real images stands under the name that it has for drawn ones.
    """
    values: dict[str, float] = {}
    floor: dict[str, float] = {}
    for record in found.values():
        for name, value in _numbers(record.get("values")).items():
            values[name] = value
            if name.startswith("accuracy_reference_"):
                floor[name.replace("reference", "generated")] = value
        floor |= _numbers(record.get("floor"))
    return values, floor


def _numbers(values: object) -> dict[str, float]:
    if not isinstance(values, Mapping):
        return {}
    return {
        str(name): float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def token_scores(
    config: Config, pipeline: VARPipeline, drawn: Path, output: Path
) -> tuple[dict[str, float], dict[str, float]]:
    """Histogram distances of the drawn tokens to real ones, and those of other real tokens to the same.

    As many tokens of real images as of drawn ones, as for other scores.
    """
    transformer = pipeline.transformer
    total = config.sampling.images_per_class * max(1, transformer.num_classes)
    tokens_NL = kept_tokens(drawn, range(total))
    other_NL, real_NL = real_tokens(config, pipeline.tokenizer, total, output)
    pyramid, codes = transformer.pyramid, pipeline.tokenizer.quantizer.num_codes
    return (
        token_histogram_distances(tokens_NL, real_NL, pyramid, codes),
        token_histogram_distances(other_NL, real_NL, pyramid, codes),
    )


def real_tokens(config: Config, tokenizer: VQTokenizer, number: int, output: Path) -> tuple[Tensor, Tensor]:
    """The tokens of two halves of the real images that scores compare with; they are kept in a file."""
    evaluation = config.evaluation
    images = RealImages(config, train=evaluation.reference_split == "train")
    halves = half_numbers(len(images), min(number, evaluation.images or number))

    tokenized = weights_hash(Path(config.tokenizer_run) / "tokenizer")
    real = fingerprint(config, train=evaluation.reference_split == "train")
    name = f"{mix(tokenized, real, len(halves[0])):016x}"
    file = output / "reference" / f"tokens_{name}.npz"
    if not file.exists():
        parts = [images.part(numbers.tolist()).images for numbers in halves]
        found = [tokens_of_images(part, tokenizer, tokenizer.pyramid)[0].cpu() for part in parts]
        file.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(file) as draft, draft.open("wb") as stream:
            np.savez(stream, first=found[0].numpy(), second=found[1].numpy())
    with np.load(file) as read:
        return torch.from_numpy(read["first"]), torch.from_numpy(read["second"])


class ReferenceFeatures:
    """The features of real images, which all cells are scored against, in a file of the study's folder."""

    def __init__(self, output: Path, config: Config) -> None:
        split = config.evaluation.reference_split
        name = f"{mix(fingerprint(config, train=split == 'train'), split):016x}"
        self.file = output / "reference" / f"features_{name}.pt"
        self.sets: dict[tuple[str, str], FeatureSet] = {}
        if self.file.exists():
            with torch.serialization.safe_globals([FeatureSet]):
                self.sets = torch.load(self.file)
        self.there = len(self.sets)

    def keep(self) -> None:
        """Writes the file again if features were added."""
        if len(self.sets) > self.there:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(self.file) as draft:
                torch.save(self.sets, draft)
            self.there = len(self.sets)


def judged(judge: str, config: Config, images: Path, accelerator: Accelerator) -> dict[str, float]:
    """Class agreement: top-1 on drawn images of a classifier that takes no part in other scores."""
    extractor = feature_extractor(judge)
    drawn = Labelled(images, RealImages(config, train=False).images.class_names)
    found = described(extractor, drawn, accelerator)
    return {"class_agreement": float((found.logits_NV.argmax(1) == found.labels_N).float().mean())}


def config_of_drawn(cell: Cell, file: str) -> Config:
    """The config of the classifier that is trained on a cell's drawn images."""
    config = loaded(file)
    training = replace(config.classifier_training, drawn_images=str(cell.run / "drawn"))
    run = str(cell.run / "classifier_of_drawn")
    return replace(config, run=run, seed=cell.seed, classifier_training=training)


@lru_cache(maxsize=8)
def loaded(file: str) -> Config:
    """A config file, which every cell asks for."""
    return settings.load(Config, file)


def check_drawn_classifier(cell: Cell, study: Study) -> None:
    """Checks the classifier of drawn images before anything is trained.

    Raises:
        ValueError: its config describes no classifier, or the cell has one of other settings.
    """
    if study.drawn_classifier is None:
        return
    config = config_of_drawn(cell, study.drawn_classifier)
    if config.classifier is None:
        raise ValueError(f"drawn_classifier={study.drawn_classifier} has no classifier section")
    check_settings(Path(config.run), settled_config(config), "classifier")


def classifier_of_drawn(cell: Cell, file: str, accelerator: Accelerator) -> dict[str, float]:
    """Top-1 on real test images of a classifier that was trained on the cell's drawn images alone."""
    config = config_of_drawn(cell, file)
    run = Path(config.run)

    # Images that were drawn anew have another classifier.
    history = History.read(run)
    class_names = RealImages(config, train=False).images.class_names
    drawn = DrawnImages(cell.run / "drawn", class_names)
    if history is not None and history.training_set not in (None, drawn.identity):
        say(f"{run} was trained on other images than are drawn now, and begins anew", sys.stdout)
        remove(run)

    train_classifier(config, accelerator)
    if not is_scored(config, run, "classifier"):
        score_classifier(config, accelerator)
    values = read_metrics(run / "metrics.json")["classifier"]["values"]
    return {"accuracy_of_classifier_of_drawn": float(values["top1"])}


def at_the_end(log: Sequence[LogEntry], step: int | None) -> dict[str, float]:
    """The last training loss, and what the validation of the finished weights says of every level."""
    losses = [entry["loss"] for entry in log if "loss" in entry]
    found = {"training/loss": losses[-1]} if losses else {}
    for entry in log:
        if "validation/loss" in entry and step in (None, entry["step"]):
            of_parts = ("validation/loss/level_", "validation/share_in_sinusoid", "validation/coordinates/")
            found |= {name: value for name, value in entry.items() if name.startswith(of_parts)}
    return found


def curves_of(log: Sequence[LogEntry]) -> dict[str, Curve]:
    """Every logged quantity but those of the machine, thinned out evenly to `POINTS`."""
    curves: dict[str, Curve] = {}
    for entry in log:
        for name, value in entry.items():
            if name in ("step", "learning_rate", *OF_THE_MACHINE):
                continue
            curve = curves.setdefault(name, {"steps": [], "values": []})
            curve["steps"].append(int(entry["step"]))
            curve["values"].append(float(value))

    return {name: thinned(curve, POINTS) for name, curve in curves.items()}
