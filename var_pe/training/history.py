"""What was asked of a run, in order: its steps, how it was extended, and what it rests on.

`history.json` lies in the run's folder from the start of the training on. The learning rate is a function of
the step and of what was asked for, so a run that was extended resumes like any other.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from var_pe.files import write_json
from var_pe.models.kernels import Served
from var_pe.pyramid import Grid
from var_pe.training.compilation import Compiled
from var_pe.training.config import TrainingConfig
from var_pe.training.schedule import learning_rate

FILE = "history.json"

# The rule by which a step makes the next weights of the last ones. It is raised with every change after which
# the same step gives other numbers, if only other roundings. Runs that do not note theirs have the first one.
NUMBERS = 4

Rule = Literal["rewarm", "stretch", "hold"]
RULES: tuple[Rule, ...] = get_args(Rule)


@dataclass(frozen=True)
class StepsAsked:
    """A number of steps, and the step from which on it counts."""

    from_step: int
    # steps of the run in all
    steps: int
    # how the learning rate goes on; None: as before, which only a constant one can
    rule: Rule | None = None


@dataclass(frozen=True)
class Start:
    """The trained model that a run started from."""

    run: str
    # optimizer steps behind its weights and the SHA-256 of their files, if they are known
    step: int | None
    weights: str | None
    # what was taken over and what was not, in words
    moved: list[str]
    # the grids that its position encoding kept, which shapes follow from
    kept_grids: list[Grid] | None = None
    # the codes that a tokenizer took over
    codes: int = 0
    # the line of the encoding that fades out, whose grids `kept_grids` are then; None: there is none
    old_encoding: str | None = None


@dataclass(frozen=True)
class History:
    """What was asked of a run so far; None means unknown."""

    asked: tuple[StepsAsked, ...]
    # number of training images
    images: int | None = None
    # SHA-256 of the tokenizer whose codes a generator learns
    tokenizer: str | None = None
    start: Start | None = None
    # what the training images are known by (`ImageSource.identity`)
    training_set: str | None = None
    # the rule of a step's numbers that it was begun under
    numbers: int = NUMBERS
    # what is compiled, which its rounding depends on; None: not chosen yet
    compiled: Compiled | None = None
    # which kernels of attention serve it, by rows of `models.kernels.TABLE`; rounding depends on them, too
    kernels: dict[str, Served] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        return self.asked[-1].steps

    @classmethod
    def read(cls, folder: Path) -> "History | None":
        """The history of the run in `folder`; None if it has none, as before the first training.

        Raises:
            ValueError: the file is damaged.
        """
        path = folder / FILE
        if not path.exists():
            return None

        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            start = found.pop("start")
            asked = tuple(StepsAsked(**entry) for entry in found.pop("asked"))
            numbers = found.pop("numbers", 1)
            compiled = found.pop("compiled", "none")
            start = start and Start(**start)
            kernels = {name: Served(**row) for name, row in found.pop("kernels", {}).items()}
            return cls(asked=asked, start=start, numbers=numbers, compiled=compiled, kernels=kernels, **found)
        except (ValueError, TypeError, LookupError, AttributeError):
            raise ValueError(f"{path} is damaged: it does not hold the history of a run") from None

    def write(self, folder: Path) -> None:
        write_json(folder / FILE, asdict(self))


def rate_at(step: int, asked: Sequence[StepsAsked], config: TrainingConfig) -> float:
    """The learning rate of a step under what was last asked for before it.

    With n steps in all and s done when they were asked for, and f(i, n) the schedule (`learning_rate`):
    rewarm f(i - s, n - s), stretch f(i, n), hold the rate of step s - 1.
    """
    current = max(number for number, entry in enumerate(asked) if entry.from_step <= step)
    while current and asked[current].rule is None:
        current -= 1

    entry = asked[current]
    if entry.rule == "hold":
        return rate_at(entry.from_step - 1, asked[:current], config)

    start = entry.from_step if entry.rule == "rewarm" else 0
    steps = entry.steps - start
    return learning_rate(
        step - start,
        peak=config.learning_rate,
        steps=steps,
        warmup=round(config.warmup * steps),
        schedule=config.schedule,
        final_ratio=config.final_ratio,
    )


def asked_for(
    history: History, steps: int, done: int, rule: Rule | None, config: TrainingConfig, folder: Path
) -> History:
    """The history after a run that has done `done` steps was asked for `steps` in all.

    Raises:
        ValueError: it has done as many, or nothing says how its learning rate goes on.
    """
    last = history.asked[-1]
    if steps == last.steps:
        if rule and last.rule and rule != last.rule:
            raise ValueError(
                f"{folder} was extended to {steps} steps by --extend {last.rule}, which cannot become "
                f"{rule}; give {last.rule}, or none"
            )
        return history

    # Before the first step another number is as good as the first one.
    if not done:
        return replace(history, asked=(StepsAsked(0, steps),))

    if steps <= done:
        raise ValueError(
            f"{folder} has done {done} steps, and {steps} are asked for; ask for more than {done}, "
            f"or choose another folder"
        )
    if rule is None and config.schedule != "constant":
        raise ValueError(
            f"{folder} has done {done} of {last.steps} steps, and {steps} are asked for: with "
            f"schedule={config.schedule}, say by scripts/train.py --extend how its learning rate goes on: "
            f"rewarm (warm-up and schedule anew over the last {steps - done} steps), stretch (as if there "
            f"had been {steps} from the start) or hold (as in step {done})"
        )

    # What was asked for at this step or later has not begun yet.
    before = [entry for entry in history.asked if entry.from_step < done]
    asked = (*before, StepsAsked(done, steps, rule))
    if not any(rate_at(step, asked, config) for step in range(done, steps)):
        raise ValueError(
            f"{folder}: with --extend {rule} the learning rate is 0 in all steps from {done} to {steps}, as "
            f"it is in step {done}; choose another rule"
        )
    return replace(history, asked=asked)


def said_of(history: History, config: TrainingConfig, folder: Path) -> str:
    """A sentence about the newest extension: from where to where, and what the learning rate does."""
    last, before = history.asked[-1], history.asked[-2]
    rates = [rate_at(step, history.asked, config) for step in range(last.from_step, last.steps)]
    how = f"--extend {last.rule}" if last.rule else f"schedule={config.schedule}"
    return (
        f"{folder} was asked for {before.steps} steps and, from step {last.from_step} on, for {last.steps}; "
        f"learning rate by {how}: {rates[0]:.3g} in the next step, {max(rates):.3g} at its highest, "
        f"{rates[-1]:.3g} in the last"
    )
