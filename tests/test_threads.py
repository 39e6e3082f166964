"""Threads that wait let go of their cores, in every script and test run, unless the user says otherwise."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = [
    path
    for path in sorted([*(ROOT / "scripts").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")])
    if "__main__" in path.read_text()
]
CHOICES = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}


def loaded_by_torch(**chosen):
    """What GNU's OpenMP prints of its settings when torch is imported after the package."""
    environment = {name: value for name, value in os.environ.items() if name not in CHOICES}
    environment |= {"OMP_DISPLAY_ENV": "VERBOSE", **chosen}
    code = "import sys, var_pe; assert 'torch' not in sys.modules; import torch; torch.ones(1)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("this torch does not compute with GNU's OpenMP")
    return next(line for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line)


def test_threads_wait_politely():
    assert "'10000'" in loaded_by_torch()


def test_a_wait_that_the_user_chose_stays():
    assert "'77'" in loaded_by_torch(GOMP_SPINCOUNT="77")


def test_a_policy_that_the_user_chose_stays():
    """A count would overrule it: passive threads look 0 times."""
    assert "'0'" in loaded_by_torch(OMP_WAIT_POLICY="passive")


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.name)
def test_every_command_imports_the_package_before_torch(path):
    """The library reads the variable once, when torch loads it."""
    names = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            names.append(node.module)

    beside = {command.stem for command in COMMANDS}
    foreign = [name.split(".")[0] for name in names if name.split(".")[0] not in sys.stdlib_module_names]
    assert foreign[0] in {"var_pe", "benchmarks", *beside}


def test_a_test_run_waits_politely_too():
    assert CHOICES & os.environ.keys()
