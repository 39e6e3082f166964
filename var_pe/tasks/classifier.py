"""Training a classifier: its loss, the learning rates of its layers, validation and preview."""

from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.utils import save_image

from var_pe.data.image_set import Batch, HeldOutImages, TrainingSet, stacked
from var_pe.models.vit import ViTClassifier
from var_pe.processes import Processes
from var_pe.settings.fields import Doc, FilePath, NonNegative, NonNegativeFloat, ShareBelowOne, section
from var_pe.training.config import TrainingConfig
from var_pe.training.groups import ONE_RATE, LayerRates


@section(frozen=True)
class ClassifierTraining(TrainingConfig):
    rand_augment: Annotated[
        int, Ge(0), Le(30), Doc("magnitude of torchvision's RandAugment, two operations an image; 0: off")
    ] = 0
    mixup: Annotated[NonNegativeFloat, Doc("alpha of torchvision's MixUp; 0: off")] = 0.0
    label_smoothing: Annotated[ShareBelowOne, Doc("share of the target spread over all classes")] = 0.0
    layer_decay: Annotated[
        float, Gt(0), Le(1), Doc("learning rate of a layer over that of the one above it; 1: the same")
    ] = 1.0
    unfreeze_every: Annotated[
        NonNegative,
        Doc("steps until the next layer, from the head down, is trained too; 0: no layer is frozen"),
    ] = 0
    drawn_images: Annotated[
        FilePath | None,
        Doc("train on this folder of scripts/sample.py instead of the training split"),
    ] = None


class ClassifierTask:
    """Cross-entropy of the label, with mixup and label smoothing if the config asks for them."""

    def __init__(
        self,
        model: ViTClassifier,
        dataset: TrainingSet,
        validation: HeldOutImages,
        config: ClassifierTraining,
    ) -> None:
        self.model, self.dataset, self.validation = model, dataset, validation
        self.config = config

        self.layers = ONE_RATE
        if config.layer_decay < 1 or config.unfreeze_every:
            self.layers = LayerRates(len(model.blocks), config.layer_decay, config.unfreeze_every)

        self.mixup = None
        if config.mixup:
            self.mixup = v2.MixUp(alpha=config.mixup, num_classes=model.head.out_features)

    def start(self, model: nn.Module, batch: Batch, accelerator: Accelerator) -> None:
        """Does nothing: the initial weights follow from the seed."""

    def loss(self, model: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        images_BCHW, target = batch["image"], batch["label"]
        if self.mixup is not None:
            images_BCHW, target = self.mixup(images_BCHW, target)

        logits_BV = model(images_BCHW)
        loss = F.cross_entropy(logits_BV, target, label_smoothing=self.config.label_smoothing)

        # A mixed target is a row of shares; its label is the largest one.
        label_B = target if target.dim() == 1 else target.argmax(1)
        return loss, {"accuracy": (logits_BV.argmax(1) == label_B).float().mean()}

    def after_step(self, model: nn.Module, step: int, accelerator: Accelerator) -> dict[str, float]:
        return {}

    @torch.no_grad()
    def validate(self, model: nn.Module, accelerator: Accelerator) -> dict[str, float]:
        """Top-1 accuracy and loss on the test split."""
        assert isinstance(model, ViTClassifier)
        totals = torch.zeros(3, device=accelerator.device)
        for chosen in Processes.of(accelerator).batches(len(self.validation), 256):
            items = [self.validation[i] for i in chosen]
            logits_BV = model(stacked(items).to(accelerator.device))
            labels_B = torch.tensor([item["label"] for item in items], device=accelerator.device)

            right = (logits_BV.argmax(1) == labels_B).sum()
            loss = F.cross_entropy(logits_BV, labels_B, reduction="sum")
            totals += torch.stack([right, loss, totals.new_tensor(len(items))])

        right, loss, number = accelerator.reduce(totals, "sum").tolist()
        return {"validation/accuracy": right / number, "validation/loss": loss / number}

    @torch.no_grad()
    def preview(self, model: nn.Module, path: Path) -> None:
        """Draws test images in the order of their predicted classes, so that wrong ones stand out."""
        assert isinstance(model, ViTClassifier)
        number = min(64, len(self.validation))
        images_BCHW = stacked(self.validation[i] for i in range(number))
        order = model(images_BCHW.to(model.device)).argmax(1).argsort(stable=True).cpu()
        save_image((images_BCHW[order] + 1) / 2, path, nrow=8)
