"""Typed settings: defaults of frozen dataclasses, then a YAML file, then `key.sub=value` of the command line.

The walk over the dataclasses is written by hand: OmegaConf's structured configs turn `"4"` into 4 and 4 into
`"4"` in silence, where a setting of the wrong type shall be an error that names its key, value and file.
"""

import contextlib
import difflib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from var_pe.rules import RuleError

T = TypeVar("T")
Tree = dict[str, Any]  # a section as nested plain values, keys without dots

CONFIGS = Path(__file__).parents[1] / "configs"


class ConfigError(ValueError):
    """A setting, a config file or an override is wrong; the message is one sentence for whoever wrote it."""


# ------------------------------------------------------------------------------------------------ YAML

# YAML 1.2's core schema. PyYAML follows 1.1, where 1e-4 is text, `no` is false and 1:30 is ninety.
SCALARS = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(0|[1-9][0-9_]*)",
    "float": r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf)|\.(nan|NaN)",
}


class Loader(yaml.SafeLoader):
    """`yaml.safe_load` with the scalars above, which refuses a key that is given twice."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 (PyYAML's own name)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key_node.value} is given twice", problem_mark=key_node.start_mark
                )
            seen.add(key_node.value if isinstance(key_node, yaml.ScalarNode) else id(key_node))
        return super().construct_mapping(node, deep)


class Dumper(yaml.SafeDumper):
    """Writes lists on one line; quotes text that YAML 1.1 or 1.2 would read as a number or a date."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for name, pattern in SCALARS.items():
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{name}", re.compile(rf"({pattern})\Z"), None)
    Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{name}", re.compile(rf"({pattern})\Z"), None)
for kind in (list, tuple):
    Dumper.add_representer(
        kind, lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)
    )
READABLE: Any = {"sort_keys": False, "allow_unicode": True}


def parse_yaml(text: str, where: str) -> Any:
    """The plain value of a YAML text; `where` ("in fashion.yaml") is for the error's sentence."""
    try:
        value = yaml.load(text, Loader)
        refuse_interpolation(value, where)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark and "\n" in text else ""
        raise ConfigError(f"cannot read the YAML {where}{line}: {error.problem}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"cannot read the YAML {where}: {' '.join(str(error).split())}") from None
    return value


def refuse_interpolation(value: Any, where: str) -> None:
    """A `${...}` would stay in the text as it is, and its writer believes that it does not."""
    if isinstance(value, str) and "${" in value:
        raise ConfigError(f"{value} {where} is an interpolation: write the value itself")
    if isinstance(value, dict | list):
        for part in [*value, *value.values()] if isinstance(value, dict) else value:
            refuse_interpolation(part, where)


def show(value: Any) -> str:
    """A value on one line, as it would stand in a config file."""
    text = yaml.dump(value, Dumper=Dumper, default_flow_style=True, width=sys.maxsize, **READABLE)
    return text.removesuffix("\n").removesuffix("...").removesuffix("\n")


# ------------------------------------------------------------------------------------------------ types


def type_name(hint: Any) -> str:
    """A setting's type as a person reads it: `int`, `str or null`, `list of (int or list of int)`."""
    if is_dataclass(hint):
        return "section"
    arms, origin = get_args(hint), get_origin(hint)
    if origin in (Union, UnionType):
        return " or ".join(map(type_name, arms))
    if origin is Literal:
        return " or ".join(map(show, arms))
    if origin in (list, tuple):
        items = type_name(arms[0])
        return f"list of ({items})" if " or " in items else f"list of {items}"
    return "null" if hint is NoneType else str(hint.__name__)


def section_of(hint: Any) -> type | None:
    """The dataclass of a setting that is a section (`Section` or `Section | None`), or None."""
    arms = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return next((arm for arm in arms if isinstance(arm, type) and is_dataclass(arm)), None)


def is_text(hint: Any) -> bool:
    """Whether a setting holds text (or null) only, so that an override is taken as it stands."""
    arms = [arm for arm in get_args(hint) if arm is not NoneType]
    if get_origin(hint) in (Union, UnionType):
        return all(map(is_text, arms))
    return hint is str or (get_origin(hint) is Literal and all(isinstance(arm, str) for arm in arms))


def convert(hint: Any, value: Any) -> Any:
    """`value` as `hint` asks: an int may become a float and a list a tuple; all else is a TypeError."""
    arms, origin = get_args(hint), get_origin(hint)
    if origin in (Union, UnionType):
        for arm in arms:
            with contextlib.suppress(TypeError):
                return convert(arm, value)
    elif origin is Literal:
        if any(value == arm and type(value) is type(arm) for arm in arms):
            return value
    elif origin is list and isinstance(value, list):
        return [convert(arms[0], item) for item in value]
    elif origin is tuple and isinstance(value, list | tuple):
        kinds = [arms[0]] * len(value) if arms[1:] == (...,) else arms
        if len(kinds) == len(value):
            return tuple(map(convert, kinds, value))
    elif hint is float and type(value) in (int, float) and value == value:  # a nan is no setting
        return float(value)
    elif hint in (int, bool, str, NoneType) and type(value) is hint:
        return value
    raise TypeError


# ------------------------------------------------------------------------------------------------ files


def find_file(name: str | Path, folder: Path) -> Path:
    """The config file of that name in `folder`, or of that bare name in configs/; `.yaml` may be left out."""
    wanted = Path(name).expanduser()
    folders = [folder, CONFIGS] if wanted.name == str(wanted) else [folder]
    for candidate in [place / f"{wanted}{suffix}" for place in folders for suffix in ("", ".yaml")]:
        if candidate.is_file():
            return candidate.resolve()
    places = [(place / wanted).parent for place in folders]
    known = sorted({path.name for place in [*places, CONFIGS] for path in place.glob("*.yaml")})
    near = difflib.get_close_matches(f"{wanted.stem}.yaml", known, n=1, cutoff=0.7)
    hint, where = f"did you mean {near[0]}? " if near else "", " or ".join(map(str, places))
    raise ConfigError(f"there is no config file {name} in {where}; {hint}there are {', '.join(known)}")


def read_layers(path: Path, included_by: tuple[Path, ...] = ()) -> list[tuple[str, Tree]]:
    """What a file says, after what its `base` says: names and settings, the lowest base first."""
    chain = (*included_by, path)
    if path in included_by:
        raise ConfigError(f"config files include each other: {' -> '.join(link.name for link in chain)}")
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"), f"in {path.name}")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    if not isinstance(tree, dict | None):
        raise ConfigError(f"{path.name} must hold lines of the form `key: value`, got {show(tree)[:60]}")
    base = (tree or {}).pop("base", None)
    if not isinstance(base, str | None):
        raise ConfigError(f"base in {path.name} must be the name of one file, got {show(base)}")
    below = read_layers(find_file(base, path.parent), chain) if base else []
    return [*below, (path.name, tree or {})]


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
