"""Detector: images to boxes and classes, by torchvision's FCOS on the maps of any classifier of ours."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypedDict

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOS, FCOSHead

from var_pe.models.classifier import MapShape
from var_pe.models.dense.encoder import DenseModel, encoder_of
from var_pe.models.dense.maps import Ladder, TopDown
from var_pe.models.dense.segmenter import Finer
from var_pe.models.initialisation import initialise
from var_pe.resampling.precision import full_precision
from var_pe.seeding import mix
from var_pe.settings.fields import Doc, NonNegative, Positive, ShareBelowOne, section

# the groups of FCOS's norms
GROUPS = 32
# how probable a class is everywhere at the start (Lin et al. 2017, focal loss, section 4.1)
PRIOR = 0.01
# FCOS's values: boxes of a class that overlap more count as one, and so many cells of a map are looked at
SAME = 0.6
CANDIDATES = 1000


def check_width(width: int) -> None:
    """Raises a ValueError if FCOS's norms cannot divide so many channels into groups."""
    if width % GROUPS:
        raise ValueError(f"width must be a multiple of {GROUPS}, the groups of FCOS's norms, got {width}")


class Detections(TypedDict):
    """The boxes found in an image, the most certain first."""

    # (M, 4): left, top, right and bottom in pixels
    boxes: Tensor
    # (M,) in [0, 1], and numbers of classes
    scores: Tensor
    labels: Tensor


@section
class DetectorConfig:
    width: Annotated[Positive, Doc(f"width of the head's maps, a multiple of {GROUPS}")] = 64
    finer: Finer = None
    convolutions: Annotated[NonNegative, Doc("convolutions in each of the head's two branches")] = 4
    threshold: Annotated[ShareBelowOne, Doc("boxes with lower scores are left out")] = 0.05
    most: Annotated[Positive, Doc("largest number of boxes for an image")] = 100

    def __post_init__(self) -> None:
        check_width(self.width)


class Detector(DenseModel):
    """Images in [-1, 1] to boxes, without anchors: FCOS (Tian et al. 2019) as torchvision has it.

    Every cell of every map of a feature pyramid says how probable each class is there, how far the sides of
    its box are, and how central it lies in that; a map is answerable for boxes of four to eight cells.

    Args:
        encoder_config: a classifier without classes, as `described` describes it.
        num_classes: of boxes.

    The others are as in `DetectorConfig`.

    Raises:
        ValueError: an option does not fit the encoder.
    """

    @register_to_config
    def __init__(
        self,
        encoder_config: Mapping[str, Any],
        num_classes: int,
        width: int = DetectorConfig.width,
        finer: int | None = DetectorConfig.finer,
        convolutions: int = DetectorConfig.convolutions,
        threshold: float = DetectorConfig.threshold,
        most: int = DetectorConfig.most,
        seed: int = 0,
        kept_grids: None = None,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"a detector needs at least one class of boxes, got {num_classes}")
        check_width(width)

        self.encoder = encoder_of(encoder_config)
        self.describe_encoder()
        self.head = DetectorHead(
            self.encoder.map_shapes, num_classes, width, finer, convolutions, threshold, most
        )
        initialise(self.head, mix(seed, "head"))
        self.head.start(mix(seed, "branches"))

    @property
    def ladder_shapes(self) -> list[MapShape]:
        """The maps that the head reads, from the finest to the coarsest."""
        return self.head.ladder.shapes

    def forward(
        self,
        images_BCHW: Tensor,
        boxes_BM4: Tensor | None = None,
        labels_BM: Tensor | None = None,
    ) -> dict[str, Tensor] | list[Detections]:
        """What is found in the images, or with boxes and their labels (-1: no box) the losses by name."""
        maps = self.encoder.feature_maps(images_BCHW)
        size = (images_BCHW.shape[2], images_BCHW.shape[3])
        if boxes_BM4 is None or labels_BM is None:
            return self.head.found(maps, size)
        return self.head.losses(maps, boxes_BM4, labels_BM)


class NoBackbone(nn.Module):
    """A stand-in for FCOS's backbone: the maps are made elsewhere, from images of the right size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_channels = width


class DetectorHead(nn.Module):
    """A feature pyramid and FCOS's two branches, shared by all maps; arguments as in `Detector`."""

    def __init__(
        self,
        shapes: Sequence[MapShape],
        num_classes: int,
        width: int,
        finer: int | None,
        convolutions: int,
        threshold: float,
        most: int,
    ) -> None:
        super().__init__()
        self.ladder = Ladder(shapes, finer)
        self.top_down = TopDown(self.ladder.shapes, width)

        self.fcos = FCOS(
            NoBackbone(width),
            num_classes,
            head=FCOSHead(width, 1, num_classes, convolutions),
            score_thresh=threshold,
            nms_thresh=SAME,
            detections_per_img=most,
            topk_candidates=CANDIDATES,
        )

    @torch.no_grad()
    def start(self, seed: int) -> None:
        """Draws the branches' weights as FCOS does: small, and with every class improbable everywhere.

        Else the many empty cells would drown the others.
        """
        initialise(self.fcos, seed, std=0.01)
        bias_V = self.fcos.head.classification_head.cls_logits.bias
        if not bias_V.is_meta:
            bias_V.fill_(-math.log((1 - PRIOR) / PRIOR))

    def _answers(self, maps: Sequence[Tensor]) -> tuple[dict[str, Tensor], list[Tensor]]:
        """The branches' outputs for every cell, in float32, and the cells of each map as boxes (cells, 4)."""
        levels = self.top_down(self.ladder(maps))
        with full_precision(levels[0]):
            answers: dict[str, Tensor] = self.fcos.head([x_BChw.float() for x_BChw in levels])
        strides = [shape.stride for shape in self.ladder.shapes]
        cells = [cells_of(x_BChw, stride) for x_BChw, stride in zip(levels, strides, strict=True)]
        return answers, cells

    def losses(self, maps: Sequence[Tensor], boxes_BM4: Tensor, labels_BM: Tensor) -> dict[str, Tensor]:
        """Focal loss of classes, GIoU of boxes, cross-entropy of how central a cell is; per cell in a box."""
        answers, cells = self._answers(maps)
        return self._compared(answers, cells, boxes_BM4, labels_BM)

    # Never compiled: its sizes are numbers of boxes, and a graph of each would be made again and again.
    @torch.compiler.disable
    def _compared(
        self,
        answers: dict[str, Tensor],
        cells: Sequence[Tensor],
        boxes_BM4: Tensor,
        labels_BM: Tensor,
    ) -> dict[str, Tensor]:
        """The losses of the branches' outputs."""
        targets = []
        for boxes_M4, labels_M in zip(boxes_BM4, labels_BM, strict=True):
            there_M = labels_M >= 0
            targets.append({"boxes": boxes_M4[there_M], "labels": labels_M[there_M]})

        everywhere = [torch.cat(list(cells))] * len(targets)
        with full_precision(boxes_BM4):
            found: dict[str, Tensor] = self.fcos.compute_loss(
                targets, answers, everywhere, [len(of_map) for of_map in cells]
            )
        return found

    def found(self, maps: Sequence[Tensor], size: tuple[int, int]) -> list[Detections]:
        """The boxes of every image, of so many rows and columns."""
        answers, cells = self._answers(maps)
        numbers, images = [len(of_map) for of_map in cells], len(maps[0])
        by_map = {name: list(values.split(numbers, dim=1)) for name, values in answers.items()}
        with full_precision(cells[0]):
            found: list[Detections] = self.fcos.postprocess_detections(
                by_map, [cells] * images, [size] * images
            )
        return found


def cells_of(x_BChw: Tensor, stride: int) -> Tensor:
    """The cells of a map as boxes in pixels, row by row, (h * w, 4): left, top, right and bottom."""
    height, width = x_BChw.shape[2:]
    top_h = torch.arange(height, device=x_BChw.device, dtype=torch.float32) * stride
    left_w = torch.arange(width, device=x_BChw.device, dtype=torch.float32) * stride
    top_hw, left_hw = torch.meshgrid(top_h, left_w, indexing="ij")
    corner_L2 = torch.stack([left_hw, top_hw], dim=2).flatten(0, 1)
    return torch.cat([corner_L2, corner_L2 + stride], dim=1)
