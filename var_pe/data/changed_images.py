"""Base class of sets that show each image of another set in some changed way."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from torch.utils.data import Dataset

from var_pe.processes import Processes

Item = TypeVar("Item")


class Underneath(Protocol):
    """What the set whose images are shown has to offer."""

    @property
    def class_names(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def passed_over(self, processes: Processes) -> int: ...


class ChangedImages(Dataset[Item]):
    """As many images as `images`, of the same classes; a subclass says what an item is (`__getitem__`)."""

    def __init__(self, images: Underneath) -> None:
        self.underneath = images
        self.class_names = tuple(images.class_names)

    @property
    def num_images(self) -> int:
        return len(self.underneath)

    def passed_over(self, processes: Processes) -> int:
        return self.underneath.passed_over(processes)

    def __len__(self) -> int:
        return len(self.underneath)
