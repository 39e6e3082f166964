"""Two processes of one thread against one process of two threads, training one generator with the same batch.

    python benchmarks/processes.py --sizes 130 680 --rounds 10

As trainings are spread here: by Accelerate, over gloo, gradients averaged at every step. Both take turns on
the same cores, a few steps at a time; the processes whose turn it is not wait without computing.
"""

import argparse
import multiprocessing
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from statistics import median, quantiles
from typing import Annotated

import var_pe  # noqa: F401  # before torch, whose threads it makes wait politely

# isort: split
import torch
from accelerate import Accelerator
from annotated_types import Ge
from machine import json_option, machine, precision_option
from steps import SIZES, build, random_batch

from var_pe.comparison.step_time import seconds_in_turns
from var_pe.files import write_json
from var_pe.settings.command_line import check_options
from var_pe.stages.session import exit_with_sentence
from var_pe.tasks.losses.tokens import token_losses
from var_pe.training.precision import Settled, autocast, settled

STEPS = 3  # of a turn


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    sizes = "generators to time: tokens of an image, or a name; default: 130"
    add("--sizes", nargs="+", choices=SIZES, default=["130"], help=sizes)
    precision_option(parser)
    rounds = f"timed turns of {STEPS} steps of each number of processes; default: %(default)s"
    add("--rounds", type=int, default=10, metavar="N", help=rounds)
    json_option(parser)
    return parser.parse_args()


@exit_with_sentence()
def main() -> None:
    given = arguments()
    check_options(given, rounds=Annotated[int, Ge(2)])
    precision = settled(given.precision, "cpu")
    found: dict[str, object] = {"machine": machine("cpu"), "precision": precision}
    for name in given.sizes:
        one = Group.start(name, precision, processes=1, threads=2)
        two = Group.start(name, precision, processes=2, threads=1)
        alone, together = seconds_in_turns([one.turn, two.turn], rounds=given.rounds, warmup=1)
        one.stop()
        two.stop()

        low, middle, high = quantiles([a / b for a, b in zip(alone, together, strict=True)], n=4)
        found[name] = {"one": alone, "two": together, "times_as_fast": [low, middle, high]}
        print(
            f"{name}, {precision}: one process {1000 * median(alone) / STEPS:.1f} ms a step, "
            f"two {1000 * median(together) / STEPS:.1f} ms, "
            f"so two are {middle:.2f} ({low:.2f} .. {high:.2f}) times as fast",
            flush=True,
        )
        if given.json is not None:
            write_json(given.json, found)


@dataclass(frozen=True)
class Group:
    """Processes that train one model together and wait for their turn."""

    processes: Sequence[multiprocessing.process.BaseProcess]
    connections: Sequence[Connection]

    @classmethod
    def start(cls, name: str, precision: Settled, *, processes: int, threads: int) -> "Group":
        context = multiprocessing.get_context("spawn")
        port = free_port()
        started, connections = [], []
        for rank in range(processes):
            here, there = context.Pipe()
            place = Place(rank, processes, threads, port)
            started.append(context.Process(target=work, args=(place, name, precision, there), daemon=True))
            started[-1].start()
            there.close()  # so that a process that ends is noticed
            connections.append(here)
        return cls(started, connections)

    def turn(self) -> None:
        """Some steps, on all processes."""
        for connection in self.connections:
            connection.send(STEPS)
        for connection in self.connections:
            connection.recv()

    def stop(self) -> None:
        for connection in self.connections:
            connection.send(0)
        for process in self.processes:
            process.join()


@dataclass(frozen=True)
class Place:
    """One process among those that train together."""

    rank: int
    world: int
    threads: int
    port: int


def work(place: Place, name: str, precision: Settled, asked: Connection) -> None:
    """Does as many steps as it is asked for, until it is asked for none."""
    os.environ |= {"OMP_NUM_THREADS": str(place.threads), "ACCELERATE_USE_CPU": "true"}
    if place.world > 1:
        os.environ |= {"RANK": str(place.rank), "WORLD_SIZE": str(place.world)}
        os.environ |= {"LOCAL_RANK": str(place.rank), "LOCAL_WORLD_SIZE": str(place.world)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(place.port)}
    torch.set_num_threads(place.threads)

    step = step_of(Accelerator(cpu=True, mixed_precision="no"), name, precision)
    while steps := asked.recv():
        for _ in range(steps):
            step()
        asked.send(None)
    if place.world > 1:
        torch.distributed.destroy_process_group()


def step_of(accelerator: Accelerator, name: str, precision: Settled) -> Callable[[], None]:
    """A training step on this process's part of the batch."""
    size = SIZES[name]
    generator = build(size, "learned")
    optimizer = torch.optim.AdamW(generator.parameters(), lr=1e-4, fused=True)
    model, optimizer = accelerator.prepare(generator, optimizer)
    rank, world = accelerator.process_index, accelerator.num_processes
    labels_B, inputs_BLZ, tokens_BL = (part.chunk(world)[rank] for part in random_batch(size, "cpu"))

    def step() -> None:
        with autocast(precision, "cpu"):
            loss = token_losses(model(labels_B, inputs_BLZ), tokens_BL).mean()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


if __name__ == "__main__":
    main()
