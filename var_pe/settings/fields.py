"""How a section of the settings is written: everything about a setting is defined at its field.

    @section(frozen=True)
    class GeneratorConfig:
        dim: Annotated[Positive, Doc("width of the residual stream")] = 192

Checks, error sentences and `--help` are made from its type, range, choices, default and meaning.
"""

import functools
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, get_args

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic_core import CoreSchema, core_schema

from var_pe.settings.files import ConfigError
from var_pe.settings.sentences import sentence_of


def whole_number(value: object) -> object:
    if type(value) is not int:
        raise ValueError(f"must be a whole number, got {value}")
    return value


Positive = Annotated[int, Ge(1)]
NonNegative = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Share = Annotated[float, Ge(0), Le(1)]
ShareBelowOne = Annotated[float, Ge(0), Lt(1)]

# The setting may change when a run is resumed: the weights do not depend on it.
CHANGES_NO_WEIGHTS = Field(json_schema_extra={"changes_no_weights": True})
# Two different texts may be the same path.
# Strictly so: pydantic alone takes `true` and 1.0 for a `Literal` of 1.
WholeNumber = BeforeValidator(whole_number)
FilePath = Annotated[str, Field(json_schema_extra={"is_a_path": True})]


def Doc(meaning: str) -> Any:
    """The meaning of a setting, for `--help`."""
    return Field(description=meaning)


@dataclass(frozen=True)
class OneOf:
    """Choices that are the keys of a table in the code; a `Literal` would repeat the table's keys."""

    names: Collection[str]

    def __get_pydantic_core_schema__(self, source: object, handler: object) -> CoreSchema:
        return core_schema.literal_schema(list(self.names))


def check_choice(name: str, value: object, choices: Any) -> None:
    """Checks an argument of a constructor against the choices of its setting: a `Literal`, or names.

    Raises:
        ValueError: the value is not one of the choices.
    """
    allowed = get_args(choices) or tuple(choices)
    if value not in allowed:
        raise ValueError(f"{name} is one of {', '.join(map(str, allowed))}, got {value!r}")


if TYPE_CHECKING:  # mypy knows the standard library's dataclasses best: `replace`, `asdict`, `fields`
    from dataclasses import dataclass as section
else:

    def section(*, frozen: bool):
        """A pydantic dataclass, strict about types, whose errors are one sentence even without `load`."""

        def make(cls: type) -> type:
            strict = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
            made = pydantic_dataclass(frozen=frozen, config=strict)(cls)
            construct = made.__init__

            @functools.wraps(construct)
            def checked(self: object, *given: object, **named: object) -> None:
                names = list(made.__pydantic_fields__)
                if len(given) > len(names):
                    raise TypeError(f"{cls.__name__} has {len(names)} settings, got {len(given)}")
                settings = dict(zip(names, given, strict=False)) | named
                try:
                    construct(self, **settings)
                except ValidationError as error:
                    raise ConfigError(sentence_of(made, error.errors(include_url=False), settings)) from None

            made.__init__ = checked
            return made

        return make
