"""Whether an encoding fits another size, and a task: the findings that ask for more than the model."""

from collections.abc import Iterator, Sequence

from var_pe.diagnosis.evidence import Measured, clearly_below, compare
from var_pe.diagnosis.findings import Finding
from var_pe.diagnosis.measures import Asked, code, neighbours, round_trip, similarity

FAR = 1.5  # a side or a shape so many times another than in training
COMPUTED = 1e-5  # relative change by rounding
LOST = 0.3  # relative change of a table by resampling there and back: noise loses 0.4 to 0.9


def at_size(asked: Asked, there: Asked | ValueError, convention: str) -> Iterator[Finding]:
    """`there` is the encoding at the other size, or why it cannot follow."""
    if isinstance(there, ValueError):
        todo = "Train at that size, or choose an encoding that follows it."
        yield Finding("problem", f"It cannot follow: {there}.", todo)
        return
    yield distance(asked, there)
    yield from table(asked, there, convention)
    before_LL, after_LL = similarity(asked), similarity(there)
    if before_LL is not None and after_LL is not None:
        before, after = neighbours(before_LL, asked.pyramid), neighbours(after_LL, there.pyramid)
        if before is not None and after is not None:
            yield Finding("fine", f"The cosine of neighbours goes from {before:.4f} to {after:.4f}.")


def distance(asked: Asked, there: Asked) -> Finding:
    """How far the grid is from the trained one, in sides and in shape."""
    old, new = asked.pyramid.finest, there.pyramid.finest
    sides = max(max(a / b, b / a) for a, b in zip(new, old, strict=True))
    shape = new[0] * old[1] / (new[1] * old[0])
    shape = max(shape, 1 / shape)
    said = (
        f"The finest grid goes from {old[0]}x{old[1]} to {new[0]}x{new[1]}: {sides:.3g} times in a side, "
        f"{shape:.3g} times in shape."
    )
    if max(sides, shape) <= FAR:
        return Finding("fine", said)
    todo = (
        "That is far from training. Measure there before relying on it, and go on training at that size "
        "(model.init_from, generator_training.pyramids)."
    )
    return Finding("problem", said, todo)


def table(asked: Asked, there: Asked, convention: str) -> Iterator[Finding]:
    """What resampling, or evaluating anew, does to the codes."""
    before_LC, after_LC = code(asked), code(there)
    if before_LC is None or after_LC is None:
        return
    ratio = float(after_LC.norm(dim=1).mean() / before_LC.norm(dim=1).mean().clamp(min=1e-12))
    change = round_trip(asked, there, convention)
    said = f"Norms of positions become {ratio:.3g} times as large ({convention})"
    if change is None:
        yield Finding("fine", f"{said}.")
        return
    if change < COMPUTED:
        yield Finding("fine", f"{said}; they are computed from the place, so nothing is lost.")
        return
    said = f"{said}; there and back changes the codes by {change:.1%}."
    if change > LOST:
        yield Finding("note", said, "Much of the table does not survive: go on training at that size.")
    else:
        yield Finding("fine", said)


def for_task(line: str, task: str, rows: Sequence[Measured]) -> Iterator[Finding]:
    """What was measured of this encoding on the task, and nothing else."""
    pairs = compare(line, task, rows)
    if not pairs:
        known = ", ".join(dict.fromkeys(row.encoding for row in rows if row.task == task))
        yield Finding(
            "note",
            f"{task}: nothing was measured of {line}, so nothing is said of whether it suits"
            + (f" (measured: {known})." if known else "."),
            "docs/encodings.md has what resolutions.py measured of classification."
            if task == "classification"
            else "scripts/tasks.py measures; diagnose reads its table from docs/task_evidence.json.",
        )
    for own, best in pairs:
        said = f"{task}, {own.where}: {line} reached {own.shown}; the best, {best.encoding}, {best.shown}."
        if clearly_below(own, best):
            yield Finding("problem", said, f"Consider {best.encoding}: better by more than the spread.")
        else:
            yield Finding("fine", said)
