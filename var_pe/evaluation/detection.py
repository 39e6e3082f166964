"""How well boxes are found: COCO's average precision by torchmetrics and pycocotools."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from var_pe.evaluation.segmentation import check_library


def average_precision(
    found: Sequence[Mapping[str, Tensor]],
    truth: Sequence[Mapping[str, Tensor]],
    class_names: Sequence[str],
) -> dict[str, float]:
    """COCO's AP (mean over IoU of 0.5 to 0.95 and over classes), AP at 0.5 and 0.75, recall, AP by class.

    An image's findings are `boxes` (left, top, right, bottom), `scores` and `labels`, its truth `boxes`,
    `labels` and `iscrowd`: what is found within a crowd neither counts nor is held against. Classes of which
    there is no box have no value.
    """
    check_library()
    from torchmetrics.detection import MeanAveragePrecision

    # All images are here, so processes have nothing to exchange.
    metric = MeanAveragePrecision(
        class_metrics=True, sync_on_compute=False, distributed_available_fn=lambda: False
    )
    metric.warn_on_many_detections = False
    metric.update([dict(image) for image in found], [dict(image) for image in truth])
    values = metric.compute()

    named = {"ap": "map", "ap50": "map_50", "ap75": "map_75", "recall": "mar_100"}
    scores = {name: float(values[theirs]) for name, theirs in named.items()}
    labels, of_classes = values["classes"].reshape(-1), values["map_per_class"].reshape(-1)
    for label, value in zip(labels.tolist(), of_classes.tolist(), strict=True):
        scores[f"ap/{class_names[label]}"] = value
    return {name: value for name, value in scores.items() if value >= 0}
