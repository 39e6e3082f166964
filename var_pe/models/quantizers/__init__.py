"""Quantizers: latent maps to tokens and back.

`residual.py` holds the walk up the pyramid, which all of them take; every file named like an entry of
`REGISTRY` is one of them. `build_quantizer` turns a config's line into a module.
"""

from collections.abc import Callable

from var_pe.models.quantizers.bsq import BSQ
from var_pe.models.quantizers.cosine import Cosine
from var_pe.models.quantizers.fsq import FSQ
from var_pe.models.quantizers.residual import MultiScaleQuantizer, QuantizerShape
from var_pe.models.quantizers.simvq import SimVQ
from var_pe.models.quantizers.vq import VQ
from var_pe.settings.fields import nearest
from var_pe.settings.line import Member, check_options, parse

__all__ = ["REGISTRY", "MultiScaleQuantizer", "QuantizerShape", "build_quantizer", "codes_of", "expects"]

REGISTRY: dict[str, type[MultiScaleQuantizer]] = {
    "bsq": BSQ,
    "cosine": Cosine,
    "fsq": FSQ,
    "simvq": SimVQ,
    "vq": VQ,
}


def build_quantizer(line: str, shape: QuantizerShape) -> MultiScaleQuantizer:
    """The quantizer that `line` describes.

    Raises:
        ValueError: the line does not parse, names a quantizer or option that does not exist, or an option is
            out of its range.
    """
    cls, member = _described(line)
    build: Callable[..., MultiScaleQuantizer] = cls
    try:
        return build(shape, **member.options)
    except ValueError as error:
        raise ValueError(f"quantizer {line!r}: {error}") from error


def codes_of(line: str, codebook_size: int) -> int:
    """How many codes the quantizer of `line` has; `codebook_size` where it has no number of its own.

    Raises:
        ValueError: as in `build_quantizer`, as far as the number of codes depends on it.
    """
    cls, member = _described(line)
    try:
        return cls.codes_of(codebook_size, member.options)
    except ValueError as error:
        raise ValueError(f"quantizer {line!r}: {error}") from error


def expects(line: str) -> bool:
    """Whether the quantizer of `line` learns which tokens to expect, so that some can be drawn anew.

    Raises:
        ValueError: the line is not that of a quantizer.
    """
    cls, member = _described(line)
    return cls.expects(member.options)


def _described(line: str) -> tuple[type[MultiScaleQuantizer], Member]:
    """The class that a line names, and its options, which exist."""
    members = parse(line, "quantizer")
    if len(members) > 1 or members[0].parts:
        raise ValueError(f"quantizer {line!r}: there is one quantizer, name(option=value)")

    member = members[0]
    if member.name not in REGISTRY:
        raise ValueError(f"there is no quantizer {member.name!r}; {nearest(member.name, REGISTRY)}")
    cls = REGISTRY[member.name]
    try:
        check_options(member.name, member.options, cls.__init__)
    except ValueError as error:
        raise ValueError(f"quantizer {line!r}: {error}") from error
    return cls, member
