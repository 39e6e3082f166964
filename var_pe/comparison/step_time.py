"""The time of a step under each encoding: models take turns, so that a slow minute slows all of them."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from var_pe.pyramid import Pyramid
from var_pe.stages.config import Config
from var_pe.training.precision import Precision, autocast

NULL = "none"  # what every encoding is compared with


@dataclass(frozen=True)
class StepTime:
    """The time of a training step, compared with that of `none` in the same round.

    The pair `none` against `none` shows what is noise.
    """

    encoding: str
    # median over rounds
    milliseconds: float
    # of the step's time to that of `none`: the median, and the quartiles
    ratio: float
    low: float
    high: float
    rounds: int


def step_times(
    encodings: Sequence[str],
    make_step: Callable[[str], Callable[[], object]],
    *,
    rounds: int = 20,
    warmup: int = 3,
) -> list[StepTime]:
    """Times one step of each encoding per round (at least two), always beginning with the next one.

    `make_step(line)` builds a model and returns what runs one step of it. The first two rows are `none`
    twice, two models of their own.
    """
    names = [NULL, NULL, *(line for line in encodings if line != NULL)]
    steps = [make_step(name) for name in names]

    seconds = seconds_in_turns(steps, rounds=rounds, warmup=warmup)
    return [_summed(name, mine, seconds[0]) for name, mine in zip(names, seconds, strict=True)]


def seconds_in_turns(
    steps: Sequence[Callable[[], object]], *, rounds: int, warmup: int = 0
) -> list[list[float]]:
    """The seconds of every step in every round that counts, as a list for each step.

    All run once a round, always beginning with the next one, so that a slow minute slows all. Work on a GPU
    is waited for.
    """
    seconds: list[list[float]] = [[] for _ in steps]
    for turn in range(warmup + rounds):
        for position in range(len(steps)):
            number = (turn + position) % len(steps)
            _wait_for_gpu()
            began = time.perf_counter()
            steps[number]()
            _wait_for_gpu()
            if turn >= warmup:
                seconds[number].append(time.perf_counter() - began)
    return seconds


def _wait_for_gpu() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _summed(name: str, mine: Sequence[float], null: Sequence[float]) -> StepTime:
    ratios = [own / base for own, base in zip(mine, null, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return StepTime(name, 1000 * statistics.median(mine), middle, low, high, len(ratios))


def generator_step(
    generator: torch.nn.Module, config: Config, classes: int, device: torch.device | str
) -> Callable[[], None]:
    """One training step of a generator of the config, on a batch of random data."""
    pyramid, batch = Pyramid.of(config.tokenizer.levels), config.generator_training.batch
    first = pyramid.spans[0].stop  # the coarsest level has no input but the class

    label_B = torch.randint(max(1, classes), (batch,), device=device)
    shape = (batch, pyramid.num_tokens - first, config.tokenizer.latent_channels)
    inputs_BLZ = torch.randn(shape, device=device)
    target_BL = torch.randint(config.tokenizer.num_codes, (batch, pyramid.num_tokens), device=device)

    def loss() -> torch.Tensor:
        return F.cross_entropy(generator(label_B, inputs_BLZ).flatten(0, 1), target_BL.flatten())

    return training_step(generator, loss, config.generator_training.precision)


def training_step(
    model: torch.nn.Module, loss: Callable[[], torch.Tensor], precision: Precision
) -> Callable[[], None]:
    """Forward, backward and AdamW on the model's own batch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        device = next(model.parameters()).device.type
        with autocast(precision, device):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
