"""What every position encoding is: hooks that do nothing until a member overrides them, and the registry."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Generic, Protocol, Self, TypeVar, cast

import torch
from torch import Tensor, nn

from var_pe.pyramid import Positions, Pyramid
from var_pe.resampling.conventions import Convention
from var_pe.settings.line import Member, Value, check_options

HOOKS = ("embed", "remap", "rotate", "bias", "products", "values", "refine")
HOOKS_OF_TOKENS = ("embed", "refine")  # the others act between queries and keys
REGISTRY: dict[str, type["PositionEncoding"]] = {}

# What an encoding's own `prepare` makes once per forward and its hooks get back.
Context = TypeVar("Context")


@dataclass(frozen=True)
class ModelShape:
    """The model that an encoding is built for: its width, heads, blocks and grids."""

    dim: int
    num_heads: int
    depth: int
    pyramid: Pyramid
    # moments of its clips; 1: it sees pictures
    times: int = 1


class BuildPart(Protocol):
    """Builds what a member takes as a part, for the model's pyramid or for what `grids_of` makes of it."""

    def __call__(
        self, member: Member, grids_of: Callable[[Pyramid], Pyramid] | None = None
    ) -> "PositionEncoding": ...


class PositionEncoding(nn.Module, Generic[Context]):
    """Tells a transformer where its tokens are: a function of `Positions`, so it serves both models.

    A member's constructor is `__init__(self, shape: ModelShape, *, option=default, ...)`; the keywords are
    the options that a config's line may set. Prefix tokens (class token, registers) have no position: the
    model slices them off before these hooks.
    """

    # whether parameters keep the sizes of the grids they were made for where `set_pyramid` moves the rest
    keeps_grids: ClassVar[bool] = False
    # whether a share of what it does is something in between (`machinery/blend.py`), which needs `turned_by`
    # of one that rotates: not where keys are hidden, heads widened or turns are no angles
    blends: bool = True
    # whether it serves clips: tells their moments apart or, as `none` does, means not to (set by `register`)
    has_time: ClassVar[bool] = False
    # options that follow from the model's width in a line that does not give them; a model saves its line
    # with these written out, and in a line that was saved without them they are the constructor's defaults
    from_width: ClassVar[Mapping[str, Callable[[int], Value]]] = {}

    @classmethod
    def from_line(cls, member: Member, shape: ModelShape, build_part: "BuildPart") -> Self:
        """The encoding that a config's line asks for; its options are the constructor's keywords.

        A member that takes other encodings as parts overrides this and builds each with `build_part`.

        Raises:
            ValueError: an option does not exist, or its value is of another type or out of its range.
        """
        if member.parts:
            raise ValueError(f"{member.name} takes options by name, option=value")

        check_options(member.name, member.options, cls.__init__)
        return cls(shape, **member.options)

    def prepare(self, positions: Positions) -> Context:
        """Once per forward: what the hooks below get as `context` (tables, jitter); here the positions."""
        return cast(Context, positions)

    def embed(self, x_BLC: Tensor, context: Context) -> Tensor:
        """Once, before the first block."""
        return x_BLC

    def remap(self, q_BHLD: Tensor, k_BHLD: Tensor, context: Context, layer: int) -> tuple[Tensor, Tensor]:
        """On queries and keys of the same tokens, before their norm, where the two differ in what they get.

        They may come out wider, as wide as `width_of` says; the prefix tokens' are filled up with zeros.
        """
        return q_BHLD, k_BHLD

    def width_of(self, head_dim: int) -> int:
        """How wide `remap` makes queries and keys of this width."""
        return head_dim

    def rotate(self, x_BHLD: Tensor, context: Context, layer: int) -> Tensor:
        """On queries and on keys, after their norm."""
        return x_BHLD

    def turned_by(self, context: Context, share: Tensor) -> Context:
        """The context under which `rotate` turns by `share` of its angles; other hooks do as before."""
        return context

    def relate(self, query: Context, key: Context) -> None:
        """Before the first block: works out what `bias` needs of these queries and keys in every layer."""

    def bias(self, query: Context, key: Context, layer: int) -> Tensor | None:
        """From the contexts of queries and keys: (H, Lq, Lk), or (1, Lq, Lk) for all heads, added to the
        scores; or None."""
        return None

    def products(
        self, q_BHQD: Tensor, k_BHKD: Tensor, query: Context, key: Context, layer: int
    ) -> Tensor | None:
        """Added to the scores, too: (B, H, Lq, Lk), of what these queries and keys hold and where they are.

        Both are as attention compares them, turned and normed, and the queries are scaled as the scores are.
        """
        return None

    def values(self, weights_BHQK: Tensor, query: Context, key: Context, layer: int) -> Tensor | None:
        """Added to what attention gathers, (B, H, Lq, D), from the weights of these keys after the softmax.

        Only plain products keep the weights: an encoding that overrides this has no other kernel.
        """
        return None

    def at_layer(self, context: Context, layer: int) -> Context:
        """The context for the hooks in blocks in this layer: what each layer has of its own becomes one.

        Those hooks then take the only one there is (`own`), whatever the layer's number. An encoding whose
        layers differ works without this, too, but is compiled once for each layer.
        """
        return context

    def refine(self, x_BLC: Tensor, context: Context, layer: int) -> Tensor:
        """After block `layer`."""
        return x_BLC

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        """Draws the initial value of the parameter called `name` here from `generator`, in place."""
        raise ValueError(f"{type(self).__name__} does not define how its parameter {name} starts")

    def calibrate(self) -> None:
        """Called once after all initial values are drawn: fixes what depends on them."""

    def set_pyramid(self, pyramid: Pyramid, convention: str | Convention | None = None) -> None:
        """Moves what belongs to the grids it was made for, such as a table, to those of `pyramid`.

        Parameters that move are new ones: an optimizer is made afterwards. Here there is nothing to move.

        Raises:
            ValueError: something has to be resampled and no `convention` is given.
        """

    def uses(self, hook: str) -> bool:
        """Whether this member overrides `hook`; models skip hooks that are not overridden."""
        return getattr(type(self), hook) is not getattr(PositionEncoding, hook)

    @property
    def one_size_because(self) -> str:
        """Why a program that is traced at one size of images serves no other; empty: it serves them all."""
        return ""

    @property
    def turns_keys_by_query(self) -> bool:
        """Whether `rotate` turns the same keys in another way for the queries of another level.

        Keys are then kept as they are, and each call of attention turns those that its queries meet, by what
        `prepare` makes of `Positions.as_keys_of` that level.
        """
        return False

    @property
    def asks_of_calls(self) -> bool:
        """Whether a call of attention has to know where its own queries and keys are."""
        return self.adds_to_scores or self.turns_keys_by_query

    @property
    def adds_to_scores(self) -> bool:
        """Whether something is added to scores, or asks for their softmax: that costs the flash kernel."""
        return self.uses("bias") or self.uses("products") or self.uses("values")


def own(layer: int, number: int) -> int:
    """Where a layer's own is among `number` things: the only one is shared by all, or `at_layer` left it."""
    return layer if number > 1 else 0


class TokenEncoding(PositionEncoding[Tensor]):
    """An encoding that adds one code per position to the tokens: `scale` times `code_LC(positions)`.

    In a clip a token gets the sum of its place's code and its moment's, as in TimeSformer (Bertasius et al.
    2021) and MAE for clips (Feichtenhofer et al. 2022).
    """

    def __init__(self, shape: ModelShape, *, scale: float = 1.0) -> None:
        super().__init__()
        if not 0 < scale < float("inf"):
            raise ValueError(f"scale must be above 0 and finite, got {scale}")
        self.dim = shape.dim
        self.scale = scale

    def code_LC(self, positions: Positions) -> Tensor:
        """float32 (L, C)."""
        raise NotImplementedError

    def time_TC(self, positions: Positions) -> Tensor:
        """What a token gets for its moment in a clip of `positions.times`, float32 (T, C), if `has_time`."""
        raise NotImplementedError

    def prepare(self, positions: Positions) -> Tensor:
        if positions.times == 1:
            return self.scale * self.code_LC(positions)

        place_lC = self.scale * self.code_LC(positions.at_moment())
        if positions.time_L is None:
            return place_lC.repeat(positions.times, 1)
        return (place_lC + self.scale * self.time_TC(positions)[:, None]).flatten(0, 1)

    def embed(self, x_BLC: Tensor, context: Tensor) -> Tensor:
        return x_BLC + context  # float32 codes: the sum stays float32, as in VAR


def register(
    name: str, *, has_time: bool = False
) -> Callable[[type[PositionEncoding]], type[PositionEncoding]]:
    """Makes a class selectable in a config by `name`; `has_time` if it has a time axis, for clips.

    Raises:
        ValueError: the name is taken, or the constructor does not begin with the model's shape.
    """

    def add(cls: type[PositionEncoding]) -> type[PositionEncoding]:
        if name in REGISTRY:
            raise ValueError(f"two encodings are called {name}: {REGISTRY[name].__name__} and {cls.__name__}")

        first = list(inspect.signature(cls.__init__).parameters)[1:2]
        if first != ["shape"]:
            raise ValueError(
                f"encoding {name}: {cls.__name__} must be built from a shape; write `def __init__(self, "
                f"shape: ModelShape, *, option=default, ...)`, and shape.dim, shape.num_heads, shape.depth "
                f"and shape.pyramid for the keywords dim, num_heads, depth and pyramid"
            )

        cls.has_time = has_time  # each member's own: a subclass does not inherit it
        REGISTRY[name] = cls
        return cls

    return add
