"""How likely images are under the generator, in bits, and the class under which they are likeliest.

Letters: `N` images of a set, `Y` labels (every class, then the unconditional one), `K` levels.
"""

import re
from collections.abc import Callable, Sequence
from math import log
from typing import NotRequired, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor

from var_pe.data.image_set import HeldOutImages, stacked
from var_pe.models.generator import VARTransformer
from var_pe.models.tokenizer import VQTokenizer
from var_pe.processes import Processes
from var_pe.pyramid import Pyramid


class Bits(TypedDict):
    """How many bits the images of a set need under one label each, on average."""

    bits_per_image: float

    # of the mean; None for a single image
    standard_error: float | None
    bits_per_token: float
    bits_per_level: list[float]


class Likelihood(TypedDict):
    """Means over a set; all but the first only where every image has a class."""

    unconditional: Bits
    own_class: NotRequired[Bits]

    # share of images whose own class needs the fewest bits; None as above
    accuracy: NotRequired[float]
    accuracy_standard_error: NotRequired[float | None]

    # of the class that the levels so far make likeliest
    accuracy_up_to_level: NotRequired[list[float]]


@torch.no_grad()
def bits_per_level(
    transformer: VARTransformer,
    tokenizer: VQTokenizer,
    tokens_BL: Tensor,
    labels_BY: Tensor,
    pyramid: Pyramid | None = None,
) -> Tensor:
    """Minus log2 of the probability of each level's tokens, given the coarser ones and a label, (B, Y, K).

    `labels_BY` are the labels under which each image is looked at. The sum over levels is that of the
    image's tokens, exactly; what the tokenizer loses of the image has no part in it.
    """
    pyramid = pyramid or transformer.pyramid
    inputs_BLZ = tokenizer.quantizer.teacher_forcing(tokens_BL, pyramid)

    found = []
    for labels_B in labels_BY.unbind(1):
        logits_BLV = transformer(labels_B, inputs_BLZ, pyramid).float()
        nats_BL = F.cross_entropy(logits_BLV.transpose(1, 2), tokens_BL, reduction="none")
        nats_BK = torch.stack([nats_BL[:, span].sum(1) for span in pyramid.spans], dim=1)
        found.append(nats_BK / log(2))
    return torch.stack(found, dim=1)


def likeliest_class(bits_BYK: Tensor) -> Tensor:
    """The class (B,) under which an image needs the fewest bits: Bayes' rule with equal priors, as in A-VARC
    (generative classifiers from VAR's likelihoods). The last label, unconditional, is not a class.
    """
    return bits_BYK[:, :-1].sum(-1).argmin(1)


def bits_of_set(
    transformer: VARTransformer,
    tokenizer: VQTokenizer,
    images: HeldOutImages,
    pyramid: Pyramid | None = None,
    *,
    batch: int = 100,
    processes: Processes = Processes(),
    on_progress: Callable[[int], object] = lambda number: None,
) -> tuple[Tensor, Tensor]:
    """Bits (N, Y, K) of a set of images under every label, and their own labels (N,), on the CPU.

    The images are of the size at which `pyramid` (default: the generator's) ends. Each process computes its
    share and gets the whole set; `on_progress(n)` is called when this one is done with n more images.

    Raises:
        ValueError: an image has another size or a label of no class, or the encoding cannot follow `pyramid`.
    """
    device = transformer.device
    pyramid = pyramid or transformer.pyramid
    labels_1Y = torch.arange(transformer.num_classes + 1, device=device)[None]

    share = processes.share(len(images))
    parts = []
    for start in range(share.start, share.stop, batch):
        items = [images[number] for number in range(start, min(start + batch, share.stop))]
        own_B = torch.tensor([item["label"] for item in items])
        if transformer.num_classes and int(own_B.max()) >= transformer.num_classes:
            raise ValueError(
                f"an image has the label {int(own_B.max())}, but the generator has only "
                f"{transformer.num_classes} classes"
            )

        tokens_BL = tokenizer.encode(stacked(items).to(device), pyramid)
        labels_BY = labels_1Y.expand(len(items), -1)
        parts.append((bits_per_level(transformer, tokenizer, tokens_BL, labels_BY, pyramid).cpu(), own_B))
        on_progress(len(items))

    bits, labels = zip(*processes.gather(parts), strict=True)
    return torch.cat(bits), torch.cat(labels)


def summarised(bits_NYK: Tensor, labels_N: Tensor, pyramid: Pyramid) -> Likelihood:
    """Means over a set, with standard errors."""
    found = Likelihood(unconditional=_bits(bits_NYK[:, -1], pyramid))
    if bits_NYK.shape[1] == 1 or int(labels_N.min()) < 0:
        return found

    # Under each image's own class, and whether that is the likeliest, after every level.
    found["own_class"] = _bits(bits_NYK[torch.arange(len(labels_N)), labels_N], pyramid)
    right_KN = torch.stack(
        [likeliest_class(bits_NYK[..., : level + 1]) == labels_N for level in range(pyramid.num_levels)]
    ).double()

    accuracy = float(right_KN[-1].mean())
    found["accuracy"] = accuracy
    found["accuracy_standard_error"] = _standard_error(accuracy * (1 - accuracy), len(labels_N))
    found["accuracy_up_to_level"] = right_KN.mean(1).tolist()
    return found


def _standard_error(variance: float, number: int) -> float | None:
    """The standard error of a mean over so many images; None for a single one."""
    return (variance / number) ** 0.5 if number > 1 else None


def _bits(bits_NK: Tensor, pyramid: Pyramid) -> Bits:
    bits_N = bits_NK.double().sum(1)
    variance = float(bits_N.var(correction=min(1, len(bits_N) - 1)))
    return Bits(
        bits_per_image=float(bits_N.mean()),
        standard_error=_standard_error(variance, len(bits_N)),
        bits_per_token=float(bits_N.mean()) / pyramid.num_tokens,
        bits_per_level=bits_NK.double().mean(0).tolist(),
    )


def check_same_classes(generator: Sequence[str], number: int, data: Sequence[str], source: str) -> None:
    """An image's own class must be the generator's of that number; spelling by case and signs is free.

    `generator` are the names of the generator's classes, of which there are `number` though they may have no
    names, and `data` those of `source`, empty where it has no labels.

    Raises:
        ValueError: the generator has other classes than the data.
    """
    if number == 0 or not data:
        return
    if len(data) == number and (not generator or _plain(generator) == _plain(data)):
        return

    raise ValueError(
        f"data.source={source} has {len(data)} classes{_some(data)}, "
        f"the generator was trained on {number} others{_some(generator)}"
    )


def _plain(names: Sequence[str]) -> list[str]:
    return [re.sub(r"\W", "", name).lower() for name in names]


def _some(names: Sequence[str]) -> str:
    return f" ({', '.join(names[:3])} ...)" if names else ""
