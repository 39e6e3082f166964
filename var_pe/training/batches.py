"""The batches of a training: endless, from any step on, and on the device before they are needed."""

import errno
import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch.utils.data import DataLoader, Dataset, default_collate

from var_pe.data.image_set import Batch, TrainingSet
from var_pe.data.sampler import EndlessSampler
from var_pe.data.streams import ImageStream
from var_pe.training.config import TrainingConfig
from var_pe.training.stopping import follow_training, signals_held_back


def endless_batches(
    dataset: TrainingSet, config: TrainingConfig, accelerator: Accelerator, seed: int, step: int
) -> Iterator[Batch]:
    """This process's micro-batches from optimizer step `step` on, without end.

    Raises:
        ValueError: the micro-batch cannot be divided evenly among the processes, or shared memory has no room
            for the batches of data workers.
    """
    rank, world = accelerator.process_index, accelerator.num_processes
    micro = config.batch // config.accumulate
    if micro % world:
        raise ValueError(
            f"batch / accumulate must be a multiple of the number of processes, "
            f"got {config.batch} / {config.accumulate} = {micro} over {world}"
        )
    pinned = accelerator.device.type == "cuda"

    # A stream is endless and holds this process's part only. A resumed run begins another pass.
    if isinstance(dataset, ImageStream):
        dataset.set_epoch(step)
        loader = DataLoader(
            dataset,
            micro // world,
            num_workers=config.workers,
            pin_memory=pinned,
            worker_init_fn=follow_training,
        )
        numbered = _numbered(loader, step * config.batch + rank * micro // world, micro)
        return from_workers(numbered, config.workers)

    # The iterator is made at once, because making it draws from the generator of the dropout masks.
    assert dataset.num_images is not None, "only a stream has no length"
    sampler = EndlessSampler(dataset.num_images, micro, seed, rank, world, step * config.batch)
    images = cast(Dataset[Batch], dataset)
    with signals_held_back(), small_memory_in_words(config.workers):
        batches = iter(
            DataLoader(
                images,
                batch_sampler=sampler,
                collate_fn=batch_of,
                num_workers=config.workers,
                pin_memory=pinned,
                worker_init_fn=follow_training,
            )
        )
    return from_workers(batches, config.workers)


def from_workers(batches: Iterator[Batch], workers: int) -> Iterator[Batch]:
    """The same batches, handed over by data workers; too little shared memory becomes one sentence."""
    with small_memory_in_words(workers):
        yield from batches


@contextmanager
def small_memory_in_words(workers: int) -> Iterator[None]:
    """Turns what torch and the system say of too little shared memory into a sentence.

    Raises:
        ValueError: data workers had no room for a batch, or to be started.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        full = "shared memory" in str(error) or (isinstance(error, OSError) and error.errno == errno.ENOSPC)
        if not workers or not full:
            raise
        raise ValueError(
            f"workers={workers}: shared memory (/dev/shm) has no room for the batches of data workers; set "
            f"workers=0, or give the machine or container more (docker run --shm-size=2g)"
        ) from error


def batch_of(items: list[Mapping[str, object]] | Batch) -> Batch:
    """The items stacked into a batch; a source that reads whole batches has stacked them already."""
    return items if isinstance(items, dict) else default_collate(items)


def _numbered(loader: Iterable[Batch], first: int, stride: int) -> Iterator[Batch]:
    """Numbers a stream's images by their draws in the run, which the stream does not know."""
    with signals_held_back():
        batches = iter(loader)
    for start, batch in zip(itertools.count(first, stride), batches, strict=False):
        yield {**batch, "draw_number": torch.arange(start, start + len(batch["label"]))}


def on_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches on the device; on a GPU the next one is on its way while the last one is trained on."""
    if device.type != "cuda":
        for batch in batches:
            yield send_to_device(batch, device)
        return

    # Copies have a stream of their own, which does not wait for the steps.
    copies = torch.cuda.Stream(device)

    def send(batch: Batch) -> Batch:
        with torch.cuda.stream(copies):
            return {name: value.to(device, non_blocking=True) for name, value in batch.items()}

    coming = [send(batch) for batch in itertools.islice(batches, 1)]
    while coming:
        (batch,) = coming
        steps = torch.cuda.current_stream(device)
        steps.wait_stream(copies)
        for value in batch.values():
            value.record_stream(steps)  # so that its memory is not given away before the step is done

        coming = [send(batch) for batch in itertools.islice(batches, 1)]
        yield batch
