"""Processes share work without overlap or gap, and an error on the main one reaches all."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from var_pe.processes import Processes

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("length", [0, 1, 6, 7, 100])
def test_shares_are_whole_in_order_and_even(world, length):
    """An image that two processes encode, or none, would be counted so in every score."""
    shares = [Processes(rank, world).share(length) for rank in range(world)]
    assert [number for share in shares for number in share] == list(range(length))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(("world", "length", "size"), [(1, 7, 3), (2, 7, 3), (3, 4, 1), (2, 0, 5)])
def test_batches_of_all_processes_are_each_number_once(world, length, size):
    batches = [list(Processes(rank, world).batches(length, size)) for rank in range(world)]
    assert all(len(batch) <= size for mine in batches for batch in mine)
    assert sorted(number for mine in batches for batch in mine for number in batch) == list(range(length))

    # Turn by turn, so that a process that is first done has not much less to do.
    assert max(map(len, batches)) - min(map(len, batches)) <= 1


def test_a_single_process_needs_no_launcher():
    alone = Processes()
    assert alone.is_main
    assert alone.device.type == "cpu"
    assert alone.gather([1, 2]) == [1, 2]
    assert torch.equal(alone.sum(torch.ones(2)), torch.ones(2))
    alone.wait()


def test_what_fails_on_the_main_process_fails_as_it_is(capsys):
    def fails() -> None:
        raise FileNotFoundError("no such folder")

    done = []
    for processes in (Processes(), Processes.of(Accelerator())):
        processes.on_main(lambda: done.append(1))
        with pytest.raises(FileNotFoundError, match="no such folder"):
            processes.on_main(fails)
    assert len(done) == 2


def test_only_the_main_process_acts_and_speaks(capsys):
    other = Processes(rank=1, world=2)
    other.on_main(lambda: pytest.fail("it is not the main process"))
    other.say("one")
    Processes(rank=0, world=2).say("two")
    assert capsys.readouterr().out == "two\n"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell the two apart")
def test_peak_memory_is_not_that_of_the_program_that_started_this_one():
    """A small training under a large launcher had the peak of the launcher."""
    code = """
import subprocess, sys
block = b"x" * 3 * 2**29
child = "from var_pe.processes import *; print(peak_memory(torch.device('cpu')))"
print(subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True).stdout)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 3 * 2**29
