"""Command lines: `--config FILE key.sub=value`, and `--help` with every setting."""

import argparse
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from var_pe.settings.files import ConfigError, show
from var_pe.settings.loading import load
from var_pe.settings.sentences import MISSING, all_settings, range_of, type_of

T = TypeVar("T")

# The settings that say where a config's models are
FOLDERS = ("run", "tokenizer_run")


def describe(schema: type, used_settings: Sequence[str] = ()) -> str:
    """Every setting (or those of `used_settings`) with its key, type, range, default and meaning."""
    lines = []
    for setting in all_settings(schema):
        if used_settings and not is_among(setting.key, used_settings):
            continue

        words = ", ".join(filter(None, [type_of(setting.node), range_of(setting.node)]))
        line = f"{setting.key}: {words}"
        if setting.default is not MISSING and not is_dataclass(setting.default):
            line += f" = {show(setting.default)}"

        # Settings of a section stand below it, farther right.
        meaning = textwrap.wrap(setting.node.get("description", ""), width=100)
        paragraph = "\n".join([line, *(f"    {text}" for text in meaning)])
        depth = 1 + setting.key.count(".")
        lines.append(textwrap.indent(paragraph, "  " * depth))
    return "\n".join(lines)


def is_among(key: str, used_settings: Sequence[str]) -> bool:
    """Whether a key is one of the settings and sections, or belongs to one of these sections."""
    return any(f"{key}.".startswith(f"{name}.") for name in used_settings)


def refuse_unused(overrides: Sequence[str], used_settings: Sequence[str], where: str = "here") -> None:
    """Refuses overrides of settings that a command does not use, since they would change nothing.

    Raises:
        ConfigError: an override is neither one of `used_settings` nor belongs to one of these sections.
    """
    for override in overrides:
        if not is_among(override.partition("=")[0].strip(), used_settings):
            raise ConfigError(
                f"{override} changes nothing {where}; settings that do are those of "
                f"{', '.join(used_settings)}, the others are kept from the training"
            )


def check_options(arguments: argparse.Namespace, **types: Any) -> None:
    """Checks a script's own options like settings: `check_options(arguments, steps=Positive)`.

    Raises:
        ValueError: an option is given and its value is not in the range of its type.
    """
    for name, hint in types.items():
        value = getattr(arguments, name)
        try:
            TypeAdapter(hint | None).validate_python(value)
        except ValidationError:
            node = TypeAdapter(hint).json_schema()
            option = name.replace("_", "-")
            raise ValueError(f"--{option} must be {range_of(node) or type_of(node)}, got {value}") from None


def overrides_first(argv: Sequence[str]) -> list[str]:
    """The words with all overrides first: in `--seeds 0 1 key=value` argparse would take one for a seed."""
    return sorted(argv, key=lambda word: re.match(r"[A-Za-z_][\w.]*=", word) is None)


def parse_arguments(
    argv: Sequence[str] | None,
    *,
    description: str,
    schema: type[T],
    extra: Callable[[argparse.ArgumentParser], Any] | None = None,
    runs: bool = False,
    instead: Mapping[str, Sequence[str]] | None = None,
    used_settings: Sequence[str] = (),
) -> tuple[T, argparse.Namespace]:
    """Reads `--config FILE [key.sub=value ...]`; `extra(parser)` adds a script's own options.

    With `runs`, `--run DIR` may be given instead of `--config`: the config saved in that folder, wherever the
    folder is now. Each option of `instead` may be given, too; the config is then the defaults under the
    overrides listed there. `used_settings` are the settings and sections that the script uses; (): all.
    """
    shown = describe(schema, [*FOLDERS, *used_settings] if used_settings else ())
    parser = argparse.ArgumentParser(
        description=description,
        epilog=f"settings, as written in FILE or as key.sub=value:\n{shown}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )

    # Where the config comes from
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--config", metavar="FILE", help="a YAML file; a bare name may be in configs/")
    if runs:
        which.add_argument("--run", metavar="DIR", help="the folder of a run: its own config")
    for option in instead or {}:
        which.add_argument(option, metavar="DIR")

    # Its overrides, and the script's own options
    parser.add_argument(
        "overrides", nargs="*", metavar="key.sub=value", help="settings that differ from FILE"
    )
    if extra:
        extra(parser)
    arguments = parser.parse_intermixed_args(overrides_first(sys.argv[1:] if argv is None else argv))

    # The file, the overrides that come before the given ones, and the folders that may still be set
    file, before = arguments.config, list[str]()
    folders: Sequence[str] = FOLDERS
    if runs and arguments.run is not None:
        file, before, folders = Path(arguments.run) / "config.yaml", [f"run={arguments.run}"], FOLDERS[1:]
        if not file.exists():
            parser.error(f"--run {arguments.run} is not the folder of a run: it has no config.yaml")
    for option, lines in (instead or {}).items():
        if getattr(arguments, option.removeprefix("--")) is not None:
            before, folders = list(lines), ()

    config = load(schema, file, [*before, *arguments.overrides])
    if used_settings:
        refuse_unused(arguments.overrides, [*used_settings, *folders])
    return config, arguments
