"""From files and overrides to a checked config, back to YAML, and what differs between two configs.

YAML says what JSON can say, so pydantic reads the merged tree as JSON: strictly, but a list may become a
section's list and an int a float.
"""

import json
import os.path
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from var_pe.settings.fields import (
    CHANGES_NO_WEIGHTS,
    IS_A_PATH,
    all_settings,
    defaults,
    dotted,
    hints_of,
    is_text,
    kinds_of,
    said_at,
    section_of,
    sentence_of,
    unknown_key,
)
from var_pe.settings.files import (
    READABLE,
    ConfigError,
    Dumper,
    Tree,
    find_file,
    parse_yaml,
    read_layers,
    refuse_interpolation,
    show,
)

T = TypeVar("T")
COMMAND_LINE = " on the command line"


def load(schema: type[T], file: str | Path | None, overrides: Sequence[str] = ()) -> T:
    """The settings of `file` (if any) over the defaults of `schema` and under the overrides.

    Raises:
        ConfigError: a file, key, value, type or rule is wrong.
    """
    tree, where = defaults(schema), dict[str, str]()
    for name, layer in [] if file is None else read_layers(find_file(file, Path())):
        tree = merged(schema, tree, layer, f" in {name}", where)
    for override in overrides:
        tree = merged(schema, tree, read_override(schema, tree, override), COMMAND_LINE, where)

    try:
        return TypeAdapter(schema).validate_json(json.dumps(tree))
    except ValidationError as error:
        raise ConfigError(sentence_of(schema, tree, error, where)) from None


def merged(
    schema: type, below: Tree, above: Tree, origin: str, where: dict[str, str], prefix: str = ""
) -> Tree:
    """`above` over `below`, section by section; a section that was off comes on with its own defaults.

    `where` learns that the keys of `above` come from `origin`.
    """
    tree = dict(below)
    for name, value in above.items():
        key = dotted(prefix, str(name))
        where[key] = origin
        if "." in str(name):
            raise ConfigError(f"write {key}{origin} as nested sections, not with a dot")
        section = section_of(hints_of(schema).get(name))
        if section and isinstance(value, dict):
            there = tree.get(name)
            start = there if isinstance(there, dict) else defaults(section)
            tree[name] = merged(section, start, value, origin, where, key)
        else:
            tree[name] = value
    return tree


def read_override(schema: type, tree: Tree, override: str) -> Tree:
    """`key.sub=value` as a tree with that one setting, `tree` being what it will be laid over."""
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ConfigError(f"an override is written key.sub=value, got {override!r}{COMMAND_LINE}")
    refuse_interpolation(text, f" of {key}{COMMAND_LINE}")
    hints = {setting.key: setting.hint for setting in all_settings(schema)}
    if key not in hints:
        raise ConfigError(unknown_key(schema, key, COMMAND_LINE))

    *sections, name = key.split(".")
    here: Any = tree
    for depth, section in enumerate(sections, start=1):
        here = here[section]
        if not isinstance(here, dict):
            off = ".".join(sections[:depth])
            raise ConfigError(
                f"{key}{COMMAND_LINE} needs the section {off}, which is off: put {off}={{}} before it"
            )

    value: Any = text
    if not is_text(hints[key]):
        value = parse_yaml(text, f" of {key}{COMMAND_LINE}")
    elif text == "null" and NoneType in kinds_of(hints[key]):
        value = None
    for part in reversed([*sections, name]):
        value = {part: value}
    return value


def to_yaml(config: Any) -> str:
    """Every setting of a config, resolved, in the order of its dataclasses; `load` reads it back."""
    return yaml.dump(asdict(config), Dumper=Dumper, width=110, **READABLE)


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], schema: type | None = None, prefix: str = ""
) -> list[str]:
    """What differs between two configs as nested dictionaries, a line each: `generator.depth: 6 -> 8`.

    With their `schema`, what changes no weights is left out, and paths to the same place are equal.
    """
    lines = []
    for name in [*old, *(name for name in new if name not in old)]:
        key, before, after = dotted(prefix, name), old.get(name), new.get(name)
        hint = hints_of(schema).get(name) if schema else None
        marks = list(said_at(hint))
        if CHANGES_NO_WEIGHTS in marks:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, section_of(hint), key)
            continue

        shown = [show(tree[name]) if name in tree else "absent" for tree in (old, new)]
        if IS_A_PATH in marks and before is not None and after is not None:
            places = {os.path.abspath(os.path.expanduser(path)) for path in (before, after)}
            if len(places) == 1:
                continue
        if shown[0] != shown[1]:
            lines.append(f"{key}: {shown[0]} -> {shown[1]}")
    return lines
