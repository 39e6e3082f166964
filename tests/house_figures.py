"""The house in figures: what a checkout's tree weighs, and how far one walks in it to train a generator.

    python tests/house_figures.py [CHECKOUT] [--json] [--trace]

Not a test but one measure of the tree before and after it is rebuilt: nothing here knows where a file is.
What is read off the source needs the standard library alone. `--trace` trains a tiny tokenizer and generator
on made-up shapes under a profiler, in the Python that the checkout needs, and writes to a temporary folder.
"""

import argparse
import ast
import contextlib
import importlib.util
import inspect
import io
import itertools
import json
import os
import re
import statistics
import sys
import tempfile
import textwrap
import tokenize
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import FrameType

Function = ast.FunctionDef | ast.AsyncFunctionDef
SETTINGS_BEFORE = ("settings.py", "setting_types.py", "config_files.py", "rules.py", "command_line.py")
LANGUAGE = ("settings/line.py", "settings/options.py")  # once part of the encodings
BRANCHES = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.IfExp)
LAYOUT = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


@dataclass
class Figure:
    """One row of the table; `more` are the names behind the number."""

    name: str
    value: float
    goal: str = ""
    more: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Source:
    """A Python file of the checkout."""

    path: str  # in the checkout, with slashes
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @property
    def module(self) -> str:
        return self.path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")

    @property
    def functions(self) -> list[Function]:
        return [node for node in ast.walk(self.tree) if isinstance(node, Function)]


# ---------------------------------------------------------------------------------------- lines and functions


def docstring_lines(node: ast.AST) -> set[int]:
    """The lines of all docstrings in `node`, counted from one."""
    found: set[int] = set()
    for owner in ast.walk(node):
        if isinstance(owner, Function | ast.ClassDef | ast.Module) and ast.get_docstring(owner) is not None:
            found |= set(range(owner.body[0].lineno, (owner.body[0].end_lineno or 0) + 1))
    return found


def span(function: Function) -> range:
    """The lines after the one with `def`: where a blank line can stand."""
    return range(function.lineno + 1, (function.end_lineno or 0) + 1)


def blank_lines(source: Source, function: Function) -> set[int]:
    return {line for line in span(function) if not source.lines[line - 1].strip()}


def breath(sources: Sequence[Source]) -> tuple[float, float]:
    """Blank lines per 100 lines of function bodies: every line counted, and with docstrings left out."""
    every = [(source, function) for source in sources for function in source.functions]
    shares = []
    for left_out in (lambda function: set(), docstring_lines):
        body = sum(len(set(span(function)) - left_out(function)) for _, function in every)
        blank = sum(len(blank_lines(source, function) - left_out(function)) for source, function in every)
        shares.append(100 * blank / max(1, body))
    return shares[0], shares[1]


def code_lines(source: Source) -> int:
    """Lines that hold more than a comment, a docstring or nothing."""
    held: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type != tokenize.COMMENT and token.type not in LAYOUT:
            held |= set(range(token.start[0], token.end[0] + 1))
    return len(held - docstring_lines(source.tree))


def own_line_comments(sources: Sequence[Source]) -> float:
    """In percent of the lines that hold code; docstrings are neither."""
    comments = sum(line.lstrip().startswith("#") for source in sources for line in source.lines)
    return 100 * comments / max(1, sum(map(code_lines, sources)))


def line_figures(sources: Sequence[Source]) -> Iterator[Figure]:
    inside = [source for source in sources if source.path.startswith("var_pe/")]
    texts = [source.text for source in inside]
    total = sum(len(source.lines) for source in inside)
    yield Figure("files of var_pe", len(inside))
    yield Figure("lines of var_pe", total)

    long = [f"{s.path} {len(s.lines)}" for s in sources if len(s.lines) > 250]
    yield Figure("files over 250 lines (scripts too)", len(long), "0", long)
    settings = [s for s in inside if s.path.startswith("var_pe/settings/")]
    settings += [s for s in inside if s.path.removeprefix("var_pe/") in SETTINGS_BEFORE]
    language = [s for s in settings if s.path.endswith(LANGUAGE)]
    parts = [f"{s.path} {len(s.lines)}, {code_lines(s)} of them code" for s in settings]
    yield Figure("lines of settings code", sum(len(s.lines) for s in settings), "300-320", parts)
    yield Figure("the same, code alone", sum(map(code_lines, settings)), "300-320")
    yield Figure("of which the one-line language", sum(map(code_lines, language)))

    without_import = [re.sub(r"^from typing import.*$", "", text, flags=re.M) for text in texts]
    yield Figure("Any", sum(len(re.findall(r"\bAny\b", text)) for text in without_import), "100")
    yield Figure("# type: ignore", sum(text.count("# type: ignore") for text in texts), "10")
    yield Figure('"""Raises:', sum(text.count('"""Raises:') for text in texts), "0")

    everything, apart = breath(inside)
    yield Figure("blank lines per 100 of function bodies", everything, ">= 4")
    yield Figure("the same, docstrings left out", apart)
    yield Figure("own-line comments, % of code lines", own_line_comments(inside))

    nodes = [node for source in inside for node in ast.walk(source.tree)]
    assigned = [node for node in nodes if isinstance(node, ast.Assign)]
    unpacked = [(a, t) for a in assigned for t in a.targets if isinstance(t, ast.Tuple)]
    counts = {
        "comprehensions and ternaries": sum(isinstance(node, BRANCHES) for node in nodes),
        "statements a, b = x, y": sum(isinstance(assign.value, ast.Tuple) for assign, _ in unpacked),
        "unpackings of more than three names": sum(len(target.elts) > 3 for _, target in unpacked),
    }
    for name, count in counts.items():
        yield Figure(f"{name}, per 1,000 lines", 1000 * count / total, more=[f"{count} in all"])

    every = [(source, function) for source in inside for function in source.functions]
    sizes = [1 + len(span(function)) for _, function in every]
    named = [f"{source.path}:{function.name} {1 + len(span(function))}" for source, function in every]
    yield Figure("function length, median", statistics.median(sizes))
    yield Figure("function length, 90th percentile", statistics.quantiles(sizes, n=10)[-1])
    yield Figure("function length, longest", max(sizes), more=[named[sizes.index(max(sizes))]])
    dense = [
        name
        for name, size, (source, function) in zip(named, sizes, every, strict=True)
        if size > 30 and not blank_lines(source, function) - docstring_lines(function)
    ]
    yield Figure("functions over 30 lines, no blank line", len(dense), more=dense)


# ------------------------------------------------------------------------------------------ imports and calls


def imports(source: Source) -> dict[str, str]:
    """What each local name of a file stands for, dotted in full."""
    found: dict[str, str] = {}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            found |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


Edges = dict[str, set[str]]  # who imports whom


def reached(edges: Edges, name: str) -> set[str]:
    """All that a name imports, directly or through others; with itself if it stands in a circle."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        new = edges[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def circles(edges: Edges) -> list[str]:
    """Names that import each other, each such group once."""
    below = {name: reached(edges, name) for name in edges}
    in_circles = [name for name in edges if name in below[name]]
    groups = {tuple(sorted(o for o in in_circles if o in below[n] and n in below[o])) for n in in_circles}
    return [" | ".join(group) for group in sorted(groups)]


def longest_chain(edges: Edges) -> list[str]:
    """From the top down; [] where a circle has no end."""
    try:
        bottom_up = list(TopologicalSorter(edges).static_order())
    except CycleError:
        return []
    chains: dict[str, list[str]] = {}
    for name in bottom_up:
        chains[name] = [name, *max((chains[other] for other in sorted(edges[name])), key=len, default=[])]
    return max(chains.values(), key=len)


def edges_between(sources: Sequence[Source], named: Callable[[str], str]) -> Edges:
    """Imports between the `named` parts of the package, each by the dotted name of its files."""
    modules = {source.module for source in sources if source.module != "var_pe"}
    edges: Edges = {named(module): set() for module in modules}
    for source in sources:
        if source.module in modules:
            targets = {longest_prefix(target, modules) for target in imports(source).values()}
            edges[named(source.module)] |= {named(t) for t in targets if t} - {named(source.module)}
    return edges


def prefixes(dotted: str) -> list[str]:
    """`a.b.c`, `a.b`, `a`."""
    return list(itertools.accumulate(dotted.split("."), "{}.{}".format))[::-1]


def longest_prefix(dotted: str, known: set[str]) -> str:
    return next((prefix for prefix in prefixes(dotted) if prefix in known), "")


class Calls:
    """Which function of ours may call which: every function called or handed on by name in its body.

    A lambda belongs to the function that it stands in, a class to its `__init__`. A method of an object that
    was made elsewhere is not followed: nothing in the text says which it is.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self.names = {source.module: imports(source) for source in sources}
        self.bodies: dict[str, Function] = {}
        self.classes: set[str] = set()
        for source in sources:
            self._collect(source.tree, source.module)

    def _collect(self, node: ast.AST, owner: str) -> None:
        for child in ast.iter_child_nodes(node):
            name = f"{owner}.{child.name}" if isinstance(child, Function | ast.ClassDef) else owner
            if isinstance(child, Function):
                self.bodies[name] = child
            elif isinstance(child, ast.ClassDef):
                self.classes.add(name)
            self._collect(child, name)

    def within(self, name: str) -> Iterator[ast.Call]:
        """The calls in a function's own body, not those in functions defined in it."""
        waiting: list[ast.AST] = list(self.bodies[name].body)
        while waiting:
            node = waiting.pop(0)
            if isinstance(node, ast.Call):
                yield node
            if not isinstance(node, Function | ast.ClassDef):
                waiting += ast.iter_child_nodes(node)

    def of(self, name: str) -> Iterator[str]:
        for call in self.within(name):
            for given in [call.func, *call.args, *(keyword.value for keyword in call.keywords)]:
                if isinstance(given, ast.Name | ast.Attribute) and (found := self._meant(given, name)):
                    yield found

    def _meant(self, node: ast.expr, here: str) -> str | None:
        text = ast.unparse(node)
        of_self = text.startswith("self.")
        for scope in prefixes(here):
            # The methods of a class are seen through `self` alone, all else is seen without it.
            if (scope in self.classes) == of_self:
                found = self._function(f"{scope}.{text.removeprefix('self.')}")
                if found:
                    return found

        head, _, rest = text.partition(".")
        imported = self.names[longest_prefix(here, set(self.names))].get(head, head)
        return self._imported(f"{imported}.{rest}".rstrip("."))

    def _function(self, name: str) -> str | None:
        return next((found for found in (name, f"{name}.__init__") if found in self.bodies), None)

    def _imported(self, name: str) -> str | None:
        """A function by its dotted name, also where a package only hands it on."""
        module = longest_prefix(name, set(self.names))
        head, _, rest = name.removeprefix(f"{module}.").partition(".")
        handed_on = self.names.get(module, {}).get(head)
        if (found := self._function(name)) or not handed_on or handed_on == name:
            return found
        return self._imported(f"{handed_on}.{rest}".rstrip("."))

    def makes(self, statement: str, name: str) -> bool:
        """Whether a function's own body calls `statement`, of whatever object: `player.optimizer.step()`."""
        return any(f".{ast.unparse(call.func)}".endswith(f".{statement}") for call in self.within(name))

    def path(self, start: str, arrived: Callable[[str], bool]) -> list[str]:
        """The shortest way from a function to one that has `arrived`, both included; [] if there is none."""
        ways, met = [[start]], {start}
        for way in ways:
            if arrived(way[-1]):
                return way
            new = [name for name in dict.fromkeys(self.of(way[-1])) if name not in met]
            met |= set(new)
            ways += [[*way, name] for name in new]
        return []


def call_figures(sources: Sequence[Source]) -> Iterator[Figure]:
    """Functions of ours that are entered below main; `loss` is one of them, torch's `step` is not."""
    calls = Calls(sources)
    first = calls.path("scripts.train.main", lambda name: name.endswith(".train_generator"))
    for statement, own in (("optimizer.step", 0), ("task.loss", 1)):
        rest = calls.path(first[-1], partial(calls.makes, statement)) if first else []
        names = [*first[:-1], *rest] if rest else []
        shown = " -> ".join([name.removeprefix("var_pe.") for name in names] + [statement])
        goal = "2, and loss itself" if own else "2"
        yield Figure(f"calls from main to {statement}", max(0, len(names) - 1 + own), goal, [shown])


def import_figures(checkout: Path, sources: Sequence[Source]) -> Iterator[Figure]:
    inside = [source for source in sources if source.path.startswith("var_pe/")]
    files = [path.name for path in (checkout / "var_pe").glob("*.py") if path.name != "__init__.py"]
    folders = [path.name + "/" for path in (checkout / "var_pe").glob("*/") if path.name != "__pycache__"]
    names = sorted([*files, *folders])
    yield Figure("names directly under var_pe", len(names), "19", [" ".join(names)])

    edges = edges_between(inside, lambda module: module.split(".")[1])
    chain = longest_chain(edges)
    yield Figure("longest chain of imports between them", len(chain), "about 8", [" > ".join(chain)])
    yield Figure("circles of imports between them", len(circles(edges)), "0", circles(edges))


# -------------------------------------------------------------------------------------------------- the walks

# The smallest training of a generator: one step each, on eight images of 32 x 32 that become 30 tokens.
ENCODING = "mixed(learned=0.7, sinusoidal=0.3)"
COMMAND = """--config shapes_mixed.yaml run=generator tokenizer_run=tokenizer
    data.shapes_train=8 data.shapes_test=4
    tokenizer.channels=16 tokenizer.norm_groups=8 tokenizer.codebook_size=16
    generator.dim=32 generator.depth=2 generator.num_heads=2 """
for _section in ("tokenizer_training", "generator_training"):
    COMMAND += f"{_section}.steps=1 {_section}.batch=4 {_section}.validation_images=4 "
    COMMAND += f"{_section}.trackers=[] {_section}.precision=float32 "

Place = tuple[str, str]  # file in var_pe, function


def leaves(value: object, depth: int = 0) -> Iterator[object]:
    """A value with all that it holds, if it is a collection or a section of settings."""
    yield value
    parts: Iterable[object] = ()
    if isinstance(value, dict):
        parts = value.values()
    elif isinstance(value, list | tuple):
        parts = value[:50]
    elif hasattr(type(value), "__dataclass_fields__") and hasattr(value, "__dict__"):
        parts = vars(value).values()
    if depth < 6:
        for part in list(parts):
            yield from leaves(part, depth + 1)


class Trail:
    """The functions that receive a certain value, in the order in which they first do."""

    def __init__(self, wanted: Callable[[object], bool]) -> None:
        self.wanted = wanted
        self.places: dict[Place, bool] = {}  # whether it came as an argument of its own

    def see(self, place: Place, arguments: Sequence[object]) -> None:
        if self.places.get(place):
            return
        if any(map(self.wanted, [place, *arguments])):
            self.places[place] = True
        elif place not in self.places and any(map(self.wanted, leaves(arguments))):
            self.places[place] = False


def follow(main: Callable[[], None], stage: str, package: Path, trails: Sequence[Trail]) -> None:
    """Runs scripts/train.py in the current folder; the trails see its calls up to the first optimizer step.

    What it says is shown only if it fails.
    """
    arrived = False

    def look(frame: FrameType, event: str, argument: object) -> None:
        nonlocal arrived
        code = frame.f_code
        # A comprehension is part of its function, and a file or class that is being defined is nobody's call.
        if event != "call" or (code.co_name.startswith("<") and code.co_name != "<lambda>"):
            return

        if code.co_filename.startswith(f"{package}{os.sep}"):
            place = Path(code.co_filename).relative_to(package).as_posix(), code.co_qualname
            stars = bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
            names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + stars]
            for trail in trails:
                trail.see(place, [frame.f_locals.get(name) for name in names])
        elif code.co_name == "step":
            owner = type(frame.f_locals.get("self"))
            arrived = any(base.__name__ == "Optimizer" for base in owner.__mro__)
            if arrived:
                sys.setprofile(None)

    said = io.StringIO()
    sys.argv = ["train.py", *COMMAND.split(), "--stage", stage]
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            sys.setprofile(look)
            main()
    except BaseException:
        print(said.getvalue(), file=sys.stderr)
        raise
    finally:
        sys.setprofile(None)
    assert arrived, f"--stage {stage} took no optimizer step"


def heights(checkout: Path) -> dict[str, int]:
    """The layer of each room, counted from the bottom, by the contract of pyproject.toml."""
    project = tomllib.loads((checkout / "pyproject.toml").read_text("utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract.get("containers") == ["var_pe"])
    return {room: h for h, layer in enumerate(reversed(layers)) for room in re.findall(r"\w+", layer)}


def walk_figures(
    checkout: Path, sources: Sequence[Source], walks: dict[str, dict[Place, bool]]
) -> Iterator[Figure]:
    """Of ways from function to function, each taken where it is first entered, as one reads.

    A `*` says that the function was given the value itself, not a section or a batch that holds it.
    """
    height, edges = heights(checkout), edges_between(sources, lambda module: module)
    modules = {source.path.removeprefix("var_pe/"): source.module for source in sources}
    for name, places in walks.items():
        files = [file for file, _ in itertools.groupby(file for file, _ in places)]
        steps = list(itertools.pairwise(modules[file] for file in files))
        layers = itertools.pairwise(height[modules[file].split(".")[1]] for file in files)

        way = []
        for file, visit in itertools.groupby(places.items(), key=lambda item: item[0][0]):
            functions = [f.replace(".<locals>", "") + "*" * direct for (_, f), direct in visit]
            way.append(f"{file}: {', '.join(functions)}")
        yield Figure(f"{name}: functions", len(places), more=way if name.startswith("given") else [])
        yield Figure(f"{name}: files", len(set(files)))

        yield Figure(f"{name}: climbs to a higher layer", sum(after > before for before, after in layers))
        importing = sum(before in reached(edges, after) for before, after in steps)
        yield Figure(f"{name}: climbs to a file that imports the last", importing)
        entries = Counter(files).most_common(5)
        yield Figure(f"{name}: most entries", entries[0][1], more=[", ".join(f"{f} {n}" for f, n in entries)])


def trace_figures(checkout: Path, sources: Sequence[Source]) -> Iterator[Figure]:
    os.environ.setdefault("ACCELERATE_USE_CPU", "true")
    sys.dont_write_bytecode = True  # the checkout stays as it is
    sys.path.insert(0, str(checkout))
    spec = importlib.util.spec_from_file_location("house_train", checkout / "scripts" / "train.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    import torch

    assert Path(sys.modules["var_pe"].__file__ or "").is_relative_to(checkout), "var_pe is another checkout's"

    def is_images(value: object) -> bool:
        return isinstance(value, torch.Tensor) and value.dim() == 4 and value.shape[1:] == (3, 32, 32)

    def is_tokens(value: object) -> bool:
        return isinstance(value, torch.Tensor) and value.shape[1:] == (30,) and value.dtype == torch.int64

    program = Trail(lambda value: True)  # whatever it carries
    encoding = Trail(lambda value: isinstance(value, str) and ENCODING in value)
    images, tokens = Trail(is_images), Trail(is_tokens)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        follow(script.main, "tokenizer", checkout / "var_pe", [images])
        follow(script.main, "all", checkout / "var_pe", [program, encoding, tokens])

    below = itertools.dropwhile(lambda item: item[0][1] != "train_generator", program.places.items())
    walks = {
        "main to first step": program.places,
        "train_generator to first step": dict(below),
        "given generator.encoding": encoding.places,
        "given an image batch": images.places,
        "given a token tensor": tokens.places,
    }
    yield from walk_figures(checkout, sources, walks)


def sources_of(checkout: Path) -> list[Source]:
    """The package and its scripts."""
    files = sorted([*checkout.glob("var_pe/**/*.py"), *checkout.glob("scripts/*.py")])
    return [Source(file.relative_to(checkout).as_posix(), file.read_text("utf-8")) for file in files]


def figures_of(checkout: Path, sources: Sequence[Source]) -> list[Figure]:
    """All that can be read off the source."""
    return [*import_figures(checkout, sources), *call_figures(sources), *line_figures(sources)]


def main() -> None:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument("checkout", nargs="?", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--json", action="store_true", help="for a program that compares two trees")
    parser.add_argument("--trace", action="store_true", help="train something tiny and follow it")
    arguments = parser.parse_args()

    checkout = arguments.checkout.resolve()
    sources = sources_of(checkout)
    figures = figures_of(checkout, sources)
    if arguments.trace:
        figures += trace_figures(checkout, sources)

    if arguments.json:
        rows = {figure.name: {"value": figure.value, "more": figure.more} for figure in figures}
        print(json.dumps(rows, indent=1))
        return
    for figure in figures:
        goal = f"   goal {figure.goal}" if figure.goal else ""
        print(f"{figure.name:<60} {round(figure.value, 1):>7g}{goal}")
        for line in figure.more:
            print(textwrap.fill(line, 108, initial_indent="    ", subsequent_indent="        "))


if __name__ == "__main__":
    main()
