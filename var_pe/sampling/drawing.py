"""Images drawn by a config's settings, each following from its own number."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from var_pe.models.choice import SCHEDULES, check_choice
from var_pe.pyramid import Pyramid
from var_pe.sampling.pipeline import VARPipeline, VARPipelineOutput
from var_pe.seeding import generator_for
from var_pe.settings.rules import RuleError, check_names, check_numbers


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
    images_BCHW = cast(Tensor, drawn(pipeline, labels, numbers, config).images)
    return (images_BCHW * 255).round().to(torch.uint8).cpu()


def draw_levels(
    pipeline: VARPipeline, labels: Sequence[int | None], numbers: Sequence[int], config: SamplingConfig
) -> Tensor:
    """The same images after every level, (B, S, C, H, W) in [0, 1]."""
    levels = drawn(pipeline, labels, numbers, config, return_levels=True).levels
    return torch.stack(cast(list[Tensor], levels), dim=1)


def drawn(
    pipeline: VARPipeline,
    labels: Sequence[int | None],
    numbers: Sequence[int],
    config: SamplingConfig,
    *,
    return_levels: bool = False,
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
        return_levels=return_levels,
    )
    return cast(VARPipelineOutput, output)
