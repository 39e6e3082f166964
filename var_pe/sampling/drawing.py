"""Images drawn by a config's settings, each following from its own number."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from var_pe.sampling.config import SamplingConfig
from var_pe.sampling.pipeline import VARPipeline, VARPipelineOutput
from var_pe.seeding import generator_for


def draw_images(
    pipeline: VARPipeline, labels: Sequence[int | None], numbers: Sequence[int], config: SamplingConfig
) -> Tensor:
    """uint8 images (B, C, H, W), rounded: image `numbers[i]` of the config's seed has label `labels[i]`.

    Image n follows from (seed, n) and its label, whatever else is drawn with it.
    """
    return draw_images_and_tokens(pipeline, labels, numbers, config)[0]


def draw_images_and_tokens(
    pipeline: VARPipeline, labels: Sequence[int | None], numbers: Sequence[int], config: SamplingConfig
) -> tuple[Tensor, Tensor]:
    """The same, and the tokens of these images, (B, L)."""
    output = drawn(pipeline, labels, numbers, config, return_tokens=True)
    images_BCHW, tokens_BL = cast(Tensor, output.images), cast(Tensor, output.tokens)
    return (images_BCHW * 255).round().to(torch.uint8).cpu(), tokens_BL.cpu()


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
    return_tokens: bool = False,
    output_type: str = "pt",
) -> VARPipelineOutput:
    """The pipeline's output under the config's settings: images in [0, 1], or as `output_type` says.

    Raises:
        ValueError: several drawings of an image are asked for, and the pipeline has no classifier.
    """
    # The label after the last class stands for no class.
    unconditional = pipeline.transformer.num_classes
    classes = [None if label == unconditional else label for label in labels]

    # An image's generator is its own, so that it does not depend on the batch that it is drawn in.
    generators = [generator_for(config.seed, "image", number) for number in numbers]
    height, width = config.size or (None, None)

    output = pipeline(
        classes,
        guidance_scale=config.guidance_scale,
        guidance_schedule=config.guidance_schedule,
        scale_guidance=config.scale_guidance,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        keep_best=1 / config.draws_per_image,
        classifier=pipeline.classifier if config.draws_per_image > 1 else None,
        generator=generators,
        output_type=output_type,
        height=height,
        width=width,
        pyramid=config.levels,
        return_levels=return_levels,
        return_tokens=return_tokens,
    )
    return cast(VARPipelineOutput, output)
