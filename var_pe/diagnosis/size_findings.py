"""Whether an encoding fits another size: how far that is, and what its tables lose on the way."""

from collections.abc import Iterator
from copy import deepcopy

from var_pe.diagnosis.finding import Finding
from var_pe.diagnosis.measures import PlacedEncoding, code, name_of, neighbours, similarity
from var_pe.diagnosis.moving import own_convention, round_trip, score_tables, with_tables
from var_pe.diagnosis.subject import Subject
from var_pe.encodings import TokenEncoding
from var_pe.models.generator import GeneratorConfig, VARTransformer
from var_pe.pyramid import Grid
from var_pe.resampling.conventions import Convention
from var_pe.tasks.pyramids import ask_each_hook

FAR = 1.5  # a side or a shape so many times another than in training
LOST = 0.3  # relative change of a table by resampling there and back: noise loses 0.4 to 0.9


def at_size(here: PlacedEncoding, there: PlacedEncoding | ValueError, convention: str) -> Iterator[Finding]:
    """`there` is the encoding at the other size, or why it cannot follow."""
    if isinstance(there, ValueError):
        todo = "Train at that size, or choose an encoding that follows it."
        yield Finding("problem", f"It cannot follow: {there}.", todo)
        return
    if there.pyramid == here.pyramid:
        yield Finding("fine", "That is its own size: nothing moves.")
        return

    yield distance(here, there)

    tables = [*codes(here, there, convention), *scores(here, there, convention)]
    yield from tables or [Finding("fine", "It has no table that would have to be resampled.")]

    before, after = likeness_of_neighbours(here), likeness_of_neighbours(there)
    if before is not None and after is not None:
        yield Finding("fine", f"The cosine of neighbours goes from {before:.4f} to {after:.4f}.")


def drawing(subject: Subject, size: Grid) -> Iterator[Finding]:
    """Whether scripts/sample.py can draw a generator's images at `size`, its tables as they are.

    What the encoding does above is what happens if its tables are moved for good; drawing moves nothing.
    """
    model, (height, width) = subject.model, size
    if not isinstance(model, VARTransformer):
        return

    # Everything that drawing asks of positions and levels, where it takes no memory
    pyramid = subject.pyramid_at(size)
    widths = GeneratorConfig(dim=model.config["dim"], num_heads=model.config["num_heads"])
    try:
        ask_each_hook(deepcopy(model.position_encoding).to("meta"), widths, pyramid)
        deepcopy(model.level_embed).to("meta")(pyramid.positions("meta"))
    except ValueError as error:
        yield Finding(
            "problem",
            f"It cannot be drawn at {height}x{width} as it is: {error}.",
            "Move its tables for good (set_input_size with resample, in docs/sizes.md), or train one whose "
            "encoding follows: sinusoidal or learned(resample=timm), with level_embedding sinusoidal.",
        )
    else:
        yield Finding("fine", f"scripts/sample.py --size {height} {width} can draw it.")


def likeness_of_neighbours(placed: PlacedEncoding) -> float | None:
    """Their mean cosine; None where tokens carry no position or have no neighbours."""
    similarity_LL = similarity(placed)
    return None if similarity_LL is None else neighbours(similarity_LL, placed.pyramid)


def distance(here: PlacedEncoding, there: PlacedEncoding) -> Finding:
    """How far the grid is from the trained one, in sides and in shape."""
    old, new = here.pyramid.finest, there.pyramid.finest
    sides = max(max(a / b, b / a) for a, b in zip(new, old, strict=True))
    shape = new[0] * old[1] / (new[1] * old[0])
    shape = max(shape, 1 / shape)

    in_shape = f"{shape:.3g} times in shape" if shape > 1 else "of the same shape"
    said = (
        f"The finest grid goes from {old[0]}x{old[1]} to {new[0]}x{new[1]}: {sides:.3g} times in a side, "
        f"{in_shape}."
    )
    if max(sides, shape) <= FAR:
        return Finding("fine", said)
    todo = (
        "That is far from training. Measure there before relying on it, and go on training at that size "
        "(model.init_from; of a generator also generator_training.pyramids)."
    )
    return Finding("problem", said, todo)


def codes(here: PlacedEncoding, there: PlacedEncoding, convention: str) -> Iterator[Finding]:
    """What resampling, reading or evaluating anew does to what is added to tokens."""
    before_LC, after_LC = code(here), code(there)
    if before_LC is None or after_LC is None:
        return

    ratio = float(after_LC.norm(dim=1).mean() / before_LC.norm(dim=1).mean().clamp(min=1e-12))
    said = f"Norms of positions become {ratio:.3g} times as large"
    if abs(ratio - 1) < 0.005:
        said = "Norms of positions stay"

    how = ways(here, convention)
    change = round_trip(here, there, convention)
    if not how:
        yield Finding("fine", f"{said}; they are computed from the position, so resampling loses nothing.")
    elif change is not None:
        yield survival(f"{said}. {'; '.join(how)}. There and back changes the codes by {change:.1%}.", change)


def ways(here: PlacedEncoding, convention: str) -> list[str]:
    """How every table that is added to tokens gets to another size."""
    moving = [part for part, _ in with_tables(here, kept=False) if isinstance(part, TokenEncoding)]
    sentences = [f"The table of {name_of(part)} is resampled ({convention})" for part in moving]

    for part, _ in with_tables(here, kept=True):
        read = in_words(own_convention(part))
        sentences.append(
            f"What {name_of(part)} has learned stays as it is and is read at the new positions ({read})"
        )
    return sentences


def in_words(convention: Convention) -> str:
    """A convention as people write it: `bicubic, antialiased`."""
    words = [convention.mode]
    if convention.align_corners:
        words.append("corners aligned")
    if convention.antialias:
        words.append("antialiased")
    return ", ".join(words)


def scores(here: PlacedEncoding, there: PlacedEncoding, convention: str) -> Iterator[Finding]:
    """What resampling does to tables of scores; biases without one follow by themselves."""
    for table in score_tables(here, there, convention):
        rows, columns = table.here
        new_rows, new_columns = table.there
        said = (
            f"The table of {table.member} is resampled from {rows}x{columns} displacements to "
            f"{new_rows}x{new_columns} ({convention}). There and back changes it by {table.change:.1%}."
        )
        yield survival(said, table.change)


def survival(said: str, change: float) -> Finding:
    """Whether a table with this relative change is still the one that was trained."""
    if change > LOST:
        return Finding("note", said, "Much of the table does not survive: go on training at that size.")
    return Finding("fine", said)
