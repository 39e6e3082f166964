"""Many pictures as one, with captions: the grid of a folder, images after every level, results of an edit."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from var_pe.pages.sheets import Cell, Pixels, Section, class_name, sheet
from var_pe.sampling.config import SamplingConfig
from var_pe.sampling.drawing import draw_levels
from var_pe.sampling.folder import image_path
from var_pe.sampling.pipeline import VARPipeline
from var_pe.sampling.png import read_png, write_pixels


def write_grid(
    path: Path,
    folder: Path,
    config: SamplingConfig,
    classes: Sequence[int],
    class_names: Sequence[str] = (),
    rows: int = 10,
) -> None:
    """The first images of the first of these classes, a row for each class under its name, uncurated."""
    sections = []
    for label in classes[:rows]:
        first = label * config.images_per_class
        numbers = range(first, first + min(rows, config.images_per_class))
        pictures = [read_png(image_path(folder, number, config, class_names)) for number in numbers]
        title = class_name(class_names, label) if class_names else ""
        sections.append(Section(title, [Cell([picture]) for picture in pictures], across=rows))

    write_pixels(path, np.asarray(sheet(sections)))


def write_levels(
    path: Path,
    pipeline: VARPipeline,
    config: SamplingConfig,
    classes: Sequence[int] | None = None,
    rows: int = 10,
) -> None:
    """The first image of each of the first classes, or of these, after every level, from left to right."""
    labels = list(range(max(1, pipeline.transformer.num_classes)) if classes is None else classes)[:rows]
    numbers = [label * config.images_per_class for label in labels]
    images_BSCHW = draw_levels(pipeline, labels, numbers, config)

    height, width = config.size or (None, None)
    grids = pipeline.pyramid_for(height, width, config.levels).grids
    names = [f"{rows} x {columns}" for rows, columns in grids]
    sections = []
    for label, images_SCHW in zip(labels, images_BSCHW, strict=True):
        title = class_name(pipeline.class_names, label) if pipeline.transformer.num_classes else ""
        cells = [Cell([pixels_of(image)], name) for image, name in zip(images_SCHW, names, strict=True)]
        sections.append(Section(title, cells, across=len(cells)))
    write_pixels(path, np.asarray(sheet(sections)))


def write_edits(
    path: Path,
    titles: Sequence[str],
    images_NSCHW: Tensor,
    names: Sequence[str],
    notes_NS: Sequence[Sequence[str]],
) -> None:
    """A row for each edited picture under its title; every column S has a name, every image a note."""
    sections = []
    for title, images_SCHW, notes in zip(titles, images_NSCHW, notes_NS, strict=True):
        captions = zip(images_SCHW, names, notes, strict=True)
        cells = [Cell([pixels_of(image_CHW)], name, note) for image_CHW, name, note in captions]
        sections.append(Section(title, cells, across=len(cells)))
    write_pixels(path, np.asarray(sheet(sections)))


def pixels_of(image_CHW: Tensor) -> Pixels:
    """The bytes (H, W, C) of an image in [0, 1]."""
    return (image_CHW * 255).round().byte().permute(1, 2, 0).cpu().numpy()
