"""Several processes agree without waiting for each other, on what ends a training and at which step."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Both processes do the same, and write down what came of it.
TRAININGS = """
import json, os, signal, sys
from dataclasses import replace
from pathlib import Path
import torch
from accelerate import Accelerator
from tests.training.test_loop import Toy
from var_pe.processes import exchange
from var_pe.training.config import TrainingConfig
from var_pe.training.history import Asked, History
from var_pe.training.loop import train
from var_pe.training.run import Run
from var_pe.training.stopping import Interrupted

accelerator = Accelerator(cpu=True)
rank, folder = accelerator.process_index, Path(sys.argv[1])
rarely = TrainingConfig(
    batch=4, log_every=100, save_every=100, validate_every=0, preview_every=0, trackers=[]
)


def go(name, act, config=rarely):
    run = Run(folder / name, accelerator)
    try:
        train(Toy(act), config, run, History((Asked(0, 12),)), seed=0)
        return "finished"
    except FloatingPointError as error:
        return str(error).partition(";")[0]
    except Interrupted as stopped:
        return stopped.sentence.partition(";")[0]
    finally:
        run.release()


with exchange(accelerator) as between:
    said = [between.largest(number + rank) for number in (10, 30, 20, 40)]
def broken_here(step):
    return float("inf") if step == 3 and rank == 1 else 1.0


def stopped_here(step):
    if step == 3 and rank == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return 1.0


found = {
    "exchanged": said,
    "broken": go("broken", broken_here),
    "stopped": go("stopped", stopped_here),
    "stopped where all wait": go("logged", stopped_here, replace(rarely, save_every=4)),
}
(folder / f"{rank}.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A folder with the runs of two processes, and what each of them wrote down."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]

    started = []
    for rank in range(2):
        own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "OMP_NUM_THREADS": 1, "PYTHONPATH": ROOT}
        own |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
        environment = os.environ | {name: str(value) for name, value in own.items()}
        line = [sys.executable, "-c", TRAININGS, folder]
        started.append(subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, text=True))
    for process in started:
        errors = process.communicate(timeout=300)[1]
        assert process.returncode == 0, errors[-3000:]
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_an_exchange_tells_everybody_the_largest_number_of_the_call_before(ended):
    """Nobody waits for the others' present numbers, and all come to the same decision."""
    assert [found["exchanged"] for found in ended[1]] == [[0, 11, 31, 21]] * 2


def test_a_number_of_one_process_that_is_not_finite_ends_all_at_the_same_step(ended):
    """The others would go on alone, and wait for ever for the one that has ended."""
    folder, found = ended
    for one in found:
        assert one["broken"].startswith("step 4: loss is inf, grad_norm is ")
    assert not list((folder / "broken" / "checkpoints").iterdir())


def test_a_signal_to_one_process_stops_all_after_the_same_step(ended):
    """One step later than it came, as the answers are read a step later; at once where all wait anyway."""
    folder, found = ended
    for name, run, step in (("stopped", "stopped", 5), ("stopped where all wait", "logged", 4)):
        assert [one[name] for one in found] == [f"stopped and saved after step {step} of 12"] * 2
        assert [path.name for path in (folder / run / "checkpoints").iterdir()] == [f"step_{step:08d}"]
