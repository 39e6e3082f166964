"""The scores, through torch-fidelity's functions of features.

Never through its cache, whose key knows neither weights nor contents. A Frechet distance F(A, B) differs from
F(B, A) in its last digits, and of a set to itself from 0 by about as much.
"""

import warnings
from collections.abc import Sequence

import torch
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from var_pe.evaluation.features import FeatureExtractor, FeatureSet
from var_pe.seeding import generator_for

METRICS = ("frechet", "inception_score", "kid", "precision_recall")
FEW_IMAGES = 2048  # below, Inception's covariance is singular, and any Frechet distance is mostly bias
SPLITS = 10  # of the Inception score, as in Salimans et al. 2016
NEIGHBOURS = 3  # of precision and recall, as in Kynkaanniemi et al. 2019
KID_SUBSET_SIZE = 1000  # as in Binkowski et al. 2018; fewer when there are not twice as many images


def frechet(generated: FeatureSet, reference: FeatureSet) -> dict[str, float]:
    """Heusel et al. 2017, equation 6; biased upwards by few images, so compare equal counts only."""
    statistics = [fid_features_to_statistics(images.features_NF) for images in (generated, reference)]
    return {"frechet_distance": fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]}


def inception_score(generated: FeatureSet, seed: int) -> dict[str, float]:
    """Salimans et al. 2016; looks at the generated images alone, and mild blur can raise it."""
    found = isc_features_to_metric(generated.logits_NV, splits=SPLITS, shuffle=True, rng_seed=seed)
    return {
        "inception_score_mean": found[KEY_METRIC_ISC_MEAN],
        "inception_score_std": found[KEY_METRIC_ISC_STD],
    }


def kid(generated: FeatureSet, reference: FeatureSet, subset_size: int, seed: int) -> dict[str, float]:
    """Binkowski et al. 2018: unbiased, so it may fall below 0; the spread is over 100 random subsets."""
    found = kid_features_to_metric(
        generated.features_NF,
        reference.features_NF,
        kid_subset_size=subset_size,
        rng_seed=seed,
        verbose=False,
    )
    return {
        "kid_mean": found[KEY_METRIC_KID_MEAN],
        "kid_std": found[KEY_METRIC_KID_STD],
        "kid_subset_size": subset_size,
    }


def precision_recall(generated: FeatureSet, reference: FeatureSet) -> dict[str, float]:
    """Kynkaanniemi et al. 2019; by blocks of rows, since whole matrices for 50,000 images take 30 GB."""
    found = prc_features_to_metric(
        generated.features_NF,
        reference.features_NF,
        prc_neighborhood=NEIGHBOURS,
        save_cpu_ram=True,
        verbose=False,
    )
    return {"precision": found[KEY_METRIC_PRECISION], "recall": found[KEY_METRIC_RECALL]}


def scores(
    generated: FeatureSet,
    reference: FeatureSet,
    *,
    extractor: FeatureExtractor,
    metrics: Sequence[str] | None = None,
    kid_subset_size: int | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """The scores of the generated images against the reference, by name.

    Only Inception's are called `fid`, `inception_score_mean`, `kid_mean`, `precision`, ...; those of another
    extractor end in its name: `frechet_distance_efficientnet_lite0`. Warns below 2,048 images.

    Args:
        metrics: some of `METRICS`; None takes all that so many images allow, and warns of the others.
        kid_subset_size: None takes 1000, or half of the smaller set if that is less; stands beside the value.
        seed: of the Inception score's shuffle and KID's subsets.
    Raises:
        ValueError: an unknown metric, fewer images than a named metric needs or than any does, or features
            that are not finite.
    """
    fewest = min(len(generated), len(reference))
    if fewest < FEW_IMAGES:
        warnings.warn(
            f"scores of {len(generated)} against {len(reference)} images are unreliable: below {FEW_IMAGES} "
            f"compare only equal counts, and with the floor",
            stacklevel=2,
        )

    subset_size = kid_subset_size
    if subset_size is None:
        subset_size = max(2, min(KID_SUBSET_SIZE, fewest // 2))
    metrics = _checked(generated, reference, metrics, subset_size)

    found: dict[str, float] = {}
    if "frechet" in metrics:
        found |= frechet(generated, reference)
    if "inception_score" in metrics:
        found |= inception_score(generated, seed)
    if "kid" in metrics:
        found |= kid(generated, reference, subset_size, seed)
    if "precision_recall" in metrics:
        found |= precision_recall(generated, reference)

    return {_named(name, extractor): value for name, value in found.items()}


def _named(name: str, extractor: FeatureExtractor) -> str:
    if extractor.comparable:
        return "fid" if name == "frechet_distance" else name
    return f"{name}_{extractor.name}"


def _checked(
    generated: FeatureSet, reference: FeatureSet, metrics: Sequence[str] | None, subset_size: int
) -> Sequence[str]:
    """The metrics to compute of these sets: those that were named, else all that have enough images."""
    asked = METRICS if metrics is None else metrics
    unknown = [metric for metric in asked if metric not in METRICS]
    if unknown:
        raise ValueError(f"metrics must be among {', '.join(METRICS)}, got {', '.join(unknown)}")

    _check_finite("generated", generated)
    _check_finite("reference", reference)
    too_few = _too_few_images(len(generated), len(reference), subset_size)
    possible = [metric for metric in asked if metric not in too_few]
    if len(possible) < len(asked):
        left_out = [too_few[metric] for metric in asked if metric in too_few]
        if metrics is not None or not possible:
            raise ValueError(left_out[0])
        warnings.warn(f"left out for lack of images: {'; '.join(left_out)}", stacklevel=3)

    if "kid" in possible and subset_size < 2:
        raise ValueError(f"kid needs subsets of at least 2 images, got kid_subset_size = {subset_size}")
    if generated.features_NF.shape[1] != reference.features_NF.shape[1]:
        raise ValueError(
            f"both sets need features of one extractor, got {generated.features_NF.shape[1]} generated "
            f"and {reference.features_NF.shape[1]} reference features"
        )
    return possible


def _too_few_images(generated: int, reference: int, subset_size: int) -> dict[str, str]:
    """The metrics that so many images do not allow, each with the reason."""
    found: dict[str, str] = {}
    for name, count in (("generated", generated), ("reference", reference)):
        # How many images each metric needs, and what for
        needs = {
            "frechet": (2, "a covariance"),
            "inception_score": (SPLITS if name == "generated" else 0, f"{SPLITS} splits"),
            "kid": (subset_size, f"subsets of {subset_size}"),
            "precision_recall": (NEIGHBOURS + 1, f"{NEIGHBOURS} neighbours"),
        }
        for metric, (least, why) in needs.items():
            if count < least and metric not in found:
                found[metric] = f"{metric} needs at least {least} {name} images for {why}, got {count}"
    return found


def _check_finite(name: str, images: FeatureSet) -> None:
    finite_N = images.features_NF.isfinite().all(1) & images.logits_NV.isfinite().all(1)
    bad = (~finite_N).nonzero().flatten().tolist()
    if bad:
        count = f"{len(bad)} of {len(images)} {name} images"
        raise ValueError(f"{count} have NaN or infinite features, the first at {bad[0]}")


def halves(reference: FeatureSet, count: int, seed: int = 0) -> tuple[FeatureSet, FeatureSet]:
    """Two disjoint random parts of `count` images each, or of half of the images if there are not enough."""
    first, second = half_numbers(len(reference), count, seed)
    return reference.take(first), reference.take(second)


def half_numbers(total: int, count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Which of `total` images the two parts of `halves` are; the others need no features."""
    count = min(count, total // 2)
    order = torch.randperm(total, generator=generator_for(seed, "floor"))
    return order[:count], order[count : 2 * count]


def floor(
    reference: FeatureSet,
    count: int,
    *,
    extractor: FeatureExtractor,
    metrics: Sequence[str] | None = None,
    kid_subset_size: int | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """The score of real images against other real ones, which no generator can be expected to beat.

    Both sides have the same number of images, given back as `count`. Few images raise a Frechet distance: set
    it beside a score of as many generated against as many reference images, those of `halves(...)[1]`.
    """
    first, second = halves(reference, count, seed)
    return floor_of(
        first, second, extractor=extractor, metrics=metrics, kid_subset_size=kid_subset_size, seed=seed
    )


def floor_of(
    first: FeatureSet,
    second: FeatureSet,
    *,
    extractor: FeatureExtractor,
    metrics: Sequence[str] | None = None,
    kid_subset_size: int | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """`floor` of two disjoint parts that were chosen before."""
    with warnings.catch_warnings(action="ignore"):  # the score beside it has warned already
        found = scores(
            first,
            second,
            extractor=extractor,
            metrics=metrics,
            kid_subset_size=kid_subset_size,
            seed=seed,
        )
    return {"count": len(first)} | found
