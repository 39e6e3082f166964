"""From files and overrides to a checked config, from a config to YAML, and the difference of two configs."""

import os.path
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from var_pe.settings.fields import all_settings, facts_of, flat_model, one_sentence
from var_pe.settings.files import ConfigError, dump, find_file, parse_yaml, read_layers, show

T = TypeVar("T", bound=Hashable)
# Values by their whole keys; the value of a section is a mapping, or None if it is off.
Flat = dict[str, Any]
COMMAND_LINE = " on the command line"


def load(
    schema: type[T],
    file: str | Path | None,
    overrides: Sequence[str] = (),
    *,
    if_missing: Mapping[str, object] | None = None,
) -> T:
    """The config: defaults of `schema`, replaced by the settings of `file` (if any), then by the overrides.

    `if_missing`: other defaults, by whole keys.

    Raises:
        ConfigError: a file, key, value, type or rule is wrong.
    """
    defaults = {key: node["default"] for key, node in all_settings(schema) if "default" in node}
    values: Flat = defaults | dict(if_missing or {})
    layers = [] if file is None else read_layers(find_file(file, Path()))
    for name, tree in layers:
        values = laid_over(values, flatten(tree), schema, f" in {name}")
    for override in overrides:
        values = laid_over(values, read_override(schema, override), schema, COMMAND_LINE)

    # Each value is checked already; what is not strict here is that sections are made from mappings.
    with one_sentence(schema, {}):
        return TypeAdapter(schema).validate_python(nested(values), strict=False)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Flat:
    """The values of sections in sections by their whole keys, each section before what is in it."""
    flat: Flat = {}
    for name, value in tree.items():
        flat[f"{prefix}{name}"] = value
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
    return flat


def nested(flat: Flat, prefix: str = "") -> dict[str, Any]:
    """Sections in sections again, of the keys that begin with `prefix`."""
    tree = {}
    for key, value in flat.items():
        name = key.removeprefix(prefix)
        if key.startswith(prefix) and "." not in name:
            tree[name] = nested(flat, f"{key}.") if isinstance(value, dict) else value
    return tree


def laid_over(values: Flat, layer: Flat, schema: type, origin: str) -> Flat:
    """The values with those of a layer in their place, after a check of these."""
    with one_sentence(schema, layer, origin):
        flat_model(schema).model_validate(layer)

    for key, value in layer.items():
        off = [name for name in values if values[name] is None and key.startswith(f"{name}.")]
        if off:
            raise ConfigError(
                f"{key}{origin} needs the section {off[0]}, which is off: put {off[0]}={{}} before it"
            )

        # A section that is switched off forgets its settings.
        if value is None:
            values = {name: values[name] for name in values if not name.startswith(f"{key}.")}
        values = {**values, key: value}
    return values


def read_override(schema: type, override: str) -> Flat:
    """The settings of `key.sub=value`: text is taken literally, everything else is read as YAML."""
    key, equals, text = override.partition("=")
    key = key.strip()
    where = f" of {key}{COMMAND_LINE}"
    if not equals or not key:
        raise ConfigError(f"an override is written key.sub=value, got {override!r}{COMMAND_LINE}")
    if "${" in text:
        raise ConfigError(f"{text}{where} is an interpolation: write the value itself")

    node = dict(all_settings(schema)).get(key, {"type": "string"})
    kinds = {kind.get("type") for kind in node.get("anyOf", [node])}
    is_text = kinds <= {"string", "null"} and not (text == "null" and "null" in kinds)
    return flatten({key: text if is_text else parse_yaml(text, where)})


def to_yaml(config: Any) -> str:
    """Every setting of a config, resolved, in the order of its dataclasses; `load` reads it back."""
    return dump(asdict(config), width=110)


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], schema: type | None = None, prefix: str = ""
) -> list[str]:
    """The differences of two configs, given as nested dictionaries, a line each: `generator.depth: 6 -> 8`.

    With their `schema`, settings that change no weights are left out, and paths to the same place are equal.
    """
    nodes = dict(all_settings(schema)) if schema else {}
    lines: list[str] = []
    for name in {**old, **new}:
        key, before, after = f"{prefix}{name}", old.get(name), new.get(name)
        said = facts_of(nodes.get(key, {}))
        if said.get("changes_no_weights"):
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, schema, f"{key}.")
            continue

        shown = [show(tree[name]) if name in tree else "absent" for tree in (old, new)]
        same = shown[0] == shown[1]
        if said.get("is_a_path") and isinstance(before, str) and isinstance(after, str):
            same = os.path.realpath(before) == os.path.realpath(after)
        if not same:
            lines.append(f"{key}: {' -> '.join(shown)}")
    return lines
