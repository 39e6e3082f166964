"""Images read in order as they arrive, for sets too large to copy; items as from `images.ImageDataset`."""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from var_pe.data.image_set import ImageItem
from var_pe.data.images import Framer
from var_pe.data.pictures import CorruptImage, DataError
from var_pe.data.rows import Rows, undecoded
from var_pe.data.sources import DataConfig, columns, fashion_folder, find_tables
from var_pe.data.tables import first_line
from var_pe.processes import Processes
from var_pe.seeding import mix

# Data workers of one process that have a counter of skipped pictures of their own
MAX_WORKERS = 256


class ImageStream(IterableDataset[ImageItem]):
    """This process's share of one split, shuffled anew each epoch among the buffer's pictures.

    The pictures of a stream have no numbers: `index` counts the pictures of this epoch and `draw_number`
    those of this iteration; no two processes or workers give the same one. `endless` starts epoch on epoch.
    """

    def __init__(
        self,
        config: DataConfig,
        rows: Rows,
        dataset: Any,
        frame: Framer,
        processes: Processes,
        endless: bool,
    ) -> None:
        self.config, self.rows, self.dataset = config, rows, dataset
        self.rank, self.world = processes.rank, processes.world
        self.frame, self.endless = frame, endless
        self.class_names = rows.class_names
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers that persist see it change
        self.skipped_by_worker = torch.zeros(MAX_WORKERS, dtype=torch.int64).share_memory_()

    @property
    def num_images(self) -> None:
        """A stream does not know its length."""

    def passed_over(self, processes: Processes) -> int:
        """How many pictures could not be read so far, on all processes and their workers."""
        return int(processes.sum(self.skipped_by_worker.sum().to(processes.device)))

    def set_epoch(self, epoch: int) -> None:
        self.epoch.fill_(epoch)

    def __iter__(self) -> Iterator[ImageItem]:
        first, drawn = int(self.epoch), 0
        for epoch in itertools.count(first) if self.endless else [first]:
            before = drawn
            for image, label, index in self._one_epoch(epoch):
                number = self._numbered(drawn)
                yield {"image": image, "label": label, "index": index, "draw_number": number}
                drawn += 1

            # Without this check, the loop would look for a picture for ever.
            if self.endless and drawn == before:
                worker = get_worker_info()
                if worker and worker.id:
                    return  # There are fewer files than workers; the others go on.
                raise DataError(
                    f"{self.rows.location} has no picture for process {self.rank} of {self.world}"
                )

    def _numbered(self, count: int) -> int:
        """A number that no other process or worker gives to any of its pictures."""
        worker = get_worker_info()
        if worker:
            count = count * worker.num_workers + worker.id
        return count * self.world + self.rank

    def _rows(self) -> Iterator[Any]:
        """The rows; an error of the library on the way, of a file or a connection, becomes a sentence."""
        try:
            yield from self.dataset
        except Exception as error:
            raise DataError(
                f"{self.rows.location} cannot be read any further: {first_line(error)}"
            ) from error

    def _one_epoch(self, epoch: int) -> Iterator[tuple[Tensor, int, int]]:
        """Image, label and index of each picture that can be read."""
        self.dataset.set_epoch(epoch)
        for count, row in enumerate(self._rows()):
            index = self._numbered(count)
            try:
                picture, label = self.rows.read(row, index)
                image = self.frame(picture, epoch, index)
            except CorruptImage:
                if self.config.on_corrupt == "stop":
                    raise
                worker = get_worker_info()
                self.skipped_by_worker[worker.id % MAX_WORKERS if worker else 0] += 1
                continue

            yield image, label, index


def open_stream(
    config: DataConfig,
    train: bool,
    processes: Processes = Processes(),
    *,
    seed: int = 0,
    endless: bool = False,
) -> ImageStream:
    """One split of a parquet, image folder or hub source as a stream; only training streams are shuffled.

    Raises:
        ValueError: the source cannot be streamed, or as `open_source`.
    """
    # Imported here because it takes 90 MB.
    from datasets.distributed import split_dataset_by_node

    if not config.streaming:
        raise ValueError("open_stream needs data.streaming=true")
    if fashion_folder(config) is not None:
        raise ValueError("fashion_mnist's IDX files are read whole: set data.streaming=false")

    # The rows, with our two columns and undecoded pictures
    tables, split = find_tables(config), config.split(train)
    image_column, label_column = columns(config, tables.kind)
    dataset = tables.load(split)
    if dataset.features is None:
        dataset = dataset._resolve_features()  # what `datasets` itself calls before it casts
    rows = Rows(tables, dataset.features, image_column, label_column, config.train_split)
    dataset = undecoded(dataset.select_columns(rows.columns()), image_column)

    if config.limit:
        dataset = dataset.take(config.limit)
    if train:
        # How many files are mixed in the buffer; mixing a single file would cost a pause of 5 s an epoch.
        files = min(10, dataset.num_shards)
        dataset = dataset.shuffle(
            seed=mix("stream", seed) >> 32, buffer_size=config.shuffle_buffer, max_buffer_input_shards=files
        )

    dataset = split_dataset_by_node(dataset, processes.rank, processes.world)
    return ImageStream(config, rows, dataset, Framer(config, train, seed), processes, endless)
