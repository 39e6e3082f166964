"""What importing the package does to the program that imports it: next to nothing."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import var_pe

SLOW = "import var_pe\nprint('importing', flush=True)\nimport time\ntime.sleep(60)\n"


NAMES = """
import os, sys
import var_pe
with open("found.txt", "w") as file:
    file.write(f"{file.fileno() > 2} {sys.argv[1]} {' '.join(sorted(os.listdir('names')))}")
print("to stdout \u00fc")
print("to stderr", file=sys.stderr, flush=True)
"""


def write_with_package(folder, script, text):
    """A script beside a package that has nothing but what an import of it does."""
    for file, content in (("var_pe/__init__.py", Path(var_pe.__file__).read_text()), (script, text)):
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(content, encoding="utf-8")


@pytest.mark.parametrize(
    ("surroundings", "closed", "said"),
    [
        ({}, "", "to stdout \u00fc\n"),
        ({}, "<&- >&- 2>&-", ""),
        ({"PYTHONIOENCODING": "ascii"}, "", "to stdout \\xfc\n"),
        ({"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "", "to stdout \u00fc\n"),
    ],
    ids=["as usual", "no standard streams", "ASCII output", "ASCII locale"],
)
def test_names_and_texts_are_utf_8_whatever_is_around_a_script(tmp_path, surroundings, closed, said):
    """Classes are named by folders, and what is printed must not stop a training, nor go into its files."""
    write_with_package(tmp_path, "scripts/names.py", NAMES)
    (tmp_path / "names").mkdir()
    (tmp_path / "names" / "\u043a\u043e\u0442").touch()

    line = f"{sys.executable} scripts/names.py \u2603 {closed}"
    here = {"PYTHONPATH": str(tmp_path)} | surroundings
    done = subprocess.run(line, shell=True, cwd=tmp_path, env=here, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode() == said
    assert (tmp_path / "found.txt").read_text(encoding="utf-8") == "True \u2603 \u043a\u043e\u0442"


@pytest.mark.parametrize(
    ("script", "code", "said"), [("scripts/slow.py", 130, "stopped\n"), ("other.py", -signal.SIGINT, None)]
)
def test_ctrl_c_during_the_imports_of_a_script_is_one_line(tmp_path, script, code, said):
    """They take seconds, in which people notice that they mistyped. Other programs are left alone."""
    write_with_package(tmp_path, script, SLOW)
    line, here = [sys.executable, tmp_path / script], {"PYTHONPATH": str(tmp_path)}
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=here
    ) as started:
        assert started.stdout.readline() == "importing\n"
        started.send_signal(signal.SIGINT)
        errors = started.communicate()[1]
    assert started.returncode == code
    assert errors == said if said else "KeyboardInterrupt" in errors
