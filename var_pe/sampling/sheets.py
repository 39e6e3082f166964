"""Many pictures as one: the grid of a folder, images after every level, results of an edit."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from einops import rearrange
from torch import Tensor

from var_pe.pages.sheets import Cell, Section, class_name, sheet
from var_pe.sampling.config import SamplingConfig
from var_pe.sampling.drawing import draw_levels
from var_pe.sampling.folder import image_path
from var_pe.sampling.pipeline import VARPipeline
from var_pe.sampling.png import read_png, write_pixels, write_png


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
    write_sheet(path, draw_levels(pipeline, labels, numbers, config))


def write_sheet(path: Path, images_RSCHW: Tensor, at_least: int = 96) -> None:
    """Pictures in [0, 1] in rows and columns as one; small ones are magnified to `at_least` pixels a side."""
    smaller_side = min(images_RSCHW.shape[-2:])
    factor = max(1, -(-at_least // smaller_side))

    sheet_CHW = rearrange(images_RSCHW, "R S C H W -> C (R H) (S W)")
    sheet_CHW = sheet_CHW.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    write_png(path, (sheet_CHW * 255).round().byte().cpu())
