"""How well pixels are told apart: intersection over union by torchmetrics, over all pixels of all images."""

import math
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor

from var_pe.data.mask_folder import IGNORED


def check_library() -> None:
    """Checks that the library is here, which not everybody needs.

    Raises:
        ValueError: it is not.
    """
    if find_spec("torchmetrics") is None:
        raise ValueError(
            "scores of segmenters and detectors are computed by torchmetrics, which is not installed: "
            "pip install torchmetrics pycocotools (or var_pe with its extra: pip install -e '.[dense]')"
        )


class Overlaps:
    """Counts what pixels are and what they were taken for, over all processes.

    Pixels whose truth is `IGNORED` do not count.
    """

    def __init__(self, num_classes: int, device: torch.device) -> None:
        from torchmetrics import MetricCollection
        from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

        # A class that is nowhere, neither in the truth nor in what was found, has no value of its own.
        overlap = partial(MulticlassJaccardIndex, num_classes, ignore_index=IGNORED, validate_args=False)
        mean, each = overlap(average="macro"), overlap(average="none", zero_division=math.nan)
        accuracy = MulticlassAccuracy(num_classes, average="micro", ignore_index=IGNORED, validate_args=False)
        self.metrics = MetricCollection({"mean": mean, "each": each, "accuracy": accuracy}).to(device)

    def add(self, found_BHW: Tensor, truth_BHW: Tensor) -> None:
        """Class numbers of pixels."""
        self.metrics.update(found_BHW, truth_BHW)

    def values(self, class_names: Sequence[str] = ()) -> dict[str, float]:
        """Mean over the classes that there are, share of right pixels, and each class's by its name."""
        found = self.metrics.compute()
        values = {"mean_iou": float(found["mean"]), "pixel_accuracy": float(found["accuracy"])}
        for name, value in zip(class_names, found["each"].tolist(), strict=bool(class_names)):
            if not math.isnan(value):
                values[f"iou/{name}"] = value
        return values
