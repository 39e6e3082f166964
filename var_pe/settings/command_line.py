"""Command lines: `--config FILE key.sub=value`, `--help` with every setting, errors as one sentence."""

import argparse
import ast
import contextlib
import inspect
import io
import re
import sys
import textwrap
import tokenize
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from var_pe.settings.files import ConfigError, show
from var_pe.settings.loading import all_settings, last, load
from var_pe.settings.rules import RuleError, check_numbers
from var_pe.settings.types import section_of, type_name

T = TypeVar("T")

FOLDERS = ("run", "tokenizer_run")  # where a config's models are


def comments_in(source: str) -> dict[int, tuple[str, bool]]:
    """The comments of a source by line: text, and whether the comment has the line to itself."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {
        token.start[0]: (token.string.lstrip("#").strip(), not token.line[: token.start[1]].strip())
        for token in tokens
        if token.type == tokenize.COMMENT
    }


@cache  # asked for every setting of it
def meanings(schema: type) -> dict[str, str]:
    """What each field of a dataclass means: the comment after it, or the lines of comment right above it."""
    found: dict[str, str] = {}
    for owner in reversed([kind for kind in schema.__mro__ if is_dataclass(kind)]):
        try:
            source = textwrap.dedent(inspect.getsource(owner))
        except OSError:  # made at run time: there is no source to read
            continue
        comments = comments_in(source)
        for node in ast.parse(source).body[0].body:  # type: ignore[attr-defined]
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found[node.target.id] = meaning_of(node, comments)
    return found


def meaning_of(node: ast.AnnAssign, comments: dict[int, tuple[str, bool]]) -> str:
    after = [comments[line][0] for line in range(node.lineno, (node.end_lineno or 0) + 1) if line in comments]
    if after:
        return " ".join(after)
    above: list[str] = []
    line = node.lineno - 1
    while line in comments and comments[line][1]:
        above, line = [comments[line][0], *above], line - 1
    return " ".join(above)


def describe(schema: type, used_settings: Sequence[str] = ()) -> str:
    """Every setting (or those of `used_settings`) with its key, type, default and meaning."""
    lines = []
    for setting in all_settings(schema):
        if used_settings and not is_among(setting.key, used_settings):
            continue
        indent = "  " * (1 + setting.key.count("."))
        if setting.hint is section_of(setting.hint):
            lines.append(f"{indent}{setting.key}:")
        else:
            on = section_of(setting.hint) and setting.default
            default = "" if on or setting.default is MISSING else f" = {show(setting.default)}"
            lines.append(f"{indent}{setting.key}: {type_name(setting.hint)}{default}")
        meaning = meanings(setting.owner).get(last(setting.key), "")
        lines += [f"{indent}    {line}" for line in textwrap.wrap(meaning, width=100)]
    return "\n".join(lines)


def is_among(key: str, used_settings: Sequence[str]) -> bool:
    return any(f"{key}.".startswith(f"{name}.") for name in used_settings)


def refuse_unused(overrides: Sequence[str], used_settings: Sequence[str], where: str = "here") -> None:
    """A setting that a command does not look at would change nothing, and its writer believes otherwise.

    Raises:
        ConfigError: one is neither of the keys and sections in `used_settings` nor below one of them.
    """
    for override in overrides:
        if not is_among(override.partition("=")[0].strip(), used_settings):
            raise ConfigError(
                f"{override} changes nothing {where}; settings that do are those of "
                f"{', '.join(used_settings)}, the others are kept from the training"
            )


def check_options(arguments: argparse.Namespace, **intervals: str) -> None:
    """As `check_numbers`, of a script's own options."""
    try:
        check_numbers(arguments, **intervals)
    except RuleError as error:
        name, _, rule = str(error).partition(" ")
        raise ValueError(f"--{name.replace('_', '-')} {rule}") from error


def overrides_first(argv: Sequence[str]) -> list[str]:
    """`--seeds 0 1 key=value`: argparse would take the setting for another seed."""
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

    With `runs`, `--run DIR` may stand in place of it: the config saved in that folder, wherever it is now.
    So may each option of `instead`, with which the config is the defaults and the overrides given here.
    `used_settings` are the sections and settings that the script looks at, if not at all of them.
    """
    shown = describe(schema, [*FOLDERS, *used_settings] if used_settings else ())
    parser = argparse.ArgumentParser(
        description=description,
        epilog=f"settings, as written in FILE or as key.sub=value:\n{shown}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--config", metavar="FILE", help="a YAML file; a bare name may be in configs/")
    if runs:
        which.add_argument("--run", metavar="DIR", help="the folder of a run: its own config")
    for option in instead or {}:
        which.add_argument(option, metavar="DIR")
    parser.add_argument(
        "overrides", nargs="*", metavar="key.sub=value", help="settings that differ from FILE"
    )
    if extra:
        extra(parser)
    arguments = parser.parse_intermixed_args(overrides_first(sys.argv[1:] if argv is None else argv))
    file, first, folders = arguments.config, list[str](), list(FOLDERS)
    if runs and arguments.run is not None:
        file, first, folders = (
            Path(arguments.run) / "config.yaml",
            [f"run={arguments.run}"],
            list(FOLDERS[1:]),
        )
        if not file.exists():
            parser.error(f"--run {arguments.run} is not the folder of a run: it has no config.yaml")
    for option, lines in (instead or {}).items():
        if getattr(arguments, option.removeprefix("--")) is not None:
            first, folders = list(lines), []
    config = load(schema, file, [*first, *arguments.overrides])
    if used_settings:
        refuse_unused(arguments.overrides, [*used_settings, *folders])
    return config, arguments


def sentence_of(error: ValueError | OSError) -> str:
    if isinstance(error, OSError) and error.filename:
        missing = isinstance(error, FileNotFoundError)
        name = error.filename2 or error.filename  # of a renaming: what was to be there
        return f"{name} does not exist" if missing else f"{name}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def exit_with_sentence() -> Iterator[None]:
    """Around a script's main: what a person caused ends in one line and status 2, a bug keeps its trace."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except FloatingPointError as error:  # a training that went wrong: nobody's typing, and no bug to trace
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except (ValueError, OSError) as error:  # an output that is a file, a picture that is none, a full disk
        print(f"error: {sentence_of(error)}", file=sys.stderr)
        sys.exit(2)
