"""Training a detector: its losses, validation, and pictures of what it finds."""

from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image, ImageDraw
from torch import Tensor, nn

from var_pe.data.boxes import BoxedImages, BoxedItem
from var_pe.data.image_set import Batch
from var_pe.data.part import drawn
from var_pe.evaluation.detection import average_precision
from var_pe.evaluation.folder import to_uint8
from var_pe.models.dense.detector import Detections, Detector
from var_pe.pages.palette import colours_of, outline_colour
from var_pe.pages.sheets import SIDE, Cell, Pixels, Section, sheet
from var_pe.processes import Processes
from var_pe.tasks.dense import DenseTraining, layers_of
from var_pe.training.stopping import held_out_batches
from var_pe.training.validations import Measure

SHOWN = 24  # images that a sheet shows
SURE = 0.3  # score above which a box is drawn


class DetectorTask:
    """The sum of FCOS's three losses; boxes around crowds have no part in it."""

    measure = Measure("validation/ap", higher_is_better=True)
    opponent = None

    def __init__(
        self, model: Detector, dataset: BoxedImages, validation: BoxedImages, config: DenseTraining
    ) -> None:
        self.model, self.dataset, self.validation = model, dataset, validation
        self.layers = layers_of(model, config)

    def start(self, model: nn.Module, batch: Batch, accelerator: Accelerator) -> None:
        """Does nothing: the initial weights follow from the seed."""

    def loss(self, model: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        labels_BM = batch["box_labels"].masked_fill(batch["crowds"], -1)
        losses = model(batch["image"], batch["boxes"], labels_BM)
        total = torch.stack(list(losses.values())).sum()
        return total, {name: value.detach() for name, value in losses.items()}

    def after_step(
        self, model: nn.Module, step: int, accelerator: Accelerator, updates: Tensor
    ) -> dict[str, Tensor]:
        return {}

    def validate(self, model: nn.Module, accelerator: Accelerator) -> dict[str, float]:
        """Average precision and recall on the test split."""
        assert isinstance(model, Detector)
        found = validate_detector(model, self.validation, accelerator)
        return {f"validation/{name}": value for name, value in found.items() if not name.startswith("ap/")}

    def preview(self, model: nn.Module) -> Image.Image:
        """The same test images each time, with their boxes and those that are found."""
        assert isinstance(model, Detector)
        return sheet_of_boxes(model, self.validation)


@torch.no_grad()
def validate_detector(
    model: Detector, images: BoxedImages, accelerator: Accelerator, batch: int = 64
) -> dict[str, float]:
    """COCO's scores over all images; AP is 0 where none has a box."""
    mine: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
    for chosen in held_out_batches(len(images), batch, accelerator):
        items = [images[index] for index in chosen]
        mine += zip(map(on_cpu, find(model, items)), map(truth_of, items), strict=True)

    # The scores are not a mean over images, so every process computes them from all of them.
    pairs = Processes.of(accelerator).gather(mine)
    found, truth = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return {"ap": 0.0} | average_precision(found, truth, images.class_names)


def find(model: Detector, items: Sequence[BoxedItem]) -> list[Detections]:
    """What a detector finds in images."""
    found = model(torch.stack([item["image"] for item in items]).to(model.device))
    assert isinstance(found, list), "without boxes it finds them"
    return found


def on_cpu(found: Detections) -> dict[str, Tensor]:
    return {"boxes": found["boxes"].cpu(), "scores": found["scores"].cpu(), "labels": found["labels"].cpu()}


def truth_of(item: BoxedItem) -> dict[str, Tensor]:
    """The boxes of an image in the form that torchmetrics takes."""
    there_M = item["box_labels"] >= 0
    return {
        "boxes": item["boxes"][there_M],
        "labels": item["box_labels"][there_M],
        "iscrowd": item["crowds"][there_M].long(),
    }


@torch.no_grad()
def sheet_of_boxes(model: Detector, images: BoxedImages) -> Image.Image:
    """Some images with their boxes, each above the same with what is found, and the classes' colours."""
    cells = []
    for number in drawn(len(images), SHOWN, seed=0):
        item = images[number]
        (found,) = find(model, [item])
        sure_M = found["scores"] >= SURE
        truth = truth_of(item)

        picture = to_uint8(item["image"]).permute(1, 2, 0).numpy()
        above = with_boxes(picture, truth["boxes"], truth["labels"])
        below = with_boxes(picture, found["boxes"][sure_M], found["labels"][sure_M])
        cells.append(Cell([above, below]))

    colours_V3 = np.array([outline_colour(label) for label in range(len(images.class_names))], np.uint8)
    title = f"Test images with their boxes, and below with those that are found (score of {SURE} or more)"
    return sheet([Section(title, cells), colours_of(images.class_names, colours_V3)])


def with_boxes(picture: Pixels, boxes_M4: Tensor, labels_M: Tensor) -> Pixels:
    """A picture in colour, enlarged so that lines are thin beside its pixels, and the boxes' outlines."""
    factor = max(1, round(SIDE / max(picture.shape[:2])))
    channels = 3 if picture.shape[2] == 1 else 1
    large = np.tile(picture, (1, 1, channels)).repeat(factor, axis=0).repeat(factor, axis=1)
    canvas = Image.fromarray(large)
    pen = ImageDraw.Draw(canvas)
    for box, label in zip(boxes_M4.tolist(), labels_M.tolist(), strict=True):
        left, top = (round(factor * side) for side in box[:2])
        right, bottom = (round(factor * side) for side in box[2:])
        outline = (left, top, max(left, right - 1), max(top, bottom - 1))
        pen.rectangle(outline, outline=outline_colour(label))
    return np.asarray(canvas)
