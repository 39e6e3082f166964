"""What every position encoding is: hooks that do nothing until a member overrides them, and the registry."""

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from var_pe.pyramid import Positions, Pyramid
from var_pe.resampling.conventions import Convention

HOOKS = ("embed", "rotate", "bias", "refine")
REGISTRY: dict[str, type["PositionEncoding"]] = {}


class PositionEncoding(nn.Module):
    """Tells a transformer where its tokens are: a function of `Positions`, so it serves both models.

    Prefix tokens (class token, registers) have no place: the model slices them off before these hooks.
    """

    # whether parameters keep the sizes of the grids they were made for where `set_pyramid` moves the rest
    keeps_grids: ClassVar[bool] = False

    def prepare(self, positions: Positions) -> Any:
        """Once per forward: what the hooks below get as `context` (tables, jitter); here the positions."""
        return positions

    def embed(self, x_BLC: Tensor, context: Any) -> Tensor:
        """Once, before the first block."""
        return x_BLC

    def rotate(self, x_BHLD: Tensor, context: Any, layer: int) -> Tensor:
        """On queries and on keys, after their norm."""
        return x_BHLD

    def bias(self, query: Any, key: Any, layer: int) -> Tensor | None:
        """From the contexts of queries and keys: (H, Lq, Lk), or (1, Lq, Lk) for all heads, added to the
        scores; or None."""
        return None

    def refine(self, x_BLC: Tensor, context: Any, layer: int) -> Tensor:
        """After block `layer`."""
        return x_BLC

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: Any) -> None:
        """Draws the initial value of the parameter called `name` here from `generator`, in place."""
        raise ValueError(f"{type(self).__name__} does not say how its parameter {name} starts")

    def calibrate(self) -> None:
        """Called once after all initial values are drawn: fixes what depends on them."""

    def set_pyramid(self, pyramid: Pyramid, convention: str | Convention | None = None) -> None:
        """Moves what belongs to the grids it was made for, such as a table, to those of `pyramid`.

        Parameters that move are new ones: an optimizer is made afterwards. Here there is nothing to move.

        Raises:
            ValueError: something has to be resampled and no `convention` says how.
        """

    def uses(self, hook: str) -> bool:
        """Whether this member overrides `hook`; models skip hooks that nobody uses."""
        return getattr(type(self), hook) is not getattr(PositionEncoding, hook)


class TokenEncoding(PositionEncoding):
    """An encoding that adds one code per position to the tokens: `scale` times `code_LC(positions)`."""

    def __init__(self, *, scale: float = 1.0) -> None:
        super().__init__()
        if not 0 < scale < float("inf"):
            raise ValueError(f"scale must be above 0 and finite, got {scale}")
        self.scale = scale

    def code_LC(self, positions: Positions) -> Tensor:
        """float32 (L, C)."""
        raise NotImplementedError

    def prepare(self, positions: Positions) -> Tensor:
        return self.scale * self.code_LC(positions)

    def embed(self, x_BLC: Tensor, context: Tensor) -> Tensor:
        return x_BLC + context  # float32 codes: the sum stays float32, as in VAR


def register(name: str) -> Callable[[type[PositionEncoding]], type[PositionEncoding]]:
    """Makes a class selectable in a config by `name`."""

    def add(cls: type[PositionEncoding]) -> type[PositionEncoding]:
        if name in REGISTRY:
            raise ValueError(f"two encodings are called {name}: {REGISTRY[name].__name__} and {cls.__name__}")
        REGISTRY[name] = cls
        return cls

    return add


def standard_deviation(dim: int) -> float:
    """VAR's initial standard deviation of everything learned, sqrt(1 / (3 C)) (public code)."""
    return (1 / (3 * dim)) ** 0.5
