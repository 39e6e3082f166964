"""What the numbers of an encoding mean, in plain words, at the size that its model was made for."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from var_pe.diagnosis.measures import Asked, code, mixtures, neighbours, shares, similarity, wavelengths
from var_pe.diagnosis.subject import Subject
from var_pe.pyramid import Pyramid

ALIKE = 0.999  # cosine of neighbours above which bf16, with its three digits, sees one place
SMALL, LARGE = 0.02, 5.0  # norm of a position over that of a token
STILL = 8  # a channel that turns once in so many grids all but stands still
ALONE = 0.97  # share of a mixture above which the other parts hardly matter

BETWEEN = {"bias": "the bias of attention", "refine": "convolutions between blocks"}  # what no token carries


@dataclass(frozen=True)
class Finding:
    """What was seen: `fine`, something to know (`note`) or a `problem`; and what to do about it."""

    verdict: str
    said: str
    todo: str = ""


def weights(subject: Subject) -> Iterator[Finding]:
    """Numbers that are none."""
    broken = [
        name
        for name, tensor in subject.model.state_dict().items()
        if tensor.is_floating_point() and not tensor.isfinite().all()
    ]
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        yield Finding(
            "problem",
            f"NaN or infinite numbers in {', '.join(broken[:3])}{more}.",
            "Go back to an earlier checkpoint; resampling would spread them over the whole table.",
        )
    else:
        yield Finding("fine", "All weights are finite numbers.")


def grids(subject: Subject) -> Iterator[Finding]:
    """The stored grids of tables against the model's; loading has refused tables that cannot be meant."""
    own = subject.model.pyramid
    for name, buffer in subject.model.named_buffers():
        if name.endswith("grids_K2"):
            stored = Pyramid(tuple((h, w) for h, w in buffer.tolist()))
            said = f"{name.removesuffix('.grids_K2')} holds a table for the grids {stored}"
            if stored == own:
                yield Finding("fine", f"{said}, those of the model.")
            elif stored.finest == own.finest:
                yield Finding("fine", f"{said}, from which all levels of {own} are read as the model runs.")
            else:
                yield Finding(
                    "note",
                    f"{said}; every forward pass resamples it to the model's {own}.",
                    "It is meant to do that; if this size is the one to stay, go on training at it.",
                )


def prefix(subject: Subject) -> Iterator[Finding]:
    """Class token and registers: rows that a stored table has for them, and their norms."""
    table_LC, cells = subject.absolute_LC, subject.model.pyramid.num_tokens
    if table_LC is not None:
        rows = len(table_LC) - cells
        said = f"The stored table has {len(table_LC)} rows for {cells} patches"
        yield Finding("fine", f"{said}, {rows} of them for prefix tokens.")
        if rows:
            ours, theirs = (float(part.norm(dim=1).mean()) for part in (table_LC[:rows], table_LC[rows:]))
            said = (
                f"The position of a prefix token has norm {ours:.3g}, that of a patch {theirs:.3g}; it is a "
                f"constant and was added to the token on loading, which changes no output."
            )
            if ours > LARGE * theirs:
                todo = "Nothing to mend here; compare other libraries' tables without these rows."
                yield Finding("note", said, todo)
            else:
                yield Finding("fine", said)
    tokens_PC = getattr(subject.model, "prefix_tokens_PC", None)
    if tokens_PC is not None:
        shown = ", ".join(f"{float(norm):.3g}" for norm in tokens_PC.detach().norm(dim=1))
        yield Finding("fine", f"Class token and registers have no place; their norms are {shown}.")


def norms(asked: Asked, tokens_BLC: Tensor, what: str) -> Iterator[Finding]:
    """Of positions against tokens, level by level."""
    code_LC = code(asked)
    if code_LC is None:
        return
    ratios = []
    for span in asked.pyramid.spans:
        token = tokens_BLC[:, span].norm(dim=2).mean().clamp(min=1e-12)
        ratios.append(float(code_LC[span].norm(dim=1).mean() / token))
    pairs = zip(asked.pyramid.grids, ratios, strict=True)
    shown = ", ".join(f"{h}x{w}: {ratio:.3g}" for (h, w), ratio in pairs)
    said = f"Norm of a position over that of a token, by level ({what}): {shown}."
    if max(ratios) > LARGE:
        todo = "Content is faint beside places: a smaller scale, or mixed(...), which matches amplitudes."
        yield Finding("problem", said, todo)
    elif min(ratios) < SMALL:
        yield Finding("note", said, "Places are faint beside content: a larger scale, or rope.")
    else:
        yield Finding("fine", said)


def places(asked: Asked) -> Iterator[Finding]:
    """Whether neighbours can be told apart."""
    similarity_LL = similarity(asked)
    if similarity_LL is None:
        hooks = [said for hook, said in BETWEEN.items() if asked.encoding.uses(hook)]
        if hooks:
            yield Finding(
                "note",
                f"Places are told by {' and '.join(hooks)} alone; tokens carry none.",
                "See what was measured (--task); where this falls behind, join a code to it with +, such as "
                "sinusoidal.",
            )
        else:
            todo = "Choose an encoding, unless this is the control of a comparison."
            yield Finding("problem", "There is no encoding: attention sees a bag of tokens.", todo)
        return
    alike = neighbours(similarity_LL, asked.pyramid)
    if alike is None:
        return
    said = f"Neighbours of the finest level have a cosine of {alike:.4f} on average."
    if alike > ALIKE:
        yield Finding("problem", said, "They look like one place: a lower temperature or base.")
    else:
        yield Finding("fine", said)


def rotary(asked: Asked) -> Iterator[Finding]:
    """Wavelengths against the grid."""
    found_2F = wavelengths(asked)
    if found_2F is None:
        return
    for axis, side, waves_F in zip(("rows", "columns"), asked.pyramid.finest, found_2F, strict=True):
        if side == 1:  # no neighbour, nothing to turn from one to the other
            continue
        turning_F = waves_F[waves_F.isfinite()]
        if not len(turning_F):
            yield Finding("problem", f"Nothing turns along {axis}.", "Choose one that covers both axes.")
            continue
        still = float((turning_F > STILL * side).float().mean())
        said = (
            f"Along the {side} {axis} channels turn once in {turning_F.min():.3g} to {turning_F.max():.3g} "
            f"cells, {still:.0%} of them in more than {STILL} times the grid."
        )
        if turning_F.max() < side:
            yield Finding("problem", said, "Far places look near, as all repeat themselves: a higher base.")
        elif still > 0.5:
            yield Finding("note", said, "Most of them all but stand still: a lower base uses them.")
        else:
            yield Finding("fine", said)


def mixture(asked: Asked) -> Iterator[Finding]:
    """The share of each part in the whole code of a mixture."""
    for encoding in mixtures(asked.encoding):
        found = shares(encoding, asked.pyramid)
        shown = ", ".join(f"{share.along:.0%} along {share.part}" for share in found)
        said = f"Of the mixture's whole code (about its mean over places): {shown}."
        strongest = max(found, key=lambda share: share.along)
        if strongest.along > ALONE:
            yield Finding("note", said, f"It is nearly {strongest.part} alone: try that, or other weights.")
        else:
            yield Finding("fine", said)
