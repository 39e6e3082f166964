"""What a launcher decided without being asked is said."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from var_pe.stages import launcher
from var_pe.stages.launcher import available_cores, unused_threads

ROOT = Path(__file__).parents[2]
CODE = """
import var_pe
import torch
from var_pe.stages.session import session
with session():
    print(torch.get_num_threads())
"""


def launched(tmp_path, *options, **variables):
    """Standard error of a process under Accelerate's launcher, which finds no config file of the user's."""
    (tmp_path / "begin.py").write_text(CODE)
    left_out = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment |= {
        "HF_HOME": str(tmp_path),
        "ACCELERATE_USE_CPU": "true",
        "PYTHONPATH": str(ROOT),
        **variables,
    }
    line = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes=1", *options, "begin.py"]
    done = subprocess.run(line, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    return done.stderr


@pytest.mark.skipif(available_cores() < 2, reason="one core has one thread anyway")
@pytest.mark.parametrize(("options", "said"), [((), True), (("--num_cpu_threads_per_process=1",), False)])
def test_one_thread_that_nobody_asked_for_is_said(tmp_path, options, said):
    """A training would take as many times longer as there are cores, and nobody would know why."""
    sentence = f"computing with 1 of {available_cores()} threads"
    assert (sentence in launched(tmp_path, *options)) == said


def test_threads_are_shared_by_the_processes_of_a_machine(monkeypatch):
    """Two processes on two cores have one each, and nothing is unused."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(available_cores()))
    assert unused_threads() is None


def test_a_process_without_a_launcher_says_nothing(monkeypatch):
    """Its one thread was asked for."""
    for name in launcher.SET_BY_LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    assert unused_threads() is None
