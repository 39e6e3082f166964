"""Every way of stopping a training ends saved, with the signal's exit code and no process left.

    python tests/training/test_stops.py [--moments 10] [--together 1] [--seed 0]    # prints the table

Each stop is a training started by `accelerate launch`, as users start it, and a signal at a random moment: to
the launcher, to the whole process group (as Ctrl-C in a terminal), or to one training process; with one and
two processes, with and without data workers. Two of ten moments lie before the first step, the others in the
steps, validations, previews and saves after it.
"""

import argparse
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
LIMIT = 30.0  # seconds that a machine gives before it is taken away
MARK = "VAR_PE_STOP"  # an environment variable that all processes of a stop have
TINY = [
    "data.shapes_train=48",
    "data.shapes_test=16",
    "tokenizer.channels=16",
    "tokenizer.norm_groups=8",
    "tokenizer.codebook_size=32",
    "tokenizer_training.steps=4",
    "tokenizer_training.batch=8",
    "tokenizer_training.precision=float32",
    "generator.dim=32",
    "generator.depth=2",
    "generator.num_heads=2",
    "generator_training.steps=100000",
    "generator_training.batch=8",
    "generator_training.precision=float32",
    "generator_training.log_every=1",
    "generator_training.save_every=40",
    "generator_training.validate_every=25",
    "generator_training.preview_every=30",
    "sampling.batch=20",
]


@dataclass(frozen=True)
class Cell:
    """One way of stopping."""

    signal: signal.Signals
    to: str
    processes: int
    workers: int

    def __str__(self) -> str:
        return f"{self.signal.name} to {self.to:<8}  processes {self.processes}  workers {self.workers}"


@dataclass(frozen=True)
class Stop:
    """What came of one stop."""

    cell: Cell
    # seconds from the signal until no process was left; infinite: some were after LIMIT
    seconds: float
    # the launcher's exit status as a shell shows it
    status: int
    # exit statuses of training processes, as far as the launcher names them
    of_training: tuple[int, ...]
    # the last step in the log when the signal came, the newest whole checkpoint after it
    logged: int
    saved: int
    text: str

    @property
    def is_good(self) -> bool:
        is_saved = self.saved >= self.logged and "Error:" not in self.of_project
        return self.seconds <= LIMIT and is_saved and self.has_its_exit_codes

    @property
    def has_its_exit_codes(self) -> bool:
        """Whether launcher and training end as docs/launching.md says; Python's own start may end by 1."""
        of_signal, has_begun = 128 + self.cell.signal, self.logged > 0
        of_launcher = {1} if has_begun else {1, of_signal}
        if self.cell.processes == 1:
            of_launcher = {1 if self.cell.to == "one process" else of_signal}

        # torchrun stops the other processes by SIGTERM once one has ended.
        of_training = {of_signal, 128 + signal.SIGTERM}
        return self.status in of_launcher and (not has_begun or set(self.of_training) <= of_training)

    @property
    def of_project(self) -> str:
        """What was printed but for the launcher's own traceback, which may be of its imports."""
        before = self.text.partition("accelerate/commands/")[0]
        return before if str(ROOT) in before else ""


CELLS = [
    Cell(*choice)
    for choice in product(
        (signal.SIGTERM, signal.SIGINT), ("launcher", "group", "one process"), (1, 2), (0, 2)
    )
]


def command(folder: Path, run: str, *more: str, processes: int = 1) -> list[str]:
    name = "cpu.yaml" if processes == 1 else "cpu_2_processes.yaml"
    launcher = [sys.executable, "-m", "accelerate.commands.launch"]
    launcher += [f"--config_file={ROOT}/configs/accelerate/{name}", f"--main_process_port={free_port()}"]
    folders = [f"run={folder}/{run}", f"tokenizer_run={folder}/tokenizer"]
    script = [str(ROOT / "scripts" / "train.py"), "--config", "shapes_mixed.yaml"]
    return [*launcher, *script, *folders, *TINY, *more]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def prepare(folder: Path) -> None:
    """Trains the tokenizer that all stops share, and caches its tokens."""
    line = command(folder, "prepared", "generator_training.steps=1")
    done = subprocess.run(line, env=environment("prepare"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def environment(mark: str) -> dict[str, str]:
    own = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), MARK: mark}
    return os.environ | own


def stop(folder: Path, cell: Cell, number: int, seed: int) -> Stop:
    """Starts a training, stops it at a moment that follows from the seed, and looks at what is left."""
    clock = random.Random(f"{seed} {cell} {number}")
    run = f"{cell.signal.name}_{cell.to.replace(' ', '_')}_{cell.processes}_{cell.workers}_{number}"
    line = command(folder, run, f"generator_training.workers={cell.workers}", processes=cell.processes)

    output = folder / f"{run}.txt"
    with output.open("w") as file:
        launcher = subprocess.Popen(
            line, env=environment(run), stdout=file, stderr=file, cwd=folder, start_new_session=True
        )

    wait_for_moment(clock, number, folder / run, launcher)
    children = trainings_of(launcher.pid, run)
    while cell.to == "one process" and not children:
        time.sleep(0.02)
        children = trainings_of(launcher.pid, run)

    logged, began = last_step(folder / run), time.monotonic()
    if cell.to == "launcher":
        launcher.send_signal(cell.signal)
    elif cell.to == "group":
        os.killpg(launcher.pid, cell.signal)
    else:
        os.kill(clock.choice(children), cell.signal)

    seconds = gone_after(run, launcher, began)
    status = launcher.wait()
    text = output.read_text()
    codes = re.findall(r"(?:exit status|exitcode\s*:) (-?\d+)", text)
    return Stop(
        cell,
        seconds,
        as_shell(status),
        tuple(as_shell(int(code)) for code in codes),
        logged,
        newest_whole(folder / run),
        text,
    )


def wait_for_moment(clock: random.Random, number: int, run: Path, launcher: subprocess.Popen) -> None:
    if number % 5 == 0:
        time.sleep(clock.uniform(0.0, 8.0))
        return
    while last_step(run) == 0:
        assert launcher.poll() is None, "the training ended by itself"
        time.sleep(0.05)
    time.sleep(clock.uniform(0.0, 3.0))


def gone_after(run: str, launcher: subprocess.Popen, began: float) -> float:
    """Seconds until no process with the mark is left; those that are after LIMIT are killed."""
    while True:
        ended = launcher.poll() is not None
        left = [process for process, _ in marked(run)]
        if ended and not left:
            return time.monotonic() - began
        if time.monotonic() - began > LIMIT:
            for process in left:
                os.kill(process, signal.SIGKILL)
            return float("inf")
        time.sleep(0.05)


def marked(run: str) -> Iterator[tuple[int, int]]:
    """The processes of a stop, each with its parent."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={run}\0" in (folder / "environ").read_text(errors="replace"):
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                yield int(folder.name), int(parent)
        except OSError:
            continue  # it has just ended, or belongs to somebody else


def trainings_of(launcher: int, run: str) -> list[int]:
    """The training processes that a launcher has started, not what it asks about the machine."""
    children = [process for process, parent in marked(run) if parent == launcher]
    lines = {process: Path(f"/proc/{process}/cmdline") for process in children}
    return [
        process
        for process, line in lines.items()
        if line.exists() and b"train.py\0" in line.read_bytes() and b"launch" not in line.read_bytes()
    ]


def as_shell(status: int) -> int:
    return 128 - status if status < 0 else status


def last_step(run: Path) -> int:
    log = run / "log.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)


def newest_whole(run: Path) -> int:
    """The step of the newest checkpoint, all files of which can be read; 0 if there is none."""
    steps = [0]
    for folder in (run / "checkpoints").glob("step_*"):
        assert not folder.name.endswith(".partial"), "a stop left a draft"
        load_file(folder / "model.safetensors")
        load_file(folder / "ema.safetensors")
        torch.load(folder / "optimizer.pt", weights_only=True)
        steps.append(json.loads((folder / "state.json").read_text())["step"])
    return max(steps)


def all_stops(folder: Path, moments: int, together: int, seed: int) -> list[Stop]:
    # Commands in the background of a shell ignore Ctrl-C, and so would all that is started here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    prepare(folder)
    asked = [(cell, number) for number in range(moments) for cell in CELLS]

    def stopped(one: tuple[Cell, int]) -> Stop:
        done = stop(folder, *one, seed)
        result = "saved" if done.is_good else "NOT SAVED"
        print(f"{done.cell}  step {done.logged}, {done.seconds:.1f} s: {result}", file=sys.stderr, flush=True)
        return done

    with ThreadPoolExecutor(together) as pool:
        return list(pool.map(stopped, asked))


def table(stops: list[Stop]) -> str:
    lines = []
    for cell in CELLS:
        mine = [stop for stop in stops if stop.cell == cell]
        good = sum(stop.is_good for stop in mine)
        slowest = max(stop.seconds for stop in mine)
        launcher = sorted({stop.status for stop in mine})
        training = sorted({code for stop in mine for code in stop.of_training})
        lines.append(
            f"{cell}  saved {good} of {len(mine)}  slowest {slowest:4.1f} s  "
            f"launcher {launcher}  training processes {training}"
        )
    good = sum(stop.is_good for stop in stops)
    return "\n".join([*lines, f"{good} of {len(stops)} stops ended saved within {LIMIT:.0f} s"])


@pytest.mark.slow
def test_every_way_of_stopping_ends_saved(tmp_path):
    """One moment of each; the script takes more."""
    stops = all_stops(tmp_path, moments=1, together=1, seed=int(time.time()))
    assert all(stop.is_good for stop in stops), table(stops)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--moments", type=int, default=10, help="stops of each kind")
    parser.add_argument("--together", type=int, default=1, help="stops at the same time")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        stops = all_stops(Path(folder), given.moments, given.together, given.seed)
    for stop in stops:
        if not stop.is_good:
            print(f"--- {stop.cell}: step {stop.logged} logged, {stop.saved} saved, {stop.seconds:.1f} s")
            print(stop.text[-1500:])
    print(table(stops))
    sys.exit(not all(stop.is_good for stop in stops))


if __name__ == "__main__":
    main()
