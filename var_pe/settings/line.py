"""The one-line language of members: `learned`, `mixed(learned=0.7, sinusoidal=0.3)`, `fsq(levels=[8, 8, 5])`.

Encodings and quantizers are chosen by such lines. Parsed with `ast` and never evaluated. One string rather
than a mapping: an override replaces it whole, and it is the row's label in a report.
"""

import ast
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from var_pe.settings.fields import check_values

LARGEST = 1e9  # beyond it, products of float32 numbers come near their range

Value = int | float | bool | str | None | tuple["Value", ...]


@dataclass(frozen=True)
class Member:
    """A member as a line writes it."""

    name: str
    # the members given in its brackets
    parts: tuple["Member", ...] = ()
    # the keywords
    options: dict[str, Value] = field(default_factory=dict)
    # as the line writes it, with the spaces and quotes of Python's own printer
    text: str = field(default="", compare=False)


def parse(line: str, kind: str = "encoding") -> tuple[Member, ...]:
    """The members that `+` joins, in order; `kind` is what the sentences call them.

    Raises:
        ValueError: the line is not of that form; the sentence quotes the part that is not.
    """
    try:
        return tuple(map(_member, _summands(ast.parse(line.strip(), mode="eval").body)))
    except SyntaxError:
        raise ValueError(f"{kind} {line!r} is not of the form name(option=value) + name") from None
    except ValueError as error:
        raise ValueError(f"{kind} {line!r}: {error}") from None
    except (RecursionError, MemoryError):
        raise ValueError(f"{kind} {line[:40]!r}... is nested too deeply") from None


def _summands(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _summands(node.left) + _summands(node.right)
    return [node]


def _member(node: ast.expr) -> Member:
    if isinstance(node, ast.Name):
        return Member(node.id, text=node.id)

    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and all(k.arg for k in node.keywords):
        options: dict[str, Value] = {}
        for keyword in node.keywords:
            if keyword.arg in options:
                raise ValueError(f"{keyword.arg} is given twice")
            options[str(keyword.arg)] = _value(keyword.value)
        return Member(node.func.id, tuple(map(_member, node.args)), options, ast.unparse(node))

    raise ValueError(f"{ast.unparse(node)!r} is not name or name(option=value)")


def _value(node: ast.expr) -> Value:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str | None):
        if isinstance(node.value, int | float) and not abs(node.value) <= LARGEST:
            raise ValueError(f"numbers are at most {LARGEST:.0e}, got {ast.unparse(node)}")
        return node.value

    if isinstance(node, ast.Name):
        return {"true": True, "false": False, "none": None}.get(node.id, node.id)

    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _value(node.operand)
        if isinstance(number, int | float) and not isinstance(number, bool):
            return -number

    if isinstance(node, ast.Tuple | ast.List):
        return tuple(map(_value, node.elts))

    raise ValueError(f"{ast.unparse(node)!r} is not a number, true, false, a word or a tuple of them")


def canonical(line: str) -> str:
    """The line with the spaces and quotes that Python's own printer gives it: one spelling, one run."""
    return " + ".join(member.text for member in parse(line))


def check_options(
    name: str, options: Mapping[str, Value], constructor: Callable[..., None], words: Iterable[str] = ()
) -> None:
    """Refuses an option that is not a keyword of `constructor`, or a value of the wrong type.

    `words` are further names that the line of `name` may hold; they are suggested for a misspelt one, too.

    Raises:
        ValueError: an option does not exist, or its value is of another type than its annotation.
    """
    parameters = inspect.signature(constructor).parameters.values()
    known = {one.name: one.annotation for one in parameters if one.kind is one.KEYWORD_ONLY}
    check_values(dict.fromkeys(words, object) | known, options, f" of {name}")
