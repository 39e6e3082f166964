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


@pytest.mark.skipif(available_cores() < 2, reason="one core has one thread anyway")
def test_one_thread_that_nobody_asked_for_is_said(tmp_path):
    """A training would take as many times longer as there are cores, and nobody would know why."""
    (tmp_path / "begin.py").write_text(CODE)
    left_out = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    # Accelerate's launcher finds no config file of the user's.
    environment |= {"HF_HOME": str(tmp_path), "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes=1", "begin.py"]
    done = subprocess.run(line, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert f"computing with 1 of {available_cores()} threads" in done.stderr


@pytest.mark.skipif(available_cores() < 2, reason="one core has one thread anyway")
def test_one_thread_that_was_asked_for_is_not(monkeypatch):
    """By an option of the launcher or by a variable that it was given."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    for file, word, said in (
        ("cmdline", "--num_cpu_threads_per_process=1", False),
        ("environ", "OMP_NUM_THREADS=1", False),
        ("cmdline", "--num_processes=1", True),
    ):
        given = {"cmdline": ["accelerate", "launch"], "environ": ["HOME=/"]}
        given[file] = [*given[file], word]
        monkeypatch.setattr(launcher, "words_of", lambda process, which, given=given: given[which])
        assert (unused_threads() is not None) == said


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
