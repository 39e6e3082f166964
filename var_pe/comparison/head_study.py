"""Which encodings suit which task: segmentation and detection heads on classifiers of made-up shapes.

At the training size and, nothing trained there, at twice that. Results are kept beside the classifiers, and
what the study of resolutions has kept there of classification goes into the same table.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from var_pe.comparison.heads import HEADS, Annotated, HeadTraining, annotated_shapes, tokens, train_head
from var_pe.comparison.resolution_study import kept_answers
from var_pe.comparison.statistics import summary
from var_pe.comparison.trials import Trial, trials
from var_pe.evaluation.evidence import CLASSIFICATION, TaskScore
from var_pe.files import KeptResults
from var_pe.models.vit import ViTClassifier
from var_pe.pages.numbers import percent
from var_pe.pages.tables import markdown_table
from var_pe.pyramid import Grid
from var_pe.resampling.conventions import DEFAULT_CONVENTION
from var_pe.stages.config import Config
from var_pe.stages.models import load_model, weights_hash
from var_pe.stages.train import train_classifier

TRAINING_PICTURES = 8000
TEST_PICTURES = 1000


@dataclass(frozen=True)
class SeedScore:
    """What one classifier, or a head on it, reached at one size."""

    encoding: str
    seed: int
    task: str
    # whether the classifier's weights were left as they were; None: there is no head
    frozen: bool | None
    size: Grid
    value: float


def study_heads(
    config: Config,
    encodings: Sequence[str],
    seeds: Sequence[int],
    output: Path,
    accelerator: Accelerator,
    heads: HeadTraining,
) -> list[TaskScore]:
    """Trains the classifiers that are missing below `output`, then the heads.

    Raises:
        ValueError: the config trains no classifier or not on `shapes`, which alone come with boxes and masks.
    """
    if config.classifier is None or config.data.source != "shapes" or config.data.channels != 3:
        raise ValueError(
            f"task heads need a classifier section, data.source=shapes and data.channels=3, got "
            f"data.source={config.data.source} with channels={config.data.channels}"
        )

    if config.classifier.hierarchy:
        raise ValueError(
            "task heads read the tokens of one map, and classifier.hierarchy has one for every stage: leave "
            "it empty"
        )

    if config.classifier.padding != "none":
        raise ValueError(
            f"task heads draw whole patches: leave classifier.padding at none, got "
            f"{config.classifier.padding}"
        )

    planned = trials(config, encodings, seeds, output)
    scores = []
    for number, trial in enumerate(planned, start=1):
        accelerator.print(f"heads {number} of {len(planned)}: {trial.encoding}, seed {trial.seed}")
        train_classifier(trial.config, accelerator)
        scores += head_scores(trial, heads)
        scores += accuracies(trial)
    return over_seeds(scores)


def head_scores(trial: Trial, heads: HeadTraining) -> list[SeedScore]:
    """The scores of all heads on a trained classifier; those found in its folder are not trained again."""
    key = {"weights": weights_hash(trial.run / "classifier"), "heads": asdict(heads)}
    kept = KeptResults[list[dict[str, Any]]](trial.run / "tasks.json", {"key": key}, "scores")
    for task in HEADS:
        for frozen in (True, False):
            name = f"{task} {way_of_training(frozen)}"
            if name not in kept.results:
                scores = train_and_score(trial, task, heads, frozen=frozen)
                kept.add({name: [asdict(score) for score in scores]})

    rows = [row for scores in kept.results.values() for row in scores]
    return [SeedScore(**(row | {"size": tuple(row["size"])})) for row in rows]


def way_of_training(frozen: bool | None) -> str:
    """Whether the classifier below a head was trained with it."""
    return "frozen" if frozen else "fine-tuned"


def train_and_score(trial: Trial, task: str, heads: HeadTraining, *, frozen: bool) -> list[SeedScore]:
    """A new head's scores at the training size and at twice that."""
    model = load_model(ViTClassifier, trial.run / "classifier")
    height, width = trial.config.data.height, trial.config.data.width
    pictures = shapes(TRAINING_PICTURES, (height, width), "train")
    head = train_head(model, task, pictures, heads, frozen=frozen)

    scores = []
    for size in ((height, width), (2 * height, 2 * width)):
        model.set_input_size(size, resample=DEFAULT_CONVENTION)
        value = head.score(tokens(model, shapes(TEST_PICTURES, size, "test"), 200))
        scores.append(SeedScore(trial.encoding, trial.seed, task, frozen, size, value))
    return scores


@lru_cache(maxsize=4)
def shapes(count: int, size: Grid, split: str) -> Annotated:
    """`annotated_shapes`, drawn once for all classifiers."""
    return annotated_shapes(count, size, split)


def accuracies(trial: Trial) -> list[SeedScore]:
    """The classification accuracies that the study of resolutions has measured for this run."""
    return [
        SeedScore(trial.encoding, trial.seed, CLASSIFICATION, None, answer.size, answer.accuracy)
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
                score=HEADS[task].score_name if task in HEADS else "top-1 accuracy",
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
