"""The care of a learned codebook: it starts from data, may follow it, and unused codes are replaced by data.

Quantizers whose codes are fixed or computed need none of this.

The choice of vectors follows from (seed, step) and from draw numbers, which count the images of the whole
run, so it does not depend on the number of processes.
"""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from annotated_types import Gt, Lt
from torch import Tensor

from var_pe.models.quantizers.codebook import LearnedCodebook
from var_pe.models.quantizers.residual import MultiScaleQuantizer, Quantized
from var_pe.pyramid import Pyramid
from var_pe.seeding import generator_for
from var_pe.settings.fields import Doc, NonNegative, Positive, Share, section

KMEANS_STEPS = 10


@section
class RestartConfig:
    every: Annotated[NonNegative, Doc("steps between restarts; 0: never")] = 25
    until: Annotated[Share, Doc("share of the run after which no code is restarted")] = 0.8
    below: Annotated[
        float, Gt(0), Lt(1), Doc("codes used less than this share of the mean are restarted")
    ] = 0.1
    memory: Annotated[Positive, Doc("steps over which use is averaged")] = 30


def hits(tokens_BL: Tensor, pyramid: Pyramid, codebook_size: int) -> Tensor:
    """How often each code occurs in each level, float32 (levels, V)."""
    hits_KV = torch.zeros(pyramid.num_levels, codebook_size, device=tokens_BL.device)
    for hits_V, span in zip(hits_KV, pyramid.spans, strict=True):
        tokens_M = tokens_BL[:, span].flatten()
        hits_V.scatter_add_(0, tokens_M, torch.ones_like(tokens_M, dtype=hits_V.dtype))
    return hits_KV


def perplexity(hits_V: Tensor) -> Tensor:
    """exp of the entropy of the codes' frequencies: n if n codes are used equally often."""
    share_V = hits_V / hits_V.sum().clamp(min=1)
    return torch.special.entr(share_V).sum().exp()


def bits(perplexities: Sequence[float], pyramid: Pyramid) -> float:
    """Bits in an image's tokens, at the frequencies that the codes have in each level."""
    cells = [height * width for height, width in pyramid.grids]
    return sum(number * math.log2(used) for number, used in zip(cells, perplexities, strict=True))


@torch.no_grad()
def squares(quantizer: MultiScaleQuantizer, quantized: Quantized, pyramid: Pyramid) -> Tensor:
    """Of each level, the squared distances of its vectors from their codes and the vectors' squares, summed.

    (levels, 2). Their quotient is 0 where rounding loses nothing, and 1 where codes are as far away as zero.
    """
    lost_BL = (quantizer.codes(quantized.tokens_BL) - quantized.z_BLZ).square().sum(2)
    whole_BL = quantized.z_BLZ.square().sum(2)
    levels = [torch.stack([lost_BL[:, span].sum(), whole_BL[:, span].sum()]) for span in pyramid.spans]
    return torch.stack(levels)


def vectors_at(
    picks_M2: Tensor, first_draw: int, draw_numbers_B: Tensor, z_BLZ: Tensor, accelerator: Accelerator
) -> Tensor:
    """The vectors (M, Z) of (image of the global batch, token) pairs, whichever process holds them.

    `first_draw` is the draw number of the first image in the global batch. Every process fills in the rows
    that it holds and zeros elsewhere, so the sum over processes is exact.
    """
    picks_M2 = picks_M2.to(draw_numbers_B.device, non_blocking=True)
    image_M, token_M = picks_M2[:, 0] + first_draw, picks_M2[:, 1]
    here_MB = image_M[:, None] == draw_numbers_B
    rows_MZ = z_BLZ[here_MB.int().argmax(1), token_M] * here_MB.any(1, keepdim=True)
    return accelerator.reduce(rows_MZ, "sum")


def random_picks(number: int, batch: int, length: int, generator: torch.Generator) -> Tensor:
    """Random (image, token) pairs, (number, 2); no pair occurs twice if there are enough of them."""
    order = torch.randperm(batch * length, generator=generator)
    rounds = math.ceil(number / len(order))
    flat = order.repeat(rounds)[:number]
    return torch.stack([flat // length, flat % length], dim=1)


def clustered(
    quantizer: LearnedCodebook, centres_KZ: Tensor, z_MZ: Tensor, accelerator: Accelerator
) -> Tensor:
    """The centres of vectors after some steps of k-means (Lloyd 1982) from these on, (K, Z).

    A vector belongs to the centre that the quantizer would round it to. One that none belongs to stays.
    """
    rows_MZ = quantizer.coordinates(z_MZ)
    for _ in range(KMEANS_STEPS):
        nearest_M = torch.cdist(rows_MZ, quantizer.coordinates(centres_KZ)).argmin(1)
        count_K = accelerator.reduce(nearest_M.bincount(minlength=len(centres_KZ)).float(), "sum")[:, None]
        sum_KZ = accelerator.reduce(sums_by_code(z_MZ, nearest_M, len(centres_KZ)), "sum")
        centres_KZ = torch.where(count_K > 0, sum_KZ / count_K.clamp(min=1), centres_KZ)
    return centres_KZ


@torch.no_grad()
def start_from_data(
    quantizer: MultiScaleQuantizer,
    f_BZhw: Tensor,
    draw_numbers_B: Tensor,
    pyramid: Pyramid,
    *,
    first: int = 0,
    kmeans: bool = False,
    batch: int,
    seed: int,
    accelerator: Accelerator,
) -> None:
    """Makes codes as large as the latent map; a learned codebook is filled with vectors that levels round.

    Each level fills an equal part of it, from code `first` on; what is before are trained codes. The first
    level fills one at least. These vectors are random ones, or with `kmeans` centres that begin as such.
    """
    if not first:
        quantizer.scale_to(accelerator.reduce(f_BZhw.float().square().mean(), "mean").sqrt())
    if not isinstance(quantizer, LearnedCodebook) or first == quantizer.num_codes:
        return
    bounds = torch.linspace(first, quantizer.num_codes, pyramid.num_levels + 1).round().long().tolist()
    bounds[1:] = [max(1, bound) for bound in bounds[1:]]
    f_hat_BZhw = quantizer.start(len(f_BZhw), pyramid)

    for level, span in enumerate(pyramid.spans):
        # The residual of the levels so far, at this level's size
        z_BlZ = quantizer.input_for(f_BZhw.float() - f_hat_BZhw, level, pyramid)

        # Random vectors of it, or centres, become this level's part of the codebook.
        begin, stop = bounds[level], bounds[level + 1]
        generator = generator_for(seed, "codebook start", level)
        picks_M2 = random_picks(stop - begin, batch, span.stop - span.start, generator)
        vectors_MZ = vectors_at(picks_M2, 0, draw_numbers_B, z_BlZ, accelerator)
        if kmeans and stop > begin:
            vectors_MZ = clustered(quantizer, vectors_MZ, z_BlZ.flatten(0, 1), accelerator)
        quantizer.fill(slice(begin, stop), vectors_MZ)

        # Rounded to the codes so far, so that the next level gets what is left.
        rows_MZ = quantizer.coordinates(z_BlZ.flatten(0, 1))
        nearest_Bl = torch.cdist(rows_MZ, quantizer.codebook_VZ[:stop]).argmin(1).view(z_BlZ.shape[:2])
        f_hat_BZhw = quantizer.add_level(f_hat_BZhw, nearest_Bl, level, pyramid)


def sums_by_code(rows_MZ: Tensor, tokens_M: Tensor, num_codes: int) -> Tensor:
    """The sum of the rows of each code, (V, Z).

    This is the gradient of looking codes up, whose sums are taken in a fixed order on every device.
    """
    with torch.enable_grad():
        table_VZ = rows_MZ.new_zeros(num_codes, rows_MZ.shape[1], requires_grad=True)
        looked_up_MZ = F.embedding(tokens_M, table_VZ)
    (sums_VZ,) = torch.autograd.grad(looked_up_MZ, table_VZ, rows_MZ)
    return sums_VZ


@torch.no_grad()
def follow_data(
    quantizer: MultiScaleQuantizer,
    hits_V: Tensor,
    tokens_BL: Tensor,
    z_BLZ: Tensor,
    accelerator: Accelerator,
) -> None:
    """Moves codes that are averages towards the means of what this step's images rounded to them.

    `hits_V` counts the tokens of all processes, the others are this process's.
    """
    if not isinstance(quantizer, LearnedCodebook) or not quantizer.follows_data:
        return

    rows_MZ = quantizer.coordinates(z_BLZ.flatten(0, 1))
    sums_VZ = sums_by_code(rows_MZ, tokens_BL.flatten(), quantizer.num_codes)
    quantizer.follow(hits_V, accelerator.reduce(sums_VZ, "sum"))


@torch.no_grad()
def restart_unused(
    quantizer: MultiScaleQuantizer,
    z_BLZ: Tensor,
    draw_numbers_B: Tensor,
    *,
    below: float,
    batch: int,
    step: int,
    seed: int,
    accelerator: Accelerator,
) -> Tensor:
    """Replaces codes used less than `below` times the mean by random vectors of this step's batch.

    Returns the number of these codes; 0 where codes are not learned row by row. How many there are is known
    on the device alone: vectors are found for all codes, and the n-th unused code takes the n-th of them.
    The optimizer's averages of these rows stay: without use, what pulled at them has faded (docs/method.md).
    """
    if not isinstance(quantizer, LearnedCodebook):
        return quantizer.usage_V.new_zeros(())
    size = quantizer.num_codes
    unused_V = quantizer.usage_V < below / size

    generator = generator_for(seed, "code restart", step)
    picks_V2 = random_picks(size, batch, z_BLZ.shape[1], generator)
    vectors_VZ = vectors_at(picks_V2, step * batch, draw_numbers_B, z_BLZ, accelerator)
    number_V = (unused_V.cumsum(0) - 1).clamp(min=0)
    quantizer.replace(unused_V, vectors_VZ[number_V])
    quantizer.usage_V.masked_fill_(unused_V, 1 / size)  # so that they are not replaced again at once
    return unused_V.sum()
