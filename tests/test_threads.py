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


def test_threads_wait_politely():
    """By what GNU's OpenMP prints of its settings when torch is imported after the package."""
    environment = {name: value for name, value in os.environ.items() if name not in CHOICES}
    environment |= {"OMP_DISPLAY_ENV": "VERBOSE"}
    code = "import sys, var_pe; assert 'torch' not in sys.modules; import torch; torch.ones(1)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("this torch does not compute with GNU's OpenMP")
    (count,) = (line for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line)
    assert "'10000'" in count


@pytest.mark.parametrize("chosen", [{"GOMP_SPINCOUNT": "77"}, {"OMP_WAIT_POLICY": "passive"}], ids=str)
def test_a_wait_that_the_user_chose_stays(chosen):
    """As a count or as a policy, which a count would overrule."""
    environment = {name: value for name, value in os.environ.items() if name not in CHOICES} | chosen
    code = f"import os, var_pe; print({{name: os.environ.get(name) for name in {sorted(CHOICES)}}})"
    line = [sys.executable, "-c", code]
    said = subprocess.run(line, env=environment, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert ast.literal_eval(said) == dict.fromkeys(CHOICES) | chosen


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
