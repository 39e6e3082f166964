"""Sheets of pictures with names: pictures are enlarged by whole factors, names are cut to fit below them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]  # (rows, columns, 1 or 3)

TEXT, TITLE = 11, 13  # pixels of a letter's height

SIDE = 96  # pixels that the longer side of a picture should have: smaller ones are enlarged
NARROWEST = 84  # pixels of a cell, so that a name fits below the picture
WIDEST = 1300  # pixels of a sheet, unless a single cell is wider
GAP, MARGIN = 2, 6  # pixels between pictures of a cell; around cells
NAME_LINES = 2  # into which a name is broken at most


@dataclass(frozen=True)
class Cell:
    """Pictures of one size that belong together, drawn one above another, and what is written below."""

    pictures: Sequence[Pixels]
    name: str = ""
    # a line below the name
    note: str = ""


@dataclass(frozen=True)
class Section:
    """Cells under a title; all their pictures have one size."""

    title: str
    cells: Sequence[Cell]
    # cells in a row; None: as many as WIDEST holds
    across: int | None = None


def sheet(sections: Sequence[Section]) -> Image.Image:
    """The sections one below the other, in colour on white."""
    parts = [_section(section) for section in sections if section.cells]
    width = max((part.width for part in parts), default=1)
    whole = Image.new("RGB", (width, sum(part.height for part in parts) or 1), "white")

    top = 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height
    return whole


def class_name(names: Sequence[str], label: int) -> str:
    """A class as a sheet names it: by its number where it has no name, or none that the font can write."""
    if label < 0:
        return "no class"

    plain = " ".join(names[label].split()) if label < len(names) else ""
    drawn = "".join(sign if ord(sign) in _known() else "?" for sign in plain)
    if not plain:
        return f"class {label}"
    return drawn if drawn == plain else f"{label}: {drawn}"


def _section(section: Section) -> Image.Image:
    rows, columns = section.cells[0].pictures[0].shape[:2]
    factor = max(1, round(SIDE / max(rows, columns)))
    width = max(NARROWEST, factor * columns) + MARGIN

    # As many cells in a row as fit, and about as many in each row.
    across = max(1, min(len(section.cells), section.across or WIDEST // width))
    down = math.ceil(len(section.cells) / across)
    across = math.ceil(len(section.cells) / down)

    whole_width = max(across * width + MARGIN, 4 * NARROWEST)
    title = _broken(section.title, whole_width - 2 * MARGIN, TITLE, lines=4)
    head = len(title) * _line(TITLE) + 2 * MARGIN
    pictures = max(len(cell.pictures) for cell in section.cells) * (factor * rows + GAP)
    names = max(len(_broken(cell.name, width - MARGIN, TEXT, NAME_LINES)) for cell in section.cells)
    notes = int(any(cell.note for cell in section.cells))
    height = pictures + (names + notes) * _line(TEXT) + MARGIN

    canvas = Image.new("RGB", (whole_width, head + down * height), "white")
    pen = ImageDraw.Draw(canvas)
    for number, text in enumerate(title):
        pen.text((MARGIN, MARGIN + number * _line(TITLE)), text, "black", _font(TITLE))

    for number, cell in enumerate(section.cells):
        left = MARGIN + number % across * width
        top = head + number // across * height
        for place, picture in enumerate(cell.pictures):
            centred = (width - MARGIN - factor * columns) // 2
            canvas.paste(_enlarged(picture, factor), (left + centred, top + place * (factor * rows + GAP)))

        texts = _broken(cell.name, width - MARGIN, TEXT, NAME_LINES)
        texts += [_cut(cell.note, width - MARGIN, TEXT)] if cell.note else []
        for place, text in enumerate(texts):
            centre = left + (width - MARGIN) / 2
            pen.text((centre, top + pictures + place * _line(TEXT)), text, "black", _font(TEXT), anchor="ma")
    return canvas


def _enlarged(picture: Pixels, factor: int) -> Image.Image:
    """Every pixel as a square of `factor` pixels, in colour."""
    channels = 3 if picture.shape[2] == 1 else 1
    rgb = np.tile(picture, (1, 1, channels))
    return Image.fromarray(rgb.repeat(factor, axis=0).repeat(factor, axis=1))


# ------------------------------------------------------------------------------------------- text


# What only plans does not draw, and should not hold matplotlib in memory: it is imported where it is used.


@cache
def _file_of_font() -> str:
    """matplotlib's own font, which knows the letters of most alphabets and is the same on every machine."""
    import matplotlib

    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_file_of_font(), size)


@cache
def _known() -> frozenset[int]:
    """The signs that the font can write."""
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(_file_of_font()).get_charmap())


def _line(size: int) -> int:
    """Pixels from one line of text to the next."""
    return round(1.3 * size)


def _broken(text: str, width: int, size: int, lines: int) -> list[str]:
    """The text in at most `lines` lines of `width` pixels, broken between words; the rest is cut off."""
    found: list[str] = []
    words = text.split()
    while words and len(found) < lines - 1:
        taken = 1
        while taken < len(words) and _font(size).getlength(" ".join(words[: taken + 1])) <= width:
            taken += 1
        found.append(_cut(" ".join(words[:taken]), width, size))
        words = words[taken:]
    return [*found, _cut(" ".join(words), width, size)] if words else found


def _cut(text: str, width: int, size: int) -> str:
    """As much of the text as `width` pixels hold, with an ellipsis where something was cut off."""
    if _font(size).getlength(text) <= width:
        return text
    while text and _font(size).getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text.rstrip()}…"
