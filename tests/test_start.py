"""What importing the package does to the program that imports it: next to nothing."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import var_pe

SLOW = "import var_pe\nprint('importing', flush=True)\nimport time\ntime.sleep(60)\n"


@pytest.mark.parametrize(
    ("script", "code", "said"), [("scripts/slow.py", 130, "stopped\n"), ("other.py", -signal.SIGINT, None)]
)
def test_ctrl_c_during_the_imports_of_a_script_is_one_line(tmp_path, script, code, said):
    """They take seconds, in which people notice that they mistyped. Other programs are left alone."""
    for file, text in (("var_pe/__init__.py", Path(var_pe.__file__).read_text()), (script, SLOW)):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)

    line, here = [sys.executable, tmp_path / script], {"PYTHONPATH": str(tmp_path)}
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=here
    ) as started:
        assert started.stdout.readline() == "importing\n"
        started.send_signal(signal.SIGINT)
        errors = started.communicate()[1]
    assert started.returncode == code
    assert errors == said if said else "KeyboardInterrupt" in errors
