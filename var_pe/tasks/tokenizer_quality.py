"""How well a tokenizer rebuilds held-out images, and how it uses its codes."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from var_pe.data.image_set import HeldOutImages, stacked
from var_pe.data.images import Box
from var_pe.models.tokenizer import VQTokenizer
from var_pe.pyramid import Pyramid
from var_pe.tasks.codebook import hits, perplexity, squares
from var_pe.tasks.losses.colour import hue_errors
from var_pe.tasks.losses.reconstruction import psnr
from var_pe.training.stopping import held_out_batches


class Measured(NamedTuple):
    """How a tokenizer does under one pyramid."""

    # dB, of each image, over the area of the picture
    psnr_N: Tensor
    # their mean
    mean_psnr: float
    # how often each code occurs in each level
    hits_KV: Tensor
    # of each level, the squared distance of vectors from their codes over the vectors' squared length
    distance_K: Tensor
    # of flat coloured places: mean difference of hue in degrees, share of chroma kept; None without any
    hue_error: float | None
    chroma_kept: float | None


def validate_tokenizer(
    tokenizer: VQTokenizer, held_out: Mapping[Pyramid, tuple[HeldOutImages, Box]], accelerator: Accelerator
) -> dict[str, float]:
    """PSNR in dB over the original picture's area, colour, each level's perplexity, codes used and distance.

    `held_out` holds each pyramid's images, and the box in them that shows the picture. Values of the first
    pyramid have plain names, those of the others end with the pyramid's: `validation/psnr/1-2-4`.
    """
    return in_values(measure_tokenizer(tokenizer, held_out, accelerator))


def in_values(measured: Mapping[Pyramid, Measured]) -> dict[str, float]:
    """What was measured, by the names of a log."""
    found: dict[str, float] = {}
    for pyramid, quality in measured.items():
        tag = f"/{pyramid}" if found else ""
        found[f"validation/psnr{tag}"] = quality.mean_psnr
        if quality.hue_error is not None and quality.chroma_kept is not None:
            found[f"validation/hue_error{tag}"] = quality.hue_error
            found[f"validation/chroma_kept{tag}"] = quality.chroma_kept
        found[f"validation/perplexity{tag}"] = float(perplexity(quality.hits_KV.sum(0)))

        for level, hits_V in enumerate(quality.hits_KV):
            found[f"validation/perplexity{tag}/level_{level}"] = float(perplexity(hits_V))
            found[f"validation/usage{tag}/level_{level}"] = float((hits_V > 0).float().mean())
            found[f"validation/code_distance{tag}/level_{level}"] = float(quality.distance_K[level])
    return found


def measure_tokenizer(
    tokenizer: VQTokenizer, held_out: Mapping[Pyramid, tuple[HeldOutImages, Box]], accelerator: Accelerator
) -> dict[Pyramid, Measured]:
    """Each pyramid's images through the tokenizer, over all processes."""
    found = {}
    for pyramid, (images, box) in held_out.items():
        found[pyramid] = _measured(tokenizer, pyramid, images, box, accelerator)
    return found


@torch.no_grad()
def _measured(
    tokenizer: VQTokenizer, pyramid: Pyramid, images: HeldOutImages, box: Box, accelerator: Accelerator
) -> Measured:
    size = tokenizer.quantizer.num_codes
    hits_KV = torch.zeros(pyramid.num_levels, size, device=accelerator.device)
    psnr_N = torch.zeros(len(images), device=accelerator.device)
    squares_K2 = torch.zeros(pyramid.num_levels, 2, device=accelerator.device)
    total = torch.zeros(2, device=accelerator.device)
    colours_3 = torch.zeros(3, device=accelerator.device)
    for chosen in held_out_batches(len(images), 256, accelerator):
        images_BCHW = stacked(images[i] for i in chosen).to(accelerator.device)
        quantized = tokenizer.quantizer(tokenizer.latent(images_BCHW), pyramid)
        tokens_BL = quantized.tokens_BL
        rebuilt_BCHW = tokenizer.decode(tokens_BL, pyramid)
        psnr_B = psnr(rebuilt_BCHW, images_BCHW, box)
        psnr_N[chosen.start : chosen.stop] = psnr_B
        total += torch.stack([psnr_B.sum(), total.new_tensor(len(chosen))])
        hits_KV += hits(tokens_BL, pyramid, size)
        squares_K2 += squares(tokenizer.quantizer, quantized, pyramid)
        if images_BCHW.shape[1] == 3:
            degrees_M, kept_M = hue_errors(rebuilt_BCHW, images_BCHW)
            colours_3 += torch.stack([degrees_M.sum(), kept_M.sum(), total.new_tensor(len(kept_M))])

    total = accelerator.reduce(total, "sum")
    lost_K, whole_K = accelerator.reduce(squares_K2, "sum").unbind(1)
    degrees, kept, places = accelerator.reduce(colours_3, "sum").tolist()
    return Measured(
        # Every process has filled in its own images and zeros elsewhere.
        psnr_N=accelerator.reduce(psnr_N, "sum").cpu(),
        mean_psnr=float(total[0] / total[1]),
        hits_KV=accelerator.reduce(hits_KV, "sum"),
        distance_K=lost_K / whole_K.clamp(min=1e-30),
        hue_error=degrees / places if places else None,
        chroma_kept=kept / places if places else None,
    )
