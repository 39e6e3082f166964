"""The stages of a hierarchy, each written as one line: `windowed(blocks=2, window=7)`.

What a line leaves open follows from the model's width and heads and from the stages before it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from math import prod
from typing import ClassVar, Literal

from var_pe.pyramid import Grid, Sides
from var_pe.settings.fields import check_choice, nearest
from var_pe.settings.line import Member, Value, check_options, parse

Norm = Literal["pre", "post"]


@dataclass(frozen=True, kw_only=True)
class StageShape:
    """What every kind of stage has.

    Raises:
        ValueError: a number is below 1, or an option of the kind is out of its range.
    """

    kind: ClassVar[str]
    # whether it takes maps of clips, too
    serves_clips: ClassVar[bool] = False

    blocks: int
    # width
    dim: int
    # so many cells of the map before, along each side, become one
    stride: int

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is int and value < 1:
                raise ValueError(f"{field.name} must be at least 1, got {value}")

    def check_map(self, grid: Grid) -> None:
        """Refuses a map that the blocks cannot divide; most kinds take any."""

    def tokens_in_sight(self, grid: Sides) -> int:
        """How many tokens one token's attention compares it with, on a map of `grid`; 0 without attention."""
        return 0

    def line(self) -> str:
        """As a config writes it, nothing left open."""
        options = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            said = str(value).lower() if isinstance(value, bool) else repr(value)
            options.append(f"{field.name}={said}")
        return f"{self.kind}({', '.join(options)})"


@dataclass(frozen=True, kw_only=True)
class AttentionShape(StageShape):
    """What every kind with attention has."""

    heads: int
    # the line of its position encoding
    encoding: str
    # pre: before each branch. post: after it, before it is added (Swin v2's res-post-norm)
    norm: str = "pre"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("norm", self.norm, Norm)
        if self.dim % self.heads:
            raise ValueError(f"dim must be a multiple of heads, got {self.dim} and {self.heads}")

    def attention_grid(self, grid: Sides) -> Sides:
        """The grid on which an encoding in attention counts, on a map of `grid`: the map, or a part of it."""
        return grid

    def tokens_in_sight(self, grid: Sides) -> int:
        return prod(self.attention_grid(grid))


@dataclass(frozen=True, kw_only=True)
class Full(AttentionShape):
    """Every token sees the whole map."""

    kind: ClassVar[str] = "full"
    serves_clips: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Windowed(AttentionShape):
    """Swin (Liu et al. 2021): a token sees its window, in every second block another one.

    In clips a window has a third side, time (Video Swin, Liu et al. 2022).
    """

    kind: ClassVar[str] = "windowed"
    serves_clips: ClassVar[bool] = True
    # cells along each side; along a side of the map that is no longer, the window is all of it
    window: int = 7
    # every second block shifts the windows by half of one; false: none does
    shift: bool = True
    # moments of a clip in a window; where a clip is no longer, or None, all of them
    moments: int | None = None

    def attention_grid(self, grid: Sides) -> Sides:
        *times, rows, columns = grid
        moments = [time if self.moments is None else min(time, self.moments) for time in times]
        return *moments, min(rows, self.window), min(columns, self.window)


@dataclass(frozen=True, kw_only=True)
class Local(AttentionShape):
    """Every token sees the square of cells around it."""

    kind: ClassVar[str] = "local"
    # cells to each side; with 3 the square is 7x7
    radius: int = 3

    def tokens_in_sight(self, grid: Sides) -> int:
        rows, columns = grid
        side = 2 * self.radius + 1
        return min(rows, side) * min(columns, side)


@dataclass(frozen=True, kw_only=True)
class Linear(AttentionShape):
    """Every token sees the whole map through a kernel's features, at a cost that grows with the tokens."""

    kind: ClassVar[str] = "linear"
    serves_clips: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Mobile(AttentionShape):
    """MobileViT (Mehta & Rastegari 2022): convolutions around attention among equal places of patches."""

    kind: ClassVar[str] = "mobile"
    # cells along each side of a patch
    patch: int = 2

    def check_map(self, grid: Grid) -> None:
        rows, columns = grid
        if rows % self.patch or columns % self.patch:
            raise ValueError(f"patch {self.patch} must divide the sides of its map, {rows}x{columns}")

    def attention_grid(self, grid: Sides) -> Sides:
        return grid[0] // self.patch, grid[1] // self.patch


@dataclass(frozen=True, kw_only=True)
class Convolution(StageShape):
    """Inverted bottlenecks of convolutions, as before CoAtNet's attention (Dai et al. 2021)."""

    kind: ClassVar[str] = "convolution"
    # width inside a block, as a multiple of dim
    expansion: int = 4


KINDS: dict[str, type[StageShape]] = {
    kind.kind: kind for kind in (Full, Windowed, Local, Linear, Mobile, Convolution)
}


def read_hierarchy(
    lines: Sequence[str], *, dim: int, num_heads: int, encoding: str, clips: bool = False
) -> tuple[StageShape, ...]:
    """The stages that the lines describe, of pictures or of `clips`, from the finest map to the coarsest.

    A line leaves open what follows: the first stage has width `dim`, and every later one halves the map and
    doubles the width; heads are as wide as in the first, `dim / num_heads`; the encoding is `encoding`.

    Raises:
        ValueError: a line is wrong; the sentence names it.
    """
    stages: list[StageShape] = []
    for number, line in enumerate(lines, start=1):
        if line.count("(") > line.count(")") and number < len(lines):
            # YAML has taken the line's own comma for one between two lines
            raise ValueError(
                f"hierarchy: stage {number}, {line!r}, ends before its bracket closes: in a list in brackets "
                f'a line with commas needs quotes, as in ["windowed(blocks=2, window=4)", full(blocks=2)]'
            )
        members = parse(line, f"hierarchy: stage {number},")
        try:
            if len(members) != 1 or members[0].parts:
                raise ValueError("a stage is one kind with its options, kind(option=value)")
            before = stages[-1] if stages else None
            stage = _stage(members[0], before, dim, num_heads, encoding)
            _check_serves(stage, clips)
            stages.append(stage)
        except ValueError as error:
            raise ValueError(f"hierarchy: stage {number}, {line!r}: {error}") from error
    return tuple(stages)


def _stage(member: Member, before: StageShape | None, dim: int, num_heads: int, encoding: str) -> StageShape:
    if member.name not in KINDS:
        raise ValueError(f"there is no kind of stage {member.name!r}; {nearest(member.name, KINDS)}")
    kind = KINDS[member.name]
    given = dict(member.options)
    if given.get("encoding", "") is None:  # the line's word for no value is the name of an encoding, too
        given["encoding"] = "none"
    check_options(member.name, given, kind.__init__)
    if "blocks" not in given:
        raise ValueError(f"{member.name} needs its number of blocks, blocks=N")

    options: dict[str, Value] = {"stride": 1 if before is None else 2, "dim": dim} | given
    if before is not None and "dim" not in given:
        options["dim"] = before.dim * (1 if options["stride"] == 1 else 2)
    if issubclass(kind, AttentionShape):
        options.setdefault("encoding", encoding)
        if "heads" not in options:
            options["heads"] = _heads(options["dim"], dim, num_heads)
    make: Callable[..., StageShape] = kind
    return make(**options)


def _check_serves(stage: StageShape, clips: bool) -> None:
    """Refuses a kind of stage that clips cannot have, and an option that pictures cannot have."""
    if clips and not stage.serves_clips:
        able = ", ".join(name for name, kind in KINDS.items() if kind.serves_clips)
        raise ValueError(f"{stage.kind} is for pictures; stages of clips are {able}")
    if not clips and isinstance(stage, Windowed) and stage.moments is not None:
        raise ValueError(f"moments={stage.moments} is for clips, which a tubelet of 1 or more makes")


def _heads(wide: Value, dim: int, num_heads: int) -> int:
    """As many heads as keep the width of the model's."""
    assert isinstance(wide, int), "check_options lets no other value through"
    if wide * num_heads % dim:
        raise ValueError(
            f"heads must be given: a width of {wide} is not a whole number of heads that are "
            f"{dim} / {num_heads} wide"
        )
    return wide * num_heads // dim


def maps_of(stages: Sequence[StageShape], grid: Grid) -> list[Grid]:
    """The map of each stage, where the stem gives `grid`.

    Raises:
        ValueError: the stages' cells do not fill it, or a stage cannot divide its map.
    """
    whole = prod(stage.stride for stage in stages)
    rows, columns = grid
    if rows % whole or columns % whole:
        raise ValueError(
            f"hierarchy: a cell of the last stage is {whole}x{whole} patches, which do not fill an image of "
            f"{rows}x{columns} patches"
        )

    maps = []
    for number, stage in enumerate(stages, start=1):
        rows, columns = rows // stage.stride, columns // stage.stride
        try:
            stage.check_map((rows, columns))
        except ValueError as error:
            raise ValueError(f"hierarchy: stage {number}, {stage.kind}: {error}") from error
        maps.append((rows, columns))
    return maps
