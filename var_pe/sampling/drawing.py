"""Images drawn by a config's settings, each following from its own number."""

from collections.abc import Sequence
from typing import Annotated, cast

import torch
from annotated_types import Len
from torch import Tensor

from var_pe.models.choice import GuidanceSchedule
from var_pe.pyramid import Levels
from var_pe.sampling.pipeline import VARPipeline, VARPipelineOutput
from var_pe.seeding import generator_for
from var_pe.settings.fields import Doc, NonNegative, NonNegativeFloat, Positive, PositiveFloat, Share, section


@section(frozen=True)
class SamplingConfig:
    guidance_scale: Annotated[
        NonNegativeFloat, Doc("VAR's convention: 0 is none; in diffusers' convention the weight is 1 + it")
    ] = 1.5
    guidance_schedule: Annotated[
        GuidanceSchedule | list[NonNegativeFloat],
        Doc("linear: from 0 at the first level; or a factor of the scale for each level"),
    ] = "linear"
    temperature: Annotated[
        PositiveFloat | list[PositiveFloat],
        Doc("below 1 is more cautious; one, or one for each level"),
    ] = 1.0
    top_k: Annotated[NonNegative, Doc("draw among the likeliest k codes; 0: all")] = 0
    top_p: Annotated[Share, Doc("draw among the likeliest codes of this mass together; 0: all")] = 0.0
    images_per_class: Annotated[Positive, Doc("images of each class; without classes, of the whole")] = 100
    batch: Annotated[Positive, Doc("images drawn together; does not change them")] = 100
    seed: Annotated[NonNegative, Doc("of the images")] = 0
    size: Annotated[
        Annotated[list[Positive], Len(2, 2)] | None, Doc("rows and columns of pixels; null: as trained")
    ] = None
    levels: Annotated[Levels | None, Doc("grids from coarse to fine; null: the trained ones, to size")] = None


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
