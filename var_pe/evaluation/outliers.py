"""How well scores tell images of other data from those of a model's own, by the library pytorch-ood."""

from importlib.util import find_spec

import torch
from torch import Tensor

from var_pe.evaluation.features import FeatureSet


def check_library() -> None:
    """Checks that the library, an optional dependency, is installed.

    Raises:
        ValueError: it is not.
    """
    if find_spec("pytorch_ood") is None:
        raise ValueError(
            "scores of images of other data are computed by pytorch-ood, which is not installed: pip install "
            "pytorch-ood (or var_pe with its extra: pip install -e '.[robust]')"
        )


class Outlyingness:
    """Scores of images, the higher the less they are like those in `known`.

    `largest probability` is the baseline of Hendrycks & Gimpel (2017), `energy` of Liu et al. (2020), both of
    the logits. `Mahalanobis` (Lee et al. 2018) is the distance from the nearest class's mean, here of those
    features alone that the classes are read from; a class of which `known` has no image has no mean.
    """

    def __init__(self, known: FeatureSet) -> None:
        from pytorch_ood.detector import EnergyBased, Mahalanobis, MaxSoftmax

        self.softmax, self.energy = MaxSoftmax(None), EnergyBased(None)
        numbers_N = known.labels_N.unique(return_inverse=True)[1]  # the library wants all of 0, 1, 2 ...
        self.mahalanobis = Mahalanobis(None).fit_features(known.features_NF, numbers_N)

    def scores(self, found: FeatureSet) -> dict[str, Tensor]:
        logits_NV = found.logits_NV
        return {
            "largest probability": self.softmax.predict_logits(logits_NV),
            "energy": self.energy.predict_logits(logits_NV),
            "Mahalanobis": self.mahalanobis.predict_features(found.features_NF),
        }


def auroc(inside_N: Tensor, outside_N: Tensor) -> float:
    """The chance that an image from outside has a higher score than one from inside; 0.5: told nothing."""
    from pytorch_ood.metrics import AUROC

    metric = AUROC()
    labels_N = torch.cat([torch.zeros(len(inside_N)), -torch.ones(len(outside_N))]).long()
    metric.update(torch.cat([inside_N, outside_N]), labels_N)
    return float(metric.compute()["AUROC"])
