"""Position encodings. Every file here but `base` is one encoding; what they share is in `machinery/`.

`build_encoding` turns a config's line into a module.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from var_pe.encodings import (  # noqa: F401  # importing a file registers its encoding
    alibi,
    blocks,
    coordinate,
    factorized,
    fire,
    fourier,
    harope,
    irpe,
    learned,
    learned_grid,
    liere,
    local,
    log_cpb,
    lookhere,
    mixed,
    none,
    pape,
    peg,
    pope,
    pyramid_peg,
    relative_bias,
    rope,
    rope_mixed,
    sinusoidal,
)
from var_pe.encodings.base import (
    HOOKS_OF_TOKENS,
    REGISTRY,
    ModelShape,
    PositionEncoding,
    TokenEncoding,
    register,
)
from var_pe.encodings.machinery.compose import Composed
from var_pe.pyramid import Grid, Pyramid
from var_pe.settings.fields import nearest
from var_pe.settings.line import Member, Value, parse

__all__ = [
    "REGISTRY",
    "ModelShape",
    "PositionEncoding",
    "TokenEncoding",
    "as_saved",
    "build_encoding",
    "register",
    "settled",
]


def build_encoding(
    line: str,
    *,
    dim: int,
    num_heads: int,
    depth: int,
    pyramid: Pyramid,
    times: int = 1,
    kept_grids: Sequence[Grid] | None = None,
    acting: Literal["on tokens", "in attention"] | None = None,
) -> PositionEncoding:
    """The encoding that `line` describes, for a model of this shape; a new one (see `settled`).

    `times` is how many moments a clip has, 1 that the model sees pictures.

    `kept_grids` are those of a model that has moved to `pyramid` since: members that then keep the sizes of
    their parameters (`keeps_grids`) are built for these. `acting` takes of the line only the members that
    change tokens, or only the others, which act between queries and keys: where attention sees a part of a
    map, the first are built for the map and the second for the part.

    Raises:
        ValueError: the line does not parse, or names an encoding or option that does not exist, or for clips
            one that has no time axis.
    """
    shape = ModelShape(dim, num_heads, depth, pyramid, times)
    kept = shape if kept_grids is None else replace(shape, pyramid=Pyramid.of(kept_grids))

    def build(member: Member, grids_of: Callable[[Pyramid], Pyramid] | None = None) -> PositionEncoding:
        if member.name not in REGISTRY:
            raise ValueError(f"there is no encoding {member.name!r}; {nearest(member.name, REGISTRY)}")
        cls = REGISTRY[member.name]
        if times > 1 and not cls.has_time:
            able = ", ".join(name for name, other in sorted(REGISTRY.items()) if other.has_time)
            raise ValueError(f"{member.name} has no time axis, which clips need; {able} have one")

        made_for = kept if cls.keeps_grids else shape
        if grids_of is None:
            return cls.from_line(member, made_for, build)
        part_of = replace(made_for, pyramid=grids_of(made_for.pyramid))
        return cls.from_line(member, part_of, lambda part, of=None: build(part, _after(grids_of, of)))

    described = parse(settled(line, dim))
    if acting is not None:
        wanted = acting == "on tokens"
        described = tuple(one for one in described if _changes_tokens(one) is wanted) or (Member("none"),)
    try:
        members = [build(member) for member in described]
        return members[0] if len(members) == 1 else Composed(members)
    except ValueError as error:
        raise ValueError(f"encoding {line!r}: {error}") from error


def _after(
    first: Callable[[Pyramid], Pyramid], then: Callable[[Pyramid], Pyramid] | None
) -> Callable[[Pyramid], Pyramid]:
    """Makes the grids of a part's part: its whole's by `first`, and then its own by `then`, if given."""
    return first if then is None else lambda pyramid: then(first(pyramid))


def _changes_tokens(member: Member) -> bool:
    cls = REGISTRY.get(member.name, PositionEncoding)
    return any(getattr(cls, hook) is not getattr(PositionEncoding, hook) for hook in HOOKS_OF_TOKENS)


def settled(line: str, dim: int) -> str:
    """The line of a new model of width `dim`, with the options that follow from the width written out.

    `sinusoidal` becomes `sinusoidal(scale=0.0589)` at width 192.

    Raises:
        ValueError: the line does not parse.
    """

    return _written_out(line, lambda cls: {option: rule(dim) for option, rule in cls.from_width.items()})


def as_saved(line: str) -> str:
    """What a line means that a model or a run was saved with, perhaps before lines were saved settled.

    `sinusoidal` becomes `sinusoidal(scale=1)`, which is what it stood for then.

    Raises:
        ValueError: the line does not parse.
    """

    def of_constructor(cls: type[PositionEncoding]) -> Mapping[str, Value]:
        defaults = inspect.signature(cls.__init__).parameters
        return {option: defaults[option].default for option in cls.from_width}

    return _written_out(line, of_constructor)


def _written_out(line: str, missing: Callable[[type[PositionEncoding]], Mapping[str, Value]]) -> str:
    """The line with the options of `missing(class)` written out for every member that does not give them.

    The parts of a member in brackets are left as they are, and so is a line with nothing to write out.
    """
    written = []
    changed = False
    for member in parse(line):
        options = missing(REGISTRY[member.name]) if member.name in REGISTRY else {}
        # As people write it: 1 for 1.0
        added = [
            f"{name}={value!r}".removesuffix(".0")
            for name, value in options.items()
            if name not in member.options
        ]
        text = member.text
        if added:
            changed = True
            in_brackets = text.removeprefix(member.name)[1:-1]
            text = f"{member.name}({', '.join(filter(None, [in_brackets, *added]))})"
        written.append(text)
    return " + ".join(written) if changed else line
