"""How a section of the settings is written: everything about a setting is defined at its field.

    @section
    class GeneratorConfig:
        dim: Annotated[Positive, Doc("width of the residual stream")] = 192

Checks, error sentences and `--help` are made from its type, range, choices, default and meaning. A section in
a section starts from defaults of its own, `field(default_factory=GeneratorConfig)`.
"""

import difflib
import functools
import itertools
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import Annotated, Any, dataclass_transform, get_args

import pydantic
import pydantic.dataclasses
from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import Field
from pydantic_core import ArgsKwargs, ErrorDetails, core_schema

from var_pe.settings.files import ConfigError, show

Positive = Annotated[int, Ge(1)]
NonNegative = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Share = Annotated[float, Ge(0), Le(1)]
ShareBelowOne = Annotated[float, Ge(0), Lt(1)]

# May change when a run is resumed: steps do not depend on it. (Which step `keep=best` takes may.)
CHANGES_NO_WEIGHTS = Field(json_schema_extra={"changes_no_weights": True})
# Two different texts may be the same path. Shells leave the `~` of `key=~/folder` to the program.
PATH = pydantic.AfterValidator(lambda text: " + ".join(os.path.expanduser(one) for one in text.split(" + ")))
FilePath = Annotated[str, MinLen(1), PATH, Field(json_schema_extra={"is_a_path": True})]
# Strictly so: pydantic alone takes `true` and 1.0 for a `Literal` of 1.
WholeNumber = pydantic.BeforeValidator(pydantic.TypeAdapter(pydantic.StrictInt).validate_python)

STRICT = pydantic.ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
TYPES = {"integer": "int", "number": "float", "string": "str", "boolean": "bool", "null": "null"}
# How the limits of a JSON schema are put into words
LIMITS = {
    "minimum": "at least {:g}",
    "exclusiveMinimum": "above {:g}",
    "maximum": "at most {:g}",
    "exclusiveMaximum": "below {:g}",
    "minLength": "not empty",
    "maxItems": "{} of them",
}
# pydantic's names of errors about keys, in dataclasses and models
UNKNOWN = {"unexpected_keyword_argument", "extra_forbidden", "invalid_key"}
# What is added to a sentence about an error of this name of pydantic's
HINTS = {"string_type": " (put text in quotes)", "finite_number": " (it is not finite)"}


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

# A setting in JSON schema, with the default that a new section has
Node = dict[str, Any]
# Values by name, those of a section in a tree of its own
Tree = Mapping[str, Any]


@functools.cache
def all_settings(schema: Any, prefix: str = "") -> dict[str, Node]:
    """Every setting of a dataclass and of its sections by its whole key, such as `generator.depth`."""
    nodes = pydantic.TypeAdapter(schema).json_schema()["properties"]
    settings: dict[str, Node] = {}
    for name, field in schema.__pydantic_fields__.items():
        key = f"{prefix}{name}"
        settings[key] = nodes[name] | {"default": field.get_default(call_default_factory=True)}
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and is_dataclass(kind):
                settings |= all_settings(kind, f"{key}.")
    return settings


# ------------------------------------------------------------------------------------------- in words


def facts_of(node: Node) -> Node:
    """Limits, marks and meaning of a setting, also those that stand at its alternatives and its items."""
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
    if "items" in node or "prefixItems" in node:
        items = type_of(node.get("items") or node["prefixItems"][0])
        return f"list of ({items})" if " or " in items else f"list of {items}"
    return TYPES.get(node.get("type", ""), "section")


def rule_of(node: Node) -> str:
    """A setting's type and its limits: `int, at least 1`, `list of float, above 0, 2 of them`."""
    facts = facts_of(node)
    limits = [words.format(facts[limit]) for limit, words in LIMITS.items() if limit in facts]
    return ", ".join([type_of(node), *limits])


@contextmanager
def one_sentence(schema: type, given: Tree, origin: str = "", *, partly: bool = False) -> Iterator[None]:
    """Turns pydantic's errors about `given` values into one sentence: whole key, origin, rule and value.

    With `partly`, more values will follow, so missing values and bad combinations are not reported yet.

    Raises:
        ConfigError: a key is unknown, or a value is missing, of the wrong type or breaks a rule.
    """
    try:
        yield
    except pydantic.ValidationError as error:
        for one in error.errors():
            if not (partly and (one["type"] == "missing" or is_of_section(one))):
                raise ConfigError(sentence_of(schema, one, given, origin)) from None


def is_of_section(error: ErrorDetails) -> bool:
    """Whether each value of a section is allowed, but the section refuses their combination."""
    return error["type"] == "value_error" and isinstance(error["input"], dict | ArgsKwargs)


def sentence_of(schema: type, error: ErrorDetails, given: Tree, origin: str) -> str:
    """The sentence for one error of pydantic's."""
    path = [str(part) for part in error["loc"]]
    name = ".".join(path)
    nodes = all_settings(schema)

    if error["type"] == "missing":
        return f"{name} has no default: give it in the config file or as {name}=value"
    if error["type"] in UNKNOWN:
        return f"unknown key {name}{origin}; {nearest(name, nodes)}"
    # A section's own sentence begins with the name of one of its settings.
    if is_of_section(error):
        return ".".join([*path, str(error["ctx"]["error"])])

    # Below a key, pydantic's path has branches of a union and places in a list.
    key = [key for key in itertools.accumulate(path, "{}.{}".format) if key in nodes][-1]
    if error["type"] == "value_error":
        return f"{key}{origin}: {error['ctx']['error']}"
    value = show(value_at(given, key))
    return f"{key}{origin} must be {rule_of(nodes[key])}, got {value}{HINTS.get(error['type'], '')}"


def value_at(values: Tree, key: str) -> Any:
    """The value of a whole key; None where a section above it is missing."""
    found: Any = values
    for name in key.split("."):
        found = (found or {}).get(name)
    return found


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name or key: the closest known one, or all known ones."""
    # The last word of a key counts first: the right name may be in a wrong section.
    section, _, word = name.rpartition(".")
    last_words = {other: other.rpartition(".")[2] for other in known}
    near = difflib.get_close_matches(word, last_words.values(), n=1, cutoff=0.7)
    alike = [other for other in last_words if last_words[other] in near]
    if alike:
        return f"did you mean {difflib.get_close_matches(name, alike, n=1, cutoff=0)[0]}?"

    siblings = [other for other in last_words if other.rpartition(".")[0] == section]
    beside = siblings or [other for other in last_words if "." not in other]
    return f"there are {', '.join(beside) or 'none'}"


def check_part(schema: type, given: Tree, origin: str) -> None:
    """Checks each of some values of a section; how all of them go together is checked once they are there.

    Raises:
        ConfigError: a name is unknown, or a value is of the wrong type or breaks a rule.
    """
    with one_sentence(schema, given, origin, partly=True):
        pydantic.TypeAdapter(schema).validate_python(given)


def check_values(types: Mapping[str, object], given: Mapping[str, object], origin: str = "") -> None:
    """Checks values that are not settings, such as a script's options; errors read like those of settings.

    Raises:
        ConfigError: a name is unknown, or a value is of the wrong type or breaks a rule.
    """
    fields: dict[str, Any] = {name: (kind, None) for name, kind in types.items()}
    check_part(pydantic.create_model("Values", __config__=STRICT, **fields), given, origin)


def from_mapping(cls: type, source: type, handler: pydantic.GetCoreSchemaHandler) -> Any:
    """A section is written as a mapping; the values in it are as strict as ever."""
    return {**handler(source), "strict": False}


@dataclass_transform(frozen_default=True)
def section(cls: Any) -> type:
    """A frozen pydantic dataclass, strict about types, whose errors are one sentence even without `load`."""
    cls.__get_pydantic_core_schema__ = classmethod(from_mapping)
    made: Any = pydantic.dataclasses.dataclass(frozen=True, config=STRICT)(cls)
    construct = made.__init__

    @functools.wraps(construct)
    def checked(self: object, **settings: object) -> None:
        with one_sentence(made, settings):
            construct(self, **settings)

    made.__init__ = checked
    return made
