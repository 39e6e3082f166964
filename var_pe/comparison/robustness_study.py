"""How trained classifiers break: by attacks, corruptions, changes of place, and on images of other data."""

import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from var_pe.comparison.statistics import summary
from var_pe.comparison.step_time import seconds_in_turns
from var_pe.data.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from var_pe.data.image_set import HeldOutImages, stacked
from var_pe.data.moves import MOVES
from var_pe.data.part import drawn
from var_pe.data.sources import DataConfig
from var_pe.evaluation.attacks import Method, attacked
from var_pe.evaluation.defences import Defence, Defended, defended
from var_pe.evaluation.features import FeatureSet
from var_pe.evaluation.outliers import Outlyingness, auroc
from var_pe.models.classifier import Classifier
from var_pe.pages.numbers import percent
from var_pe.pages.tables import markdown_table
from var_pe.sampling.likelihood import bits_per_level
from var_pe.sampling.pipeline import VARPipeline
from var_pe.stages.config import Config
from var_pe.stages.images import RealImages, Some, held_out_images
from var_pe.stages.models import load_classifier_of_images

BATCH = 100
CLEAN = "as they are"
NOISE = "noise"  # every value of every pixel drawn by itself
METHODS: tuple[Method, ...] = ("FGSM", "PGD")
ROUNDS = 7  # in which what defences take is timed


@dataclass(frozen=True)
class Subject:
    """A trained classifier, with the config of its run."""

    name: str
    config: Config
    model: Classifier

    @property
    def encoding(self) -> str:
        assert self.config.classifier is not None
        return self.config.classifier.encoding

    @property
    def column(self) -> str:
        """What it is called in tables, together with runs of other seeds."""
        attack = self.config.classifier_training.attack
        return f"`{self.encoding}`" + (f", trained against {attack.epsilon:g}/255" if attack else "")


@dataclass(frozen=True)
class Measured:
    """What one run reached: shares of right answers and areas under curves, by table and row."""

    run: str
    encoding: str
    seed: int
    # what it is called in tables, together with runs of other seeds
    column: str
    tables: dict[str, dict[str, float]]


@dataclass(frozen=True)
class RobustnessStudy:
    """All runs; `about` is what they have in common."""

    measured: list[Measured]
    # the generator's bits as a score, which no classifier has a part in
    bits: dict[str, float]
    about: dict[str, object]
    # of each defence and of each column's classifiers, for one picture in a batch
    milliseconds: dict[str, float] = field(default_factory=dict)

    @property
    def groups(self) -> dict[str, list[Measured]]:
        """Runs by their column."""
        found: dict[str, list[Measured]] = {}
        for one in self.measured:
            found.setdefault(one.column, []).append(one)
        return found


def subjects_of(runs: Sequence[Path], configs: Sequence[Config]) -> list[Subject]:
    """The classifiers of runs that can be compared.

    Raises:
        ValueError: a run has no classifier of images, two runs look at different data, or two of one column
            are the same but for their folder, so that they would be counted as if they were two seeds.
    """
    subjects = []
    for run, config in zip(runs, configs, strict=True):
        if not (run / "classifier").is_dir():
            raise ValueError(f"{run} is not the folder of a finished run of a classifier")
        if config.data != configs[0].data:
            raise ValueError(f"{run} has other data than {runs[0]}: their data sections must be equal")
        subjects.append(Subject(str(run), config, load_classifier_of_images(run / "classifier")))

    # Runs of one column differ in their seed alone
    for one, other in itertools.combinations(subjects, 2):
        if one.column != other.column:
            continue
        if one.config.seed == other.config.seed and Path(one.name).samefile(other.name):
            raise ValueError(
                f"{one.name} is given more than once, and a spread over seeds would count it twice"
            )
        if replace(other.config, run=one.config.run, seed=one.config.seed) != one.config:
            raise ValueError(
                f"{one.name} and {other.name} have the same encoding and differ in more than their seed: "
                f"look at them one by one"
            )
        if one.config.seed == other.config.seed:
            raise ValueError(
                f"{one.name} and {other.name} have the same settings and the same seed, "
                f"{one.config.seed}: a spread over seeds would count it twice"
            )
    return subjects


@dataclass(frozen=True)
class Questions:
    """What is asked, of how many test images."""

    images: int
    # in 255ths of the range
    epsilons: tuple[float, ...]
    steps: int
    # images of other data: names of sources, or NOISE
    against: tuple[str, ...]
    seed: int = 0
    # what is done to pictures before a classifier sees them
    defences: tuple[Defence, ...] = ()


def study_robustness(
    subjects: Sequence[Subject],
    questions: Questions,
    generator: VARPipeline | None,
    device: torch.device,
    say: Callable[[str], object],
) -> RobustnessStudy:
    """Asks everything of every classifier; changed images are made once and are the same for all of them.

    Raises:
        ValueError: a set of other data does not exist.
    """
    config = subjects[0].config
    outside = {name: outside_images(config, name, questions) for name in questions.against}
    images_NCHW, labels_N = tensors_of(held_out_images(config, questions.images))
    training = RealImages(config, train=True).images
    numbers = drawn(len(training), 2 * questions.images, config.data.subset_seed)
    known = tensors_of(Some(training, numbers))
    models = [cast(Classifier, cast(nn.Module, subject.model).to(device).eval()) for subject in subjects]
    tables = [dict[str, dict[str, float]]() for _ in subjects]

    say(f"{len(images_NCHW)} test images of {config.data.source}: places and corruptions")
    for table, row, changed_NCHW in changed_images(images_NCHW, questions.seed):
        for model, found in zip(models, tables, strict=True):
            found.setdefault(table, {})[row] = accuracy(model, changed_NCHW, labels_N)

    for subject, model, found in zip(subjects, models, tables, strict=True):
        say(f"attacks on {subject.name}")
        attacks = attacks_on(model, images_NCHW, labels_N, questions)
        found["attacks"] = {row: accuracy(model, changed, labels_N) for row, changed in attacks.items()}
        if questions.defences:
            say(f"defences of {subject.name}: {', '.join(map(str, questions.defences))}")
            found["defences"] = behind_defences(model, attacks, labels_N, questions)

    say(f"images of other data: {', '.join(questions.against)}")
    for model, found in zip(models, tables, strict=True):
        outlyingness = Outlyingness(features_of(model, *known))
        found["other data"] = told_apart(model, outlyingness, images_NCHW, outside)
    bits = {} if generator is None else told_apart_by_bits(generator, images_NCHW, outside)

    measured = []
    for subject, found in zip(subjects, tables, strict=True):
        seed = subject.config.seed
        measured.append(Measured(subject.name, subject.encoding, seed, subject.column, found))
    about = {**asdict(questions), "data": asdict(config.data), "images": len(images_NCHW)}
    times = times_of(subjects, images_NCHW[:BATCH], questions.defences) if questions.defences else {}
    return RobustnessStudy(measured, bits, about, times)


def changed_images(images_NCHW: Tensor, seed: int) -> Iterator[tuple[str, str, Tensor]]:
    """Table, row and images of every change that is the same for all classifiers."""
    yield "places", CLEAN, images_NCHW
    for name, move in MOVES.items():
        yield "places", name, move(images_NCHW, seed=seed)

    yield "corruptions", CLEAN, images_NCHW
    for name in CORRUPTIONS:
        for severity in SEVERITIES:
            changed = [
                corrupted(image_CHW, name, severity, seed=seed, index=index)
                for index, image_CHW in enumerate(images_NCHW)
            ]
            yield "corruptions", f"{name} {severity}", torch.stack(changed)


def attacks_on(
    model: nn.Module, images_NCHW: Tensor, labels_N: Tensor, questions: Questions
) -> dict[str, Tensor]:
    """The images as they are, and changed by every attack."""
    found = {CLEAN: images_NCHW}
    for method in METHODS:
        for epsilon in questions.epsilons:
            found[f"{method} {epsilon:g}/255"] = one_attack(
                model, images_NCHW, labels_N, method, epsilon, questions
            )
    return found


def one_attack(
    model: nn.Module, images_NCHW: Tensor, labels_N: Tensor, method: Method, epsilon: float, asked: Questions
) -> Tensor:
    """The images, each value changed by at most `epsilon` 255ths."""
    return attacked(
        model,
        images_NCHW,
        labels_N,
        method,
        epsilon=2 * epsilon / 255,
        steps=asked.steps,
        seed=asked.seed,
        batch=BATCH,
    )


def behind_defences(
    model: Classifier, attacks: Mapping[str, Tensor], labels_N: Tensor, questions: Questions
) -> dict[str, float]:
    """Accuracy by defence: of images as they are, and of those that PGD has changed.

    An attack that knows of the defence has the gradient of what the classifier sees (`Defended`); one that
    does not is the one on the classifier alone.
    """
    bounds = [(f"PGD {epsilon:g}/255", epsilon) for epsilon in questions.epsilons]
    found = {f"none: {row}": accuracy(model, attacks[row], labels_N) for row in (CLEAN, *dict(bounds))}
    for defence in questions.defences:

        def answered(images_NCHW: Tensor, defence: Defence = defence) -> float:
            return accuracy(model, defended(images_NCHW, defence), labels_N)

        found[f"{defence}: {CLEAN}"] = answered(attacks[CLEAN])
        for name, epsilon in bounds:
            found[f"{defence}: {name}, which does not know of it"] = answered(attacks[name])
            behind = Defended(model, defence)
            aware_NCHW = one_attack(behind, attacks[CLEAN], labels_N, "PGD", epsilon, questions)
            found[f"{defence}: {name}, which knows of it"] = answered(aware_NCHW)
    return found


@torch.no_grad()
def times_of(
    subjects: Sequence[Subject], images_BCHW: Tensor, defences: Sequence[Defence]
) -> dict[str, float]:
    """Milliseconds for one picture in a batch: of each column's classifier, of each defence."""
    names, calls = list[str](), list[Callable[[], object]]()
    for column, subject in {subject.column: subject for subject in subjects}.items():
        names.append(f"answers of {column}")
        calls.append(partial(subject.model, images_BCHW.to(subject.model.device)))
    for defence in defences:
        names.append(str(defence))
        calls.append(partial(defended, images_BCHW, defence))

    seconds = seconds_in_turns(calls, rounds=ROUNDS, warmup=1)
    each = [1000 * statistics.median(mine) / len(images_BCHW) for mine in seconds]
    return dict(zip(names, each, strict=True))


def told_apart(
    model: Classifier, outlyingness: Outlyingness, images_NCHW: Tensor, outside: Mapping[str, Tensor]
) -> dict[str, float]:
    """AUROC of each score against each set of other data."""
    inside = outlyingness.scores(features_of(model, images_NCHW))
    found = {}
    for name, outside_NCHW in outside.items():
        for score, outside_N in outlyingness.scores(features_of(model, outside_NCHW)).items():
            found[f"{score}, {name}"] = auroc(inside[score], outside_N)
    return found


def told_apart_by_bits(
    generator: VARPipeline, images_NCHW: Tensor, outside: Mapping[str, Tensor]
) -> dict[str, float]:
    """AUROC of the bits of an image against each set of other data; unusual images need more."""
    inside_N = bits_of(generator, images_NCHW)
    return {name: auroc(inside_N, bits_of(generator, other_NCHW)) for name, other_NCHW in outside.items()}


def tensors_of(images: HeldOutImages) -> tuple[Tensor, Tensor]:
    """All images of a set in [-1, 1], and their labels.

    Raises:
        ValueError: one has no label.
    """
    items = [images[index] for index in range(len(images))]
    labels_N = torch.tensor([item["label"] for item in items])
    if int(labels_N.min()) < 0:
        raise ValueError("robustness is measured on images with classes, and an image has no class")
    return stacked(items), labels_N


def outside_images(config: Config, name: str, questions: Questions) -> Tensor:
    """Images of another source, of the config's size and channels, (N, C, H, W).

    Raises:
        ValueError: there is no such source, or it is the config's own.
    """
    data = config.data
    if name == data.source:
        raise ValueError(f"--against {name}: that is what the classifiers were trained on")
    if name == NOISE:
        numbers = torch.Generator().manual_seed(questions.seed)
        size = (questions.images, data.channels, data.height, data.width)
        return torch.randint(256, size, generator=numbers).float() / 127.5 - 1
    own = DataConfig(source=name, height=data.height, width=data.width, channels=data.channels)
    return tensors_of(held_out_images(replace(config, data=own), questions.images))[0]


@torch.no_grad()
def accuracy(model: Classifier, images_NCHW: Tensor, labels_N: Tensor) -> float:
    hits = 0
    for images_BCHW, labels_B in zip(images_NCHW.split(BATCH), labels_N.split(BATCH), strict=True):
        hits += int((model(images_BCHW.to(model.device)).argmax(1).cpu() == labels_B).sum())
    return hits / len(labels_N)


@torch.no_grad()
def features_of(model: Classifier, images_NCHW: Tensor, labels_N: Tensor | None = None) -> FeatureSet:
    """What the classes are read from, and logits; without labels all are -1, as of images of no class."""
    batches = images_NCHW.split(BATCH)
    features_NF = torch.cat([model.pooled(images_BCHW.to(model.device)) for images_BCHW in batches])
    logits_NV = model.forward_head(features_NF)
    labels_N = torch.full((len(images_NCHW),), -1) if labels_N is None else labels_N
    return FeatureSet(features_NF.float().cpu(), logits_NV.float().cpu(), labels_N)


def check_generator(pipeline: VARPipeline, label_drop: float, config: Config) -> None:
    """Checks that a generator, trained with this `label_drop`, knows how many bits the images take.

    Raises:
        ValueError: it draws images of another size or with other channels, or none without a class.
    """
    transformer, tokenizer, data = pipeline.transformer, pipeline.tokenizer, config.data
    rows, columns = (side * tokenizer.downsampling for side in transformer.pyramid.finest)
    shape = (tokenizer.config["image_channels"], rows, columns)
    wanted = (data.channels, data.height, data.width)
    if shape != wanted:
        raise ValueError(
            f"--generator draws images of (channels, height, width) {shape}, but the classifiers' are "
            f"{wanted}"
        )
    if transformer.num_classes and not label_drop:
        raise ValueError(
            "--generator was trained with generator_training.label_drop=0, so it knows no image without a "
            "class, and of other data there are no classes"
        )


@torch.no_grad()
def bits_of(pipeline: VARPipeline, images_NCHW: Tensor) -> Tensor:
    """Of every image's tokens without a class, (N,)."""
    transformer, tokenizer = pipeline.transformer.eval(), pipeline.tokenizer.eval()
    device = transformer.device
    found = []
    for images_BCHW in images_NCHW.split(BATCH):
        tokens_BL = tokenizer.encode(images_BCHW.to(device), transformer.pyramid)
        labels_B1 = torch.full((len(images_BCHW), 1), transformer.num_classes, device=device)
        found.append(bits_per_level(transformer, tokenizer, tokens_BL, labels_B1).sum((1, 2)).cpu())
    return torch.cat(found)


# ------------------------------------------------------------------------------------------- tables


def as_markdown(study: RobustnessStudy) -> str:
    """A table for each question: a column for each encoding, mean and spread over its runs."""
    number = study.about["images"]
    parts = [
        f"Accuracy in percent on {number} test images under attacks, each against its own classifier:",
        table_of(study, "attacks"),
        "Accuracy when pictures shift, are cropped, shrunk and turned:",
        table_of(study, "places"),
        "Accuracy under common corruptions, each the mean of five severities:",
        table_of(study, "corruptions", corruption_rows()),
        "AUROC in percent, test images against images of other data, 50 for a score that tells nothing:",
        table_of(study, "other data"),
    ]
    if study.milliseconds:
        times = [[name, f"{value:.3f}"] for name, value in study.milliseconds.items()]
        parts[4:4] = [
            "Accuracy behind defences, which change pictures before they are classified:",
            table_of(study, "defences"),
            "What one picture takes in a batch, median:",
            markdown_table(["", "ms"], times),
        ]
    if study.bits:
        rows = [[name, percent(value, None)] for name, value in study.bits.items()]
        parts += ["The same of the generator's bits:", markdown_table(["against", "bits"], rows)]
    return "\n\n".join(parts) + "\n"


def corruption_rows() -> dict[str, list[str]]:
    """What a row of the short table is the mean of."""
    rows = {CLEAN: [CLEAN]}
    rows |= {name: [f"{name} {severity}" for severity in SEVERITIES] for name in CORRUPTIONS}
    rows |= {
        f"all, severity {severity}": [f"{name} {severity}" for name in CORRUPTIONS] for severity in SEVERITIES
    }
    return rows


def table_of(study: RobustnessStudy, table: str, rows: dict[str, list[str]] | None = None) -> str:
    """Rows of one value each, or of the means of several."""
    rows = rows or {name: [name] for name in study.measured[0].tables[table]}
    lines = []
    for name, parts in rows.items():
        line = [name]
        for runs in study.groups.values():
            values = [sum(run.tables[table][part] for part in parts) / len(parts) for run in runs]
            found = summary(values)
            line.append(percent(found.mean, found.spread))
        lines.append(line)
    return markdown_table(["", *study.groups], lines)
