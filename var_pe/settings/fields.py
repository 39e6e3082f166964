"""How a section of the settings is written: all that is to be said of a setting stands at its field.

    @section(frozen=True)
    class GeneratorConfig:
        dim: Annotated[Positive, Doc("width of the residual stream")] = 192

Type, range, choices, default and meaning: `--help`, the checks and the sentences of errors are made of these.
"""

import difflib
import functools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt
from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic_core import CoreSchema, core_schema
from typing_extensions import Doc

from var_pe.settings.files import ConfigError, Tree, show

Positive = Annotated[int, Ge(1)]
NonNegative = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Share = Annotated[float, Ge(0), Le(1)]
ShareBelowOne = Annotated[float, Ge(0), Lt(1)]

OUTSIDE = {"finite_number", "greater_than", "greater_than_equal", "less_than", "less_than_equal"}
OUTSIDE |= {"too_short", "too_long"}  # pydantic's names for what `range_of` puts into words


@dataclass(frozen=True)
class OneOf:
    """Choices that are the keys of a table in the code, where `Literal` would be a second list of them."""

    names: Collection[str]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.literal_schema(list(self.names))


@dataclass(frozen=True)
class Mark:
    says: str


CHANGES_NO_WEIGHTS = Mark("may change while a run is trained: what is learned does not depend on it")
IS_A_PATH = Mark("the same place may be written in several ways")
FilePath = Annotated[str, IS_A_PATH]

if TYPE_CHECKING:  # mypy knows the standard library's dataclasses best: `replace`, `asdict`, `fields`
    from dataclasses import dataclass as section
else:

    def section(*, frozen: bool):
        """A pydantic dataclass, strict about types; what is wrong is one sentence, also without `load`."""

        def make(cls: type) -> type:
            strict = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
            made = pydantic_dataclass(frozen=frozen, config=strict)(cls)
            init = made.__init__

            @functools.wraps(init)
            def checked(self: object, *args: object, **named: object) -> None:
                try:
                    init(self, *args, **named)
                except ValidationError as error:
                    names = [field.name for field in fields(made)]
                    given = dict(zip(names, args, strict=False)) | named
                    raise ConfigError(sentence_of(made, given, error)) from None

            made.__init__ = checked
            return made

        return make


# ------------------------------------------------------------------------------------------- what fields say


@functools.cache
def hints_of(schema: type) -> dict[str, Any]:
    return get_type_hints(schema, include_extras=True)


def kinds_of(hint: Any) -> tuple[Any, ...]:
    """The types that a value may have: those of a union, else the one."""
    if get_origin(hint) is Annotated:
        return kinds_of(get_args(hint)[0])
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def section_of(hint: Any) -> Any:
    """The dataclass of a setting that is a section (`Section` or `Section | None`), or None."""
    return next((kind for kind in kinds_of(hint) if isinstance(kind, type) and is_dataclass(kind)), None)


def said_at(hint: Any) -> Iterator[Any]:
    """What is annotated at a type and at the types that it is made of."""
    inner = get_args(hint)
    if get_origin(hint) is Annotated:
        yield from hint.__metadata__
        inner = inner[:1]
    for part in inner:
        yield from said_at(part)


def meaning_of(hint: Any) -> str:
    return next((said.documentation for said in said_at(hint) if isinstance(said, Doc)), "")


def type_name(hint: Any) -> str:
    """A setting's type as a person reads it: `int`, `str or null`, `list of (int or list of int)`."""
    inner, origin = get_args(hint), get_origin(hint)
    if origin is Annotated:
        named = [said.names for said in hint.__metadata__ if isinstance(said, OneOf)]
        return f"one of {', '.join(named[0])}" if named else type_name(inner[0])
    if section_of(hint) is hint:
        return "section"
    if origin in (Union, UnionType):
        return " or ".join(map(type_name, inner))
    if origin is Literal:
        return f"one of {', '.join(map(show, inner))}"
    if origin is list:
        return (
            f"list of ({type_name(inner[0])})"
            if " or " in type_name(inner[0])
            else f"list of {type_name(inner[0])}"
        )
    return "null" if hint is NoneType else str(hint.__name__)


def range_of(hint: Any) -> str:
    """Where a setting's numbers lie, and how many a list has: `at least 1`, `in [0, 1), 2 of them`."""
    limits: dict[str, Any] = {}
    for said in said_at(hint):
        limits |= {
            name: getattr(said, name)
            for name in ("ge", "gt", "le", "lt", "max_length")
            if hasattr(said, name)
        }

    finite = " and finite" if "float" in type_name(hint) else ""
    words = []
    if "le" in limits or "lt" in limits:
        low = f"[{limits['ge']}" if "ge" in limits else f"({limits['gt']}"
        high = f"{limits['le']}]" if "le" in limits else f"{limits['lt']})"
        words.append(f"in {low}, {high}")
    elif "ge" in limits or "gt" in limits:
        words.append(
            f"at least {limits['ge']}{finite}" if "ge" in limits else f"above {limits['gt']}{finite}"
        )
    if "max_length" in limits:
        words.append(f"{limits['max_length']} of them")
    return ", ".join(words)


def is_text(hint: Any) -> bool:
    """Whether a setting holds text (or null) only, so that an override is taken as it stands."""
    kinds = [kind for kind in kinds_of(hint) if kind is not NoneType]
    if len(kinds) > 1 or kinds[0] is not hint:
        return all(map(is_text, kinds))
    return hint is str or (get_origin(hint) is Literal and isinstance(get_args(hint)[0], str))


def check_choice(name: str, value: object, choices: Any) -> None:
    """Raises:
    ValueError: a constructor's argument is none of the choices, a `Literal` or names."""
    allowed = get_args(choices) or tuple(choices)
    if value not in allowed:
        raise ValueError(f"{name} is one of {', '.join(map(str, allowed))}, got {value!r}")


# ------------------------------------------------------------------------------------------- all of a schema


def dotted(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def defaults(schema: type) -> Tree:
    """The defaults as a tree; a section without one is there with its own, a value without one is missing."""
    tree: Tree = {}
    for field in fields(schema):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if default is not MISSING:
            tree[field.name] = asdict(default) if is_dataclass(default) else default  # type: ignore[arg-type]
        elif section := section_of(hints_of(schema)[field.name]):
            tree[field.name] = defaults(section)
    return tree


@dataclass(frozen=True)
class Setting:
    """A field of a dataclass or of one of its sections; `default` is MISSING where it must be given."""

    key: str
    hint: Any
    default: Any


def all_settings(schema: type, tree: Tree | None = None, prefix: str = "") -> Iterator[Setting]:
    """Every setting of a dataclass and its sections, in order; `tree` has a section's defaults."""
    tree = defaults(schema) if tree is None else tree
    for name, hint in hints_of(schema).items():
        setting = Setting(dotted(prefix, name), hint, tree.get(name, MISSING))
        yield setting
        if section := section_of(hint):
            yield from all_settings(section, setting.default, setting.key)


# ------------------------------------------------------------------------------------------- what is wrong


def sentence_of(
    schema: type, given: Tree, error: ValidationError, where: Mapping[str, str] | None = None
) -> str:
    """The first thing that is wrong: the whole key, the rule and the value; `where` says who set a key."""
    first = error.errors(include_url=False)[0]
    path = list(first["loc"])
    key, hint, value = "", cast(Any, schema), cast(Any, given)
    while path and (section := section_of(hint)) and isinstance(value, Mapping):
        at = path.pop(0)
        name = fields(section)[at].name if isinstance(at, int) else at  # a number: given without its name
        key, hint, value = dotted(key, name), hints_of(section).get(name), value.get(name, MISSING)
    origin = (where or {}).get(key, "")

    if hint is None:
        return unknown_key(schema, key, origin)
    if value is MISSING:
        return f"{key} has no default: give it in the config file or as {key}=value"
    if (
        first["type"] == "value_error"
    ):  # of a section as a whole, whose sentence begins with a name, or of a field
        said = str(first["ctx"]["error"])
        return dotted(key, said) if section_of(hint) else f"{key}: {said}"
    if first["type"] == "json_invalid":
        return f"the settings cannot be read: {first['msg']}"

    depth = len(first["loc"]) - len(path)
    kinds = {other["type"] for other in error.errors() if other["loc"][:depth] == first["loc"][:depth]}
    if kinds & OUTSIDE:
        return f"{key} must be {range_of(hint)}, got {show(value)}"
    quotes = " (put text in quotes)" if first["type"] == "string_type" else ""
    return f"{key}{origin} must be {type_name(hint)}, got {show(value)}{quotes}"


def unknown_key(schema: type, key: str, origin: str) -> str:
    """The sentence for a key that does not exist, with the nearest one that does."""
    name = key.rpartition(".")[2]
    known = [setting.key for setting in all_settings(schema) if not key.startswith(f"{setting.key}.")]
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
    if not near:  # the right name in the wrong section, or nearly
        names = difflib.get_close_matches(name, [k.rpartition(".")[2] for k in known], n=1)
        near = [k for k in known if k.rpartition(".")[2] in names]
    if near:
        return f"unknown key {key}{origin}; did you mean {near[0]}?"
    siblings = [k for k in known if k == dotted(key.rpartition(".")[0], k.rpartition(".")[2])]
    return f"unknown key {key}{origin}; known are {', '.join(siblings or [k for k in known if '.' not in k])}"
