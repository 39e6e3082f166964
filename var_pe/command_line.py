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

from var_pe.settings import all_settings, last, load, section_of, show, type_name

T = TypeVar("T")


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


def describe(schema: type) -> str:
    """Every setting with its key, type, default and meaning, which is the comment at its line of source."""
    lines = []
    for setting in all_settings(schema):
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
) -> tuple[T, argparse.Namespace]:
    """Reads `--config FILE [key.sub=value ...]`; `extra(parser)` adds a script's own options.

    With `runs`, `--run DIR` may stand in place of it: the config saved in that folder, wherever it is now.
    So may each option of `instead`, with which the config is the defaults and the overrides given here.
    """
    settings = f"settings, as written in FILE or as key.sub=value:\n{describe(schema)}"
    parser = argparse.ArgumentParser(
        description=description,
        epilog=settings,
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
    if runs and arguments.run is not None:
        saved = Path(arguments.run) / "config.yaml"
        if not saved.exists():
            parser.error(f"--run {arguments.run} is not the folder of a run: it has no config.yaml")
        return load(schema, saved, [f"run={arguments.run}", *arguments.overrides]), arguments
    for option, lines in (instead or {}).items():
        if getattr(arguments, option.removeprefix("--")) is not None:
            return load(schema, None, [*lines, *arguments.overrides]), arguments
    return load(schema, arguments.config, arguments.overrides), arguments


def sentence_of(error: ValueError | OSError) -> str:
    if isinstance(error, OSError) and error.filename:
        missing = isinstance(error, FileNotFoundError)
        return f"{error.filename} does not exist" if missing else f"{error.filename}: {error.strerror}"
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
