"""Classifiers under every encoding, trained at one size and measured at others, without fine-tuning.

Runs and results are kept, so an interrupted study goes on by the same call.
"""

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from var_pe.comparison.costs import trainable
from var_pe.comparison.statistics import Summary, summary
from var_pe.comparison.trials import Trial, trials
from var_pe.files import KeptResults
from var_pe.pages.numbers import percent
from var_pe.pages.tables import markdown_table
from var_pe.pyramid import Grid
from var_pe.resampling.conventions import convention_of
from var_pe.stages.config import Config
from var_pe.stages.images import fingerprint, held_out_images
from var_pe.stages.models import load_classifier, weights_hash
from var_pe.stages.train import train_classifier

FILE = "resolutions.json"  # of a study, in its folder


@dataclass(frozen=True)
class Answer:
    """What one trained classifier reached at one size, its positions moved there by `convention`."""

    encoding: str
    seed: int
    # height and width in pixels
    size: Grid
    convention: str
    accuracy: float
    # of test images
    count: int
    # once, before the first image
    seconds_to_move: float
    # of the encoding's parameters at that size
    bytes_moved: int
    # of the encoding, as trained
    parameters: int


@dataclass(frozen=True)
class ResolutionStudy:
    """All answers; `about` is what they have in common."""

    answers: list[Answer]
    about: dict[str, object]

    @property
    def encodings(self) -> list[str]:
        return list(dict.fromkeys(answer.encoding for answer in self.answers))

    @property
    def sizes(self) -> list[Grid]:
        """All that were measured, by area."""
        return sorted({answer.size for answer in self.answers}, key=lambda size: (size[0] * size[1], size))

    @property
    def conventions(self) -> list[str]:
        return list(dict.fromkeys(answer.convention for answer in self.answers))

    def of(self, encoding: str, size: Grid, convention: str) -> list[Answer]:
        """One answer for each seed."""
        wanted = (encoding, size, convention)
        return [a for a in self.answers if (a.encoding, a.size, a.convention) == wanted]

    def accuracy(self, encoding: str, size: Grid, convention: str) -> Summary | None:
        """Over the seeds."""
        found = self.of(encoding, size, convention)
        return summary([answer.accuracy for answer in found]) if found else None


def parse_size(word: str) -> Grid:
    """`48` or `32x64`, height first.

    Raises:
        ValueError: it is neither.
    """
    sides = word.split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise ValueError(f"a size is SIDE or HEIGHTxWIDTH in pixels, got {word!r}")
    return int(sides[0]), int(sides[-1])


def study_resolutions(
    config: Config,
    encodings: Sequence[str],
    seeds: Sequence[int],
    sizes: Sequence[Grid],
    conventions: Sequence[str],
    output: Path,
    accelerator: Accelerator,
) -> ResolutionStudy:
    """Trains what is missing below `output`, then measures every classifier at every size.

    What earlier calls have measured below `output` is part of the study.

    Raises:
        ValueError: of config, encodings, seeds and sizes before any training.
    """
    if config.classifier is None:
        raise ValueError("resolutions are compared on classifiers, but the config has no classifier section")
    if config.classifier.tubelet is not None:
        raise ValueError(
            f"resolutions are compared on classifiers of pictures, and classifier.tubelet="
            f"{config.classifier.tubelet} makes one of clips, which scripts/evaluate.py --of classifier "
            f"scores at another --size"
        )
    side = config.classifier.patch_size
    for height, width in sizes:
        if config.classifier.padding == "none" and (height % side or width % side):
            raise ValueError(f"sizes must be multiples of classifier.patch_size {side}, got {height}x{width}")
    for convention in conventions:
        convention_of(convention)

    planned = trials(config, encodings, seeds, output)
    for number, trial in enumerate(planned, start=1):
        accelerator.print(f"run {number} of {len(planned)}: {trial.encoding}, seed {trial.seed}")
        train_classifier(trial.config, accelerator)
        answers_of(trial, sizes, conventions)

    answers = []
    for trial in [*earlier_trials(config, output, planned), *planned]:
        answers += kept_answers(trial)

    about = {
        "data": asdict(config.data),
        "classifier": asdict(config.classifier),
        "classifier_training": asdict(config.classifier_training),
        "seeds": sorted({answer.seed for answer in answers}),
        "threads": torch.get_num_threads(),
    }
    return ResolutionStudy(answers, about)


def earlier_trials(config: Config, output: Path, planned: Sequence[Trial]) -> list[Trial]:
    """The runs of the study whose table lies in `output` already, but for those that are planned now."""
    path = output / FILE
    if not path.exists():
        return []

    seen = {trial.run for trial in planned}
    found = []
    for row in json.loads(path.read_text(encoding="utf-8"))["answers"]:
        (trial,) = trials(config, [row["encoding"]], [row["seed"]], output)
        if trial.run not in seen and (trial.run / "classifier").is_dir():
            seen.add(trial.run)
            found.append(trial)
    return found


def answers_of(trial: Trial, sizes: Sequence[Grid], conventions: Sequence[str]) -> list[Answer]:
    """A trained run's answers; answers in its folder are not measured again."""
    kept = _kept(trial)
    found = []
    for height, width in sizes:
        for convention in conventions:
            name = f"{height}x{width} {convention}"
            if name not in kept.results:
                kept.add({name: asdict(measure(trial, (height, width), convention))})
            found.append(_answer(kept.results[name]))
    return found


def kept_answers(trial: Trial) -> list[Answer]:
    """The answers in a trained run's folder that were measured with its present weights."""
    return [_answer(row) for row in _kept(trial).results.values()]


def _kept(trial: Trial) -> KeptResults[dict[str, Any]]:
    """The answers that rest on the present weights and test images."""
    number = trial.config.classifier_training.validation_images
    rests_on = {
        "weights": weights_hash(trial.run / "classifier"),
        "images": fingerprint(trial.config, train=False, number=number),
    }
    return KeptResults(trial.run / "sizes.json", rests_on, "answers")


def _answer(row: dict[str, Any]) -> Answer:
    return Answer(**(row | {"size": tuple(row["size"])}))


@torch.no_grad()
def measure(trial: Trial, size: Grid, convention: str) -> Answer:
    """Moves a trained classifier to a size and classifies the test images there."""
    model = load_classifier(trial.run / "classifier")
    parameters = sum(trainable(encoding) for encoding in model.position_encodings().values())

    began = time.perf_counter()
    model.set_input_size(size, resample=convention)
    seconds = time.perf_counter() - began
    bytes_moved = 0
    for encoding in model.position_encodings().values():
        bytes_moved += sum(p.numel() * p.element_size() for p in encoding.parameters())

    hits = 0
    images_NCHW, labels_N = images_at(trial.config, size)
    for images_BCHW, labels_B in zip(images_NCHW.split(100), labels_N.split(100), strict=True):
        hits += int((model(images_BCHW).argmax(1) == labels_B).sum())

    return Answer(
        encoding=trial.encoding,
        seed=trial.seed,
        size=size,
        convention=convention,
        accuracy=hits / len(labels_N),
        count=len(labels_N),
        seconds_to_move=seconds,
        bytes_moved=bytes_moved,
        parameters=parameters,
    )


def images_at(config: Config, size: Grid) -> tuple[Tensor, Tensor]:
    """The `validation_images` of the test split at another size.

    Shapes are drawn anew. Other pictures are enlarged or shrunk, their aspect kept (bicubic with
    antialiasing), and centred on black: in a wider image they are further from the border, and no wider.
    """
    height, width = size
    if config.data.source == "shapes":
        config = replace(config, data=replace(config.data, height=height, width=width))
    held_out = held_out_images(config, config.classifier_training.validation_images)
    items = [held_out[index] for index in range(len(held_out))]
    images_NCHW = torch.stack([item["image"] for item in items])
    labels_N = torch.tensor([item["label"] for item in items])
    if images_NCHW.shape[2:] == (height, width):
        return images_NCHW, labels_N

    # As large as fits.
    scale = min(height / images_NCHW.shape[2], width / images_NCHW.shape[3])
    inner_height, inner_width = (round(side * scale) for side in images_NCHW.shape[2:])
    images_NCHW = F.interpolate(
        images_NCHW, size=(inner_height, inner_width), mode="bicubic", antialias=True
    ).clamp(-1, 1)

    # Black around it, of an odd number of pixels the larger part on the right and below.
    left = (width - inner_width) // 2
    top = (height - inner_height) // 2
    margins = (left, width - inner_width - left, top, height - inner_height - top)
    return F.pad(images_NCHW, margins, value=-1.0), labels_N


def as_markdown(study: ResolutionStudy, sizes: Sequence[Grid], conventions: Sequence[str]) -> str:
    """A row per encoding, accuracy in percent per size.

    With several conventions a row each, with what moving to the last size took and gave.
    """
    several = len(conventions) > 1
    names = [f"{height}x{width}" for height, width in sizes]
    header = ["encoding", "parameters", *names]
    if several:
        header = ["encoding", "convention", "parameters", *names]
        header += [f"move to {names[-1]} (ms)", f"at {names[-1]} (kB)"]

    rows = []
    for encoding in study.encodings:
        for convention in conventions:
            mine = [a for a in study.answers if (a.encoding, a.convention) == (encoding, convention)]
            if not mine:
                continue
            accuracies = [_percent(study.accuracy(encoding, size, convention)) for size in sizes]
            parameters = f"{mine[0].parameters:,}"
            if not several:
                rows.append([f"`{encoding}`", parameters, *accuracies])
                continue

            moved = study.of(encoding, sizes[-1], convention)
            costs = ["", ""]
            if moved:
                milliseconds = 1000 * statistics.median(answer.seconds_to_move for answer in moved)
                costs = [f"{milliseconds:.2f}", f"{moved[0].bytes_moved / 1000:.1f}"]
            rows.append([f"`{encoding}`", convention, parameters, *accuracies, *costs])
    return markdown_table(header, rows) + "\n"


def _percent(found: Summary | None) -> str:
    return "" if found is None else percent(found.mean, found.spread)
