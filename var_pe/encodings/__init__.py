"""Position encodings, one file each; `build_encoding` turns a config's line into a module."""

import difflib
import inspect
from collections.abc import Sequence
from typing import Any

from var_pe.encodings import (
    alibi,
    coordinate,
    factorized,
    fourier,
    learned,
    learned_grid,
    local,
    log_cpb,
    mixed,
    none,
    peg,
    pyramid_peg,
    relative_bias,
    rope,
    rope_mixed,
    sinusoidal,
)
from var_pe.encodings.base import REGISTRY, PositionEncoding, TokenEncoding, register
from var_pe.encodings.machinery.compose import Composed
from var_pe.encodings.machinery.line import Member, Value, parse
from var_pe.pyramid import Grid, Pyramid

__all__ = ["REGISTRY", "PositionEncoding", "TokenEncoding", "build_encoding", "register"]
_MEMBERS = (  # importing a file registers its encoding
    alibi,
    coordinate,
    factorized,
    fourier,
    learned,
    learned_grid,
    local,
    log_cpb,
    mixed,
    none,
    peg,
    pyramid_peg,
    relative_bias,
    rope,
    rope_mixed,
    sinusoidal,
)
_FROM_MODEL = ("self", "dim", "num_heads", "depth", "pyramid", "parts")


def build_encoding(line: str, *, kept_grids: Sequence[Grid] | None = None, **model: Any) -> PositionEncoding:
    """The encoding that `line` describes, for a model of these `dim`, `num_heads`, `depth` and `pyramid`.

    `kept_grids` are those of a model that has moved to `pyramid` since: members that then keep the sizes of
    their parameters (`keeps_grids`) are built for these.

    Raises:
        ValueError: the line does not parse, or names an encoding or option that does not exist.
    """
    kept = model["pyramid"] if kept_grids is None else Pyramid(tuple(kept_grids))
    members = [_build(member, line, model, kept) for member in parse(line)]
    return members[0] if len(members) == 1 else Composed(members)


def _build(member: Member, line: str, model: dict[str, Any], kept: Pyramid) -> PositionEncoding:
    if member.name not in REGISTRY:
        raise ValueError(
            f"encoding {line!r}: there is no encoding {member.name!r}{_nearest(member.name, REGISTRY)}"
        )
    cls = REGISTRY[member.name]
    known = inspect.signature(cls.__init__).parameters
    options, parts = dict(member.options), list(member.parts)
    if "parts" in known:
        options, parts = _weighted_parts(options, parts, line)
    elif parts:
        raise ValueError(f"encoding {line!r}: {member.name} takes options by name, option=value")
    for option in options:
        if option not in known or option in _FROM_MODEL:
            own = [name for name in known if name not in _FROM_MODEL]
            own += REGISTRY if "parts" in known else []
            raise ValueError(
                f"encoding {line!r}: {member.name} has no option {option!r}{_nearest(option, own)}"
            )
    _check_types(cls, options, line)
    given: dict[str, Any] = {}
    if "parts" in known:
        given["parts"] = [_build(part, line, model, kept) for part in parts]
    if cls.keeps_grids:
        given["pyramid"] = kept
    try:
        return cls(**(model | given), **options)
    except ValueError as error:
        raise ValueError(f"encoding {line!r}: {error}") from error


def _weighted_parts(
    options: dict[str, Value], parts: list[Member], line: str
) -> tuple[dict[str, Value], list[Member]]:
    """`mixed(learned=0.7, sinusoidal=0.3)` is short for parts in brackets and `weights=(0.7, 0.3)`."""
    weighted = {name: options.pop(name) for name in list(options) if name in REGISTRY}
    if not weighted:
        weights = options.get("weights", (1.0,) * len(parts))
        return {**options, "weights": weights}, parts
    if parts or "weights" in options:
        raise ValueError(
            f"encoding {line!r} gives weights twice: write name=weight or parts with weights=(...)"
        )
    return {**options, "weights": tuple(weighted.values())}, [Member(name) for name in weighted]


def _check_types(cls: type[PositionEncoding], options: dict[str, Value], line: str) -> None:
    """Refuses a word where a number is wanted, and the other way round."""
    for name, value in options.items():
        wanted = inspect.signature(cls.__init__).parameters[name].annotation
        accepted = {float: (int, float), int: (int,), bool: (bool,), str: (str,)}.get(wanted)
        if accepted and (not isinstance(value, accepted) or (isinstance(value, bool) and wanted is not bool)):
            raise ValueError(f"encoding {line!r}: {name} is a {wanted.__name__}, got {value!r}")
        if name == "weights" and not (
            isinstance(value, tuple) and all(type(weight) in (int, float) for weight in value)
        ):
            raise ValueError(f"encoding {line!r}: weights are numbers, got {value!r}")


def _nearest(word: str, known: Any) -> str:
    matches = difflib.get_close_matches(word, list(known), n=1)
    return (
        f"; did you mean {matches[0]!r}?" if matches else f"; there are {', '.join(sorted(known)) or 'none'}"
    )
