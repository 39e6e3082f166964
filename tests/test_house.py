"""The house stays as it was drawn: who imports whom, how far one walks; and the pages say what is there."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house_figures import figures_of, sources_of

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# Figures of the house, by the names that `tests/house_figures.py` gives them, and the most that they may be.
LIMITS = {
    "names directly under var_pe": 19,
    "longest chain of imports between them": 8,
    "circles of imports between them": 0,
    "calls from main to optimizer.step": 2,
    "lines of settings code": 697,
    "the same, code alone": 423,  # 59 of them the one-line language
    "Any": 100,
    "# type: ignore": 10,
    '"""Raises:': 0,
}

# Files that a page may name without their being here: a person or a run makes them.
MADE_LATER = {"config.yaml", "my.yaml"}

# Rooms whose files docs/architecture.md tells one by one
TOLD = ["stages", "tasks", "training", "models", "data", "comparison", "settings", "sampling", "evaluation"]

# Notes that lie outside the repository
OUTSIDE = re.compile(r"\bDESIGN\b|\bSTYLE\.md|(?<!docs/)\bvar\.md\b|positions\.md|training_and_metrics")


@pytest.fixture(scope="module")
def figures():
    return {figure.name: figure for figure in figures_of(ROOT, sources_of(ROOT))}


def test_a_file_imports_what_is_below_it():
    """The layers of pyproject.toml: without them any file could come to need any other."""
    command = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", LIMITS)
def test_the_house_keeps_its_figures(figures, name):
    """A newcomer pays for each of them."""
    figure = figures[name]
    assert figure.value <= LIMITS[name], "\n".join(figure.more)


def test_the_way_from_the_script_to_the_step_is_found(figures):
    """A way that is not found would count as a short one."""
    assert figures["calls from main to optimizer.step"].value > 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_is_there(page):
    """A path that leads nowhere costs a newcomer the trust in all others."""
    named = re.findall(
        r"(?<![\w/.*$-])((?:[\w.-]+/)*[\w.-]+\.(?:py|md|yaml|toml|css|j2))\b", page.read_text()
    )
    wanted = {name for name in named if name not in MADE_LATER}
    missing = [name for name in sorted(wanted) if not is_there(name, page)]
    assert not missing


def is_there(name, page):
    """Whether a page can mean a file: seen from the root or itself, from configs, scripts or any room."""
    folders = (ROOT, page.parent, ROOT / "configs", ROOT / "configs" / "studies", ROOT / "scripts")
    return any((folder / name).exists() for folder in folders) or any(ROOT.glob(f"var_pe/**/{name}"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_room_that_a_page_names_is_there(page):
    """`interop/var/` and its like; the folders of a run are not rooms."""
    rooms = {path.name for path in (*ROOT.iterdir(), *(ROOT / "var_pe").iterdir()) if path.is_dir()}
    named = {name for name in re.findall(r"`((?:\w+/)+)`", page.read_text()) if name.split("/")[0] in rooms}
    missing = [
        name for name in sorted(named) if not ((ROOT / name).is_dir() or (ROOT / "var_pe" / name).is_dir())
    ]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_function_that_a_page_names_is_there(page):
    """`pyramid.py: Pyramid.spans` is a function or class of that file."""
    missing = []
    for file, name in re.findall(r"`([\w/]+\.py): ([\w.]+)`", page.read_text()):
        paths = [path for path in (ROOT / file, ROOT / "var_pe" / file) if path.exists()]
        if not any(name in defined_in(path) for path in paths):
            missing.append(f"{file}: {name}")
    assert not missing


@pytest.mark.parametrize("room", TOLD)
def test_the_rooms_that_one_enters_first_are_told_file_by_file(room):
    """A file that the page leaves out has to be guessed at, and one of another room misleads."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    section = text.partition(f"**{room}/**")[2].partition("\n**")[0].partition("\n## ")[0]
    files = [path.name for path in (ROOT / "var_pe" / room).rglob("*.py")]
    own = [path.name for path in (ROOT / "var_pe" / room).glob("*.py") if path.name != "__init__.py"]
    assert not [name for name in own if f"`{name}`" not in section]
    assert not [name for name in re.findall(r"`(\w+\.py)`", section) if name not in files]


def defined_in(path):
    """The functions and classes of a file, those of a class with its name before them."""
    names = set()
    waiting = [("", ast.parse(path.read_text()))]
    while waiting:
        prefix, node = waiting.pop()
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                names.add(prefix + child.name)
                waiting.append((f"{prefix}{child.name}.", child))
    return names


@pytest.mark.parametrize("folder", ["scripts", "benchmarks"])
def test_no_script_has_the_name_of_a_module_of_python(folder):
    """Their folder is the first that Python looks in, also in the processes that torch starts.

    Beside a file encodings.py none of them starts: torch's compiler then took the processor to have no
    vectors, without a word, and compiled steps took twice as long as plain ones.
    """
    names = {path.stem for path in (ROOT / folder).glob("*.py")}
    assert names
    assert not names & sys.stdlib_module_names


def test_nothing_points_outside_the_repository():
    """What a reader needs stands in docs/, and a note that only its writer has is a riddle."""
    folders = ("var_pe", "scripts", "tests", "benchmarks", "configs", "docs")
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.*"))]
    texts = [
        path for path in (*files, ROOT / "README.md") if path.suffix in (".py", ".md", ".yaml", ".j2", ".css")
    ]
    found = []
    for path in texts:
        if path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            if OUTSIDE.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not found, "\n".join(found)
