"""From files and overrides to a checked config, back to YAML, and what differs between two configs.

YAML says what JSON can say, so pydantic reads the merged tree as JSON: strictly, but an int may be a float.
"""

import json
import os.path
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

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
from var_pe.settings.sentences import (
    MISSING,
    all_settings,
    dotted,
    is_marked,
    kinds_of,
    sentence_of,
    unknown_key,
)

T = TypeVar("T")
COMMAND_LINE = " on the command line"


def load(schema: type[T], file: str | Path | None, overrides: Sequence[str] = ()) -> T:
    """The settings of `file` (if any) over the defaults of `schema` and under the overrides.

    Raises:
        ConfigError: a file, key, value, type or rule is wrong.
    """
    tree, origins = defaults(schema), dict[str, str]()
    for name, layer in [] if file is None else read_layers(find_file(file, Path())):
        lay_over(tree, layer, f" in {name}", origins)
    for override in overrides:
        lay_over(tree, read_override(schema, tree, override), COMMAND_LINE, origins)

    try:
        return TypeAdapter(schema).validate_json(json.dumps(tree))
    except ValidationError as error:
        raise ConfigError(sentence_of(schema, error, tree, origins)) from None


def defaults(schema: type) -> Tree:
    """What is so where nothing is said, as a tree; a section that is off is None."""
    tree: Tree = {}
    for setting in all_settings(schema):
        if "." not in setting.key and setting.default is not MISSING:
            tree[setting.key] = plain(setting.default)
        elif (
            "." not in setting.key and "$ref" in setting.node
        ):  # required, but its settings may have defaults
            tree[setting.key] = {}
    return tree


def plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def lay_over(tree: Tree, above: Tree, origin: str, origins: dict[str, str], prefix: str = "") -> None:
    """Lays `above` over `tree`, section by section; `origins` remembers where each key comes from."""
    for name, value in above.items():
        key = dotted(prefix, name)
        origins[key] = origin
        if "." in str(name):
            raise ConfigError(f"write {key}{origin} as nested sections, not with a dot")
        if isinstance(value, dict):
            there = tree.get(name)
            tree[name] = dict(there) if isinstance(there, dict) else {}
            lay_over(tree[name], value, origin, origins, key)
        else:
            tree[name] = value


def read_override(schema: type, tree: Tree, override: str) -> Tree:
    """`key.sub=value` as a tree with that one setting, `tree` being what it will be laid over."""
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ConfigError(f"an override is written key.sub=value, got {override!r}{COMMAND_LINE}")
    known = {setting.key: setting for setting in all_settings(schema)}
    refuse_interpolation(text, f" of {key}{COMMAND_LINE}")
    if key not in known:
        raise ConfigError(unknown_key(schema, key, COMMAND_LINE))

    # A section that is off has no settings to change.
    *sections, name = key.split(".")
    here: Any = tree
    for depth, section in enumerate(sections, start=1):
        path = ".".join(sections[:depth])
        here = (here or {}).get(section, known[path].default)
        if here is None:
            said = f"needs the section {path}, which is off: put {path}={{}} before it"
            raise ConfigError(f"{key}{COMMAND_LINE} {said}")
        here = here if isinstance(here, dict) else {}

    # Text is taken as it stands, all else is read as YAML.
    kinds = kinds_of(known[key].node)
    value: Any = None if text == "null" and "null" in kinds else text
    if not kinds <= {"string", "null"}:
        value = parse_yaml(text, f" of {key}{COMMAND_LINE}")
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
    nodes = {setting.key: setting.node for setting in all_settings(schema)} if schema else {}
    lines: list[str] = []
    for name in {**old, **new}:
        key, node = dotted(prefix, name), nodes.get(dotted(prefix, name), {})
        before, after = old.get(name), new.get(name)
        if is_marked(node, "changes_no_weights"):
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, schema, key)
            continue

        shown = [show(tree[name]) if name in tree else "absent" for tree in (old, new)]
        compared = shown
        if is_marked(node, "is_a_path") and before and after:
            compared = [os.path.abspath(os.path.expanduser(path)) for path in (before, after)]
        if compared[0] != compared[1]:
            lines.append(f"{key}: {' -> '.join(shown)}")
    return lines
