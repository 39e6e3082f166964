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
    for generators_of_round in rounds:
        drawn = draw(generators_of_round)
        score_B = judge(drawn)
        best = _chosen(score_B > best_B, drawn, best)
        best_B = torch.maximum(score_B, best_B)
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
        ValueError: the classifier has another number of classes.
    """
    logits_BV = classifier(images_BCHW)
    if logits_BV.shape != (len(labels_B), number):
        raise ValueError(
            f"classifier must give logits of {number} classes, got shape {tuple(logits_BV.shape)}"
        )
    return logits_BV.float().log_softmax(-1).gather(1, labels_B[:, None])[:, 0]


def _chosen(first_B: Tensor, first: Drawn, second: Drawn) -> Drawn:
    """For each image the first drawing where `first_B` is true, else the second."""

    def chosen(of_first: Tensor, of_second: Tensor) -> Tensor:
        return torch.where(first_B.view(-1, *[1] * (of_first.dim() - 1)), of_first, of_second)

    return Drawn(
        chosen(first.tokens_BL, second.tokens_BL),
        chosen(first.f_hat_BZhw, second.f_hat_BZhw),
        [chosen(*both) for both in zip(first.maps, second.maps, strict=True)],
    )
