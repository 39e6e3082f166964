"""Command lines: `--config FILE key.sub=value`, and `--help` with every setting."""

import argparse
import os
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic_core import PydanticUndefined

from var_pe.settings.fields import all_settings, check_values, rule_of
from var_pe.settings.files import ConfigError, show
from var_pe.settings.loading import load

T = TypeVar("T")

# The settings that say where a config's models are
FOLDERS = ("run", "tokenizer_run")
# The option of scripts that take a run's folder in place of a config
RUN = "--run"


def given_path(text: str) -> Path:
    """The path that an option names; shells leave the `~` of `--output=~/folder` to the program."""
    return Path(os.path.expanduser(text))


def describe(schema: type, used_settings: Sequence[str] = ()) -> str:
    """Every setting (or those of `used_settings`) with its key, type, range, default and meaning."""
    paragraphs = []
    for key, node in all_settings(schema).items():
        if used_settings and not is_among(key, used_settings):
            continue
        default = node["default"]
        shown = "" if is_dataclass(default) or default is PydanticUndefined else f" = {show(default)}"

        # Settings of a section stand below it, farther right.
        meaning = textwrap.wrap(node.get("description", ""), width=100)
        paragraph = "\n    ".join([f"{key}: {rule_of(node)}{shown}", *meaning])
        paragraphs.append(textwrap.indent(paragraph, "  " * (1 + key.count("."))))
    return "\n".join(paragraphs)


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
                f"{override} changes nothing {where}: the settings that are used are those of "
                f"{', '.join(used_settings)}, and all others stay as they were in training"
            )


def check_options(arguments: argparse.Namespace, **types: Any) -> None:
    """Checks a script's own options like settings: `check_options(arguments, steps=Positive)`.

    Raises:
        ValueError: an option is given and its value is not in the range of its type.
    """
    for name, kind in types.items():
        option = f"--{name.replace('_', '-')}"
        value = getattr(arguments, name)
        if value is not None:
            check_values({option: kind}, {option: value})


def overrides_first(argv: Sequence[str]) -> list[str]:
    """The words with all overrides first: in `--seeds 0 1 key=value` argparse would take one for a seed."""
    return sorted(argv, key=lambda word: re.match(r"[A-Za-z_][\w.]*=", word) is None)


def parse_arguments(
    argv: Sequence[str] | None,
    *,
    description: str,
    schema: type[T],
    extra: Callable[[argparse.ArgumentParser], Any] = lambda parser: None,
    instead: Sequence[str] = (),
    used_settings: Sequence[str] = (),
) -> tuple[T, argparse.Namespace]:
    """Reads `--config FILE [key.sub=value ...]`; `extra(parser)` adds a script's own options.

    One of the options in `instead` may give a folder in place of `--config`: RUN takes the config saved in
    that run, wherever it is now; any other folder holds a model of its own, and the config has its defaults.
    `used_settings` are the settings and sections that the script uses; (): all.
    """
    shown = describe(schema, [*FOLDERS, *used_settings] if used_settings else ())
    parser = argparse.ArgumentParser(
        description=description,
        epilog=f"settings, as written in FILE or as key.sub=value:\n{shown}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--config", type=os.path.expanduser, metavar="FILE", help="path, or name in configs/")
    for option in instead:
        meaning = "a run, whose own config is used" if option == RUN else "a folder with a saved model"
        which.add_argument(option, type=os.path.expanduser, metavar="DIR", help=meaning)
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="settings that override FILE's")
    extra(parser)
    arguments = parser.parse_intermixed_args(overrides_first(sys.argv[1:] if argv is None else argv))

    # Settings of folders that follow from how the config is named
    file, folders = arguments.config, list[str]()
    run = getattr(arguments, "run", None)
    if run is not None:
        file, folders = Path(run) / "config.yaml", [f"run={run}"]
        if not file.exists():
            parser.error(f"--run {run} is not the folder of a run: no {file.absolute()}")
    elif file is None:
        folders = [f"{folder}=." for folder in FOLDERS]

    config = load(schema, file, [*folders, *arguments.overrides])
    if used_settings:
        refuse_unused(arguments.overrides, [*used_settings, *FOLDERS[len(folders) :]])
    return config, arguments
