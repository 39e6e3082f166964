"""Which encodings suit which task: segmentation and detection heads on classifiers of made-up shapes.

At the training size and, nothing trained there, at twice that. Results are kept beside the classifiers, and
what `resolutions` has kept there of classification goes into the same table.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from var_pe.comparison.heads import TASKS, Annotated, HeadTraining, annotated_shapes, tokens, train_head
from var_pe.comparison.resolutions import kept, percent
from var_pe.comparison.statistics import Summary, summary
from var_pe.comparison.study import Trial, trials
from var_pe.files import write_text
from var_pe.models.vit import ViTClassifier
from var_pe.pyramid import Grid
from var_pe.stages.config import Config
from var_pe.stages.models import load_model, weights_hash
from var_pe.stages.train import train_classifier

CLASSIFICATION = "classification"  # the classifiers' own task
CONVENTION = "timm"  # by which tables move to another size
TRAINING_PICTURES, TEST_PICTURES = 8000, 1000


@dataclass(frozen=True)
class Score:
    """What one classifier, or a head on it, reached at one size."""

    encoding: str
    seed: int
    task: str
    frozen: bool | None  # whether the classifier's weights were left as they were; None: there is no head
    size: Grid
    value: float


def study_tasks(
    config: Config,
    encodings: Sequence[str],
    seeds: Sequence[int],
    output: Path,
    accelerator: Accelerator,
    heads: HeadTraining,
) -> list[Score]:
    """Trains the classifiers that are missing below `output`, then the heads.

    Raises:
        ValueError: the config trains no classifier or not on `shapes`, which alone come with boxes and masks.
    """
    if config.classifier is None or config.data.source != "shapes" or config.data.channels != 3:
        raise ValueError(
            f"task heads need a classifier section, data.source=shapes and data.channels=3, got "
            f"data.source={config.data.source} with channels={config.data.channels}"
        )
    planned, scores = trials(config, encodings, seeds, output), []
    for number, trial in enumerate(planned, start=1):
        accelerator.print(f"heads {number} of {len(planned)}: {trial.encoding}, seed {trial.seed}")
        train_classifier(trial.config, accelerator)
        scores += scores_of(trial, heads) + accuracies(trial)
    return scores


def accuracies(trial: Trial) -> list[Score]:
    """Of classification, as far as `resolutions` has asked this run's classifier."""
    rows = [row for row in kept(trial).values() if row["convention"] == CONVENTION]
    return [
        Score(trial.encoding, trial.seed, CLASSIFICATION, None, tuple(row["size"]), row["accuracy"])
        for row in rows
    ]


def scores_of(trial: Trial, heads: HeadTraining) -> list[Score]:
    """A trained run's scores, as far as they are not in its folder yet."""
    path = Path(trial.config.run) / "tasks.json"
    key = {"weights": weights_hash(Path(trial.config.run) / "classifier"), "heads": asdict(heads)}
    there = json.loads(path.read_text()) if path.exists() else {}
    known = there.get("scores", {}) if there.get("key") == key else {}
    for task in TASKS:
        for frozen in (True, False):
            name = f"{task} {'frozen' if frozen else 'fine-tuned'}"
            if name not in known:
                known[name] = [asdict(score) for score in measured(trial, task, heads, frozen=frozen)]
                write_text(path, json.dumps({"key": key, "scores": known}, indent=2))
    return [Score(**{**row, "size": tuple(row["size"])}) for rows in known.values() for row in rows]


def measured(trial: Trial, task: str, heads: HeadTraining, *, frozen: bool) -> list[Score]:
    model = load_model(ViTClassifier, Path(trial.config.run) / "classifier")
    size = trial.config.data.height, trial.config.data.width
    head = train_head(model, task, shapes(TRAINING_PICTURES, size, "train"), heads, frozen=frozen)
    found = []
    for side in (size, (2 * size[0], 2 * size[1])):
        model.set_input_size(side, resample=CONVENTION)
        value = head.score(tokens(model, shapes(TEST_PICTURES, side, "test"), 200))
        found.append(Score(trial.encoding, trial.seed, task, frozen, side, value))
    return found


@lru_cache(maxsize=4)
def shapes(count: int, size: Grid, split: str) -> Annotated:
    return annotated_shapes(count, size, split)


def evidence(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """Mean and spread over seeds of each encoding, task and size: what `scripts/diagnose.py` quotes."""
    groups: dict[tuple[str, str, Grid, bool | None], list[Score]] = {}
    for score in scores:
        groups.setdefault((score.encoding, score.task, score.size, score.frozen), []).append(score)
    return [
        {
            "encoding": encoding,
            "task": task,
            "score": TASKS[task].score_name if task in TASKS else "top-1 accuracy",
            "size": list(size),
            "frozen": frozen,
            **asdict(summary([score.value for score in group])),
            "seeds": [score.seed for score in group],
        }
        for (encoding, task, size, frozen), group in groups.items()
    ]


def as_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """A row per encoding, a column per task of a head, size and way of training; percent."""
    rows = [row for row in rows if row["task"] != CLASSIFICATION]  # resolutions.md has these
    columns = list(dict.fromkeys((row["task"], row["frozen"], tuple(row["size"])) for row in rows))
    named = [f"{task}, {'frozen' if frozen else 'fine-tuned'}, {h}x{w}" for task, frozen, (h, w) in columns]
    lines = [" | ".join(["encoding", *named]), " | ".join(["---"] * (1 + len(named)))]
    for encoding in dict.fromkeys(row["encoding"] for row in rows):
        mine = {(r["task"], r["frozen"], tuple(r["size"])): r for r in rows if r["encoding"] == encoding}
        cells = [percent(_summary(mine[column])) if column in mine else "" for column in columns]
        lines.append(" | ".join([f"`{encoding}`", *cells]))
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def _summary(row: dict[str, Any]) -> Summary:
    return Summary(row["mean"], row["spread"], row["count"])
