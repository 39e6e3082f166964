"""Rejection sampling: several drawings of every image, of which a classifier chooses one."""

from collections.abc import Callable, Sequence
from fractions import Fraction

import torch
from torch import Tensor

from var_pe.models.generator import Drawn

Classifier = Callable[[Tensor], Tensor]  # images (B, C, H, W) in [-1, 1] to logits (B, classes)


def draws_per_image(keep_best: float | str) -> int:
    """The n of `keep_best` 1/n.

    Raises:
        ValueError: it is not one over a whole number.
    """
    try:
        share = Fraction(keep_best).limit_denominator(10_000)
    except (ValueError, OverflowError, ZeroDivisionError):
        share = Fraction(0)
    if share.numerator != 1:
        raise ValueError(f"keep_best is 1 over a whole number, such as 0.25 or '1/4', got {keep_best!r}")
    return share.denominator


def best_of(
    number: int,
    draw: Callable[[Sequence[torch.Generator]], Drawn],
    judge: Callable[[Drawn], Tensor],
    generators: Sequence[torch.Generator],
) -> Drawn:
    """Of `number` drawings of each image the one that `judge`, (B,), finds best.

    VAR keeps the best images of a class; here they compete with their own kind only, so that image i follows
    from `generators[i]` alone, whatever else is drawn.
    """
    rounds = zip(*(children(generator, number) for generator in generators), strict=True)
    best = draw(next(rounds))
    best_B = judge(best)
    for each in rounds:
        drawn = draw(each)
        score_B = judge(drawn)
        best, best_B = _better(score_B > best_B, drawn, best), torch.maximum(score_B, best_B)
    return best


def children(generator: torch.Generator | None, number: int) -> list[torch.Generator]:
    """Generators seeded in order by one, or by torch's own."""
    device = "cpu" if generator is None else generator.device
    seeds = torch.randint(2**62, (number,), generator=generator, device=device).tolist()
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def likelihood_of_labels(
    classifier: Classifier, images_BCHW: Tensor, labels_B: Tensor, number: int
) -> Tensor:
    """Log-probability (B,) that a classifier of `number` classes gives to each image's label.

    Raises:
        ValueError: it knows another number of classes.
    """
    logits_BV = classifier(images_BCHW)
    if logits_BV.shape != (len(labels_B), number):
        raise ValueError(
            f"classifier must give logits of {number} classes, got shape {tuple(logits_BV.shape)}"
        )
    return logits_BV.float().log_softmax(-1).gather(1, labels_B[:, None])[:, 0]


def _better(choice_B: Tensor, ours: Drawn, theirs: Drawn) -> Drawn:
    """Image by image: ours where `choice_B`."""
    maps = [
        torch.where(choice_B[:, None, None, None], a, b) for a, b in zip(ours.maps, theirs.maps, strict=True)
    ]
    return Drawn(torch.where(choice_B[:, None], ours.tokens_BL, theirs.tokens_BL), maps)
