"""Images read in order as they arrive, for sets too large to copy; items as from `images.ImageDataset`."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from var_pe.data.class_names import ChosenClasses
from var_pe.data.folder_source import Folder
from var_pe.data.image_set import ImageItem, ImageSource
from var_pe.data.images import Framer
from var_pe.data.pictures import CorruptImage, DataError, warn_of_skipped
from var_pe.data.rows import Rows, undecoded, wanted
from var_pe.data.sources import DataConfig, columns, fashion_folder, find_data, open_source
from var_pe.data.tables import first_line
from var_pe.processes import Processes
from var_pe.seeding import mix

# Data workers of one process that have a counter of skipped pictures of their own
MAX_WORKERS = 256
FILES_AT_ONCE = 10  # that are read in turn while a stream is shuffled


class RowReader(Protocol):
    """Makes a picture and a label of what a stream is a stream of."""

    location: str
    class_names: tuple[str, ...]

    def read(self, row: Any, index: int) -> tuple[Image.Image, int]: ...


class NumberReader:
    """Reads a folder's pictures by number."""

    def __init__(self, source: ImageSource, location: str) -> None:
        self.source, self.location, self.class_names = source, location, source.class_names

    def read(self, row: int, index: int) -> tuple[Image.Image, int]:
        return self.source.read(row)


class RowsOfClasses:
    """Rows of some classes alone, with labels in the order of these."""

    def __init__(self, rows: Rows, names: Sequence[str]) -> None:
        self.rows, self.location = rows, rows.location
        self.chosen = ChosenClasses.among(rows.class_names, names)
        self.class_names = self.chosen.names

    def wants(self, stored: object) -> bool:
        """Whether a stored label means one of the classes, or none, which is counted when it is read."""
        label = self.rows.label(stored, "an image")
        return label < 0 or bool(self.chosen.labels_C[label] >= 0)

    def read(self, row: Mapping[str, object], index: int) -> tuple[Image.Image, int]:
        picture, label = self.rows.read(row, index)
        return picture, int(self.chosen.labels_C[label])


class Numbers:
    """The numbers below `count` that this process and data worker reads.

    With a seed, all `count` are shuffled anew each epoch, in the same way everywhere; without one, in order.
    """

    def __init__(self, count: int, seed: int | None, processes: Processes) -> None:
        self.count, self.seed, self.processes = count, seed, processes
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        order_N = np.arange(self.count)
        if self.seed is not None:
            np.random.default_rng(mix("stream", self.seed, self.epoch)).shuffle(order_N)

        worker = get_worker_info()
        first, step = self.processes.rank, self.processes.world
        if worker:
            first, step = first + step * worker.id, step * worker.num_workers
        yield from order_N[first::step].tolist()


class ImageStream(IterableDataset[ImageItem]):
    """This process's share of one split, shuffled anew each epoch among the buffer's pictures.

    The pictures of a stream have no numbers: `index` counts the pictures of this epoch and `draw_number`
    those of this iteration; no two processes or workers give the same one. `endless` starts epoch on epoch.
    """

    def __init__(
        self,
        config: DataConfig,
        rows: RowReader,
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
        self.unlabelled_by_worker = torch.zeros(MAX_WORKERS, dtype=torch.int64).share_memory_()

    @property
    def num_images(self) -> None:
        """A stream does not know its length."""

    @property
    def identity(self) -> None:
        """A stream does not know its pictures either."""

    def passed_over(self, processes: Processes) -> int:
        """How many pictures could not be read so far, on all processes and their workers."""
        return int(processes.sum(self.skipped_by_worker.sum().to(processes.device)))

    def left_out(self, processes: Processes) -> int:
        """How many times a picture came that has no label, on all processes and their workers."""
        return int(processes.sum(self.unlabelled_by_worker.sum().to(processes.device)))

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
                raise DataError(f"{self.nothing()} for process {self.rank} of {self.world}")

    def nothing(self) -> str:
        """Why no image came, as the beginning of a sentence."""
        unlabelled = int(self.unlabelled_by_worker.sum())
        without = f" with a label ({unlabelled} have none)" if unlabelled else ""
        return f"{self.rows.location} has no picture{without}"

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
                if label < 0 and self.class_names:
                    self.unlabelled_by_worker[self._counter()] += 1
                    continue
                image = self.frame(picture, epoch, index)
            except CorruptImage as error:
                if self.config.on_corrupt == "stop":
                    raise CorruptImage(f"{error} (data.on_corrupt=skip skips such pictures)") from None
                warn_of_skipped(error, int(self.skipped_by_worker.sum()))
                self.skipped_by_worker[self._counter()] += 1
                continue

            yield image, label, index

    def _counter(self) -> int:
        """The place of this worker in the counts."""
        worker = get_worker_info()
        return worker.id % MAX_WORKERS if worker else 0


def open_stream(
    config: DataConfig,
    train: bool,
    processes: Processes = Processes(),
    *,
    seed: int = 0,
    endless: bool = False,
    mixed: bool = False,
) -> ImageStream:
    """One split of a parquet, image folder or hub source as a stream.

    A training stream is shuffled by `seed`, anew each epoch; a test stream is read as stored or, `mixed`,
    shuffled by data.subset_seed, so that its first images show as many classes as the buffer can hold. The
    pictures of a folder are shuffled as a whole, without a buffer.

    Raises:
        ValueError: the source cannot be streamed, or as `open_source`.
    """
    # Imported here because it takes 90 MB.
    from datasets.distributed import split_dataset_by_node

    if not config.streaming:
        raise ValueError("open_stream needs data.streaming=true")
    if fashion_folder(config) is not None:
        raise ValueError("fashion_mnist's IDX files are read whole: set data.streaming=false")

    # A folder's pictures are known by number, and shuffled as a whole.
    frame, tables = Framer(config, train, seed), find_data(config)
    if isinstance(tables, Folder):
        source = open_source(replace(config, streaming=False), train)
        order = config.subset_seed if mixed else None
        numbers = Numbers(len(source), seed if train else order, processes)
        by_number = NumberReader(source, str(tables.root))
        return ImageStream(config, by_number, numbers, frame, processes, endless)

    # The rows, with our two columns and undecoded pictures
    split = config.split(train)
    image_column, label_column = columns(config, tables.kind)
    dataset = tables.load(split, wanted(image_column, label_column))
    if dataset.features is None:
        dataset = dataset._resolve_features()  # what `datasets` itself calls before it casts
    rows = Rows(tables, dataset.features, image_column, label_column, split, config.train_split)
    dataset = undecoded(dataset.select_columns(rows.columns()), image_column)
    reader: Rows | RowsOfClasses = rows
    if config.classes:
        reader = RowsOfClasses(rows, config.classes)
        dataset = dataset.filter(reader.wants, input_columns=[label_column])

    # Ten files are read in turn, so that files of one class each are mixed, too.
    files = min(FILES_AT_ONCE, dataset.num_shards)
    chosen = None if config.subset_seed is None else mix("some of the images", config.subset_seed) >> 32
    if config.limit:
        if chosen is not None:
            dataset = dataset.shuffle(seed=chosen, buffer_size=1, max_buffer_input_shards=files)
        dataset = dataset.take(config.limit)
    order = mix("stream", seed) >> 32 if train else chosen
    if order is not None and (train or mixed):
        dataset = dataset.shuffle(
            seed=order, buffer_size=config.shuffle_buffer, max_buffer_input_shards=files
        )

    dataset = split_dataset_by_node(dataset, processes.rank, processes.world)
    return ImageStream(config, reader, dataset, frame, processes, endless)
