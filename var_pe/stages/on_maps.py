"""The models on a classifier's maps: what each is built, trained, scored and shown with."""

from collections.abc import Callable
from dataclasses import dataclass

from PIL.Image import Image

from var_pe.data.boxes import BoxedImages
from var_pe.data.masks import MaskedImages
from var_pe.models.dense.detector import Detector
from var_pe.models.dense.segmenter import Segmenter
from var_pe.stages.config import Kind
from var_pe.stages.images import boxed_images, masked_images
from var_pe.stages.models import build_detector, build_segmenter
from var_pe.tasks.detector import DetectorTask, sheet_of_boxes, validate_detector
from var_pe.tasks.segmenter import SegmenterTask, sheet_of_masks, validate_segmenter


@dataclass(frozen=True)
class OnMaps:
    """All that differs between two kinds of such models."""

    model: type[Segmenter] | type[Detector]
    build: Callable[..., Segmenter | Detector]
    # a split, with what is to be found in its images
    images: Callable[..., MaskedImages | BoxedImages]
    task: Callable[..., SegmenterTask | DetectorTask]
    validate: Callable[..., dict[str, float]]
    sheet: Callable[..., Image]


ON_MAPS: dict[Kind, OnMaps] = {
    "segmenter": OnMaps(
        Segmenter, build_segmenter, masked_images, SegmenterTask, validate_segmenter, sheet_of_masks
    ),
    "detector": OnMaps(
        Detector, build_detector, boxed_images, DetectorTask, validate_detector, sheet_of_boxes
    ),
}
