"""The commands of README and docs exist: their scripts, config files and settings."""

import re
import shlex
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from var_pe import settings
from var_pe.stages.config import Config

ROOT = Path(__file__).parents[1]
PAGES = {path: path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
SHELL = "\n".join(re.findall(r"```bash\n(.*?)```", "\n".join(PAGES.values()), re.DOTALL)).replace("\\\n", " ")
COMMANDS = [line for line in SHELL.splitlines() if "scripts/" in line or "benchmarks/" in line]
CONFIGS = sorted(path.name for path in (ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_names_what_is_there(command):
    """The first thing that a person tries must not be a typing error of ours."""
    words = shlex.split(command, comments=True)
    script = next(word for word in words if word.startswith(("scripts/", "benchmarks/")))
    assert (ROOT / script).exists()
    for flag, name in pairwise(words):
        if flag == "--config_file":
            assert (ROOT / name).exists()
        if flag == "--config":
            settings.load(Config, name)


def written_by(command: str) -> list[str]:
    """The folders and files that a command is told to write."""
    given = pairwise(shlex.split(command, comments=True))
    flags = {"--output", "--save-pipeline"}
    if "benchmarks/" not in command:  # where levels are numbers
        flags.add("--levels")
    return [name for flag, name in given if flag in flags]


def test_what_the_pages_write_is_ignored_by_git():
    """Who tries the commands of a page should not find them among the changes."""
    names = sorted({name for command in COMMANDS for name in written_by(command) if "$" not in name})
    done = subprocess.run(["git", "check-ignore", *names], cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 128:
        pytest.skip("not a checkout of git")
    assert done.stdout.split() == names


def test_no_two_pages_draw_into_one_folder():
    """The second one would be refused: a folder holds what was drawn with one set of settings."""
    drawing = [command for command in COMMANDS if "scripts/sample.py" in command and "--size" in command]
    names = [name for command in drawing for name in written_by(command)]
    assert len(names) >= 3
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_loads(name):
    """A config that does not load is found here and not by its first user."""
    config = settings.load(Config, name)
    assert config.run.startswith("runs/")


@pytest.mark.parametrize("data", ["shapes", "fashion", "clipart", "cifar", "cifar_small", "imagenet256"])
@pytest.mark.parametrize("encoding", ["learned", "sinusoidal", "mixed"])
def test_the_three_encodings_of_a_data_set_differ_in_nothing_else(data, encoding):
    """Otherwise comparing their runs compares something else as well."""
    config = settings.load(Config, f"{data}_{encoding}.yaml")
    assert config.generator.encoding.startswith(encoding)
    learned = settings.load(Config, f"{data}_learned.yaml")
    same = settings.load(
        Config,
        f"{data}_learned.yaml",
        [f"run={config.run}", f"generator.encoding={config.generator.encoding}"],
    )
    assert same == config
    assert learned.tokenizer_run == config.tokenizer_run


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_pictures_of_a_page_are_there_and_small(page):
    """A clone should not carry megabytes for a first screen."""
    for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", PAGES[page]):
        assert 0 < (page.parent / name).stat().st_size < 500_000
