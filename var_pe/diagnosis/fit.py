"""Whether an encoding fits another size, and a task: the findings that ask for more than the model."""

from collections.abc import Iterator, Sequence

from var_pe.diagnosis.evidence import Measured, clearly_below, compare
from var_pe.diagnosis.findings import Finding
from var_pe.diagnosis.measures import Asked, code, name_of, neighbours, similarity
from var_pe.diagnosis.resampling import own_convention, round_trip, score_tables, with_tables
from var_pe.encodings import TokenEncoding
from var_pe.encodings.machinery.line import canonical
from var_pe.resampling.conventions import Convention

FAR = 1.5  # a side or a shape so many times another than in training
LOST = 0.3  # relative change of a table by resampling there and back: noise loses 0.4 to 0.9
GO_ON = "Much of the table does not survive: go on training at that size."


def at_size(asked: Asked, there: Asked | ValueError, convention: str) -> Iterator[Finding]:
    """`there` is the encoding at the other size, or why it cannot follow."""
    if isinstance(there, ValueError):
        todo = "Train at that size, or choose an encoding that follows it."
        yield Finding("problem", f"It cannot follow: {there}.", todo)
        return
    if there.pyramid == asked.pyramid:
        yield Finding("fine", "That is its own size: nothing moves.")
        return
    yield distance(asked, there)
    tables = [*codes(asked, there, convention), *scores(asked, there, convention)]
    yield from tables or [Finding("fine", "It has no table that would have to be resampled.")]
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
        + (f"{shape:.3g} times in shape." if shape > 1 else "of the same shape.")
    )
    if max(sides, shape) <= FAR:
        return Finding("fine", said)
    todo = (
        "That is far from training. Measure there before relying on it, and go on training at that size "
        "(model.init_from; of a generator also generator_training.pyramids)."
    )
    return Finding("problem", said, todo)


def codes(asked: Asked, there: Asked, convention: str) -> Iterator[Finding]:
    """What resampling, reading or evaluating anew does to what is added to tokens."""
    before_LC, after_LC = code(asked), code(there)
    if before_LC is None or after_LC is None:
        return
    ratio = float(after_LC.norm(dim=1).mean() / before_LC.norm(dim=1).mean().clamp(min=1e-12))
    same = abs(ratio - 1) < 0.005
    said = f"Norms of positions {'stay' if same else f'become {ratio:.3g} times as large'}"
    how, change = ways(asked, convention), round_trip(asked, there, convention)
    if not how:
        yield Finding("fine", f"{said}; they are computed from the place, so resampling loses nothing.")
    elif change is not None:
        yield survival(f"{said}. {'; '.join(how)}. There and back changes the codes by {change:.1%}.", change)


def ways(asked: Asked, convention: str) -> list[str]:
    """How every table that is added to tokens gets to another size."""
    moving = [part for part in with_tables(asked.encoding, kept=False) if isinstance(part, TokenEncoding)]
    staying = with_tables(asked.encoding, kept=True)
    return [
        *(f"The table of {name_of(part)} is resampled ({convention})" for part in moving),
        *(
            f"What {name_of(part)} has learned stays as it is and is read at the new places "
            f"({in_words(own_convention(part))})"
            for part in staying
        ),
    ]


def in_words(convention: Convention) -> str:
    corners = ", corners aligned" * convention.align_corners
    return f"{convention.mode}{corners}{', antialiased' * convention.antialias}"


def scores(asked: Asked, there: Asked, convention: str) -> Iterator[Finding]:
    """What resampling does to tables of scores; biases without one follow by themselves."""
    for table in score_tables(asked, there, convention):
        (h, w), (rows, columns) = table.here, table.there
        said = (
            f"The table of {table.member} is resampled from {h}x{w} displacements to {rows}x{columns} "
            f"({convention}). There and back changes it by {table.change:.1%}."
        )
        yield survival(said, table.change)


def survival(said: str, change: float) -> Finding:
    return Finding("note", said, GO_ON) if change > LOST else Finding("fine", said)


def for_task(line: str, task: str, rows: Sequence[Measured]) -> Iterator[Finding]:
    """What was measured of this encoding on the task, and nothing else."""
    line = canonical(line)
    pairs = compare(line, task, rows)
    if not pairs:
        known = ", ".join(dict.fromkeys(row.encoding for row in rows if row.task == task))
        yield Finding(
            "note",
            f"{task}: nothing was measured of {line}, so nothing is said of whether it suits"
            + (f" (measured: {known})." if known else "."),
            "scripts/heads.py measures; --evidence takes its table, docs/task_evidence.json is the default.",
        )
    for own, best in pairs:
        said = f"{task} of made-up shapes, {own.where}: {line} reached {own.shown}"
        if best == own:
            yield Finding("fine", f"{said}, the best that was measured.")
        elif clearly_below(own, best):
            todo = (
                f"Consider {best.encoding}: better by more than the spread there. Measure on your own "
                f"pictures: the order may be another (docs/encodings.md)."
            )
            yield Finding("problem", f"{said}; the best, {best.encoding}, {best.shown}.", todo)
        else:
            yield Finding("fine", f"{said}; the best, {best.encoding}, {best.shown}.")
