"""From files and overrides to a checked config, from a config to YAML, and the difference of two configs."""

import itertools
import os.path
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from var_pe.settings.fields import Tree, all_settings, check_part, facts_of, nearest, value_at
from var_pe.settings.files import ConfigError, dump, parse_yaml, show

T = TypeVar("T", bound=Hashable)
CONFIGS = Path(__file__).parents[2] / "configs"
COMMAND_LINE = " on the command line"


def load(
    schema: type[T], file: str | Path | None, overrides: Sequence[str] = (), *, if_missing: Tree | None = None
) -> T:
    """The config: defaults of `schema`, replaced by the settings of `file` (if any), then by the overrides.

    `if_missing`: other defaults. A value is checked where it is written, even if a later one replaces it.

    Raises:
        ConfigError: a file, key, value, type or rule is wrong.
    """
    values: Tree = if_missing or {}
    layers = [] if file is None else read_layers(find_file(file, Path()))
    for name, layer in layers:
        check_part(schema, layer, f" in {name}")
        values = laid_over(values, layer)

    for override in overrides:
        layer = read_override(schema, override, values)
        check_part(schema, layer, COMMAND_LINE)
        values = laid_over(values, layer)
    return schema(**values)


def find_file(name: str | Path, folder: Path) -> Path:
    """The config file `name` in `folder`, or in configs/ if it is a bare name; `.yaml` may be left out."""
    wanted = Path(os.path.expanduser(name))
    folders = [folder, CONFIGS] if wanted.name == str(wanted) else [folder]
    for path in [place / f"{wanted}{suffix}" for place in folders for suffix in ("", ".yaml")]:
        if path.is_file():
            return path.resolve()

    known = [path.stem for place in (folder / wanted.parent, CONFIGS) for path in place.glob("*.yaml")]
    where = "" if wanted.is_absolute() else f" in {' or '.join(map(str, folders))}"
    raise ConfigError(f"there is no config file {name}{where}; {nearest(wanted.stem, sorted(known))}")


def read_layers(path: Path, above: tuple[Path, ...] = ()) -> list[tuple[str, Tree]]:
    """The names and settings of a file and of the files below it (its `base` and so on), lowest first."""
    chain = (*above, path)
    if path in above:
        raise ConfigError(f"config files include each other: {' -> '.join(link.name for link in chain)}")

    tree = parse_yaml(path.read_bytes(), f" in {path.name}")
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise ConfigError(f"{path.name} must hold lines of the form `key: value`, got {show(tree)[:60]}")

    base = tree.pop("base", None)
    if not isinstance(base, str | None):
        raise ConfigError(f"base in {path.name} must be the name of one file, got {show(base)}")
    below = read_layers(find_file(base, path.parent), chain) if base else []
    return [*below, (path.name, tree)]


def laid_over(values: Tree, layer: Tree) -> Tree:
    """The values, overridden by those of a layer; a section that is switched off loses its values."""
    both = {**values, **layer}
    for name in layer:
        if isinstance(both[name], Mapping) and isinstance(values.get(name), Mapping):
            both[name] = laid_over(values[name], layer[name])
    return both


def read_override(schema: type, override: str, values: Tree) -> Tree:
    """What `key.sub=value` lays over the values: text is taken literally, all else is read as YAML."""
    key, equals, text = override.partition("=")
    key = key.strip()
    where = f" of {key}{COMMAND_LINE}"
    nodes = all_settings(schema)
    if not equals or not key:
        raise ConfigError(f"an override is written key.sub=value, got {override!r}{COMMAND_LINE}")
    if key not in nodes:
        raise ConfigError(f"unknown key {key}{COMMAND_LINE}; {nearest(key, nodes)}")
    if "${" in text:
        raise ConfigError(f"{text}{where} is an interpolation: write the value itself")

    kinds = {kind.get("type") for kind in nodes[key].get("anyOf", [nodes[key]])}
    is_text = kinds <= {"string", "null"} and not (text == "null" and "null" in kinds)
    tree: Any = text if is_text else parse_yaml(text, where)

    names = key.split(".")
    sections = itertools.accumulate(names[:-1], "{}.{}".format)
    off = [one for one in sections if nodes[one]["default"] is None and value_at(values, one) is None]
    if off:
        raise ConfigError(
            f"{key}{COMMAND_LINE} needs the section {off[0]}, which is off: put {off[0]}={{}} before it"
        )
    for name in reversed(names):
        tree = {name: tree}
    return tree


def to_yaml(config: Any) -> str:
    """Every setting of a config, resolved, in the order of its dataclasses; `load` reads it back."""
    return dump(asdict(config), width=110)


def differences(old: Tree, new: Tree, schema: type | None = None, prefix: str = "") -> list[str]:
    """The differences of two configs, given as nested dictionaries, a line each: `generator.depth: 6 -> 8`.

    With their `schema`, settings that change no weights are left out, and paths to the same place are equal.
    """
    nodes = all_settings(schema) if schema else {}
    lines: list[str] = []
    for name in {**old, **new}:
        key = f"{prefix}{name}"
        facts = facts_of(nodes.get(key, {}))
        before, after = old.get(name), new.get(name)
        if facts.get("changes_no_weights"):
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, schema, f"{key}.")
            continue

        shown = [show(tree[name]) if name in tree else "absent" for tree in (old, new)]
        alike: Sequence[object] = shown
        if facts.get("is_a_path") and isinstance(before, str) and isinstance(after, str):
            alike = [[os.path.realpath(path) for path in text.split(" + ")] for text in (before, after)]
        if alike[0] != alike[1]:
            lines.append(f"{key}: {' -> '.join(shown)}")
    return lines
