"""One picture: opened from a file or from bytes, and brought to one or three channels."""

import struct
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

ORIENTATION = 0x0112  # the tag of EXIF and of TIFF

# Modes whose brightest value is whatever the writer meant
UNKNOWN_RANGE = {"I": "32-bit whole numbers", "F": "floating point"}

NAMED = 10  # pictures that cannot be read and are passed over with a warning each

# What turns a picture upright, by its orientation (EXIF 2.32, section 4.6.4)
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


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


def warn_of_skipped(error: CorruptImage, before: int) -> None:
    """Warns of a picture that is passed over, after `before` others; many are not named one by one."""
    if before < NAMED:
        warnings.warn(f"passed over: {error}", stacklevel=3)
    elif before == NAMED:
        warnings.warn("more pictures are passed over; from here on they are counted, not named", stacklevel=3)


def open_picture(content: bytes | str | Path, where: str) -> Image.Image:
    """The decoded picture, turned upright; of an animation the first frame. `where` names it in the error.

    Raises:
        CorruptImage: the file is missing, cut short or not a picture, or its mode has no known range of
            brightness.
    """
    try:
        stored = content if isinstance(content, bytes) else Path(content).read_bytes()
        picture = Image.open(BytesIO(stored))
        picture.load()
        scale_key(picture, stored)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise what they meet: OSError, SyntaxError, struct.error ...
        reason = "not a picture" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise CorruptImage(f"corrupt image {where}: {reason}") from error

    check_range(picture, where)
    turn = UPRIGHT.get(orientation(picture))
    return picture if turn is None else picture.transpose(turn)


def check_range(picture: Image.Image, where: str) -> None:
    """Refuses a picture whose brightest value only its writer knows; `where` names it in the error.

    Raises:
        CorruptImage: it has 32 bits a value.
    """
    if picture.mode in UNKNOWN_RANGE:
        raise CorruptImage(
            f"image {where} has mode {picture.mode} ({UNKNOWN_RANGE[picture.mode]}), which does not say "
            "what range its values have: save it with 8 or 16 bits"
        )


def scale_key(picture: Image.Image, stored: bytes) -> None:
    """Brings a PNG's transparent grey or colour from the file's depth to the 8 bits of its pixels.

    PIL widens or narrows the pixels but leaves the key, in the info, as it was. (PNG, section 11.3.2.1)
    """
    key = picture.info.get("transparency")
    if picture.format != "PNG" or picture.mode not in ("L", "RGB") or stored[24] == 8:
        return
    if isinstance(key, int):
        picture.info["transparency"] = key * 255 // (2 ** stored[24] - 1)
    elif isinstance(key, tuple):
        picture.info["transparency"] = tuple(value >> 8 for value in key)


def orientation(picture: Image.Image) -> int:
    """How the camera was held, 1 .. 8; 1, upright, if nothing readable says so.

    No other entry of EXIF matters here, so a faulty one makes no picture corrupt, and hides no orientation.
    """
    try:
        found = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # the parser raises whatever the faulty entry leads to
        exif = picture.info.get("exif")
        found = orientation_in(exif) if isinstance(exif, bytes) else 1
    return int(found) if found in UPRIGHT else 1


def orientation_in(exif: bytes) -> int:
    """The orientation among the first entries of an EXIF block; 1 if it is not there."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = "<" if tiff[:2] == b"II" else ">"
    try:
        (first,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, first)

        # Twelve bytes an entry: tag, type, how many values, and the value itself if it is short
        for entry in range(first + 2, first + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", tiff, entry)
            if tag == ORIENTATION:
                code = {1: "B", 3: "H", 4: "I"}[kind]
                return int(struct.unpack_from(order + code, tiff, entry + 8)[0])
    except (struct.error, KeyError):
        pass  # cut short, or no whole number
    return 1


def to_channels(picture: Image.Image, channels: int, where: str = "") -> Image.Image:
    """The picture in mode L or RGB; transparent parts become white, 16-bit grey keeps its upper 8 bits.

    Raises:
        CorruptImage: the picture's mode cannot be converted.
    """
    mode = "L" if channels == 1 else "RGB"
    if picture.mode == mode and not picture.has_transparency_data:
        return picture
    try:
        return opaque(picture).convert(mode)
    except ValueError as error:  # PIL knows modes that it cannot convert
        raise CorruptImage(f"image {where} has mode {picture.mode}: {error}") from error


def opaque(picture: Image.Image) -> Image.Image:
    """The picture with 8 bits a channel and without transparency, in a mode that PIL can convert."""
    if picture.mode.startswith("I;16"):
        return upper_bits(picture)
    if picture.mode == "LAB":
        return picture.convert("RGB")
    if not picture.has_transparency_data:
        return picture

    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def trimmed(picture: Image.Image) -> Image.Image:
    """The part of a picture that is not fully transparent; the whole if no part is, or all of it."""
    if not picture.has_transparency_data or picture.mode.startswith("I;16"):
        return picture
    alpha = picture if picture.mode in ("RGBA", "LA") else picture.convert("RGBA")
    box = alpha.getchannel("A").getbbox()
    return picture if box is None else picture.crop(box)


def upper_bits(picture: Image.Image) -> Image.Image:
    """The upper 8 bits of 16-bit grey; the grey that counts as transparent becomes white."""
    pixels = np.asarray(picture).astype(np.uint16)
    clear = pixels == picture.info.get("transparency", -1)
    return Image.fromarray(np.where(clear, 255, pixels >> 8).astype(np.uint8))
