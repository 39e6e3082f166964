"""Folders of drawn images: resumable, the same on any number of processes."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from var_pe.models.choice import SCHEDULES, check_choice
from var_pe.pyramid import Pyramid
from var_pe.sampling.pipeline import VARPipeline, VARPipelineOutput
from var_pe.seeding import generator_for
from var_pe.settings.rules import RuleError, check_names, check_numbers

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class SamplingConfig:
    guidance_scale: float = 1.5  # VAR's convention: 0 is none; in diffusers' convention the weight is 1 + it
    guidance_schedule: str | list[float] = (
        "linear"  # linear (from 0 at the first level) | constant | a factor of the scale for each level
    )
    temperature: float | list[float] = 1.0  # above 0; below 1 is more cautious; one, or one for each level
    top_k: int = 0  # draw among the likeliest k codes; 0: all
    top_p: float = 0.0  # draw among the likeliest codes of this mass together; 0: all
    images_per_class: int = 100  # images of each class; without classes, of the whole
    batch: int = 100  # images drawn together; does not change them
    seed: int = 0  # of the images
    size: list[int] | None = None  # rows and columns of pixels; null: as trained
    levels: list[int | list[int]] | None = None  # grids from coarse to fine; null: the trained ones, to size

    def __post_init__(self) -> None:
        if self.size is not None and len(self.size) != 2:
            raise RuleError(f"size is rows and columns of pixels, got {self.size}")
        check_numbers(self, size="[1, inf)", images_per_class="[1, inf)", batch="[1, inf)", seed="[0, inf)")
        check_numbers(self, guidance_scale="[0, inf)", temperature="(0, inf)")
        if isinstance(self.guidance_schedule, str):
            check_names(self, guidance_schedule=SCHEDULES)
        else:
            check_numbers(self, guidance_schedule="[0, inf)")
        if self.levels is not None:
            Pyramid.of(self.levels)
        check_choice(top_k=self.top_k, top_p=self.top_p)


def draw_images(
    pipeline: VARPipeline, labels: Sequence[int | None], numbers: Sequence[int], config: SamplingConfig
) -> Tensor:
    """uint8 images (B, C, H, W), rounded: image `numbers[i]` of the config's seed has label `labels[i]`.

    Image n follows from (seed, n) and its label, whatever else is drawn with it.
    """
    images_BCHW: Any = drawn(pipeline, labels, numbers, config).images
    return (images_BCHW * 255).round().to(torch.uint8).cpu()


def drawn(
    pipeline: VARPipeline,
    labels: Sequence[int | None],
    numbers: Sequence[int],
    config: SamplingConfig,
    **more: Any,
) -> VARPipelineOutput:
    """What the pipeline makes of the config's settings; images in [0, 1]."""
    unconditional = pipeline.transformer.num_classes
    height, width = config.size or (None, None)
    output = pipeline(
        [None if label == unconditional else label for label in labels],
        guidance_scale=config.guidance_scale,
        guidance_schedule=config.guidance_schedule,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        generator=[generator_for(config.seed, "image", number) for number in numbers],
        output_type="pt",
        height=height,
        width=width,
        pyramid=config.levels,
        **more,
    )
    assert isinstance(output, VARPipelineOutput)
    return output


def class_of(number: int, config: SamplingConfig) -> int:
    """Images are numbered class by class: the first `images_per_class` numbers are class 0, and so on."""
    return number // config.images_per_class


def fill_folder(
    folder: Path,
    pipeline: VARPipeline,
    config: SamplingConfig,
    *,
    weights: str,
    rank: int = 0,
    world: int = 1,
    on_progress: Callable[[int], None] = lambda number: None,
) -> None:
    """Draws what is still missing of `images_per_class` PNGs per class below `folder/images`.

    `weights` names the weights; with the settings it stands in `folder/sampling.json`. `on_progress(n)` is
    called when n more images are done.

    Raises:
        ValueError: the folder holds images of other weights or settings.
    """
    settings = {"weights": weights, **{k: v for k, v in asdict(config).items() if k != "batch"}}
    check_claim(folder, settings)
    total = config.images_per_class * max(1, pipeline.transformer.num_classes)
    for numbers in batches(total, config.batch, rank, world):
        missing = [number for number in numbers if not image_path(folder, number, config).exists()]
        if missing:
            images_BCHW = draw_images(pipeline, [class_of(n, config) for n in missing], missing, config)
            claim(folder, settings)  # not before: what cannot be drawn leaves no trace
            for number, image_CHW in zip(missing, images_BCHW, strict=True):
                write_png(image_path(folder, number, config), image_CHW)
        on_progress(len(numbers))
    claim(folder, settings)


def claim(folder: Path, settings: dict[str, Any]) -> None:
    """Writes down what the folder's images are drawn with, or checks that it is the same."""
    path = folder / "sampling.json"
    if path.exists():
        return check_claim(folder, settings)
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")  # whole when it appears, whoever else writes it
    partial.write_text(json.dumps(settings, indent=2))
    partial.replace(path)


def check_claim(folder: Path, settings: dict[str, Any]) -> None:
    """Raises:
    ValueError: the folder's images, if any, are drawn with other settings, or with nobody knows which."""
    path = folder / "sampling.json"
    try:
        there = json.loads(path.read_text(encoding="utf-8")) if path.exists() else settings
    except ValueError:
        there = None
    if not isinstance(there, dict):
        raise ValueError(f"{path} is damaged: it does not say what the images beside it are drawn with")
    if other := [f"{k} {there.get(k)!r} (asked: {v!r})" for k, v in settings.items() if there.get(k) != v]:
        raise ValueError(
            f"{folder} holds images drawn with {', '.join(other)}; choose another --output or remove it"
        )


def image_path(folder: Path, number: int, config: SamplingConfig) -> Path:
    return folder / "images" / f"{class_of(number, config):04d}" / f"{number:07d}.png"


def batches(total: int, size: int, rank: int, world: int) -> Iterator[range]:
    """This process's every n-th range of at most `size` numbers."""
    for start in range(rank * size, total, world * size):
        yield range(start, min(start + size, total))


def write_png(path: Path, image_CHW: Tensor) -> None:
    """Under another name first: a picture that is there is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = image_CHW.permute(1, 2, 0).numpy()
    partial = path.with_suffix(".partial")
    try:
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(partial, format="PNG")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_png(path: Path) -> Pixels:
    """One of the folder's pictures, bytes (H, W, 3).

    Raises:
        ValueError: it is damaged.
    """
    try:
        return np.asarray(Image.open(path).convert("RGB"))
    except (OSError, SyntaxError) as error:  # the second of a header in pieces
        raise ValueError(f"{path} is damaged: remove it, and the same command draws it again") from error


def write_grid(path: Path, folder: Path, config: SamplingConfig, num_classes: int, rows: int = 10) -> None:
    """The first images of the first classes, a row for each class, uncurated."""
    chosen = [
        [
            image_path(folder, label * config.images_per_class + i, config)
            for i in range(min(rows, config.images_per_class))
        ]
        for label in range(min(rows, max(1, num_classes)))
    ]
    lines = [np.concatenate([read_png(p) for p in line], axis=1) for line in chosen]
    Image.fromarray(np.concatenate(lines)).save(path)


def write_levels(path: Path, pipeline: VARPipeline, config: SamplingConfig, rows: int = 10) -> None:
    """The first image of each of the first classes after every level, from left to right."""
    labels = list(range(max(1, min(rows, pipeline.transformer.num_classes))))
    numbers = [label * config.images_per_class for label in labels]
    levels = drawn(pipeline, labels, numbers, config, return_levels=True).levels
    assert levels is not None
    write_sheet(path, torch.stack(levels, dim=1))


def write_sheet(path: Path, images_RSCHW: Tensor, at_least: int = 96) -> None:
    """Pictures in [0, 1] in rows and columns as one; small ones are magnified to `at_least` pixels a side."""
    factor = max(1, -(-at_least // min(images_RSCHW.shape[-2:])))
    sheet_CHW = rearrange(images_RSCHW, "R S C H W -> C (R H) (S W)")
    sheet_CHW = sheet_CHW.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    write_png(path, (sheet_CHW * 255).round().byte().cpu())


def write_npz(path: Path, folder: Path) -> None:
    """All images in order as ADM's evaluator reads them: `arr_0`, uint8 (N, H, W, 3)."""
    images = [read_png(p) for p in sorted((folder / "images").rglob("*.png"))]
    np.savez(path, arr_0=np.stack(images))
