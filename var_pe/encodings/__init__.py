"""Position encodings. Every file here but `base` is one encoding; what they share is in `machinery/`.

`build_encoding` turns a config's line into a module.
"""

from collections.abc import Sequence
from dataclasses import replace

from var_pe.encodings import (  # noqa: F401  # importing a file registers its encoding
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
from var_pe.encodings.base import REGISTRY, ModelShape, PositionEncoding, TokenEncoding, register
from var_pe.encodings.machinery.compose import Composed
from var_pe.encodings.machinery.line import Member, parse
from var_pe.encodings.machinery.options import nearest
from var_pe.pyramid import Grid, Pyramid

__all__ = ["REGISTRY", "ModelShape", "PositionEncoding", "TokenEncoding", "build_encoding", "register"]


def build_encoding(
    line: str,
    *,
    dim: int,
    num_heads: int,
    depth: int,
    pyramid: Pyramid,
    kept_grids: Sequence[Grid] | None = None,
) -> PositionEncoding:
    """The encoding that `line` describes, for a model of this shape.

    `kept_grids` are those of a model that has moved to `pyramid` since: members that then keep the sizes of
    their parameters (`keeps_grids`) are built for these.

    Raises:
        ValueError: the line does not parse, or names an encoding or option that does not exist.
    """
    shape = ModelShape(dim, num_heads, depth, pyramid)
    kept = shape if kept_grids is None else replace(shape, pyramid=Pyramid.of(kept_grids))

    def build(member: Member) -> PositionEncoding:
        if member.name not in REGISTRY:
            raise ValueError(f"there is no encoding {member.name!r}{nearest(member.name, REGISTRY)}")
        cls = REGISTRY[member.name]
        return cls.from_line(member, kept if cls.keeps_grids else shape, build)

    described = parse(line)
    try:
        members = [build(member) for member in described]
    except ValueError as error:
        raise ValueError(f"encoding {line!r}: {error}") from error

    return members[0] if len(members) == 1 else Composed(members)
