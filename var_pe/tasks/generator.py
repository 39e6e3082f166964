"""Training the generator: its loss under the pyramid of the step, validation and picture."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.utils import save_image

from var_pe.models.generator import VARTransformer
from var_pe.models.tokenizer import VQTokenizer
from var_pe.pyramid import Pyramid
from var_pe.seeding import mix
from var_pe.settings.rules import check_numbers
from var_pe.tasks.losses.terms import per_level, token_losses
from var_pe.tasks.pyramids import which_pyramid
from var_pe.tasks.validation import shares
from var_pe.training.groups import ONE_RATE
from var_pe.training.loop import TrainingConfig


@dataclass(frozen=True)
class GeneratorTraining(TrainingConfig):
    views: int = (
        1  # augmented views of each image in the token cache; 0: no cache, images are encoded on the fly
    )
    label_drop: float = 0.1  # share of the images trained without their label, for guidance
    pyramids: list[list[int | list[int]]] = field(
        default_factory=list
    )  # levels, one of which is drawn per step, tokenizer.levels first; []: tokenizer.levels alone

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, views="[0, inf)", label_drop="[0, 1)")
        for levels in self.pyramids:
            Pyramid.of(levels)


class GeneratorTask:
    """Cross-entropy of every token given all coarser levels and, mostly, the label; a pyramid per step."""

    def __init__(
        self,
        model: VARTransformer,
        tokenizer: VQTokenizer,
        dataset: Dataset[Any],
        pyramids: Sequence[Pyramid],
        validation: dict[Pyramid, tuple[Tensor, Tensor]],
        config: GeneratorTraining,
        *,
        seed: int,
        preview: Callable[[VARTransformer], Tensor],
    ) -> None:
        """`validation` is (tokens_BL, labels_B) of each pyramid; `preview` draws images in [-1, 1]."""
        self.model, self.tokenizer, self.dataset, self.validation = model, tokenizer, dataset, validation
        self.pyramids, self.config, self.seed, self._preview = tuple(pyramids), config, seed, preview
        self.layers = ONE_RATE

    def start(self, model: nn.Module, batch: dict[str, Any], accelerator: Accelerator) -> None:
        """Nothing: the weights follow from the seed."""

    def loss(self, model: nn.Module, batch: dict[str, Any], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        pyramid = self.pyramids[which_pyramid(self.seed, step, len(self.pyramids))]
        with torch.no_grad():
            tokens_BL = (
                batch["tokens"] if "tokens" in batch else self.tokenizer.encode(batch["image"], pyramid)
            )
            inputs_BLZ = self.tokenizer.quantizer.teacher_forcing(tokens_BL, pyramid)
        dropped_B = label_drops(batch["draw_number"].tolist(), self.config.label_drop, self.seed).to(
            tokens_BL.device
        )
        labels_B = known_labels(batch["label"], self.model.num_classes).masked_fill(
            dropped_B, self.model.num_classes
        )
        losses_BL = token_losses(model(labels_B, inputs_BLZ, pyramid), tokens_BL)
        return losses_BL.mean(), self._named(losses_BL.detach(), pyramid, "loss")

    def _named(self, losses_BL: Tensor, pyramid: Pyramid, name: str) -> dict[str, Tensor]:
        """Losses by level; where there are several pyramids, under the pyramid's name and with its mean."""
        if len(self.pyramids) == 1:
            return per_level(losses_BL, pyramid, name)
        name = f"{name}/{pyramid}"
        return {name: losses_BL.mean(), **per_level(losses_BL, pyramid, name)}

    def after_step(self, model: nn.Module, step: int, accelerator: Accelerator) -> dict[str, float]:
        return {}

    @torch.no_grad()
    def validate(self, model: nn.Module, accelerator: Accelerator) -> dict[str, float]:
        """Nats per token on the test split, every label given: under the first pyramid, and under each."""
        assert isinstance(model, VARTransformer)
        found: dict[str, float] = {}
        for pyramid in self.validation:
            mean_1L = self._mean_losses(model, pyramid, accelerator)
            found.setdefault("validation/loss", float(mean_1L.mean()))
            values = self._named(mean_1L, pyramid, "validation/loss")
            found |= {name: float(value) for name, value in values.items()}
        return found

    def _mean_losses(self, model: VARTransformer, pyramid: Pyramid, accelerator: Accelerator) -> Tensor:
        """Of each token of the pyramid over all images, (1, L)."""
        tokens_NL, labels_N = self.validation[pyramid]
        total_L = torch.zeros(tokens_NL.shape[1], device=accelerator.device)
        for chosen in shares(len(tokens_NL), 256, accelerator):
            tokens_BL = tokens_NL[chosen.start : chosen.stop].to(accelerator.device)
            labels_B = labels_N[chosen.start : chosen.stop].to(accelerator.device)
            inputs_BLZ = self.tokenizer.quantizer.teacher_forcing(tokens_BL, pyramid)
            total_L += token_losses(model(labels_B, inputs_BLZ, pyramid), tokens_BL).sum(0)
        return accelerator.reduce(total_L, "sum")[None] / len(tokens_NL)

    def preview(self, model: nn.Module, path: str) -> None:
        """One column per class, the same seeds at every step."""
        assert isinstance(model, VARTransformer)
        images_BCHW = self._preview(model)
        save_image((images_BCHW + 1) / 2, path, nrow=max(1, min(10, model.num_classes)))


def label_drops(places: Sequence[int], share: float, seed: int) -> Tensor:
    """Which images lose their label: a matter of the seed and the image's place in the run, nothing else."""
    return torch.tensor([mix(seed, "label drop", place) / 2**63 < share for place in places])


def known_labels(labels_B: Tensor, num_classes: int) -> Tensor:
    """Labels with missing ones (-1), or all if there are no classes, turned into the unconditional label."""
    return (
        torch.full_like(labels_B, num_classes)
        if num_classes == 0
        else labels_B.where(labels_B >= 0, num_classes)
    )
