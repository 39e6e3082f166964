"""Some of many images: which ones, and a part of a source, or some of its classes, as a source of its own.

Files are often sorted by class, so the first images of a set may show a single one. Wherever N of the images
are wanted, they are therefore drawn over the whole set, by a seed that is not the training's: models of
different seeds are validated on the same images.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from var_pe.data.class_names import ChosenClasses
from var_pe.data.folders import some
from var_pe.data.image_set import ArraySource, ImageSource
from var_pe.data.pictures import CorruptImage, DataError
from var_pe.progress import number_of
from var_pe.seeding import generator_for


def drawn(length: int, number: int, seed: int | None) -> Sequence[int]:
    """The numbers of `number` of `length` images, ascending; without a seed the first ones.

    Fewer images are always among more of the same seed: the first 100 of an order are among its first 200.
    """
    if number >= length:
        return range(length)
    if seed is None:
        return range(number)
    order = torch.randperm(length, generator=generator_for(seed, "some of the images"))
    return sorted(order[:number].tolist())


def drawn_of_each(labels_N: NDArray[np.int64], share: float, seed: int | None) -> Sequence[int]:
    """The numbers of this share of every label's images, rounded, at least one of each; ascending.

    Fewer images of a label are among more of the same seed, as in `drawn`.
    """
    numbers: list[int] = []
    for label in np.unique(labels_N):
        of_label = np.flatnonzero(labels_N == label)
        taken = max(1, round(share * len(of_label)))
        numbers += of_label[list(drawn(len(of_label), taken, seed))].tolist()
    return sorted(numbers)


class Part:
    """The pictures of these numbers, as a source."""

    def __init__(self, source: ImageSource, numbers: Sequence[int]) -> None:
        self.source, self.numbers = source, numbers
        self.own_remarks: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        return f"{self.source.fingerprint}-{self._numbers_hash()}"

    @property
    def identity(self) -> str:
        return f"{self.source.identity}-{self._numbers_hash()}"

    def _numbers_hash(self) -> str:
        digest = hashlib.blake2b(repr(list(self.numbers)).encode(), digest_size=8).hexdigest()
        return f"{len(self.numbers)}-{digest}"

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.source.class_names

    @property
    def labels_N(self) -> NDArray[np.int64]:
        return self.source.labels_N[list(self.numbers)]

    @property
    def remarks(self) -> tuple[str, ...]:
        return (*self.source.remarks, *self.own_remarks)

    def __len__(self) -> int:
        return len(self.numbers)

    def read(self, index: int) -> tuple[Image.Image, int]:
        return self.source.read(self.numbers[index])


class PartOfArrays(Part):
    """A part of a source that holds its pictures as arrays."""

    def __init__(self, source: ImageSource, arrays: ArraySource, numbers: Sequence[int]) -> None:
        super().__init__(source, numbers)
        self.arrays = arrays

    def array(self, index: int) -> tuple[NDArray[np.uint8], int]:
        return self.arrays.array(self.numbers[index])


def part_of(source: ImageSource, numbers: Sequence[int]) -> Part:
    """The pictures of these numbers, as a source of the same kind."""
    return PartOfArrays(source, source, numbers) if isinstance(source, ArraySource) else Part(source, numbers)


# Which pictures of a source can be read, and a remark on the others, by its fingerprint
_SOUND: dict[str, tuple[list[int], str]] = {}


def readable(source: ImageSource) -> ImageSource:
    """The pictures that can be read; the source itself if all can, or if they are arrays.

    Every picture is decoded, once for each process.

    Raises:
        DataError: none can be read.
    """
    if isinstance(source, ArraySource):
        return source
    known = source.fingerprint
    if known not in _SOUND:
        _SOUND[known] = _sound(source)

    numbers, remark = _SOUND[known]
    if not numbers:
        raise DataError(f"none of the {len(source)} images can be read")
    if len(numbers) == len(source):
        return source
    part = Part(source, numbers)
    part.own_remarks = (remark,)
    return part


def _sound(source: ImageSource) -> tuple[list[int], str]:
    numbers, errors = [], []
    for number in range(len(source)):
        try:
            source.read(number)
        except CorruptImage as error:
            errors.append(str(error))
        else:
            numbers.append(number)
    left_out = f"{len(errors)} of {number_of(len(source))} to test on cannot be read and are left out"
    return numbers, f"{left_out}: {some(errors)}"


class OfClasses(Part):
    """The pictures of some classes, with labels in the order of these."""

    def __init__(self, source: ImageSource, chosen: ChosenClasses, train: bool) -> None:
        labels_N = chosen.labels_C[source.labels_N]
        super().__init__(source, np.flatnonzero(labels_N >= 0).tolist())
        chosen.check(len(self), len(source), f"the {'training' if train else 'test'} split")
        self.chosen = chosen
        self.own_remarks = chosen.leaves_out(len(self), len(source)) if train else ()

    @property
    def fingerprint(self) -> str:
        return f"{super().fingerprint}-{self._names_hash()}"

    @property
    def identity(self) -> str:
        return f"{super().identity}-{self._names_hash()}"

    def _names_hash(self) -> str:
        return hashlib.blake2b(repr(self.chosen.names).encode(), digest_size=8).hexdigest()

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.chosen.names

    @property
    def labels_N(self) -> NDArray[np.int64]:
        return self.chosen.labels_C[super().labels_N]

    def read(self, index: int) -> tuple[Image.Image, int]:
        picture, label = super().read(index)
        return picture, int(self.chosen.labels_C[label])


class OfClassesOfArrays(OfClasses):
    """The pictures of some classes of a source that holds its pictures as arrays."""

    def __init__(self, source: ImageSource, arrays: ArraySource, chosen: ChosenClasses, train: bool) -> None:
        super().__init__(source, chosen, train)
        self.arrays = arrays

    def array(self, index: int) -> tuple[NDArray[np.uint8], int]:
        pixels, label = self.arrays.array(self.numbers[index])
        return pixels, int(self.chosen.labels_C[label])


def of_classes(source: ImageSource, names: Sequence[str], train: bool) -> ImageSource:
    """The pictures of the classes of these names, as a source of the same kind; no names mean all.

    Raises:
        ValueError: a name is not that of a class, or no picture is of these.
    """
    if not names:
        return source
    chosen = ChosenClasses.among(source.class_names, names)
    if isinstance(source, ArraySource):
        return OfClassesOfArrays(source, source, chosen, train)
    return OfClasses(source, chosen, train)
