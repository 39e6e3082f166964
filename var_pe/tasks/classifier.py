"""Training a classifier: its loss, the learning rates of its layers, validation and preview."""

from collections.abc import Sequence
from dataclasses import field
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from annotated_types import Ge, Gt, Le
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from var_pe.data.classes import from_all_classes, labels_of
from var_pe.data.image_set import Batch, HeldOutImages, TrainingSet, stacked
from var_pe.evaluation.folder import to_uint8
from var_pe.models.classifier import Classifier
from var_pe.models.tuning import Lora, Tuned
from var_pe.pages.sheets import Cell, Pixels, Section, class_name, sheet
from var_pe.settings.fields import Doc, FilePath, NonNegative, NonNegativeFloat, ShareBelowOne, section
from var_pe.tasks.attack import Attack, attacked
from var_pe.tasks.fading import Fading
from var_pe.tasks.losses.contrastive import Contrastive, contrast_of_crops, crops_of
from var_pe.training.config import TrainingConfig
from var_pe.training.groups import ONE_RATE, LayerRates
from var_pe.training.stopping import held_out_batches
from var_pe.training.validations import Measure


@section
class ClassifierTraining(TrainingConfig):
    keep: Annotated[
        Literal["best", "last"],
        Doc(
            "which moving average becomes the finished model: that of the lowest validation loss or of "
            "the last step"
        ),
    ] = "best"
    rand_augment: Annotated[
        int, Ge(0), Le(30), Doc("magnitude of torchvision's RandAugment, two operations an image; 0: off")
    ] = 0
    mixup: Annotated[NonNegativeFloat, Doc("alpha of torchvision's MixUp; 0: off")] = 0.0
    label_smoothing: Annotated[
        ShareBelowOne, Doc("label smoothing: share of the target that is spread over all classes")
    ] = 0.0
    layer_decay: Annotated[
        float,
        Gt(0),
        Le(1),
        Doc("learning rate of a layer, as a multiple of that of the layer above it; 1: the same"),
    ] = 1.0
    unfreeze_every: Annotated[
        NonNegative,
        Doc(
            "gradual unfreezing: steps until the next layer, from the head down, is trained, too; 0: no "
            "layer is frozen"
        ),
    ] = 0
    tuned: Annotated[
        Tuned,
        Doc(
            "what is trained besides the head: all weights, nothing else (head), prompts of every block, "
            "or low-rank adapters that are merged in the end (lora)"
        ),
    ] = "all"
    lora: Lora = field(default_factory=Lora)
    drawn_images: Annotated[
        FilePath | None,
        Doc("folder of scripts/sample.py to train on instead of the training split"),
    ] = None
    contrastive: Annotated[
        Contrastive | None,
        Doc(
            "contrastive term that pulls together tokens of a picture and of a crop of it at the same "
            "place; null: off"
        ),
    ] = None
    attack: Annotated[
        Attack | None,
        Doc("adversarial training: every batch is attacked before it is trained on; null: off"),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tuned != "all" and (self.layer_decay < 1 or self.unfreeze_every):
            raise ValueError(
                f"layer_decay and unfreeze_every share out the learning rate among all layers: set "
                f"tuned=all, got {self.tuned}"
            )


SHOWN = 64  # images of all classes that a preview shows
WORST = 16  # images with the highest loss
FRAMES_SHOWN = 4  # of a clip, at least


class ClassifierTask:
    """Cross-entropy of the label, with mixup and label smoothing if the config asks for them."""

    measure = Measure()
    opponent = None

    def __init__(
        self,
        model: Classifier,
        dataset: TrainingSet,
        validation: HeldOutImages,
        config: ClassifierTraining,
        fading: Fading | None = None,
    ) -> None:
        self.model, self.dataset, self.validation = model, dataset, validation
        self.config = config
        self.fading = fading

        # For previews: which images show all classes, and each image's loss at the last validation
        self._shown: list[int] = []
        self._losses_N: Tensor | None = None

        self.layers = ONE_RATE
        if config.layer_decay < 1 or config.unfreeze_every:
            self.layers = LayerRates(
                sum(model.blocks_by_stage),
                config.layer_decay,
                config.unfreeze_every,
                tuple(model.blocks_by_stage),
            )

        self.mixup = None
        if config.mixup:
            assert isinstance(model.head, nn.Linear), "a trained classifier has classes"
            self.mixup = v2.MixUp(alpha=config.mixup, num_classes=model.head.out_features)

    def start(self, model: nn.Module, batch: Batch, accelerator: Accelerator) -> None:
        """Does nothing: the initial weights follow from the seed."""

    def loss(self, model: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        faded = {} if self.fading is None else self.fading.set(step)
        images_BCHW, target = batch["image"], batch["label"]
        if self.mixup is not None:
            images_BCHW, target = self.mixup(images_BCHW, target)
        if self.config.attack is not None:
            images_BCHW = self._attacked(model, images_BCHW, target, self.config.attack)

        contrastive, contrast = self.config.contrastive, None
        if contrastive is None:
            logits_BV = model(images_BCHW)
        else:
            logits_BV, contrast = self._contrasted(model, images_BCHW, contrastive)
            faded |= {"contrast": contrast.detach()}
        loss = F.cross_entropy(logits_BV, target, label_smoothing=self.config.label_smoothing)

        if contrastive is not None and contrast is not None:
            loss = loss + contrastive.weight * contrast

        # A mixed target is a row of shares; its label is the largest one.
        label_B = target if target.dim() == 1 else target.argmax(1)
        return loss, {"accuracy": (logits_BV.argmax(1) == label_B).float().mean()} | faded

    def _attacked(self, model: nn.Module, images_BCHW: Tensor, target: Tensor, attack: Attack) -> Tensor:
        """The images after an attack on the loss of their labels alone."""

        def loss_of(changed_BCHW: Tensor) -> Tensor:
            return F.cross_entropy(model(changed_BCHW), target, reduction="sum")

        return attacked(loss_of, images_BCHW, attack)

    def _contrasted(
        self, model: nn.Module, images_BCHW: Tensor, contrastive: Contrastive
    ) -> tuple[Tensor, Tensor]:
        """Logits of the images, and the contrast of their tokens with those of a crop of each.

        Both go through the model together, as one pass of twice the batch.
        """
        crop_BCHW, centre_B2, side_B = crops_of(images_BCHW, contrastive.smallest)
        blocks = self.model.blocks
        with blocks.watching(contrastive.block(len(blocks))) as seen:
            logits_BV = model(torch.cat([images_BCHW, crop_BCHW])).chunk(2)[0]

        whole_BLC, crop_BLC = seen[0][:, self.model.num_before_patches :].chunk(2)
        grid = self.model.pyramid.finest
        contrast = contrast_of_crops(whole_BLC, crop_BLC, centre_B2, side_B, grid, contrastive.temperature)
        return logits_BV, contrast

    def after_step(
        self, model: nn.Module, step: int, accelerator: Accelerator, updates: Tensor
    ) -> dict[str, Tensor]:
        return {}

    @torch.no_grad()
    def validate(self, model: nn.Module, accelerator: Accelerator) -> dict[str, float]:
        """Top-1 accuracy and loss on the test split."""
        assert isinstance(model, Classifier)
        totals = torch.zeros(3, device=accelerator.device)
        losses_N = torch.zeros(len(self.validation), device=accelerator.device)
        for chosen in held_out_batches(len(self.validation), 256, accelerator):
            items = [self.validation[i] for i in chosen]
            logits_BV = model(stacked(items).to(accelerator.device))
            labels_B = torch.tensor([item["label"] for item in items], device=accelerator.device)

            right = (logits_BV.argmax(1) == labels_B).sum()
            loss = F.cross_entropy(logits_BV, labels_B, reduction="sum")
            losses_N[chosen.start : chosen.stop] = F.cross_entropy(logits_BV, labels_B, reduction="none")
            totals += torch.stack([right, loss, totals.new_tensor(len(items))])

        # Every process has filled in the losses of its own images and zeros elsewhere.
        self._losses_N = accelerator.reduce(losses_N, "sum").cpu()
        right, loss, number = accelerator.reduce(totals, "sum").tolist()
        return {"validation/accuracy": right / number, "validation/loss": loss / number}

    def preview(self, model: nn.Module) -> Image.Image:
        """Test images with what they are taken for: the same of all classes each time, then the worst."""
        assert isinstance(model, Classifier)
        if not self._shown:
            self._shown = from_all_classes(labels_of(self.validation), SHOWN, seed=0)
        title = "Test images of every class, below each what it was taken for if that is wrong"
        sections = [Section(title, self._cells(model, self._shown))]

        # Nothing is added where all images are shown above.
        if self._losses_N is not None and len(self.validation) > len(self._shown):
            worst = self._losses_N.argsort(descending=True, stable=True)[:WORST].tolist()
            title = f"The {len(worst)} of {len(self.validation)} with the highest loss at the last validation"
            sections.append(Section(title, self._cells(model, worst)))
        return sheet(sections)

    @torch.no_grad()
    def _cells(self, model: Classifier, numbers: Sequence[int]) -> list[Cell]:
        items = [self.validation[number] for number in numbers]
        names = self.validation.class_names
        cells = []
        guesses = model(stacked(items).to(model.device)).argmax(1).tolist()
        for item, guess in zip(items, guesses, strict=True):
            note = "" if guess == item["label"] else f"→ {class_name(names, guess)}"
            cells.append(Cell([shown(item["image"])], class_name(names, item["label"]), note))
        return cells


def shown(image: Tensor) -> Pixels:
    """An image in [-1, 1] as pixels (height, width, channels); of a clip some frames side by side."""
    frames = [image] if image.dim() == 3 else list(image[:: max(1, len(image) // FRAMES_SHOWN)])
    return np.concatenate([to_uint8(frame).permute(1, 2, 0).numpy() for frame in frames], axis=1)
