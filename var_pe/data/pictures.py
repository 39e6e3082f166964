"""One picture: opened from a file or from bytes, and brought to one or three channels."""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps


class DataError(ValueError):
    """What is wrong with the data, in one sentence, even if a data worker found it.

    `DataLoader` raises a worker's error anew with the whole trace as its message, whose last line is the
    sentence.
    """

    def __init__(self, message: str) -> None:
        sentence = " ".join(message.split()) if not message.startswith("Caught ") else message
        super().__init__(
            sentence.strip().splitlines()[-1].removeprefix(f"{type(self).__module__}.{type(self).__name__}: ")
        )


class CorruptImage(DataError):
    """A picture that cannot be read; the message names it."""


def open_picture(content: bytes | str | Path, where: str) -> Image.Image:
    """The decoded picture, turned upright; `where` names it in the error.

    Raises:
        CorruptImage: the file is missing, cut short or not a picture.
    """
    try:
        picture = Image.open(BytesIO(content) if isinstance(content, bytes) else content)
        picture.load()
        return ImageOps.exif_transpose(picture)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise what they meet: OSError, SyntaxError, struct.error ...
        reason = "not a picture" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise CorruptImage(f"corrupt image {where}: {reason}") from error


def to_channels(picture: Image.Image, channels: int, where: str = "") -> Image.Image:
    """The picture in mode L or RGB; transparent parts become white, 16-bit grey keeps its upper 8 bits."""
    mode = "L" if channels == 1 else "RGB"
    if picture.mode == mode:
        return picture
    if picture.mode in ("I", "F"):
        raise CorruptImage(f"image {where} has mode {picture.mode}, whose range of brightness is not stated")
    try:
        return opaque(picture).convert(mode)
    except ValueError as error:  # PIL knows modes that it cannot convert
        raise CorruptImage(f"image {where} has mode {picture.mode}: {error}") from error


def opaque(picture: Image.Image) -> Image.Image:
    """The picture with 8 bits a channel and without transparency, in a mode that PIL can convert."""
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8))
    if picture.mode == "LAB":
        return picture.convert("RGB")
    if not picture.has_transparency_data:
        return picture

    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
