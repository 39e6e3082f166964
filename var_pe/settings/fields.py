"""How a section of the settings is written: everything about a setting is defined at its field.

    @section(frozen=True)
    class GeneratorConfig:
        dim: Annotated[Positive, Doc("width of the residual stream")] = 192

Checks, error sentences and `--help` are made from its type, range, choices, default and meaning.
"""

import difflib
import functools
import math
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_args, get_type_hints

import pydantic
import pydantic.dataclasses
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, Field
from pydantic_core import ErrorDetails, PydanticUndefined, core_schema

from var_pe.settings.files import ConfigError, show

Positive = Annotated[int, Ge(1)]
NonNegative = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Share = Annotated[float, Ge(0), Le(1)]
ShareBelowOne = Annotated[float, Ge(0), Lt(1)]

# The setting may change when a run is resumed: the weights do not depend on it.
CHANGES_NO_WEIGHTS = Field(json_schema_extra={"changes_no_weights": True})
# Two different texts may be the same path. Shells leave the `~` of `key=~/folder` to the program.
FilePath = Annotated[
    str, pydantic.AfterValidator(lambda path: written_out(path)), Field(json_schema_extra={"is_a_path": True})
]
# Strictly so: pydantic alone takes `true` and 1.0 for a `Literal` of 1.
WholeNumber = pydantic.BeforeValidator(pydantic.TypeAdapter(pydantic.StrictInt).validate_python)

STRICT = pydantic.ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
TYPES = {"integer": "int", "number": "float", "string": "str", "boolean": "bool", "null": "null"}
# How pydantic's names begin for the errors that `range_of` puts into words
OUTSIDE = ("greater_", "less_", "finite_", "too_")


def written_out(path: str) -> str:
    """The path of a file or folder with its `~` written out.

    Raises:
        ValueError: nothing is named.
    """
    if not path:
        raise ValueError("must name a file or folder, got nothing")
    return os.path.expanduser(path)


def Doc(meaning: str) -> Any:
    """The meaning of a setting, for `--help`."""
    return Field(description=meaning)


def OneOf(names: Collection[str]) -> pydantic.GetPydanticSchema:
    """Choices that are the keys of a table in the code; a `Literal` would repeat the table's keys."""
    return pydantic.GetPydanticSchema(lambda source, handler: core_schema.literal_schema(list(names)))


def check_choice(name: str, value: object, choices: Any) -> None:
    """Checks an argument of a constructor against the choices of its setting: a `Literal`, or names.

    Raises:
        ValueError: the value is not one of the choices.
    """
    allowed = get_args(choices) or tuple(choices)
    if value not in allowed:
        raise ValueError(f"{name} is one of {', '.join(map(str, allowed))}, got {value!r}")


# ------------------------------------------------------------------- all settings, by their whole keys

# A setting in JSON schema
Node = dict[str, Any]
# A section is written as a mapping, whose values are checked by their own keys.
AS_MAPPING = pydantic.WrapValidator(lambda value, check: value if isinstance(value, dict) else check(value))


class Setting(NamedTuple):
    key: str  # with its sections, such as generator.depth
    node: Node


def fields_of(schema: Any, prefix: str = "", around: object = None) -> dict[str, Any]:
    """Type and default of every setting; `around` is what stands in the place of `schema` by default."""
    fields: dict[str, Any] = {}
    hints = get_type_hints(schema, include_extras=True)
    for name, field in schema.__pydantic_fields__.items():
        key = f"{prefix}{name}"
        default = getattr(around, name, field.get_default(call_default_factory=True))
        required = default is PydanticUndefined
        # One file may lack what another one has.
        fields[key] = hints[name], Field(default_factory=dict) if required else default

        for section in filter(is_dataclass, (field.annotation, *get_args(field.annotation))):
            fields[key] = Annotated[hints[name], AS_MAPPING], {} if required else default
            fields |= fields_of(section, f"{key}.", default)
    return fields


@functools.cache
def flat_model(schema: type) -> type[BaseModel]:
    """All settings of a dataclass and of its sections in one model, whose fields are their whole keys."""
    return pydantic.create_model("Settings", __config__=STRICT, **fields_of(schema))


@functools.cache
def all_settings(schema: type) -> tuple[Setting, ...]:
    """Every setting of a dataclass and of its sections, in order."""
    nodes = flat_model(schema).model_json_schema()["properties"]
    return tuple(Setting(key, node) for key, node in nodes.items())


# ------------------------------------------------------------------------------------------- in words


def facts_of(node: Node) -> Node:
    """What is said at a setting, at its alternatives and at its items: limits, marks, meaning."""
    facts: Node = {}
    for part in (*node.get("anyOf", ()), node.get("items")):
        facts |= facts_of(part) if part else {}
    return facts | node


def type_of(node: Node) -> str:
    """A setting's type as a person reads it: `int`, `str or null`, `list of (int or list of int)`."""
    if "enum" in node or "const" in node:
        return f"one of {', '.join(map(show, node.get('enum') or [node['const']]))}"
    if "anyOf" in node:
        return " or ".join(map(type_of, node["anyOf"]))
    if "items" in node:
        items = type_of(node["items"])
        return f"list of ({items})" if " or " in items else f"list of {items}"
    return TYPES.get(node.get("type", ""), "section")


def range_of(node: Node) -> str:
    """The range of a setting's numbers, and how many a list has: `at least 1`, `in [0, 1), 2 of them`."""
    facts = {"exclusiveMinimum": -math.inf, "exclusiveMaximum": math.inf} | facts_of(node)
    low = facts.get("minimum", facts["exclusiveMinimum"])
    high = facts.get("maximum", facts["exclusiveMaximum"])

    words = []
    if high < math.inf:
        opening = "[" if "minimum" in facts else "("
        closing = "]" if "maximum" in facts else ")"
        words.append(f"in {opening}{low:g}, {high:g}{closing}")
    elif low > -math.inf:
        finite = " and finite" if "float" in type_of(node) else ""
        words.append(f"{'at least' if 'minimum' in facts else 'above'} {low:g}{finite}")
    if "maxItems" in facts:
        words.append(f"{facts['maxItems']} of them")
    return ", ".join(words)


@contextmanager
def one_sentence(schema: type, given: Mapping[str, object], origin: str = "") -> Iterator[None]:
    """Turns pydantic's errors about `given` values into one sentence: whole key, origin, rule and value.

    Raises:
        ConfigError: a key is unknown, or a value is missing, of the wrong type or breaks a rule.
    """
    try:
        yield
    except pydantic.ValidationError as error:
        raise ConfigError(sentence_of(schema, error.errors(include_url=False), given, origin)) from None


def sentence_of(schema: type, errors: list[ErrorDetails], given: Mapping[str, object], origin: str) -> str:
    """The first of pydantic's errors as `one_sentence` says it."""
    first, path = errors[0], [str(part) for part in errors[0]["loc"]]
    key = path[0] if path else ""
    nodes = dict(all_settings(schema))

    if first["type"] == "missing":
        name = ".".join(path)
        return f"{name} has no default: give it in the config file or as {name}=value"
    # Our own rules: that of a section begins with one of its settings, that of a setting does not.
    if first["type"] == "value_error":
        rule = str(first["ctx"]["error"])
        return f"{key}{origin}: {rule}" if key in given else ".".join([*path, rule])
    if key not in nodes:
        return f"unknown key {key}{origin}; {suggestion(key, list(nodes))}"

    kinds = [error["type"] for error in errors if error["loc"][0] == key]
    outside = any(kind.startswith(OUTSIDE) for kind in kinds)
    rule = (outside and range_of(nodes[key])) or type_of(nodes[key])
    quotes = " (put text in quotes)" if kinds[0] == "string_type" else ""
    return f"{key}{origin} must be {rule}, got {show(given[key])}{quotes}"


def suggestion(key: str, known: list[str]) -> str:
    """The known key that is most like an unknown one, or those of its section."""
    # The last word counts first: the right name may be in a wrong section.
    place, _, word = key.rpartition(".")
    last_words = {other: other.rpartition(".")[2] for other in known}
    near = difflib.get_close_matches(word, last_words.values(), n=1, cutoff=0.7)
    alike = [other for other in known if last_words[other] in near]
    if alike:
        return f"did you mean {difflib.get_close_matches(key, alike, n=1, cutoff=0)[0]}?"

    siblings = [other for other in known if other.rpartition(".")[0] == place]
    return f"known are {', '.join(siblings or [other for other in known if '.' not in other])}"


if TYPE_CHECKING:  # mypy knows the standard library's dataclasses best: `replace`, `asdict`, `fields`
    from dataclasses import dataclass as section
else:

    def section(*, frozen: bool):
        """A pydantic dataclass, strict about types, whose errors are one sentence even without `load`."""

        def make(cls: type) -> type:
            made = pydantic.dataclasses.dataclass(frozen=frozen, config=STRICT)(cls)
            construct = made.__init__

            @functools.wraps(construct)
            def checked(self: object, **settings: object) -> None:
                with one_sentence(made, settings):
                    construct(self, **settings)

            made.__init__ = checked
            return made

        return make
