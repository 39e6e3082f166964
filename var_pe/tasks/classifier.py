"""Training a classifier: its loss, its layers' rates, validation and picture."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms import v2
from torchvision.utils import save_image

from var_pe.models.vit import ViTClassifier
from var_pe.settings.rules import check_numbers
from var_pe.tasks.validation import shares
from var_pe.training.groups import ONE_RATE, LayerRates
from var_pe.training.loop import TrainingConfig


@dataclass(frozen=True)
class ClassifierTraining(TrainingConfig):
    rand_augment: int = 0  # magnitude of torchvision's RandAugment, up to 30, two operations an image; 0: off
    mixup: float = 0.0  # alpha of torchvision's MixUp; 0: off
    label_smoothing: float = 0.0  # share of the target spread over all classes
    layer_decay: float = 1.0  # learning rate of a layer over that of the one above it; 1: the same
    unfreeze_every: int = (
        0  # steps until the next layer, from the head down, is trained too; 0: none is frozen
    )
    drawn_images: str | None = None  # train on this folder of scripts/sample.py instead of the training split

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, rand_augment="[0, 30]", mixup="[0, inf)", label_smoothing="[0, 1)")
        check_numbers(self, layer_decay="(0, 1]", unfreeze_every="[0, inf)")


class ClassifierTask:
    """Cross-entropy of the label; mixup and label smoothing where the config asks for them."""

    def __init__(
        self,
        model: ViTClassifier,
        dataset: Dataset[Any],
        validation: Dataset[Any],
        config: ClassifierTraining,
    ) -> None:
        self.model, self.dataset, self.validation, self.config = model, dataset, validation, config
        self.num_classes = model.head.out_features
        layered = config.layer_decay < 1 or config.unfreeze_every
        rates = LayerRates(len(model.blocks), config.layer_decay, config.unfreeze_every)
        self.layers = rates if layered else ONE_RATE
        self.mixup = v2.MixUp(alpha=config.mixup, num_classes=self.num_classes) if config.mixup else None

    def start(self, model: nn.Module, batch: dict[str, Any], accelerator: Accelerator) -> None:
        """Nothing: the weights follow from the seed."""

    def loss(self, model: nn.Module, batch: dict[str, Any], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        images_BCHW, target = batch["image"], batch["label"]
        if self.mixup is not None:
            images_BCHW, target = self.mixup(images_BCHW, target)
        logits_BV = model(images_BCHW)
        loss = F.cross_entropy(logits_BV, target, label_smoothing=self.config.label_smoothing)
        hit_B = logits_BV.argmax(1) == (target if target.dim() == 1 else target.argmax(1))
        return loss, {"accuracy": hit_B.float().mean()}

    def after_step(self, model: nn.Module, step: int, accelerator: Accelerator) -> dict[str, float]:
        return {}

    @torch.no_grad()
    def validate(self, model: nn.Module, accelerator: Accelerator) -> dict[str, float]:
        """Top-1 accuracy and loss on the test split."""
        assert isinstance(model, ViTClassifier)
        totals = torch.zeros(3, device=accelerator.device)
        for chosen in shares(len(self.validation), 256, accelerator):  # type: ignore[arg-type]
            items = [self.validation[i] for i in chosen]
            logits_BV = model(torch.stack([item["image"] for item in items]).to(accelerator.device))
            labels_B = torch.tensor([item["label"] for item in items], device=accelerator.device)
            loss = F.cross_entropy(logits_BV, labels_B, reduction="sum")
            totals += torch.stack(
                [(logits_BV.argmax(1) == labels_B).sum(), loss, totals.new_tensor(len(items))]
            )
        right, loss, number = accelerator.reduce(totals, "sum").tolist()
        return {"validation/accuracy": right / number, "validation/loss": loss / number}

    @torch.no_grad()
    def preview(self, model: nn.Module, path: str) -> None:
        """Test images in rows by the class that the model gives them: a wrong one stands out."""
        assert isinstance(model, ViTClassifier)
        images_BCHW = torch.stack([self.validation[i]["image"] for i in range(min(64, len(self.validation)))])  # type: ignore[arg-type]
        order = model(images_BCHW.to(model.device)).argmax(1).argsort(stable=True).cpu()
        save_image((images_BCHW[order] + 1) / 2, path, nrow=8)
