"""Whether an encoding suits a task: what was measured of it there, and nothing else."""

from collections.abc import Iterator, Sequence

from var_pe.diagnosis.finding import Finding
from var_pe.evaluation.evidence import TaskScore
from var_pe.pages.numbers import percent
from var_pe.settings.line import canonical


def for_task(line: str, task: str, table: Sequence[TaskScore]) -> Iterator[Finding]:
    """The encoding's own scores on the task beside the best ones."""
    line = canonical(line)
    pairs = beside_the_best(line, task, table)
    if not pairs:
        yield nothing_measured(line, task, table)

    for own, best in pairs:
        said = f"{task} of made-up shapes, {circumstances(own)}: {line} reached {shown(own)}"
        if best == own:
            yield Finding("fine", f"{said}, the best that was measured.")
        elif clearly_below(own, best):
            todo = (
                f"Consider {best.encoding}: better by more than the spread there. Measure on your own "
                f"pictures: the order may be another (docs/encodings.md)."
            )
            yield Finding("problem", f"{said}; the best, {best.encoding}, {shown(best)}.", todo)
        else:
            yield Finding("fine", f"{said}; the best, {best.encoding}, {shown(best)}.")


def nothing_measured(line: str, task: str, table: Sequence[TaskScore]) -> Finding:
    """Which encodings were measured instead, and how to measure this one."""
    known = ", ".join(dict.fromkeys(score.encoding for score in table if score.task == task))
    others = f" (measured: {known})" if known else ""

    return Finding(
        "note",
        f"{task}: {line} was not measured, so whether it suits is unknown{others}.",
        "scripts/heads.py measures it; --evidence takes its table, by default docs/task_evidence.json.",
    )


def beside_the_best(line: str, task: str, table: Sequence[TaskScore]) -> list[tuple[TaskScore, TaskScore]]:
    """The encoding's own scores on the task, each with the best encoding's under the same circumstances."""
    pairs = []
    of_task = [score for score in table if score.task == task]
    for own in of_task:
        if own.encoding == line:
            rivals = [score for score in of_task if (score.size, score.frozen) == (own.size, own.frozen)]
            pairs.append((own, max(rivals, key=lambda rival: rival.mean)))
    return pairs


def clearly_below(own: TaskScore, best: TaskScore) -> bool:
    """Whether means differ by more than both spreads together; without spreads this is unknown: False."""
    if own.spread is None or best.spread is None:
        return False
    return best.mean - own.mean > own.spread + best.spread


def circumstances(score: TaskScore) -> str:
    """How the model was trained for the task, and the size: `frozen, 32x32`."""
    height, width = score.size
    if score.frozen is None:
        return f"as trained, {height}x{width}"

    trained = "frozen" if score.frozen else "fine-tuned"
    return f"{trained}, {height}x{width}"


def shown(score: TaskScore) -> str:
    """`60.0 ± 2.0 % (3 seeds)`."""
    return f"{percent(score.mean, score.spread)} % ({len(score.seeds)} seeds)"
