"""Images of one size in [-1, 1] from a source's pictures; augmentation follows from (seed, epoch, index)."""

import hashlib
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from var_pe.data.image_set import ArraySource, ImageItem, ImageSource, count_unreadable
from var_pe.data.part import drawn
from var_pe.data.pictures import CorruptImage, DataError, to_channels, trimmed, warn_of_skipped
from var_pe.data.placement import Box, Placement
from var_pe.data.sampler import Draw
from var_pe.data.sources import OF_CLIPS, DataConfig
from var_pe.processes import Processes
from var_pe.pyramid import Grid
from var_pe.seeding import mix

FAINT = 65536 // 8  # a brightest value below this looks nearly black
MEASURED, MEASURED_CLIPS = 64, 8  # pictures of a split whose sizes are checked before a training, or clips

Pixels = NDArray[np.uint8]


def covering(height: int, width: int, config: DataConfig) -> Grid:
    """Rows and columns that a picture is resized to, to just cover `resize_factor` times the image."""
    rows, columns = round(config.height * config.resize_factor), round(config.width * config.resize_factor)
    scale = max(rows / height, columns / width)
    return max(rows, round(height * scale)), max(columns, round(width * scale))


def start_of_crop(resized: Grid, config: DataConfig, chance: int | None) -> Grid:
    """Top and left of the crop of a resized picture, by `chance` or at the centre."""
    free_y, free_x = resized[0] - config.height, resized[1] - config.width
    if chance is None:
        return free_y // 2, free_x // 2
    return chance % (free_y + 1), (chance >> 24) % (free_x + 1)


def fitting(height: int, width: int, config: DataConfig) -> Grid:
    """Rows and columns that a picture is resized to, to just lie within the image."""
    scale = min(config.height / height, config.width / width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def at_size(picture: Image.Image, size: Grid) -> Image.Image:
    """The picture in so many rows and columns."""
    height, width = size
    if picture.size == (width, height):
        return picture
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def crop(picture: Image.Image, config: DataConfig, chance: int | None) -> Pixels:
    """The picture resized to cover `resize_factor` times the image, cropped by `chance` or at the centre."""
    resized = covering(picture.height, picture.width, config)
    picture = at_size(picture, resized)
    y, x = start_of_crop(resized, config, chance)
    return np.asarray(picture.crop((x, y, x + config.width, y + config.height)))


def fitted(picture: Image.Image, config: DataConfig, where: str) -> Image.Image:
    """The whole picture in the config's channels, resized until it just lies within the image.

    A picture of many times its sides is averaged over blocks first, of which at least three a side are left
    to each pixel of the image: it may have 150 million pixels, of which every further step would take a copy.
    """
    size = fitting(picture.height, picture.width, config)
    scale = min(config.height / picture.height, config.width / picture.width)
    block = int(1 / (3 * scale))
    if block > 1 and picture.mode in ("L", "LA", "RGB", "RGBA") and "transparency" not in picture.info:
        picture = picture.reduce(block)

    return at_size(to_channels(picture, config.channels, where), size)


def padding(height: int, width: int, config: DataConfig) -> tuple[int, int]:
    """Top and left margin of a picture centred in the image."""
    if height > config.height or width > config.width:
        raise DataError(
            f"framing=pad needs pictures of at most height x width = {config.height} x {config.width}, "
            f"got one of {height} x {width} (data.framing=fit resizes them, and so does crop)"
        )
    return (config.height - height) // 2, (config.width - width) // 2


def pad(pixels: Pixels, config: DataConfig) -> Pixels:
    """The picture at its own pixel size, in the centre of the image."""
    if pixels.shape[:2] == (config.height, config.width):
        return pixels

    height, width = pixels.shape[:2]
    top, left = padding(height, width, config)
    around = 255 if config.margin == "white" else 0
    canvas = np.full((config.height, config.width, *pixels.shape[2:]), around, np.uint8)
    canvas[top : top + height, left : left + width] = pixels
    return canvas


def zoomed_size(height: int, width: int, zoom: float) -> Grid:
    """`zoom` times the sides, rounded, at least one pixel."""
    return max(1, round(height * zoom)), max(1, round(width * zoom))


def zoomed(picture: Image.Image, zoom: float) -> Image.Image:
    """The picture at `zoom` times its sides."""
    return at_size(picture, zoomed_size(picture.height, picture.width, zoom))


def first_picture(config: DataConfig, source: ImageSource) -> Image.Image:
    """The first picture of the source; with on_corrupt=skip, the first that can be read."""
    for index in range(len(source)):
        try:
            return source.read(index)[0]
        except CorruptImage:
            if config.on_corrupt == "stop":
                raise
    raise DataError(f"none of the {len(source)} images can be read")


def remarks_on_depth(source: ImageSource) -> tuple[str, ...]:
    """A sentence if eight pictures, drawn over the source, show 16 bits of which the upper ones are empty.

    12-bit cameras and scanners write such files. Their scale is kept, as it cannot be told from darkness.
    """
    if isinstance(source, ArraySource):
        return ()

    brightest: dict[int, int] = {}
    for index in drawn(len(source), 8, seed=0):
        with suppress(CorruptImage):
            picture, _ = source.read(index)
            if picture.mode.startswith("I;16"):
                brightest[index] = int(np.asarray(picture).max())
    if not brightest or max(brightest.values()) >= FAINT:
        return ()

    index = max(brightest, key=brightest.__getitem__)
    return (
        f"16-bit pictures will look nearly black: the brightest value in {len(brightest)} of them is "
        f"{brightest[index]} of 65535, in picture {index}; if they have fewer significant bits, scale "
        "them up",
    )


def padded_box(picture: Image.Image, config: DataConfig) -> Box:
    """With pad, the top, left, height and width of a picture in the image.

    Raises:
        DataError: the picture is larger than the image.
    """
    picture = trimmed(picture) if config.trim else picture
    height, width = zoomed_size(picture.height, picture.width, config.zoom)
    return *padding(height, width, config), height, width


def check_padding(config: DataConfig, source: ImageSource) -> None:
    """With pad, checks the sizes of some pictures, drawn over the whole source.

    A training that meets another one that is too large stops there.

    Raises:
        DataError: one of them is larger than the image.
    """
    if config.frames_by != "pad":
        return

    number = MEASURED_CLIPS if config.source in OF_CLIPS else MEASURED
    for index in drawn(len(source), number, seed=0):
        with suppress(CorruptImage):
            padded_box(source.read(index)[0], config)


def content_box(config: DataConfig, source: ImageSource) -> Box:
    """The area of an image that shows the picture and not its margin; with pad, that of the first image.

    With fit, pictures of one set have margins of many widths, which count as parts of the images.
    """
    if config.frames_by != "pad":
        return 0, 0, config.height, config.width

    return padded_box(first_picture(config, source), config)


def to_tensor(pixels: Pixels, channels: int) -> Tensor:
    """(h, w) or (h, w, c) bytes as float32 (channels, h, w) in [-1, 1]."""
    image = torch.from_numpy(pixels.astype(np.float32))
    image = image[None] if image.ndim == 2 else image.permute(2, 0, 1)
    image = image.div_(127.5).sub_(1)
    return image.expand(channels, -1, -1).contiguous()


class Framer:
    """Turns a picture into an image tensor, as the config and (seed, epoch, index) prescribe."""

    def __init__(self, config: DataConfig, train: bool, seed: int) -> None:
        self.config, self.train, self.seed = config, train, seed
        self.random_crop = train and config.random_crop
        self.augments = train and config.augments

    def __call__(self, picture: Image.Image | Pixels, epoch: int, index: int) -> Tensor:
        """Float32 (channels, height, width) in [-1, 1]."""
        return self.finished(self.sized(picture, epoch, index), epoch, index)

    def _chance(self, epoch: int, index: int) -> int:
        """63 random bits, more than are needed: the top one mirrors, the lower ones place the crop."""
        return mix("augment", self.seed, epoch, index) if self.augments else 0

    def _mirrors(self, epoch: int, index: int) -> bool:
        return self.train and self.config.flip and bool(self._chance(epoch, index) >> 62)

    def placement(self, height: int, width: int, epoch: int, index: int) -> Placement:
        """Where a picture of so many rows and columns, which is not trimmed, comes to lie in this draw."""
        config = self.config
        picture, image = (height, width), (config.height, config.width)
        mirrored = self._mirrors(epoch, index)
        if config.frames_by == "crop":
            resized = covering(height, width, config)
            chance = self._chance(epoch, index) if self.random_crop else None
            cut = (*start_of_crop(resized, config, chance), *image)
            return Placement(picture, resized, cut, mirrored, (0, 0), image)

        fits = config.frames_by == "fit"
        resized = fitting(height, width, config) if fits else zoomed_size(height, width, config.zoom)
        place = padding(*resized, config)
        return Placement(picture, resized, (0, 0, *resized), mirrored, place, image)

    def sized(self, picture: Image.Image | Pixels, epoch: int, index: int) -> Pixels:
        """The picture's pixels in the config's channels; chance has a part in them only where it crops."""
        config = self.config

        # An array stays an array, unless it has to be resized or made grey.
        if isinstance(picture, np.ndarray):
            resized = config.frames_by != "pad" or config.zoom != 1
            made_grey = picture.ndim == 3 and config.channels == 1
            if not resized and not made_grey:
                return picture
            picture = Image.fromarray(picture)
        if config.trim:
            picture = trimmed(picture)

        where = f"number {index}"
        if config.frames_by == "fit":
            return np.asarray(fitted(picture, config, where))
        picture = to_channels(picture, config.channels, where)
        if config.frames_by == "crop":
            return crop(picture, config, self._chance(epoch, index) if self.random_crop else None)
        return np.asarray(zoomed(picture, config.zoom))

    def finished(self, pixels: Pixels, epoch: int, index: int) -> Tensor:
        """Sized pixels, mirrored by chance, as an image with its margin."""
        config = self.config

        # Mirrored before padding: an odd margin must not move the picture.
        if self._mirrors(epoch, index):
            pixels = pixels[:, ::-1]

        if config.frames_by != "crop":
            pixels = pad(pixels, config)
        return to_tensor(pixels, config.channels)


class ClipFramer(Framer):
    """Turns the frames of a clip into one tensor, all of them by the same draw."""

    def sized(self, picture: Image.Image | Pixels, epoch: int, index: int) -> Pixels:
        """Frames (T, h, w) or (T, h, w, 3), as `Framer` has one of them."""
        return np.stack([super(ClipFramer, self).sized(frame, epoch, index) for frame in np.asarray(picture)])

    def finished(self, pixels: Pixels, epoch: int, index: int) -> Tensor:
        """Float32 (T, channels, height, width) in [-1, 1]."""
        return torch.stack([super(ClipFramer, self).finished(frame, epoch, index) for frame in pixels])


class ImageDataset(Dataset[ImageItem]):
    """A source as image tensors, read by `Draw` (or by plain index: epoch 0, draw number = index).

    With on_corrupt=skip the next readable picture and its label take the place of one that cannot be read.
    """

    def __init__(
        self,
        source: ImageSource,
        config: DataConfig,
        train: bool,
        seed: int,
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.source, self.config, self.transform = source, config, transform
        self.arrays = source if isinstance(source, ArraySource) else None  # asked once: it takes a while
        self.frame = (ClipFramer if config.source in OF_CLIPS else Framer)(config, train, seed)
        self.augments = self.frame.augments
        self.class_names = source.class_names
        self.unreadable = torch.zeros(len(source), dtype=torch.bool).share_memory_()  # workers write here too
        self.in_memory: dict[int, tuple[Pixels, int]] = {}  # each worker has its own

    @property
    def num_images(self) -> int:
        return len(self)

    def passed_over(self, processes: Processes) -> int:
        """How many different pictures could not be read so far, on all processes and their workers."""
        return count_unreadable(self.unreadable, processes)

    @property
    def fingerprint(self) -> str:
        """A hash of everything that determines an image, including its augmentation."""
        config = self.config

        framing = (config.height, config.width, config.channels, config.frames_by, config.on_corrupt)
        cropping = (config.resize_factor, self.frame.random_crop) if config.frames_by == "crop" else ()
        zoom = (config.zoom,) if config.frames_by == "pad" and config.zoom != 1 else ()
        margin = (config.margin,) if config.frames_by != "crop" and config.margin != "black" else ()
        trim = ("trim",) if config.trim else ()
        chance = (config.flip, self.frame.seed) if self.augments else ()

        parts = repr((self.source.fingerprint, framing, (cropping or zoom) + margin + trim, chance))
        return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()

    @property
    def identity(self) -> str:
        """It stands for the pictures, their order and labels; not for what settings make of them."""
        return self.source.identity

    def __len__(self) -> int:
        return len(self.source)

    def _sized(self, index: int, draw: Draw) -> tuple[Pixels, int]:
        """The picture's pixels, sized for this draw, and its label."""
        if index in self.in_memory:
            return self.in_memory[index]
        picture, label = self.source.read(index) if self.arrays is None else self.arrays.array(index)
        found = self.frame.sized(picture, draw.epoch, draw.index), label
        if self.config.in_memory:
            self.in_memory[index] = found
        return found

    def __getitem__(self, key: Draw | int) -> ImageItem:
        draw = Draw.of(key)
        if not 0 <= draw.index < len(self):  # also ends `for item in dataset`
            raise IndexError(f"index {draw.index} of a data set of {len(self)} images")

        # If a picture cannot be read and may be skipped, the next readable one takes its place.
        for step in range(len(self)):
            index = (draw.index + step) % len(self)
            try:
                pixels, label = self._sized(index, draw)
                image = self.frame.finished(pixels, draw.epoch, draw.index)
            except CorruptImage as error:
                if self.config.on_corrupt == "stop":
                    raise CorruptImage(f"{error} (data.on_corrupt=skip skips such pictures)") from None
                if not self.unreadable[index]:
                    warn_of_skipped(error, int(self.unreadable.sum()))
                self.unreadable[index] = True
                continue

            image = self.transform(image) if self.transform else image
            return {"image": image, "label": label, "index": draw.index, "draw_number": draw.draw_number}
        raise DataError(f"none of the {len(self)} images can be read")
