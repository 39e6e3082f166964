"""The settings in words for `--help` and errors, read from pydantic's schema of their dataclasses."""

import difflib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any, get_args

from pydantic import TypeAdapter
from pydantic_core import ErrorDetails

from var_pe.settings.files import show

# A setting in JSON schema
Node = dict[str, Any]
# The default of a setting that must be given
MISSING: Any = object()
TYPES = {"integer": "int", "number": "float", "string": "str", "boolean": "bool", "null": "null"}
LIMITS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "maxItems")

# pydantic's names for the errors that `range_of` puts into words
OUTSIDE = {"finite_number", "greater_than", "greater_than_equal", "less_than", "less_than_equal"}
OUTSIDE |= {"too_short", "too_long"}


@dataclass(frozen=True)
class Setting:
    key: str
    node: Node
    default: Any


@functools.cache
def all_settings(schema: type) -> tuple[Setting, ...]:
    """Every setting of a dataclass and of its sections, in order."""
    return tuple(_settings(schema, "", None))


def _settings(schema: Any, prefix: str, section: object) -> Iterator[Setting]:
    """`all_settings` below `prefix`; `section` is the outer dataclass's default for this section, or None."""
    nodes = TypeAdapter(schema).json_schema()["properties"]
    for name, field in schema.__pydantic_fields__.items():
        default = MISSING if field.is_required() else field.get_default(call_default_factory=True)
        default = getattr(section, name, default)
        yield Setting(dotted(prefix, name), nodes[name], default)
        for kind in get_args(field.annotation) or (field.annotation,):
            if is_dataclass(kind):
                yield from _settings(kind, dotted(prefix, name), default)


def dotted(prefix: str, name: object) -> str:
    return f"{prefix}.{name}" if prefix else str(name)


def parts_of(node: Node) -> Iterator[Node]:
    """A setting's node, and the nodes of its alternatives and items."""
    yield node
    for alternative in node.get("anyOf", ()):
        yield from parts_of(alternative)
    if "items" in node:
        yield from parts_of(node["items"])


def is_marked(node: Node, mark: str) -> bool:
    """Whether a setting, or one of its alternatives, has a mark of `fields`."""
    return any(part.get(mark) for part in parts_of(node))


def kinds_of(node: Node) -> set[str]:
    """JSON's names for the types of value that a setting may have."""
    return {part.get("type", "object") for part in parts_of(node) if "anyOf" not in part}


def type_of(node: Node) -> str:
    """A setting's type as a person reads it: `int`, `str or null`, `list of (int or list of int)`."""
    if "$ref" in node:
        return "section"
    if "enum" in node or "const" in node:
        return f"one of {', '.join(map(show, node.get('enum') or [node['const']]))}"
    if "anyOf" in node:
        return " or ".join(map(type_of, node["anyOf"]))
    if node["type"] == "array":
        items = type_of(node["items"])
        return f"list of ({items})" if " or " in items else f"list of {items}"
    return TYPES[node["type"]]


def range_of(node: Node) -> str:
    """The range of a setting's numbers, and how many a list has: `at least 1`, `in [0, 1), 2 of them`."""
    limits = {name: part[name] for part in parts_of(node) for name in LIMITS if name in part}
    low = limits.get("minimum", limits.get("exclusiveMinimum"))
    high = limits.get("maximum", limits.get("exclusiveMaximum"))

    words = []
    if high is not None:
        opening = "[" if "minimum" in limits else "("
        closing = "]" if "maximum" in limits else ")"
        words.append(f"in {opening}{low:g}, {high:g}{closing}")
    elif low is not None:
        finite = " and finite" if "float" in type_of(node) else ""
        bound = "at least" if "minimum" in limits else "above"
        words.append(f"{bound} {low:g}{finite}")
    if "maxItems" in limits:
        words.append(f"{limits['maxItems']} of them")
    return ", ".join(words)


def is_rule(entry: ErrorDetails) -> bool:
    """Whether an error is about a range or a rule, and not about a key or a type."""
    return entry["type"] in {*OUTSIDE, "missing", "value_error"}


def sentence_of(
    schema: type,
    entries: Sequence[ErrorDetails],
    given: Mapping[str, Any],
    origins: Mapping[str, str] | None = None,
) -> str:
    """The first error in one sentence: whole key, rule and value; `origins` say where a key comes from."""
    first = entries[0]
    if first["type"] == "json_invalid":
        return f"the settings cannot be read: {first['msg']}"

    # The location begins with the setting's key; the rest are items of lists and alternatives.
    nodes = {setting.key: setting.node for setting in all_settings(schema)}
    key, depth = "", 0
    value: Any = given
    while depth < len(first["loc"]) and (not key or "object" in kinds_of(nodes.get(key, {}))):
        name = first["loc"][depth]
        value = value.get(name, MISSING) if isinstance(value, Mapping) else MISSING
        key, depth = dotted(key, name), depth + 1
    origin = (origins or {}).get(key, "")

    if first["type"] == "unexpected_keyword_argument":
        return unknown_key(schema, key, origin)
    if first["type"] == "missing":
        return f"{key} has no default: give it in the config file or as {key}=value"

    # Our own checks: the sentence of a section begins with a setting, that of a setting does not.
    if first["type"] == "value_error":
        rule = str(first["ctx"]["error"])
        if isinstance(value, Mapping):
            return dotted(key, rule)
        return f"{key} {rule}" if rule.startswith("must ") else f"{key}: {rule}"

    node = nodes[key]
    if OUTSIDE & {entry["type"] for entry in entries if entry["loc"][:depth] == first["loc"][:depth]}:
        return f"{key} must be {range_of(node) or type_of(node)}, got {show(value)}"

    quotes = " (put text in quotes)" if first["type"] == "string_type" else ""
    return f"{key}{origin} must be {type_of(node)}, got {show(value)}{quotes}"


def unknown_key(schema: type, key: str, origin: str) -> str:
    """The sentence about a key that does not exist, with the key that is most like it."""

    def likeness(known: str) -> float:
        """Likeness of whole keys plus that of last words: the right name may be in a wrong section."""
        whole = difflib.SequenceMatcher(None, key, known).ratio()
        last = difflib.SequenceMatcher(None, key.rpartition(".")[2], known.rpartition(".")[2]).ratio()
        return whole + last

    known = [one.key for one in all_settings(schema) if not key.startswith(f"{one.key}.")]
    near = max(known, key=likeness)
    if likeness(near) > 1.2:
        return f"unknown key {key}{origin}; did you mean {near}?"
    siblings = [other for other in known if other.rpartition(".")[0] == key.rpartition(".")[0]]
    return f"unknown key {key}{origin}; known are {', '.join(siblings)}"
