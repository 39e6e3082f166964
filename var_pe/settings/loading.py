"""Typed settings: defaults of frozen dataclasses, then a YAML file, then `key.sub=value` of the command line.

The walk over the dataclasses is written by hand: OmegaConf's structured configs turn `"4"` into 4 and 4 into
`"4"` in silence, where a setting of the wrong type shall be an error that names its key, value and file.
"""

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

import yaml

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
from var_pe.settings.rules import RuleError
from var_pe.settings.types import convert, is_text, section_of, type_name

T = TypeVar("T")

# ------------------------------------------------------------------------------------------------ the walk


def dotted(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


@dataclass(frozen=True)
class Setting:
    """A field of a dataclass or of one of its sections."""

    key: str  # dotted
    owner: type  # the dataclass it stands in
    hint: Any  # its type
    default: Any  # MISSING where it must be given


def last(key: str) -> str:
    return key.rpartition(".")[2]


def all_settings(schema: type, tree: Tree | None = None, prefix: str = "") -> Iterator[Setting]:
    """Every setting of a dataclass and its sections, in order; `tree` has a section's defaults."""
    hints, tree = get_type_hints(schema), defaults(schema) if tree is None else tree
    for name in [setting.name for setting in fields(schema)]:
        key, default = dotted(prefix, name), tree.get(name, MISSING)
        yield Setting(key, schema, hints[name], default)
        if section := section_of(hints[name]):
            yield from all_settings(section, default, key)


def unknown_key(schema: type, key: str, where: str) -> ConfigError:
    """The error for a key that does not exist, with the nearest one that does."""
    known = [setting.key for setting in all_settings(schema) if not key.startswith(f"{setting.key}.")]
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
    if not near:  # the right name in the wrong section, or nearly
        names = difflib.get_close_matches(last(key), map(last, known), n=1)
        near = [k for k in known if last(k) in names]
    siblings = [k for k in known if k == dotted(key.rpartition(".")[0], last(k))]
    top = [k for k in known if "." not in k]
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(siblings or top)}"
    return ConfigError(f"unknown key {key} {where}; {hint}")


def checked(root: type, schema: type, tree: Mapping[Any, Any], prefix: str, where: str) -> Tree:
    """The tree with every key known and every value of its setting's type."""
    hints, found = get_type_hints(schema), {}
    for name, value in tree.items():
        key = dotted(prefix, str(name))
        if "." in str(name):
            raise ConfigError(f"write {key} {where} as nested sections, not with a dot")
        if name not in {setting.name for setting in fields(schema)}:
            raise unknown_key(root, key, where)
        section = section_of(hints[name])
        if section and isinstance(value, dict):
            found[name] = checked(root, section, value, key, where)
            continue
        try:
            found[name] = convert(hints[name], value)
        except (TypeError, OverflowError):
            quotes = " (put text in quotes)" if is_text(hints[name]) else ""
            kind = type_name(hints[name])
            raise ConfigError(f"{key} {where} must be {kind}, got {show(value)}{quotes}") from None
    return found


def defaults(schema: type) -> Tree:
    """The defaults as a tree; a section without one is there with its own, a value without one is missing."""
    hints, tree = get_type_hints(schema), {}
    for setting in fields(schema):
        if setting.default is not MISSING:
            tree[setting.name] = plain(setting.default)
        elif setting.default_factory is not MISSING:
            tree[setting.name] = plain(setting.default_factory())
        elif section := section_of(hints[setting.name]):
            tree[setting.name] = defaults(section)
    return tree


def plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def merged(schema: type, below: Tree, above: Tree) -> Tree:
    """`above` over `below`, section by section; a section that was off comes on with its own defaults."""
    hints, tree = get_type_hints(schema), dict(below)
    for name, value in above.items():
        section = section_of(hints[name])
        if section and isinstance(value, dict):
            tree[name] = merged(section, tree.get(name) or defaults(section), value)
        else:
            tree[name] = value
    return tree


def read_override(schema: type, tree: Tree, override: str) -> Tree:
    """`key.sub=value` as a tree with that one setting, `tree` being what it will be laid over."""
    where = "on the command line"
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ConfigError(f"an override is written key.sub=value, got {override!r} {where}")
    refuse_interpolation(text, where)
    hints = {setting.key: setting.hint for setting in all_settings(schema)}
    if key not in hints:
        raise unknown_key(schema, key, where)
    sections = key.split(".")[:-1]
    here: Any = tree
    for depth, section in enumerate(sections, start=1):
        here = here[section]
        if here is None:
            off = ".".join(sections[:depth])
            raise ConfigError(
                f"{key} {where} needs the section {off}, which is off: put {off}={{}} before it"
            )
    value = as_text(hints[key], text) if is_text(hints[key]) else parse_yaml(text, f"of {key} {where}")
    for part in reversed(key.split(".")):
        value = {part: value}
    return checked(schema, schema, value, "", where)


def as_text(hint: Any, text: str) -> Any:
    return None if text == "null" and NoneType in get_args(hint) else text


def build(schema: type[T], tree: Tree, prefix: str = "") -> T:
    """The dataclass instance of a checked tree; what its `__post_init__` refuses names the section."""
    hints, values = get_type_hints(schema), {}
    for setting in fields(schema):  # type: ignore[arg-type]
        key = dotted(prefix, setting.name)
        if setting.name not in tree:
            raise ConfigError(f"{key} has no default: give it in the config file or as {key}=value")
        value, section = tree[setting.name], section_of(hints[setting.name])
        values[setting.name] = build(section, value, key) if section and value is not None else value
    try:
        return schema(**values)
    except RuleError as error:
        raise ConfigError(dotted(prefix, str(error))) from error
    except ValueError as error:
        raise ConfigError(f"{prefix}: {error}" if prefix else str(error)) from error


def load(schema: type[T], file: str | Path | None, overrides: Sequence[str] = ()) -> T:
    """The settings of `file` (if any) over the dataclasses' defaults and under the overrides, as one
    `schema`.

    Raises:
        ConfigError: a file, key, value, type or rule is wrong.
    """
    tree = defaults(schema)
    for name, layer in [] if file is None else read_layers(find_file(file, Path())):
        tree = merged(schema, tree, checked(schema, schema, layer, "", f"in {name}"))
    for override in overrides:
        tree = merged(schema, tree, read_override(schema, tree, override))
    return build(schema, tree)


# ------------------------------------------------------------------------------------------------ out again


def to_yaml(config: Any) -> str:
    """Every setting of a config, resolved, in the order of its dataclasses; `load` reads it back."""
    return yaml.dump(asdict(config), Dumper=Dumper, width=110, **READABLE)


def save(config: Any, path: str | Path) -> None:
    """Writes `to_yaml(config)` beside `path`, then renames it: a reader finds the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(to_yaml(config))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two configs as nested dictionaries, a line each: `generator.depth: 6 -> 8`."""
    lines = []
    for name in [*old, *(name for name in new if name not in old)]:
        key, before, after = dotted(prefix, name), old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, key)
            continue
        shown = [show(tree[name]) if name in tree else "absent" for tree in (old, new)]
        if shown[0] != shown[1]:
            lines.append(f"{key}: {shown[0]} -> {shown[1]}")
    return lines
