"""What the numbers of an encoding mean, in plain words, at the size that its model was made for.

Positions that are too small, too large or too alike, weights that are broken, tables of other grids.
"""

from collections.abc import Iterator

from torch import Tensor

from var_pe.diagnosis.finding import Finding
from var_pe.diagnosis.measures import (
    PlacedEncoding,
    asked_grids,
    code,
    mixtures,
    neighbours,
    shares,
    similarity,
    wavelengths,
)
from var_pe.diagnosis.subject import Subject
from var_pe.pyramid import Pyramid

ALIKE = 0.999  # cosine of neighbours above which bf16, with its three digits, sees one position
SMALL = 0.02  # norm of a position over that of a token
LARGE = 5.0
STILL = 8  # a channel that turns once in so many grids all but stands still
ALONE = 0.97  # share of a mixture above which the other parts hardly matter

# Hooks that act between tokens, so that no token carries its position.
BETWEEN_TOKENS = {
    "remap": "the channels of queries and keys",
    "bias": "the bias of attention",
    "products": "products with queries and keys",
    "values": "what attention gathers",
    "refine": "convolutions between blocks",
}


def weights(subject: Subject) -> Iterator[Finding]:
    """Whether all weights are finite numbers."""
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
    """The stored grids of tables against the model's; loading has refused tables that cannot fit."""
    own = subject.model.pyramid
    for name, buffer in subject.model.named_buffers():
        if not name.endswith("grids_K2"):
            continue

        stored = Pyramid.of(buffer.tolist())
        member = name.removesuffix(".grids_K2")
        said = f"{member} holds a table for the grids {stored}"
        asked = asked_grids(subject.model, member, own)
        if asked is None or asked == stored != own:
            yield Finding("fine", f"{said}, as its blocks need.")
        elif stored == own:
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
    if subject.absolute_LC is not None:
        yield from prefix_rows(subject.absolute_LC, subject.model.pyramid.num_tokens)

    tokens_PC = getattr(subject.model, "prefix_tokens_PC", None)
    if tokens_PC is not None:
        shown = ", ".join(f"{float(norm):.3g}" for norm in tokens_PC.detach().norm(dim=1))
        yield Finding("fine", f"Class token and registers have no position; their norms are {shown}.")


def prefix_rows(table_LC: Tensor, cells: int) -> Iterator[Finding]:
    """The rows of another library's table that come before those of the patches."""
    rows = len(table_LC) - cells
    yield Finding(
        "fine",
        f"The stored table has {len(table_LC)} rows for {cells} patches, {rows} of them for prefix tokens.",
    )
    if not rows:
        return

    prefix_norm = float(table_LC[:rows].norm(dim=1).mean())
    patch_norm = float(table_LC[rows:].norm(dim=1).mean())
    said = (
        f"The position of a prefix token has norm {prefix_norm:.3g}, that of a patch {patch_norm:.3g}; it is "
        f"a constant and was added to the token on loading, which changes no output."
    )
    if prefix_norm > LARGE * patch_norm:
        todo = "Nothing to mend here; compare other libraries' tables without these rows."
        yield Finding("note", said, todo)
    else:
        yield Finding("fine", said)


def norms(placed: PlacedEncoding, tokens_BLC: Tensor, what: str) -> Iterator[Finding]:
    """Norms of positions against those of tokens, level by level."""
    code_LC = code(placed)
    if code_LC is None:
        return

    ratios = []
    for span in placed.pyramid.spans:
        token = tokens_BLC[:, span].norm(dim=2).mean().clamp(min=1e-12)
        ratios.append(float(code_LC[span].norm(dim=1).mean() / token))
    pairs = zip(placed.pyramid.grids, ratios, strict=True)
    shown = ", ".join(f"{h}x{w}: {ratio:.3g}" for (h, w), ratio in pairs)

    said = f"Norm of a position over that of a token, by level ({what}): {shown}."
    if max(ratios) > LARGE:
        todo = "Content is faint beside positions: a smaller scale, or mixed(...), which matches amplitudes."
        yield Finding("problem", said, todo)
    elif min(ratios) < SMALL:
        yield Finding("note", said, "Positions are faint beside content: a larger scale, or rope.")
    else:
        yield Finding("fine", said)


def neighbourhood(placed: PlacedEncoding) -> Iterator[Finding]:
    """Whether neighbours can be distinguished."""
    similarity_LL = similarity(placed)
    if similarity_LL is None:
        yield between_tokens(placed)
        return

    alike = neighbours(similarity_LL, placed.pyramid)
    if alike is None:
        return
    said = f"Neighbours of the finest level have a cosine of {alike:.4f} on average."
    if alike > ALIKE:
        yield Finding("problem", said, "They look like one position: a lower temperature or base.")
    else:
        yield Finding("fine", said)


def between_tokens(placed: PlacedEncoding) -> Finding:
    """How attention gets positions if tokens carry none."""
    hooks = [said for hook, said in BETWEEN_TOKENS.items() if placed.encoding.uses(hook)]
    if hooks:
        return Finding(
            "note",
            f"Attention knows positions by {' and '.join(hooks)} alone; tokens carry none.",
            "See what was measured (--task); if this falls behind, join a code to it with +, such as "
            "sinusoidal.",
        )
    return Finding(
        "problem",
        "There is no encoding: attention sees a bag of tokens.",
        "Choose an encoding, unless this is the control of a comparison.",
    )


def rotary(placed: PlacedEncoding) -> Iterator[Finding]:
    """Wavelengths against the grid."""
    found_2F = wavelengths(placed)
    if found_2F is None:
        return

    for axis, side, waves_F in zip(("rows", "columns"), placed.pyramid.finest, found_2F, strict=True):
        if side > 1:  # a single cell has no neighbour, so nothing can be seen to turn
            yield rotary_along(axis, side, waves_F)


def rotary_along(axis: str, side: int, waves_F: Tensor) -> Finding:
    """The wavelengths of all channels along one axis, in cells."""
    turning_F = waves_F[waves_F.isfinite()]
    if not len(turning_F):
        return Finding("problem", f"Nothing turns along {axis}.", "Choose one that covers both axes.")

    still = float((turning_F > STILL * side).float().mean())
    said = (
        f"Along the {side} {axis} channels turn once in {turning_F.min():.3g} to {turning_F.max():.3g} "
        f"cells, {still:.0%} of them in more than {STILL} times the grid."
    )
    if turning_F.max() < side:
        return Finding("problem", said, "Far positions look near, as all repeat themselves: a higher base.")
    if still > 0.5:
        return Finding("note", said, "Most of them all but stand still: a lower base uses them.")
    return Finding("fine", said)


def mixture(placed: PlacedEncoding) -> Iterator[Finding]:
    """The share of each part in the whole code of a mixture."""
    for encoding in mixtures(placed.encoding):
        found = shares(encoding, placed.pyramid)
        shown = ", ".join(f"{share.along:.0%} along {share.part}" for share in found)

        said = f"Of the mixture's whole code (about its mean over positions): {shown}."
        strongest = max(found, key=lambda share: share.along)
        if strongest.along > ALONE:
            yield Finding("note", said, f"It is nearly {strongest.part} alone: try that, or other weights.")
        else:
            yield Finding("fine", said)
