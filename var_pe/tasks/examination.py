"""What a trained tokenizer's quality comes from: reconstructions with one thing at a time left out."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from var_pe.data.image_set import HeldOutImages, stacked
from var_pe.data.images import Box
from var_pe.models.quantizers.vq import plain_codebook
from var_pe.models.tokenizer import VQTokenizer
from var_pe.processes import Processes
from var_pe.tasks.losses.reconstruction import psnr


@dataclass(frozen=True)
class Examination:
    """Mean PSNR in dB on the same images, under the tokenizer's own levels."""

    # as it is
    whole: float
    # with the latent map as it comes from the encoder, not rounded to codes
    unrounded: float
    # with the half of the codes that the training used more
    half_codes: float
    # without what each level adds, the tokens of the others as they are
    without_level: list[float]
    # of the mean of all other images in place of each reconstruction; of a single image, of middle grey
    mean_picture: float
    num_images: int


@torch.no_grad()
def examine(
    tokenizer: VQTokenizer, images: HeldOutImages, box: Box, numbers: Sequence[int], processes: Processes
) -> Examination:
    """Examines a tokenizer on the images of these `numbers`; all processes share the work.

    PSNR is taken over `box`. Nothing is trained for what is left out, so each of these numbers is a bound: a
    decoder that was made for half of the codes would do better with them.
    """
    halved = with_half_of_its_codes(tokenizer)
    sum_CHW = sum_of(images, numbers, processes)
    others = max(1, len(numbers) - 1)

    # The sum over images of each PSNR, in the order of the fields
    levels = range(tokenizer.pyramid.num_levels)
    totals = torch.zeros(4 + len(levels), device=processes.device)
    for images_BCHW in batches(images, numbers, processes):
        tokens_BL = tokenizer.encode(images_BCHW)
        rebuilt = [
            tokenizer.decode(tokens_BL),
            tokenizer.reconstruct(tokenizer.latent(images_BCHW)).clamp(-1, 1),
            halved.decode(halved.encode(images_BCHW)),
            # Without the image itself, of which a mean of few shows much
            (sum_CHW - images_BCHW) / others,
            *(decode_without(tokenizer, tokens_BL, level) for level in levels),
        ]
        totals += torch.stack([psnr(each_BCHW, images_BCHW, box).sum() for each_BCHW in rebuilt])

    means = (processes.sum(totals) / len(numbers)).tolist()
    return Examination(
        whole=means[0],
        unrounded=means[1],
        half_codes=means[2],
        mean_picture=means[3],
        without_level=means[4:],
        num_images=len(numbers),
    )


def batches(images: HeldOutImages, numbers: Sequence[int], processes: Processes) -> Iterator[Tensor]:
    """This process's part of the images, (B, C, H, W) on its device."""
    for chosen in processes.batches(len(numbers), 128):
        yield stacked(images[numbers[place]] for place in chosen).to(processes.device)


def sum_of(images: HeldOutImages, numbers: Sequence[int], processes: Processes) -> Tensor:
    """The sum of the images, (C, H, W)."""
    total_CHW = torch.zeros_like(images[numbers[0]]["image"], device=processes.device)
    for images_BCHW in batches(images, numbers, processes):
        total_CHW += images_BCHW.sum(0)
    return processes.sum(total_CHW)


def with_half_of_its_codes(tokenizer: VQTokenizer) -> VQTokenizer:
    """A copy with only that half of the codes that was used most in the last steps of the training.

    Whatever the quantizer, the copy rounds to the nearest of them.
    """
    quantizer = tokenizer.quantizer
    kept = quantizer.usage_V.topk(max(1, quantizer.num_codes // 2)).indices
    halved = deepcopy(tokenizer)
    halved.quantizer = plain_codebook(quantizer, kept)
    return halved


def decode_without(tokenizer: VQTokenizer, tokens_BL: Tensor, level: int) -> Tensor:
    """Images in [-1, 1] of the tokens of all levels but one."""
    pyramid, quantizer = tokenizer.pyramid, tokenizer.quantizer
    f_hat_BZhw = quantizer.start(len(tokens_BL), pyramid)
    for number, span in enumerate(pyramid.spans):
        if number != level:
            f_hat_BZhw = quantizer.add_level(f_hat_BZhw, tokens_BL[:, span], number, pyramid)
    return tokenizer.reconstruct(f_hat_BZhw).clamp(-1, 1)
