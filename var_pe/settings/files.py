"""The text of config files: YAML as plain values, and plain values as YAML."""
# ruff: noqa: RUF012  # PyYAML keeps its tables in its classes

import re
import sys
from typing import Any

import yaml

# YAML 1.2's core schema. PyYAML follows 1.1, where 1e-4 is text, `no` is false and 1:30 is ninety.
SCALARS = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(0|[1-9][0-9_]*)",
    "float": r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf)|\.(nan|NaN)",
}
RESOLVERS = [(f"tag:yaml.org,2002:{word}", re.compile(rf"({SCALARS[word]})\Z")) for word in SCALARS]


class ConfigError(ValueError):
    """A setting, a config file or an override is wrong; the message is one sentence for its author."""


class Loader(yaml.SafeLoader):
    """`yaml.SafeLoader` for YAML 1.2's core schema; it refuses what the author of a config cannot mean."""

    yaml_implicit_resolvers = {None: RESOLVERS}

    def construct_object(self, node: yaml.Node, deep: bool = True) -> Any:
        """The value of a node, whole at once: otherwise a value could contain itself."""
        if isinstance(node, yaml.ScalarNode) and "${" in node.value:
            refuse(node, f"{node.value} is an interpolation: write the value itself")

        seen: list[object] = []
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.value in seen:
                refuse(key, f"the key {key.value} is given twice")
            if "." in key.value:
                refuse(key, f"write {key.value} as nested sections, not with a dot")
            seen.append(key.value)
        return super().construct_object(node, deep=True)


def refuse(node: yaml.Node, problem: str) -> None:
    raise yaml.constructor.ConstructorError(problem=problem, problem_mark=node.start_mark)


class Dumper(yaml.SafeDumper):
    """Writes lists on one line; quotes text that YAML 1.1 or 1.2 would read as a number or a date."""

    yaml_implicit_resolvers = {**yaml.SafeDumper.yaml_implicit_resolvers, None: RESOLVERS}
    # For error sentences: what YAML does not have
    yaml_multi_representers = {object: lambda dumper, value: dumper.represent_data(repr(value))}

    def represent_sequence(
        self, tag: str, sequence: Any, flow_style: bool | None = None
    ) -> yaml.SequenceNode:
        return super().represent_sequence(tag, sequence, flow_style=True)


def parse_yaml(text: str | bytes, where: str) -> Any:
    """The plain value of a YAML text; error sentences contain `where`, such as " in fashion.yaml"."""
    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = f", line {mark.line + 1}" if mark and mark.line else ""
        reason = problem or " ".join(str(error).split())
        raise ConfigError(f"cannot read the YAML{where}{line}: {reason}") from None


def dump(value: object, **layout: Any) -> str:
    return yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True, **layout)


def show(value: object) -> str:
    """A value on one line, as it would be written in a config file."""
    return dump(value, default_flow_style=True, width=sys.maxsize).removesuffix("...\n").rstrip("\n")
