"""From files and overrides to a checked config, from a config to YAML, and the difference of two configs.

The merged tree has values that JSON can express, too, and pydantic reads it as JSON: strictly, except that an
int may be given for a float.
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
    is_rule,
    kinds_of,
    sentence_of,
    unknown_key,
)

T = TypeVar("T")
COMMAND_LINE = " on the command line"


def load(schema: type[T], file: str | Path | None, overrides: Sequence[str] = ()) -> T:
    """The config: defaults of `schema`, replaced by the settings of `file` (if any), then by the overrides.

    Raises:
        ConfigError: a file, key, value, type or rule is wrong.
    """
    tree, origins = defaults(schema), dict[str, str]()
    for name, layer in [] if file is None else read_layers(find_file(file, Path())):
        lay_over(tree, layer, f" in {name}", origins)
        checked(schema, tree, origins, types_alone=True)  # a later layer must not hide a wrong value
    for override in overrides:
        lay_over(tree, read_override(schema, tree, override), COMMAND_LINE, origins)

    config = checked(schema, tree, origins)
    assert isinstance(config, schema)
    return config


def checked(schema: type, tree: Tree, origins: Mapping[str, str], *, types_alone: bool = False) -> object:
    """The config that a tree says, or None if `types_alone` are right and a rule is not yet kept.

    Raises:
        ConfigError: a key is unknown, or a value is of the wrong type or breaks a rule.
    """
    try:
        return TypeAdapter(schema).validate_json(json.dumps(tree))
    except ValidationError as error:
        wrong = [entry for entry in error.errors(include_url=False) if not (types_alone and is_rule(entry))]
        if wrong:
            raise ConfigError(sentence_of(schema, wrong, tree, origins)) from None
        return None


def defaults(schema: type) -> Tree:
    """The defaults as a tree; a section that is off is None."""
    tree: Tree = {}
    for setting in all_settings(schema):
        if "." in setting.key:
            continue

        # A section without a default is required, but its settings may have defaults.
        if setting.default is not MISSING:
            tree[setting.key] = plain(setting.default)
        elif "$ref" in setting.node:
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
    """`key.sub=value` as a tree with that one setting; `tree` holds the settings that it overrides."""
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
            raise ConfigError(
                f"{key}{COMMAND_LINE} needs the section {path}, which is off: put {path}={{}} before it"
            )
        here = here if isinstance(here, dict) else {}

    # Text is taken literally, everything else is read as YAML.
    kinds = kinds_of(known[key].node)
    value: Any = text
    if text == "null" and "null" in kinds:
        value = None
    elif not kinds <= {"string", "null"}:
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
    """The differences of two configs, given as nested dictionaries, a line each: `generator.depth: 6 -> 8`.

    With their `schema`, settings that change no weights are left out, and paths to the same place are equal.
    """
    nodes = {}
    if schema:
        nodes = {setting.key: setting.node for setting in all_settings(schema)}

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
            compared = [os.path.realpath(path) for path in (before, after)]
        if compared[0] != compared[1]:
            lines.append(f"{key}: {' -> '.join(shown)}")
    return lines
