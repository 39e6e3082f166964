"""The runs of a study: every encoding with every seed, everything else being equal."""

import argparse
import hashlib
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from var_pe.encodings import build_encoding, settled
from var_pe.models.generator import GeneratorConfig
from var_pe.models.kernels import TABLE, Served
from var_pe.models.patches import patches_of
from var_pe.models.vit import ClassifierConfig
from var_pe.pyramid import Pyramid
from var_pe.settings.command_line import given_path
from var_pe.settings.line import canonical
from var_pe.stages.begun import kernels_of, numbers_of
from var_pe.stages.config import Config
from var_pe.stages.models import build_classifier
from var_pe.training.history import NUMBERS


@dataclass(frozen=True)
class Trial:
    """One run of a study: `config` is the study's own but for encoding, seed and run folder."""

    encoding: str
    seed: int
    config: Config

    @property
    def run(self) -> Path:
        return Path(self.config.run)


def trial_options(parser: argparse.ArgumentParser, output: str) -> None:
    """What a command line says of the runs; `output` is what its default adds to the config's run."""
    parser.add_argument(
        "--encodings", nargs="+", required=True, metavar="LINE", help="position encodings to compare"
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        default=[0],
        metavar="N",
        help="seeds; every encoding is trained once with each; default: 0",
    )
    parser.add_argument(
        "--output",
        type=given_path,
        metavar="DIR",
        help=f"folder of the runs and results; default: the config's run + {output}",
    )


def trials(config: Config, encodings: Sequence[str], seeds: Sequence[int], output: Path) -> list[Trial]:
    """The runs of a study, seed by seed, each seed beginning with the next encoding.

    A machine that slows down then slows all encodings down, and none is always the first.

    Raises:
        ValueError: encodings cannot be built for this config (all such are named), one is given twice, or
            some runs were begun by a version whose steps compute other numbers.
    """
    if not encodings or not seeds:
        raise ValueError("a comparison needs at least one encoding and one seed")
    check_encodings(config, encodings)

    lines = labels(config, encodings)
    check_distinct("encodings", lines)
    check_distinct("seeds", seeds)

    planned = []
    for turn, seed in enumerate(seeds):
        first = turn % len(lines)
        for line in lines[first:] + lines[:first]:
            run = str(output / f"{slug(line)}_seed_{seed}")
            planned.append(Trial(line, seed, with_encoding(replace(config, run=run, seed=seed), line)))

    check_one_rule([trial.run for trial in planned])
    return planned


def check_one_rule(runs: Sequence[Path]) -> None:
    """Checks that all runs, those that are there and those to come, compute by one rule of numbers.

    And by the same kernels of attention, on devices that several of them were trained on.

    Raises:
        ValueError: they do not, and what differs could be the rule.
    """
    rules = {run: numbers_of(run) or NUMBERS for run in runs}
    if len(set(rules.values())) > 1:
        run, rule = next((run, rule) for run, rule in rules.items() if rule != NUMBERS)
        raise ValueError(
            f"{run} was begun by another version, whose training steps compute other numbers (by rule "
            f"{rule}, here it is {NUMBERS}), and other runs of this study were not: finish the study with "
            f"that version, or make it in another folder"
        )

    known: dict[str, Served] = {}
    for run in runs:
        for name, row in (kernels_of(run) or TABLE).items():
            if known.setdefault(name, row) != row:
                raise ValueError(
                    f"{run} was begun with other kernels of attention than other runs of this study are "
                    f"({name}: {row}, there {known[name]}): finish the study with the version that began it, "
                    f"or make it in another folder"
                )


def labels(config: Config, encodings: Iterable[str]) -> list[str]:
    """What encodings are called in a study: in one spelling, with all that follows from the width."""
    model = config.generator if config.classifier is None else config.classifier
    return [settled(canonical(line), model.dim) for line in encodings]


def check_encodings(config: Config, encodings: Iterable[str]) -> None:
    """Builds every encoding at the size of the config's model.

    Raises:
        ValueError: some cannot be built; the sentence names them all.
    """
    if config.classifier is not None and (config.classifier.hierarchy or config.classifier.tubelet):
        check_hierarchies(config, encodings)
        return

    model: GeneratorConfig | ClassifierConfig
    if config.classifier is None:
        model = config.generator
        pyramid = Pyramid.of(config.tokenizer.levels)
    else:
        model = config.classifier
        # rounded up: the model says whether patches have to fill the pictures
        grid = patches_of(config.data.height, config.data.width, config.classifier.patch_size, "end")
        pyramid = Pyramid((grid,))

    wrong = []
    for line in encodings:
        try:
            build_encoding(line, dim=model.dim, num_heads=model.num_heads, depth=model.depth, pyramid=pyramid)
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise ValueError("; ".join(wrong))


def check_hierarchies(config: Config, encodings: Iterable[str]) -> None:
    """`check_encodings` of a classifier in stages, each of which builds its own, or of one of clips.

    Raises:
        ValueError: some cannot be built; the sentence names them all.
    """
    wrong = []
    for line in encodings:
        try:
            with torch.device("meta"):
                build_classifier(with_encoding(config, line), num_classes=2)
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise ValueError("; ".join(wrong))


def check_distinct(what: str, given: Iterable[Hashable]) -> None:
    """A seed counted twice would halve the spread.

    Raises:
        ValueError: something is given more than once.
    """
    repeated = [str(item) for item, count in Counter(given).items() if count > 1]
    if repeated:
        raise ValueError(f"{what} must differ, got {', '.join(repeated)} more than once")


def with_encoding(config: Config, line: str) -> Config:
    """The config with the encoding of what it trains, generator or classifier, set to `line`."""
    if config.classifier is not None:
        return replace(config, classifier=replace(config.classifier, encoding=line))
    return replace(config, generator=replace(config.generator, encoding=line))


def slug(line: str) -> str:
    """A folder's name for an encoding; where signs are lost, a short hash keeps a(b=-1) and a(b=1) apart."""
    plain = re.sub(r"[^A-Za-z0-9.]+", "_", line).strip("_")
    if plain == line:
        return plain
    return f"{plain}_{hashlib.sha256(line.encode()).hexdigest()[:6]}"
