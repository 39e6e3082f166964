"""Config files: YAML text as plain values and back, finding files by name, following their `base`."""

import difflib
import re
import sys
from pathlib import Path
from typing import Any

import yaml

# A section as nested plain values, keys without dots
Tree = dict[str, Any]

CONFIGS = Path(__file__).parents[2] / "configs"


class ConfigError(ValueError):
    """A setting, a config file or an override is wrong; the message is one sentence for its author."""


class Loader(yaml.SafeLoader):
    """`yaml.SafeLoader` for YAML 1.2's core schema; it refuses a key that is given twice."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012  # PyYAML's own name

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            word = key.value if isinstance(key, yaml.ScalarNode) else None
            if word is None or word in seen:
                problem = "a key must be a word" if word is None else f"the key {word} is given twice"
                raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
            seen.add(word)
        return super().construct_mapping(node, deep)


class Dumper(yaml.SafeDumper):
    """Writes lists on one line; quotes text that YAML 1.1 or 1.2 would read as a number or a date."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_list(self, data: Any) -> yaml.SequenceNode:
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)


UNDEFINED = yaml.SafeLoader.yaml_constructors[None]

# YAML 1.2's core schema. PyYAML follows 1.1, where 1e-4 is text, `no` is false and 1:30 is ninety.
for tag, pattern in {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(0|[1-9][0-9_]*)",
    "float": r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf)|\.(nan|NaN)",
}.items():
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"({pattern})\Z"), None)
    Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"({pattern})\Z"), None)

# Their values could not be settings.
for tag in ("set", "timestamp", "binary", "omap", "pairs"):
    Loader.yaml_constructors = {**Loader.yaml_constructors, f"tag:yaml.org,2002:{tag}": UNDEFINED}

for kind in (list, tuple):
    Dumper.add_representer(kind, Dumper.represent_list)
Dumper.add_multi_representer(object, lambda dumper, value: dumper.represent_str(repr(value)))  # for sentences
READABLE: Any = {"sort_keys": False, "allow_unicode": True}


def parse_yaml(text: str, where: str) -> Any:
    """The plain value of a YAML text; error sentences contain `where`, such as " in fashion.yaml"."""
    try:
        value = yaml.load(text, Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = f", line {mark.line + 1}" if mark and "\n" in text else ""
        reason = problem or " ".join(str(error).split())
        raise ConfigError(f"cannot read the YAML{where}{line}: {reason}") from None

    refuse_interpolation(value, where)
    return value


def refuse_interpolation(value: Any, where: str) -> None:
    """Refuses `${...}`, which this YAML would keep as text though its author expects a value.

    Raises:
        ConfigError: there is one in the value, or in a part of it.
    """
    if isinstance(value, str) and "${" in value:
        raise ConfigError(f"{value}{where} is an interpolation: write the value itself")
    if isinstance(value, dict | list):
        for part in [*value, *value.values()] if isinstance(value, dict) else value:
            refuse_interpolation(part, where)


def show(value: Any) -> str:
    """A value on one line, as it would be written in a config file."""
    text = yaml.dump(value, Dumper=Dumper, default_flow_style=True, width=sys.maxsize, **READABLE)
    return text.removesuffix("\n").removesuffix("...").removesuffix("\n")


def find_file(name: str | Path, folder: Path) -> Path:
    """The config file `name` in `folder`, or in configs/ if it is a bare name; `.yaml` may be left out."""
    wanted = Path(name).expanduser()
    folders = [folder, CONFIGS] if wanted.name == str(wanted) else [folder]
    for candidate in [place / f"{wanted}{suffix}" for place in folders for suffix in ("", ".yaml")]:
        if candidate.is_file():
            return candidate.resolve()

    # There is none: name one that is written alike.
    places = [(place / wanted).parent for place in folders]
    known = sorted({path.name for place in [*places, CONFIGS] for path in place.glob("*.yaml")})
    near = difflib.get_close_matches(f"{wanted.stem}.yaml", known, n=1, cutoff=0.7)
    hint = f"did you mean {near[0]}? " if near else ""
    where = " or ".join(map(str, places))
    raise ConfigError(f"there is no config file {name} in {where}; {hint}there are {', '.join(known)}")


def read_layers(path: Path, included_by: tuple[Path, ...] = ()) -> list[tuple[str, Tree]]:
    """The names and settings of a file and of the files below it (its `base` and so on), lowest first."""
    chain = (*included_by, path)
    if path in included_by:
        raise ConfigError(f"config files include each other: {' -> '.join(link.name for link in chain)}")

    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"), f" in {path.name}")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise ConfigError(f"{path.name} must hold lines of the form `key: value`, got {show(tree)[:60]}")

    base = tree.pop("base", None)
    if not isinstance(base, str | None):
        raise ConfigError(f"base in {path.name} must be the name of one file, got {show(base)}")
    below = read_layers(find_file(base, path.parent), chain) if base else []
    return [*below, (path.name, tree)]
