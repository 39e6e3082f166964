"""How likely images are under the generator, in bits, and the class under which they are likeliest.

Letters: `N` images of a set, `Y` labels (every class, then the unconditional one), `K` levels.
"""

from collections.abc import Callable, Sequence
from math import log
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from var_pe.models.generator import VARTransformer
from var_pe.models.tokenizer import VQTokenizer
from var_pe.pyramid import Pyramid


@torch.no_grad()
def bits_per_level(
    transformer: VARTransformer,
    tokenizer: VQTokenizer,
    tokens_BL: Tensor,
    labels_BY: Tensor,
    pyramid: Pyramid | None = None,
) -> Tensor:
    """Minus log2 of the probability of each level's tokens, given the coarser ones and a label, (B, Y, K).

    `labels_BY` are those under which every image is asked for. The sum over levels is that of the image's
    tokens, exactly; what the tokenizer loses of the image has no part in it.
    """
    pyramid = pyramid or transformer.pyramid
    inputs_BLZ = tokenizer.quantizer.teacher_forcing(tokens_BL, pyramid)
    found = []
    for labels_B in labels_BY.unbind(1):
        logits_BLV = transformer(labels_B, inputs_BLZ, pyramid)
        nats_BL = F.cross_entropy(logits_BLV.transpose(1, 2), tokens_BL, reduction="none")
        found.append(torch.stack([nats_BL[:, span].sum(1) for span in pyramid.spans], dim=1) / log(2))
    return torch.stack(found, dim=1)


def likeliest_class(bits_BYK: Tensor) -> Tensor:
    """The class (B,) of the fewest bits: Bayes' rule with equal priors, as in A-VARC (generative classifiers
    from VAR's likelihoods); the last label, unconditional, is none.
    """
    return bits_BYK[:, :-1].sum(-1).argmin(1)


def bits_of_set(
    transformer: VARTransformer,
    tokenizer: VQTokenizer,
    images: Sequence[dict[str, Any]],
    pyramid: Pyramid | None = None,
    *,
    batch: int = 100,
    rank: int = 0,
    world: int = 1,
    gather: Callable[[list[Any]], list[Any]] = lambda parts: parts,
    on_progress: Callable[[int], None] = lambda number: None,
) -> tuple[Tensor, Tensor]:
    """Bits (N, Y, K) of a set of images under every label, and their own labels (N,), on the CPU.

    The images are of the size at which `pyramid` (default: the generator's) ends. Each process takes one
    contiguous share; `gather` joins the processes' lists in the order of ranks
    (`accelerate.utils.gather_object`). `on_progress(n)` hears of n more images done.

    Raises:
        ValueError: an image has another size or a label of no class, or the encoding cannot follow `pyramid`.
    """
    device, pyramid = transformer.device, pyramid or transformer.pyramid
    first, last = rank * len(images) // world, (rank + 1) * len(images) // world
    labels_1Y = torch.arange(transformer.num_classes + 1, device=device)[None]
    parts = []
    for start in range(first, last, batch):
        items = [images[i] for i in range(start, min(start + batch, last))]
        own_B = torch.tensor([int(item["label"]) for item in items])
        if 0 < transformer.num_classes <= int(own_B.max()):
            raise ValueError(
                f"an image has the label {int(own_B.max())}, "
                f"the generator has {transformer.num_classes} classes"
            )
        tokens_BL = tokenizer.encode(torch.stack([item["image"] for item in items]).to(device), pyramid)
        labels_BY = labels_1Y.expand(len(items), -1)
        parts.append((bits_per_level(transformer, tokenizer, tokens_BL, labels_BY, pyramid).cpu(), own_B))
        on_progress(len(items))
    bits, labels = zip(*gather(parts), strict=True)
    return torch.cat(bits), torch.cat(labels)


def summarised(bits_NYK: Tensor, labels_N: Tensor, pyramid: Pyramid) -> dict[str, Any]:
    """Means over a set, with standard errors; of class labels only where every image has one.

    `accuracy_up_to_level`: of the class that the levels so far make likeliest.
    """
    found: dict[str, Any] = {"unconditional": _bits(bits_NYK[:, -1], pyramid)}
    if bits_NYK.shape[1] == 1 or int(labels_N.min()) < 0:
        return found
    found["own_class"] = _bits(bits_NYK[torch.arange(len(labels_N)), labels_N], pyramid)
    right_KN = torch.stack(
        [likeliest_class(bits_NYK[..., : level + 1]) == labels_N for level in range(pyramid.num_levels)]
    ).double()
    accuracy = float(right_KN[-1].mean())
    return found | {
        "accuracy": accuracy,
        "accuracy_standard_error": _spread(accuracy * (1 - accuracy), len(labels_N)),
        "accuracy_up_to_level": right_KN.mean(1).tolist(),
    }


def _spread(variance: float, number: int) -> float | None:
    """The standard error of a mean; of a single image there is none."""
    return (variance / number) ** 0.5 if number > 1 else None


def _bits(bits_NK: Tensor, pyramid: Pyramid) -> dict[str, Any]:
    bits_N = bits_NK.double().sum(1)
    return {
        "bits_per_image": float(bits_N.mean()),
        "standard_error": _spread(float(bits_N.var(correction=min(1, len(bits_N) - 1))), len(bits_N)),
        "bits_per_token": float(bits_N.mean()) / pyramid.num_tokens,
        "bits_per_level": bits_NK.double().mean(0).tolist(),
    }
