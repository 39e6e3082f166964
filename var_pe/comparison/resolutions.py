"""Classifiers under every encoding, trained at one size and asked at others, without fine-tuning.

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

from var_pe.comparison.statistics import Summary, summary
from var_pe.comparison.study import Trial, trainable, trials
from var_pe.files import write_text
from var_pe.models.vit import ViTClassifier
from var_pe.pyramid import Grid
from var_pe.resampling.conventions import convention_of
from var_pe.stages.config import Config
from var_pe.stages.models import held_out_images, load_model, weights_hash
from var_pe.stages.train import train_classifier


@dataclass(frozen=True)
class Answer:
    """What one trained classifier says at one size, its positions moved there by `convention`."""

    encoding: str
    seed: int
    size: Grid  # height and width in pixels
    convention: str
    accuracy: float
    count: int
    seconds_to_move: float  # once, before the first image
    bytes_moved: int  # of the encoding's parameters at that size
    parameters: int  # of the encoding, as trained


@dataclass(frozen=True)
class Study:
    answers: list[Answer]
    about: dict[str, Any]

    @property
    def encodings(self) -> list[str]:
        return list(dict.fromkeys(answer.encoding for answer in self.answers))

    def accuracy(self, encoding: str, size: Grid, convention: str) -> Summary | None:
        """Over the seeds."""
        asked = (encoding, size, convention)
        found = [a.accuracy for a in self.answers if (a.encoding, a.size, a.convention) == asked]
        return summary(found) if found else None


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
) -> Study:
    """Trains what is missing below `output`, then asks every classifier at every size.

    Raises:
        ValueError: of config, encodings, seeds and sizes before any training.
    """
    if config.classifier is None:
        raise ValueError("resolutions are compared on classifiers, but the config has no classifier section")
    side = config.classifier.patch_size
    for height, width in sizes:
        if height % side or width % side:
            raise ValueError(f"sizes must be multiples of classifier.patch_size {side}, got {height}x{width}")
    for convention in conventions:
        convention_of(convention)
    planned, answers = trials(config, encodings, seeds, output), []
    for number, trial in enumerate(planned, start=1):
        accelerator.print(f"run {number} of {len(planned)}: {trial.encoding}, seed {trial.seed}")
        train_classifier(trial.config, accelerator)
        answers += asked(trial, sizes, conventions)
    about = {
        "data": asdict(config.data),
        "classifier": asdict(config.classifier),
        "classifier_training": asdict(config.classifier_training),
        "seeds": list(seeds),
        "threads": torch.get_num_threads(),
    }
    return Study(answers, about)


def kept(trial: Trial) -> dict[str, dict[str, Any]]:
    """The answers in a trained run's folder, by size and convention; none of other weights."""
    path, weights = Path(trial.config.run) / "sizes.json", weights_hash(Path(trial.config.run) / "classifier")
    there = json.loads(path.read_text()) if path.exists() else {}
    return there.get("answers", {}) if there.get("weights") == weights else {}


def asked(trial: Trial, sizes: Sequence[Grid], conventions: Sequence[str]) -> list[Answer]:
    """A trained run's answers, as far as they are not in its folder yet."""
    path, weights = Path(trial.config.run) / "sizes.json", weights_hash(Path(trial.config.run) / "classifier")
    known = kept(trial)
    for size in sizes:
        for convention in conventions:
            key = f"{size[0]}x{size[1]} {convention}"
            if key not in known:
                known[key] = asdict(answer(trial, size, convention))
                write_text(path, json.dumps({"weights": weights, "answers": known}, indent=2))
    keys = [f"{h}x{w} {convention}" for h, w in sizes for convention in conventions]
    return [Answer(**{**known[key], "size": tuple(known[key]["size"])}) for key in keys]


@torch.no_grad()
def answer(trial: Trial, size: Grid, convention: str) -> Answer:
    model = load_model(ViTClassifier, Path(trial.config.run) / "classifier")
    parameters = trainable(model.position_encoding)
    began = time.perf_counter()
    model.set_input_size(size, resample=convention)
    seconds = time.perf_counter() - began
    images_NCHW, labels_N = images_at(trial.config, size)
    hits = sum(
        int((model(images_BCHW).argmax(1) == labels_B).sum())
        for images_BCHW, labels_B in zip(images_NCHW.split(100), labels_N.split(100), strict=True)
    )
    moved = sum(p.numel() * p.element_size() for p in model.position_encoding.parameters())
    number = len(labels_N)
    return Answer(
        trial.encoding, trial.seed, size, convention, hits / number, number, seconds, moved, parameters
    )


def images_at(config: Config, size: Grid) -> tuple[Tensor, Tensor]:
    """The first `validation_images` of the test split at another size.

    Shapes are drawn anew. Other pictures are enlarged or shrunk, their aspect kept (bicubic with
    antialiasing), and centred on black: in a wider image they are further from the border, and no wider.
    """
    h, w = size
    if config.data.source == "shapes":
        config = replace(config, data=replace(config.data, height=h, width=w))
    held_out = held_out_images(config, config.classifier_training.validation_images)
    items = [held_out[index] for index in range(len(held_out))]
    images_NCHW = torch.stack([item["image"] for item in items])
    labels_N = torch.tensor([item["label"] for item in items])
    if images_NCHW.shape[2:] != (h, w):
        scale = min(h / images_NCHW.shape[2], w / images_NCHW.shape[3])
        inner = [round(side * scale) for side in images_NCHW.shape[2:]]
        images_NCHW = F.interpolate(images_NCHW, size=inner, mode="bicubic", antialias=True).clamp(-1, 1)
        top, left = (h - inner[0]) // 2, (w - inner[1]) // 2
        margins = (left, w - inner[1] - left, top, h - inner[0] - top)
        images_NCHW = F.pad(images_NCHW, margins, value=-1.0)
    return images_NCHW, labels_N


def as_markdown(study: Study, sizes: Sequence[Grid], conventions: Sequence[str]) -> str:
    """A row per encoding, accuracy in percent per size.

    With several conventions a row each, with what moving to the last size took and gave.
    """
    several = len(conventions) > 1
    last = f"{sizes[-1][0]}x{sizes[-1][1]}"
    costs = [f"move to {last} (ms)", f"at {last} (kB)"] if several else []
    header = ["encoding", *(["convention"] if several else []), "parameters"]
    header += [*(f"{h}x{w}" for h, w in sizes), *costs]
    lines = [" | ".join(header), " | ".join(["---"] * len(header))]
    for encoding in study.encodings:
        for convention in conventions:
            mine = [a for a in study.answers if (a.encoding, a.convention) == (encoding, convention)]
            moved = [a for a in mine if a.size == sizes[-1]]
            cells = [f"`{encoding}`", *([convention] if several else []), f"{mine[0].parameters:,}"]
            cells += [percent(study.accuracy(encoding, size, convention)) for size in sizes]
            if several:
                milliseconds = 1000 * statistics.median(a.seconds_to_move for a in moved)
                cells += [f"{milliseconds:.2f}", f"{moved[0].bytes_moved / 1000:.1f}"]
            lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def percent(found: Summary | None) -> str:
    """Mean and standard deviation over seeds, as far as there are several."""
    if found is None:
        return ""
    spread = "" if found.spread is None else f" ± {100 * found.spread:.1f}"
    return f"{100 * found.mean:.1f}{spread}"
