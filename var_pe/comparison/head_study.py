"""Which encodings suit which task: segmenters and detectors on classifiers of made-up shapes.

At the training size and, nothing trained there, at twice that. Models and scores are kept beside the
classifiers, and what the study of resolutions has kept there of classification goes into the same table.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator

from var_pe.comparison.resolution_study import kept_answers
from var_pe.comparison.statistics import summary
from var_pe.comparison.trials import Trial, trials
from var_pe.data.shapes import CLASSES
from var_pe.evaluation.evidence import CLASSIFICATION, TaskScore
from var_pe.evaluation.segmentation import check_library
from var_pe.files import KeptResults
from var_pe.pages.numbers import percent
from var_pe.pages.tables import markdown_table
from var_pe.pyramid import Grid
from var_pe.resampling.conventions import DEFAULT_CONVENTION
from var_pe.stages.config import Config, Kind
from var_pe.stages.images import fingerprint
from var_pe.stages.models import weights_hash
from var_pe.stages.on_maps import ON_MAPS
from var_pe.stages.score import score_on_maps
from var_pe.stages.train import train_classifier, train_on_maps
from var_pe.tasks.dense import DenseTraining


class Task(NamedTuple):
    """What a kind of model on maps does, and which of its scores counts."""

    name: str
    # the score's key in metrics.json, and what it is in words
    key: str
    score: str


TASKS: dict[Kind, Task] = {
    "segmenter": Task("segmentation", "mean_iou", "mean IoU over the ground and the classes"),
    "detector": Task("detection", "ap", "COCO's average precision"),
}


@dataclass(frozen=True)
class SeedScore:
    """What one classifier, or a model on its maps, reached at one size."""

    encoding: str
    seed: int
    task: str
    # what was measured
    score: str
    # whether the classifier's weights were left as they were; None: there is no model on its maps
    frozen: bool | None
    size: Grid
    value: float


def study_heads(
    config: Config,
    on_maps: Sequence[Config],
    encodings: Sequence[str],
    seeds: Sequence[int],
    output: Path,
    accelerator: Accelerator,
) -> list[TaskScore]:
    """Trains the classifiers that are missing below `output`, then what `on_maps` configures on each.

    Raises:
        ValueError: the config trains something else than a classifier of `shapes`, which alone come with
            boxes and masks; one of `on_maps` is of neither a segmenter nor a detector, or cannot be built.
    """
    if config.kind != "classifier" or config.data.source != "shapes" or config.data.channels != 3:
        raise ValueError(
            f"heads need a config of a classifier with data.source=shapes and data.channels=3, got one of a "
            f"{config.kind} with data.source={config.data.source} and data.channels={config.data.channels}"
        )
    for one in on_maps:
        if one.kind not in TASKS:
            raise ValueError(f"--tasks takes configs of segmenters and detectors, got one of a {one.kind}")
    check_library()

    # What cannot be built is said before anything is trained.
    planned = trials(config, encodings, seeds, output)
    for trial in planned:
        for one in on_maps:
            with torch.device("meta"):
                ON_MAPS[one.kind].build(on_classifier(trial, one, frozen=False), len(CLASSES) + 1)

    scores = []
    for number, trial in enumerate(planned, start=1):
        accelerator.print(f"heads {number} of {len(planned)}: {trial.encoding}, seed {trial.seed}")
        train_classifier(trial.config, accelerator)
        for one in on_maps:
            for frozen in (True, False):
                scores += head_scores(trial, one, accelerator, frozen=frozen)
        scores += accuracies(trial)
    return over_seeds(scores)


def head_scores(trial: Trial, on_maps: Config, accelerator: Accelerator, *, frozen: bool) -> list[SeedScore]:
    """What one model on the maps of a trained classifier reaches at the training size and at twice that.

    A finished one in its folder is not trained again, nor scored again.
    """
    config, task = on_classifier(trial, on_maps, frozen=frozen), TASKS[on_maps.kind]
    train_on_maps(config, accelerator)

    weights = weights_hash(Path(config.run) / config.kind)
    rests_on = {"weights": weights, "images": fingerprint(config, train=False)}
    kept = KeptResults[float](Path(config.run) / "sizes.json", rests_on, "scores")

    scores = []
    height, width = config.data.height, config.data.width
    for size in ((height, width), (2 * height, 2 * width)):
        name = f"{size[0]}x{size[1]}"
        if name not in kept.results:
            (found,) = score_on_maps(config.kind, config, accelerator, size).values()
            kept.add({name: found["values"][task.key]})
        value = kept.results[name]
        scores.append(SeedScore(trial.encoding, trial.seed, task.name, task.score, frozen, size, value))
    return scores


def on_classifier(trial: Trial, on_maps: Config, *, frozen: bool) -> Config:
    """`on_maps` for the trial's pictures and encoder, started from its classifier, in a folder beside it."""

    def training(of: DenseTraining) -> DenseTraining:
        # Gradual unfreezing whose first layer would come after the last step
        return replace(of, unfreeze_every=of.steps_for(trial.config.data.shapes_train)) if frozen else of

    way = "frozen" if frozen else "tuned"
    return replace(
        trial.config,
        run=str(trial.run / f"{on_maps.kind}_{way}"),
        model=replace(trial.config.model, init_from=str(trial.run)),
        segmenter=on_maps.segmenter,
        segmenter_training=training(on_maps.segmenter_training),
        detector=on_maps.detector,
        detector_training=training(on_maps.detector_training),
    )


def way_of_training(frozen: bool | None) -> str:
    """Whether the classifier below a head was trained with it."""
    return "frozen" if frozen else "fine-tuned"


def accuracies(trial: Trial) -> list[SeedScore]:
    """The classification accuracies that the study of resolutions has measured for this run."""
    return [
        SeedScore(
            trial.encoding, trial.seed, CLASSIFICATION, "top-1 accuracy", None, answer.size, answer.accuracy
        )
        for answer in kept_answers(trial)
        if answer.convention == DEFAULT_CONVENTION
    ]


def over_seeds(scores: Sequence[SeedScore]) -> list[TaskScore]:
    """Mean and spread of each encoding, task and size."""
    groups: dict[tuple[str, str, Grid, bool | None], list[SeedScore]] = {}
    for score in scores:
        groups.setdefault((score.encoding, score.task, score.size, score.frozen), []).append(score)

    table = []
    for (encoding, task, size, frozen), group in groups.items():
        found = summary([score.value for score in group])
        table.append(
            TaskScore(
                encoding,
                task,
                size,
                frozen,
                found.mean,
                found.spread,
                seeds=tuple(score.seed for score in group),
                score=group[0].score,
            )
        )
    return table


def as_markdown(table: Sequence[TaskScore]) -> str:
    """A row per encoding, a column per task of a head, size and way of training; percent."""
    of_heads = [score for score in table if score.task != CLASSIFICATION]  # the others are in resolutions.md

    columns = list(dict.fromkeys((score.task, score.frozen, score.size) for score in of_heads))
    header = ["encoding"]
    for task, frozen, (height, width) in columns:
        header.append(f"{task}, {way_of_training(frozen)}, {height}x{width}")

    rows = []
    for encoding in dict.fromkeys(score.encoding for score in of_heads):
        mine = {
            (score.task, score.frozen, score.size): percent(score.mean, score.spread)
            for score in of_heads
            if score.encoding == encoding
        }
        rows.append([f"`{encoding}`", *(mine.get(column, "") for column in columns)])
    return markdown_table(header, rows) + "\n"
