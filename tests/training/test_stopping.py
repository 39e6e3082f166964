"""A signal is never lost, whenever it comes, and what it broke off is made up for when the run goes on."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from tests.training.test_loop import CONFIG, STEPS, Toy, equal, go
from var_pe.processes import say
from var_pe.training.config import TrainingConfig
from var_pe.training.stopping import Interrupted, held_out_batches, stop_signals

ROOT = Path(__file__).parents[2]
SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


class TwoProcesses:
    """An accelerator whose exchange takes as long as a signal needs to arrive."""

    num_processes, device = 2, "cpu"
    sent = False

    def gather(self, tensor):
        if not self.sent:
            self.sent = True
            os.kill(os.getpid(), signal.SIGTERM)
        return torch.cat([tensor, tensor])


def test_a_signal_that_comes_while_processes_compare_notes_counts_at_the_next_step():
    """It would be forgotten, and the machine taken away with nothing saved."""
    accelerator = TwoProcesses()
    with stop_signals() as stop:
        assert [stop.agreed(accelerator) for _ in range(3)] == [False, True, True]
        assert stop.agreed_on == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


class Late:
    """An exchange that gives back what it was handed one call before."""

    last = 0

    def largest(self, number):
        before, self.last = self.last, number
        return before


def test_without_waiting_a_signal_counts_from_the_next_step_on():
    """All processes read the same answers, so they stop after the same step."""
    accelerator = SimpleNamespace(num_processes=2)
    with stop_signals(Late()) as stop:
        assert not stop.agreed_by_now(accelerator)
        os.kill(os.getpid(), signal.SIGTERM)
        assert [stop.agreed_by_now(accelerator) for _ in range(3)] == [False, True, True]
        assert stop.agreed_on == signal.SIGTERM


def test_what_processes_have_agreed_on_while_they_waited_counts_at_once():
    """A validation that was broken off is made up for after the step that it belongs to, and no other."""
    accelerator = TwoProcesses()
    with stop_signals(Late()) as stop:
        assert [stop.agreed(accelerator) for _ in range(2)] == [False, True]
        assert stop.agreed_by_now(accelerator)


def kill_at(step, *numbers):
    def act(here):
        if here == step:
            for number in numbers:
                os.kill(os.getpid(), number)
        return 1.0

    return act


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_in_the_last_step_is_not_swallowed(tmp_path, number, request):
    """The script would go on to its next stage, and be killed there."""
    # Tests under `nohup` inherit a SIGHUP that is ignored, and a training leaves it so.
    request.addfinalizer(partial(signal.signal, number, signal.signal(number, signal.default_int_handler)))
    config = replace(CONFIG, save_every=100)
    with pytest.raises(Interrupted, match=str(128 + number)) as stopped:
        go(tmp_path / "stopped", Toy(kill_at(STEPS - 1, number)), config)
    assert "after step 6 of 6" in stopped.value.sentence
    assert equal(go(tmp_path / "stopped", config=config), go(tmp_path / "whole", config=config))
    assert validated(tmp_path / "stopped") == validated(tmp_path / "whole") == [STEPS]


def test_a_compiled_training_saves_the_step_that_a_signal_comes_in(tmp_path):
    """In its first step alone it is ended at once: compiling takes long, and nothing is lost."""
    config = replace(CONFIG, save_every=100)
    with torch.compiler.set_stance("force_eager"), pytest.raises(Interrupted) as stopped:
        go(tmp_path, Toy(kill_at(2, signal.SIGTERM)), config, compiled="whole")
    assert "after step 3 of 6" in stopped.value.sentence


def test_the_same_ctrl_c_may_come_twice(tmp_path):
    """From the terminal and from the launcher; only a later one means impatience."""
    with pytest.raises(Interrupted, match="130"):
        go(tmp_path, Toy(kill_at(2, signal.SIGINT, signal.SIGINT)))


def test_signals_to_data_workers_are_the_trainings_business(tmp_path):
    """A signal to the whole process group reaches them, too; without them no step can be finished."""

    def kill_workers(step):
        if step == 2:
            for worker in multiprocessing.active_children():
                for name in ("-INT", "-TERM"):
                    subprocess.run(["kill", name, str(worker.pid)], check=True)
        return 1.0

    config = replace(CONFIG, workers=2)
    assert equal(go(tmp_path / "hit", Toy(kill_workers), config), go(tmp_path / "whole"))


class Looking(Toy):
    """A task whose validation and preview may be hit by a signal."""

    def __init__(self, in_validation=False, in_preview=False):
        super().__init__()
        self.in_validation, self.in_preview = in_validation, in_preview

    def validate(self, model, accelerator):
        for chosen in held_out_batches(6, 2, accelerator):
            if self.in_validation and chosen.start == 2:
                os.kill(os.getpid(), signal.SIGTERM)
        return {"validation/loss": 0.5}

    def preview(self, model):
        if self.in_preview:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().preview(model)


def validated(folder):
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [entry["step"] for entry in entries if "validation/loss" in entry]


@pytest.mark.parametrize("hit", ["in_validation", "in_preview"])
def test_what_a_signal_breaks_off_is_made_up_for(tmp_path, hit):
    """A long validation must not use up the half minute that a machine gives, nor be missing afterwards."""
    config = TrainingConfig(
        batch=4, log_every=1, save_every=100, validate_every=2, preview_every=2, trackers=[]
    )
    with pytest.raises(Interrupted) as stopped:
        go(tmp_path / "stopped", Looking(**{hit: True}), config)
    assert "after step 2 of 6" in stopped.value.sentence
    assert not list((tmp_path / "stopped" / "samples").glob("*"))

    assert equal(go(tmp_path / "stopped", Looking(), config), go(tmp_path / "whole", Looking(), config))
    assert validated(tmp_path / "stopped") == validated(tmp_path / "whole") == [2, 4, 6]
    assert len(list((tmp_path / "stopped" / "samples").glob("*.png"))) == 3


def test_a_stopped_run_stops_again_while_it_makes_up_for_something(tmp_path):
    """Nothing is new there, so nothing is saved, and nothing is lost."""
    config = TrainingConfig(batch=4, log_every=1, save_every=100, validate_every=2, trackers=[])
    for _ in range(2):
        with pytest.raises(Interrupted) as stopped:
            go(tmp_path, Looking(in_validation=True), config)
        assert "after step 2 of 6" in stopped.value.sentence


def test_a_training_outlives_whoever_read_its_output():
    """`train.py | tee log`: Ctrl-C ends tee at once, and printing the step would fail before it is saved."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as file:
        os.close(reader)
        say("nobody reads this", file)
        say("nor this", file)


def test_an_exchange_that_fails_after_a_signal_is_a_stop():
    """Another process may have ended by the same signal already; a traceback would hide what happened."""

    def exchange():
        with stop_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            raise RuntimeError("connection closed by peer")

    with pytest.raises(Interrupted, match="143") as stopped:
        exchange()
    assert "connection closed" in stopped.value.sentence


WORKERS = """
import multiprocessing, os, time
from torch.utils.data import DataLoader
from var_pe.training.stopping import follow_training

def late(training):
    while os.getppid() == training:
        time.sleep(0.01)
    follow_training(0)
    time.sleep(60)

multiprocessing.set_start_method("fork")
batches = iter(DataLoader(range(10**6), num_workers=1, worker_init_fn=follow_training))
next(batches)
multiprocessing.Process(target=late, args=(os.getpid(),)).start()
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
time.sleep(60)
"""

LAUNCHER = """
import os, subprocess, sys, time
own = {**os.environ, "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False"}
for environment in (own, os.environ):
    child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], env=environment, stdout=subprocess.PIPE)
    child.stdout.readline()
    print(child.pid, flush=True)
time.sleep(60)
"""

LAUNCHED = """
import time
from var_pe.stages.launcher import follow_launcher
follow_launcher()
print("ready", flush=True)
time.sleep(60)
"""


def is_alive(process):
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until_gone(process):
    end = time.monotonic() + 20
    while is_alive(process) and time.monotonic() < end:
        time.sleep(0.05)
    return not is_alive(process)


def test_data_workers_end_with_a_training_that_is_killed():
    """They would go on reading for a training that is gone, even if it ended while they began."""
    line = [sys.executable, "-c", WORKERS]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, cwd=ROOT) as training:
        workers = [int(word) for word in training.stdout.readline().split()]
        training.kill()
    assert len(workers) == 2
    assert all(wait_until_gone(worker) for worker in workers)


def test_a_training_ends_with_its_launcher_but_not_with_its_shell(tmp_path):
    """accelerate's launcher of one process passes no signal on; somebody's shell may be left on purpose."""
    (tmp_path / "accelerate").write_text(LAUNCHER)
    line = [sys.executable, tmp_path / "accelerate", LAUNCHED]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, cwd=ROOT) as launcher:
        launched, detached = int(launcher.stdout.readline()), int(launcher.stdout.readline())
        launcher.terminate()
    try:
        assert wait_until_gone(launched)
        assert is_alive(detached)
    finally:
        os.kill(detached, signal.SIGKILL)


def test_an_accelerator_of_one_process_agrees_with_itself():
    """The common case exchanges nothing."""
    with stop_signals() as stop:
        assert not stop.agreed(Accelerator(cpu=True))
