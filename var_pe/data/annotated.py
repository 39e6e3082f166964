"""Base class of sets whose images come with more than a class, such as masks or boxes."""

from collections.abc import Sequence

from var_pe.data.image_set import ImageSource
from var_pe.data.images import ImageDataset
from var_pe.data.part import Part
from var_pe.data.sampler import Draw
from var_pe.processes import Processes


class AnnotatedImages:
    """Images of which a source knows more than a class; all of them or, with `numbers`, some."""

    # of what is annotated: of pixels, of boxes
    class_names: tuple[str, ...]

    def __init__(self, images: ImageDataset, numbers: Sequence[int] | None) -> None:
        self.images = images
        self.numbers = range(len(images)) if numbers is None else numbers

    @property
    def origin(self) -> ImageSource:
        """The source that the pictures are of, or that they are a part of."""
        source = self.images.source
        while isinstance(source, Part):
            source = source.source
        return source

    def number_of(self, index: int) -> int:
        """The number that an image's picture has in `origin`."""
        source = self.images.source
        while isinstance(source, Part):
            index = source.numbers[index]
            source = source.source
        return index

    def draw_of(self, key: Draw | int) -> Draw:
        """The draw with the image's number among all images; past the end, `for item in images` ends."""
        draw = Draw.of(key)
        return draw._replace(index=self.numbers[draw.index])

    @property
    def num_images(self) -> int:
        return len(self)

    @property
    def identity(self) -> str:
        return self.images.identity

    def passed_over(self, processes: Processes) -> int:
        return self.images.passed_over(processes)

    def __len__(self) -> int:
        return len(self.numbers)
