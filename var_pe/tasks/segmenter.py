"""Training a segmenter: its loss, validation, and pictures of what it finds."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn

from var_pe.data.image_set import Batch
from var_pe.data.mask_folder import IGNORED
from var_pe.data.masks import MaskedImages, MaskedItem
from var_pe.data.part import drawn
from var_pe.evaluation.folder import to_uint8
from var_pe.evaluation.segmentation import Overlaps
from var_pe.models.dense.segmenter import Segmenter
from var_pe.pages.palette import colours_of, painted, palette
from var_pe.pages.sheets import Cell, Section, sheet
from var_pe.tasks.dense import DenseTraining, layers_of
from var_pe.training.stopping import held_out_batches
from var_pe.training.validations import Measure

SHOWN = 24  # images that a sheet shows


class SegmenterTask:
    """Cross-entropy of every pixel's class; pixels of no class have no part in it."""

    measure = Measure("validation/mean_iou", higher_is_better=True)
    opponent = None

    def __init__(
        self, model: Segmenter, dataset: MaskedImages, validation: MaskedImages, config: DenseTraining
    ) -> None:
        self.model, self.dataset, self.validation = model, dataset, validation
        self.layers = layers_of(model, config)

    def start(self, model: nn.Module, batch: Batch, accelerator: Accelerator) -> None:
        """Does nothing: the initial weights follow from the seed."""

    def loss(self, model: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        logits_BVHW, mask_BHW = model(batch["image"]), batch["mask"]
        known_BHW = mask_BHW != IGNORED
        number = known_BHW.sum().clamp(min=1)

        # A batch without a known pixel has loss 0, not 0 / 0.
        loss = F.cross_entropy(logits_BVHW, mask_BHW, ignore_index=IGNORED, reduction="sum") / number
        right = (logits_BVHW.argmax(1) == mask_BHW) & known_BHW
        return loss, {"pixel_accuracy": right.sum() / number}

    def after_step(
        self, model: nn.Module, step: int, accelerator: Accelerator, updates: Tensor
    ) -> dict[str, Tensor]:
        return {}

    def validate(self, model: nn.Module, accelerator: Accelerator) -> dict[str, float]:
        """Mean IoU, share of right pixels and loss on the test split."""
        assert isinstance(model, Segmenter)
        found = validate_segmenter(model, self.validation, accelerator)
        return {f"validation/{name}": value for name, value in found.items() if not name.startswith("iou/")}

    def preview(self, model: nn.Module) -> Image.Image:
        """The same test images each time: picture, truth, and what is found."""
        assert isinstance(model, Segmenter)
        return sheet_of_masks(model, self.validation)


@torch.no_grad()
def validate_segmenter(
    model: Segmenter, images: MaskedImages, accelerator: Accelerator, batch: int = 64
) -> dict[str, float]:
    """Mean IoU, share of right pixels, loss, and each class's IoU, over all pixels of the images."""
    overlaps = Overlaps(len(images.class_names), accelerator.device)
    totals = torch.zeros(2, device=accelerator.device, dtype=torch.float64)
    for chosen in held_out_batches(len(images), batch, accelerator):
        items = [images[index] for index in chosen]
        logits_BVHW, mask_BHW = _logits_and_truth(model, items)
        overlaps.add(logits_BVHW.argmax(1), mask_BHW)

        loss = F.cross_entropy(logits_BVHW, mask_BHW, ignore_index=IGNORED, reduction="sum")
        totals += torch.stack([loss, (mask_BHW != IGNORED).sum()])

    loss, number = accelerator.reduce(totals, "sum").tolist()
    return {"loss": loss / max(1.0, number)} | overlaps.values(images.class_names)


def _logits_and_truth(model: Segmenter, items: Sequence[MaskedItem]) -> tuple[Tensor, Tensor]:
    images_BCHW = torch.stack([item["image"] for item in items]).to(model.device)
    mask_BHW = torch.stack([item["mask"] for item in items]).to(model.device)
    return model(images_BCHW), mask_BHW


@torch.no_grad()
def sheet_of_masks(model: Segmenter, images: MaskedImages) -> Image.Image:
    """Some images, each above its truth and what is found in it, and the classes' colours."""
    numbers = drawn(len(images), SHOWN, seed=0)
    cells = []
    for number in numbers:
        item = images[number]
        logits_BVHW, mask_BHW = _logits_and_truth(model, [item])
        picture = to_uint8(item["image"]).permute(1, 2, 0).numpy()
        if picture.shape[2] == 1:
            picture = np.repeat(picture, 3, axis=2)
        truth, found = mask_BHW[0].cpu().numpy(), logits_BVHW[0].argmax(0).cpu().numpy()
        cells.append(Cell([picture, painted(truth), painted(found)]))

    title = "Test images, below each its true classes and those that are found"
    return sheet([Section(title, cells), colours_of(images.class_names, palette())])
