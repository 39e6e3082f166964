"""The one-line language of members: `learned`, `mixed(learned=0.7, sinusoidal=0.3)`, `fsq(levels=[8, 8, 5])`.

Encodings and quantizers are chosen by such lines. Parsed with `ast` and never evaluated. One string rather
than a mapping: an override replaces it whole, and it is the row's label in a report.
"""

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

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


def parse(line: str, kind: str = "encoding") -> tuple[Member, ...]:
    """The members that `+` joins, in order; `kind` is what the sentences call them.

    Raises:
        ValueError: the line is not of that form; the sentence quotes the part that is not.
    """
    try:
        return tuple(_member(node, line, kind) for node in _summands(_tree(line, kind)))
    except (RecursionError, MemoryError):
        raise ValueError(f"{kind} {line[:40]!r}... is nested too deeply") from None


def _tree(line: str, kind: str = "encoding") -> ast.expr:
    try:
        return ast.parse(line.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        raise ValueError(f"{kind} {line!r} is not of the form name(option=value) + name") from None


def _summands(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _summands(node.left) + _summands(node.right)
    return [node]


def _member(node: ast.expr, line: str, kind: str) -> Member:
    if isinstance(node, ast.Name):
        return Member(node.id)

    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and all(k.arg for k in node.keywords):
        names = [str(keyword.arg) for keyword in node.keywords]
        repeated = {name for name in names if names.count(name) > 1}
        if repeated:
            raise ValueError(f"{kind} {line!r} gives {', '.join(repeated)} twice")

        parts = tuple(_member(part, line, kind) for part in node.args)
        values = [_value(keyword.value, line, kind) for keyword in node.keywords]
        return Member(node.func.id, parts, dict(zip(names, values, strict=True)))

    raise ValueError(f"{kind} {line!r}: {ast.unparse(node)!r} is not name or name(option=value)")


def _value(node: ast.expr, line: str, kind: str) -> Value:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str | None):
        if isinstance(node.value, int | float) and not abs(node.value) <= LARGEST:
            raise ValueError(f"{kind} {line!r}: numbers are at most {LARGEST:.0e}, got {ast.unparse(node)}")
        return node.value

    if isinstance(node, ast.Name):
        return {"true": True, "false": False, "none": None}.get(node.id, node.id)

    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _value(node.operand, line, kind)
        if isinstance(number, int | float) and not isinstance(number, bool):
            return -number

    if isinstance(node, ast.Tuple | ast.List):
        return tuple(_value(entry, line, kind) for entry in node.elts)

    raise ValueError(
        f"{kind} {line!r}: {ast.unparse(node)!r} is not a number, true, false, a word or a tuple of them"
    )


def with_options(line: str, missing: Callable[[str], Mapping[str, Value]]) -> str:
    """The line with the options of `missing(name)` written out for every member that does not give them.

    The parts of a member in brackets are left as they are, and so is a line with nothing to write out.

    Raises:
        ValueError: the line does not parse.
    """
    members = parse(line)
    written = []
    unchanged = True
    for node, member in zip(_summands(_tree(line)), members, strict=True):
        options = missing(member.name)
        keywords = [ast.keyword(o, _written(v)) for o, v in options.items() if o not in member.options]
        if keywords:
            unchanged = False
            call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
            node = ast.Call(call.func, call.args, [*call.keywords, *keywords])
        written.append(ast.unparse(node))

    return line if unchanged else " + ".join(written)


def _written(value: Value) -> ast.expr:
    """A value as people write it: 1 for 1.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return _tree(repr(value))


def canonical(line: str) -> str:
    """The line with the spaces and quotes that Python's own printer gives it: one spelling, one run."""
    parse(line)
    return ast.unparse(ast.parse(line.strip(), mode="eval"))
