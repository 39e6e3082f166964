"""What the settings are, in words: read from the schema that pydantic makes of their dataclasses."""

import difflib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from var_pe.settings.files import show

Node = dict[str, Any]  # a setting in JSON schema
MISSING: Any = object()  # no default: the setting must be given
TYPES = {"integer": "int", "number": "float", "string": "str", "boolean": "bool", "null": "null"}
LIMITS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "maxItems")
OUTSIDE = {"finite_number", "greater_than", "greater_than_equal", "less_than", "less_than_equal"}
OUTSIDE |= {"too_short", "too_long"}  # pydantic's names for what `range_of` puts into words


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
    """`section` is what the dataclass around it takes for this one, if it takes one."""
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
    """A setting's node, and those of the kinds and items that it is made of."""
    yield node
    for part in [*node.get("anyOf", ()), *([node["items"]] if "items" in node else ())]:
        yield from parts_of(part)


def is_marked(node: Node, mark: str) -> bool:
    """Whether a setting, or a kind of value that it may have, bears a mark of `fields`."""
    return any(part.get(mark) for part in parts_of(node))


def kinds_of(node: Node) -> set[str]:
    """JSON's names for the kinds of value that a setting may have."""
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
    """Where a setting's numbers lie, and how many a list has: `at least 1`, `in [0, 1), 2 of them`."""
    limits = {name: part[name] for part in parts_of(node) for name in LIMITS if name in part}
    low = limits.get("minimum", limits.get("exclusiveMinimum"))
    high = limits.get("maximum", limits.get("exclusiveMaximum"))

    words = []
    if high is not None:
        opening, closing = "[" if "minimum" in limits else "(", "]" if "maximum" in limits else ")"
        words.append(f"in {opening}{low:g}, {high:g}{closing}")
    elif low is not None:
        finite = " and finite" if "float" in type_of(node) else ""
        words.append(f"{'at least' if 'minimum' in limits else 'above'} {low:g}{finite}")
    if "maxItems" in limits:
        words.append(f"{limits['maxItems']} of them")
    return ", ".join(words)


def sentence_of(
    schema: type, error: ValidationError, given: Mapping[str, Any], origins: Mapping[str, str] | None = None
) -> str:
    """The first thing that is wrong: the whole key, the rule and the value; `origins` say who set a key."""
    entries = error.errors(include_url=False)
    first = entries[0]
    if first["type"] == "json_invalid":
        return f"the settings cannot be read: {first['msg']}"

    # The location begins with the setting's key; what follows are items of lists and kinds of unions.
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
    if first["type"] == "value_error":  # of a section, whose sentence begins with a setting, or of a setting
        rule = str(first["ctx"]["error"])
        return dotted(key, rule) if isinstance(value, Mapping) else f"{key}: {rule}"

    node = nodes[key]
    if OUTSIDE & {entry["type"] for entry in entries if entry["loc"][:depth] == first["loc"][:depth]}:
        return f"{key} must be {range_of(node) or type_of(node)}, got {show(value)}"
    quotes = " (put text in quotes)" if first["type"] == "string_type" else ""
    return f"{key}{origin} must be {type_of(node)}, got {show(value)}{quotes}"


def unknown_key(schema: type, key: str, origin: str) -> str:
    """The sentence for a key that does not exist, with the nearest one that does."""

    def likeness(known: str) -> float:
        """Of the whole keys, or of the last words: the right name may stand in the wrong section."""
        whole = difflib.SequenceMatcher(None, key, known).ratio()
        last = difflib.SequenceMatcher(None, key.rpartition(".")[2], known.rpartition(".")[2]).ratio()
        return whole + last

    known = [setting.key for setting in all_settings(schema)]
    near = max(known, key=likeness)
    if likeness(near) > 1.2:
        return f"unknown key {key}{origin}; did you mean {near}?"
    siblings = [other for other in known if other.rpartition(".")[0] == key.rpartition(".")[0]]
    return f"unknown key {key}{origin}; known are {', '.join(siblings)}"
