"""A study as a file: what is compared with what, by which seeds, and what counts.

An arm is a way of training a generator: a name and the settings in which it differs from the others. A cell
is an arm under one seed. Arms are the product of the axes, or written out one by one.
"""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Len

from var_pe.comparison.exact import check_countable
from var_pe.comparison.trials import check_distinct, check_encodings, check_one_rule, labels, slug
from var_pe.models.choice import Guidance
from var_pe.pyramid import Levels
from var_pe.resampling.conventions import DEFAULT_CONVENTION
from var_pe.settings.fields import (
    Doc,
    FilePath,
    NonNegative,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    section,
)
from var_pe.settings.files import show
from var_pe.settings.loading import differences, load
from var_pe.stages.config import Config, settled_config
from var_pe.stages.run_folder import OF_TOKENIZER

PRIMARY = "validation/loss"

# The part of the training split that is trained on: a tokenizer of the whole serves every part.
OF_PART = ("limit", "subset_seed")


@section
class Study:
    config: Annotated[FilePath, Doc("config file of everything that the arms share")]
    output: Annotated[FilePath, Doc("folder of the runs and of the report")]
    question: Annotated[str, Doc("what the study asks, for the head of its report")] = ""
    settings: Annotated[
        list[str], Doc("settings of all arms that override the config, each as key.sub=value")
    ] = field(default_factory=list)
    encodings: Annotated[list[str], Doc("axis: position encodings")] = field(default_factory=list)
    level_embeddings: Annotated[list[str], Doc("axis: values of generator.level_embedding")] = field(
        default_factory=list
    )
    tokenizer_seeds: Annotated[list[NonNegative], Doc("axis: seeds of the tokenizer, one for each value")] = (
        field(default_factory=list)
    )
    axes: Annotated[
        list[list[str | int | float | bool]],
        Doc("further axes: each a setting, then its values, such as [generator.depth, 2, 4]"),
    ] = field(default_factory=list)
    arms: Annotated[
        list[Annotated[list[str], Len(1)]],
        Doc("in place of axes: a list of arms, each a name, then its settings as key.sub=value"),
    ] = field(default_factory=list)
    further_arms: Annotated[
        list[Annotated[list[str], Len(1)]], Doc("arms that only get the first further_seeds of the seeds")
    ] = field(default_factory=list)
    further_seeds: Annotated[Positive, Doc("seeds of each of the further arms")] = 3
    handicapped: Annotated[
        str | None,
        Doc(
            "name of an arm that is made worse on purpose, to check that the study finds it; it is not ranked"
        ),
    ] = None
    seeds: Annotated[list[NonNegative], Doc("seeds of the trainings, the same for every arm")] = field(
        default_factory=lambda: [0]
    )
    sampling_seeds: Annotated[
        list[NonNegative], Doc("further seeds by which every trained cell is drawn and scored again")
    ] = field(default_factory=list)
    other_sizes: Annotated[
        list[Levels],
        Doc(
            "pyramids, with as many levels as are trained, at which every generator is also measured "
            "without training"
        ),
    ] = field(default_factory=list)
    resamplings: Annotated[
        list[str], Len(1), Doc("resampling conventions by which tables of trained grids move to other_sizes")
    ] = field(default_factory=lambda: [DEFAULT_CONVENTION])
    remaps: Annotated[
        list[Literal["parts", "levels"]],
        Doc("ways to slow waves of rope down at other_sizes, beside measuring it there as it is"),
    ] = field(default_factory=list)
    primary: Annotated[str, Doc("score that arms are ranked by, declared beforehand")] = PRIMARY
    margin: Annotated[
        NonNegativeFloat,
        Doc(
            "equivalence margin: a difference of the primary score that would not matter; 0: equivalence "
            "is not tested"
        ),
    ] = 0.0
    handicap_margins: Annotated[
        list[PositiveFloat],
        Doc("further margins, as shares of what the handicapped arm loses, such as [0.5, 1]"),
    ] = field(default_factory=list)
    remarks: Annotated[
        list[str], Doc("sentences for the report, such as what was decided after first results were seen")
    ] = field(default_factory=list)
    threads: Annotated[
        NonNegative,
        Doc("threads of every cell, on whose number the last bits depend; 0: as many as the process has"),
    ] = 0
    hours: Annotated[
        NonNegativeFloat,
        Doc(
            "hours that one call may take: after them it saves and ends, and the next call goes on; 0: "
            "no limit"
        ),
    ] = 0.0
    timing_rounds: Annotated[
        NonNegative, Doc("rounds in which a step of every encoding is timed in turns; 0: none")
    ] = 20
    check_extractors: Annotated[bool, Doc("measure whether feature extractors see where things are")] = True
    count_pictures: Annotated[
        bool,
        Doc(
            "for data.source=shapes: encode all 786,432 pictures, which tells how many nats no generator "
            "can save"
        ),
    ] = False
    judge: Annotated[
        FilePath | None, Doc("folder of a classifier's run that says how many drawn images show their class")
    ] = None
    drawn_classifier: Annotated[
        FilePath | None, Doc("config of a classifier that is trained on each cell's drawn images")
    ] = None
    learning_rates: Annotated[
        list[PositiveFloat], Doc("learning rates to try, of which each arm gets its best; []: the config's")
    ] = field(default_factory=list)
    guidances: Annotated[
        list[Guidance], Doc("guidance scales to try, of which each arm gets its best; []: the config's")
    ] = field(default_factory=list)
    sweep_seed: Annotated[
        NonNegative,
        Doc(
            "seed of the trainings that choose among learning_rates and guidances; it must not be one of "
            "seeds"
        ),
    ] = 1000
    sweep_steps: Annotated[NonNegative, Doc("steps of these trainings; 0: all")] = 0

    def __post_init__(self) -> None:
        axes = self.encodings or self.level_embeddings or self.tokenizer_seeds or self.axes
        if bool(axes) == bool(self.arms):
            raise ValueError(
                "arms: a study has either axes (encodings, level_embeddings, tokenizer_seeds, axes) or arms, "
                f"got {'both' if axes else 'neither'}"
            )
        if self.further_arms and not self.arms:
            raise ValueError(
                "further_arms: they come after arms that are written out, and this study has axes"
            )
        if not all(arm[0] for arm in [*self.arms, *self.further_arms]):
            raise ValueError("arms: each is a name, then its settings, and one has an empty name")

        # Seeds
        if not self.seeds:
            raise ValueError("seeds: a study needs at least one")
        if self.further_arms and self.further_seeds > len(self.seeds):
            raise ValueError(
                f"further_seeds={self.further_seeds} is more than the number of seeds, {len(self.seeds)}"
            )

        # What an axis, a margin and a sweep need
        for axis in self.axes:
            if len(axis) < 2 or not isinstance(axis[0], str):
                raise ValueError(f"axes: each is a setting, then its values, got {show(axis)}")
        if len(set(self.remaps)) < len(self.remaps) or (self.remaps and not self.other_sizes):
            raise ValueError(
                f"remaps={show(self.remaps)}: each is named once, and all are ways to measure at "
                f"other_sizes, got {show(self.other_sizes)}"
            )
        if self.handicap_margins and self.handicapped is None:
            raise ValueError(
                f"handicap_margins={show(self.handicap_margins)} are shares of what the handicapped arm "
                "loses: name that arm in handicapped"
            )
        if self.sweep_seed in self.seeds and (self.learning_rates or self.guidances):
            raise ValueError(f"sweep_seed={self.sweep_seed} must not be one of the seeds of the study")


@dataclass(frozen=True)
class Arm:
    """A way of training: `config` is that of its runs but for seed and folder."""

    name: str
    seeds: tuple[int, ...]
    config: Config
    # that of the tokenizer's training
    tokenizer_config: Config
    # what its value is on each axis of the study, in words; empty where arms are written out
    place: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One run of a study."""

    arm: Arm
    seed: int
    config: Config

    @property
    def run(self) -> Path:
        return Path(self.config.run)

    @property
    def key(self) -> str:
        """The cell's name on a command line and in its files."""
        return self.run.name


def arms_of(study: Study) -> list[Arm]:
    """All arms, checked: what one of them could not be trained with is found before any is.

    Raises:
        ValueError: a setting or an encoding is wrong, or two arms are the same.
    """
    base = load(Config, study.config, study.settings)
    if base.classifier is not None:
        raise ValueError("a comparison trains generators, but the config has a classifier section")
    check_distinct("seeds", study.seeds)
    check_distinct("sampling_seeds", [base.sampling.seed, *study.sampling_seeds])

    described = _described(study)
    configs = [load(Config, study.config, [*study.settings, *one.settings]) for one in described]
    for one, config in zip(described, configs, strict=True):
        if (config.seed, config.run) != (base.seed, base.run):
            raise ValueError(
                f"arms: {one.name or ', '.join(one.place)} sets seed or run, which every cell gets from the "
                f"study: seeds are listed under seeds"
            )
    _check_all_encodings(configs)
    base = settled_config(base)

    arms = []
    for one, config in zip(described, configs, strict=True):
        config = settled_config(config)
        (line,) = labels(config, [config.generator.encoding])
        config = replace(config, generator=replace(config.generator, encoding=line))
        of_tokenizer = with_its_tokenizer(config, base)
        config = replace(config, tokenizer_run=of_tokenizer.tokenizer_run)
        if study.count_pictures:
            check_countable(config)

        # On the axis of encodings a value is the line in full.
        place = (line, *one.place[1:]) if study.encodings else one.place
        name = one.name or ", ".join(place)
        arms.append(Arm(name, one.seeds, config, of_tokenizer, place))

    check_distinct("encodings" if study.encodings else "arms", [arm.name for arm in arms])
    if study.handicapped is not None and study.handicapped not in [arm.name for arm in arms[1:]]:
        names = ", ".join(arm.name for arm in arms[1:])
        raise ValueError(
            f"handicapped: {study.handicapped!r} is not one of the arms after the first ({names})"
        )
    return arms


@dataclass(frozen=True)
class _Described:
    """An arm before its config is made."""

    name: str
    settings: list[str]
    seeds: tuple[int, ...]
    place: tuple[str, ...] = ()


def _described(study: Study) -> list[_Described]:
    """The arms that are written out, or the product of the axes."""
    seeds = tuple(study.seeds)
    if study.arms:
        few = seeds[: study.further_seeds]
        arms = [_Described(name, settings, seeds) for name, *settings in study.arms]
        return arms + [_Described(name, settings, few) for name, *settings in study.further_arms]

    # Each axis as the settings and the words of its values
    axes = [
        [(f"generator.encoding={line}", line) for line in study.encodings],
        [(f"generator.level_embedding={name}", f"level embedding {name}") for name in study.level_embeddings],
        [(f"tokenizer_seed={seed}", f"tokenizer seed {seed}") for seed in study.tokenizer_seeds],
    ]
    for key, *values in study.axes:
        axes.append([(f"{key}={_written(value)}", f"{key}={_written(value)}") for value in values])

    found = []
    for chosen in itertools.product(*filter(None, axes)):
        settings, place = [setting for setting, _ in chosen], tuple(word for _, word in chosen)
        found.append(_Described("", settings, seeds, place))
    return found


def _written(value: str | int | float | bool) -> str:
    return value if isinstance(value, str) else show(value)


def _check_all_encodings(configs: Sequence[Config]) -> None:
    """Builds every arm's encoding.

    Raises:
        ValueError: some cannot be built; the sentence names them all.
    """
    wrong = []
    for config in configs:
        try:
            check_encodings(config, [config.generator.encoding])
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise ValueError("; ".join(dict.fromkeys(wrong)))


def with_its_tokenizer(config: Config, base: Config) -> Config:
    """The config of an arm's tokenizer: the one that all arms share, unless it is set to differ.

    A tokenizer of other settings than the base's gets a folder of its own, beside the base's. How many of the
    training pictures an arm is trained on is no such setting.
    """
    shared = replace(config.data, limit=base.data.limit, subset_seed=base.data.subset_seed)
    config = replace(config, data=shared)
    if config.tokenizer_run != base.tokenizer_run:
        return config

    mine, theirs = asdict(config), asdict(base)
    changed = differences(
        {name: theirs[name] for name in OF_TOKENIZER}, {name: mine[name] for name in OF_TOKENIZER}
    )
    if not changed:
        return config
    words = [line.replace(": ", "_").rpartition(" -> ") for line in changed]
    name = slug("_".join(f"{before.split('_')[0]}_{after}" for before, _, after in words))
    digest = hashlib.sha256("; ".join(changed).encode()).hexdigest()[:6]
    return replace(config, tokenizer_run=f"{base.tokenizer_run}_{name[:40]}_{digest}")


def cells_of(study: Study, arms: Sequence[Arm]) -> list[Cell]:
    """The runs of a study, seed by seed, each seed beginning with the next arm.

    A machine that slows down then slows all arms down, and none is always the first.

    Raises:
        ValueError: some runs were begun by a version whose steps compute other numbers.
    """
    cells = []
    for turn, seed in enumerate(study.seeds):
        first = turn % len(arms)
        for arm in [*arms[first:], *arms[:first]]:
            if seed in arm.seeds:
                run = str(Path(study.output) / f"{slug(arm.name)}_seed_{seed}")
                cells.append(Cell(arm, seed, replace(arm.config, run=run, seed=seed)))

    check_one_rule([cell.run for cell in cells])
    return cells
