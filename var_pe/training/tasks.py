"""What the loop trains: tokenizer, generator or classifier, each with its loss, validation and picture."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms import v2
from torchvision.utils import save_image

from var_pe.encodings.resample import convention_of
from var_pe.models.generator import VARTransformer
from var_pe.models.tokenizer import VQTokenizer
from var_pe.models.vit import ViTClassifier
from var_pe.pyramid import Pyramid
from var_pe.seeding import mix
from var_pe.training.codebook import RestartConfig, hits, perplexity, restart_unused, start_from_data
from var_pe.training.groups import ONE_RATE, LayerRates
from var_pe.training.loop import TrainingConfig
from var_pe.training.losses import per_level, reconstruction_terms, token_losses
from var_pe.training.pyramids import which_pyramid

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class TokenizerTraining(TrainingConfig):
    l1: float = 1.0  # weight of the mean absolute difference
    l2: float = 1.0  # weight of the mean squared difference
    restart: RestartConfig = field(default_factory=RestartConfig)


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
        if self.views < 0 or not 0 <= self.label_drop < 1:
            raise ValueError(
                f"views must be >= 0 and label_drop in [0, 1), got {self.views} and {self.label_drop}"
            )


@dataclass(frozen=True)
class ClassifierTraining(TrainingConfig):
    rand_augment: int = 0  # magnitude of torchvision's RandAugment, two operations an image; 0: off
    mixup: float = 0.0  # alpha of torchvision's MixUp; 0: off
    label_smoothing: float = 0.0  # share of the target spread over all classes
    init_from: str | None = None  # folder of a trained classifier's run to start from, of any image size
    resample: str = "timm"  # convention under which its position table moves to the images' size
    layer_decay: float = 1.0  # learning rate of a layer over that of the one above it; 1: the same
    unfreeze_every: int = (
        0  # steps until the next layer, from the head down, is trained too; 0: none is frozen
    )
    drawn_images: str | None = None  # train on this folder of scripts/sample.py instead of the training split

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rand_augment < 0 or self.mixup < 0 or not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"rand_augment and mixup must be >= 0 and label_smoothing in [0, 1), "
                f"got {self.rand_augment}, {self.mixup} and {self.label_smoothing}"
            )
        if not 0 < self.layer_decay <= 1 or self.unfreeze_every < 0:
            raise ValueError(
                f"layer_decay must be in (0, 1] and unfreeze_every >= 0, "
                f"got {self.layer_decay} and {self.unfreeze_every}"
            )
        convention_of(self.resample)


def shares(length: int, size: int, accelerator: Accelerator) -> list[range]:
    """Ranges of at most `size` indices below `length`: this process's every n-th of them."""
    starts = range(accelerator.process_index * size, length, accelerator.num_processes * size)
    return [range(start, min(start + size, length)) for start in starts]


class TokenizerTask:
    """Reconstruction and quantizer loss; unused codes restart from data."""

    def __init__(
        self,
        model: VQTokenizer,
        dataset: Dataset[Any],
        validation: Dataset[Any],
        config: TokenizerTraining,
        *,
        steps: int,
        seed: int,
        content: Box,
    ) -> None:
        self.model, self.dataset, self.validation = model, dataset, validation
        self.config, self.steps, self.seed, self.content = config, steps, seed, content
        self.layers = ONE_RATE
        self._seen: list[
            tuple[Tensor, Tensor, Tensor]
        ] = []  # places, tokens and rounded vectors of this step

    def start(self, model: nn.Module, batch: dict[str, Any], accelerator: Accelerator) -> None:
        assert isinstance(model, VQTokenizer)
        images_BCHW = batch["image"].to(accelerator.device)
        with torch.no_grad():
            f_BZhw = model.latent(images_BCHW)
        start_from_data(
            model.quantizer,
            f_BZhw,
            batch["place"].to(accelerator.device),
            model.pyramid_for(images_BCHW),
            batch=self.config.batch // self.config.accumulate,
            seed=self.seed,
            accelerator=accelerator,
        )

    def loss(self, model: nn.Module, batch: dict[str, Any], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        images_BCHW = batch["image"]
        reconstruction_BCHW, quantized = model(images_BCHW)
        terms = reconstruction_terms(reconstruction_BCHW.float(), images_BCHW)
        loss = self.config.l1 * terms["l1"] + self.config.l2 * terms["l2"] + quantized.loss
        self._seen.append((batch["place"], quantized.tokens_BL, quantized.z_BLZ))
        return loss, {**terms, "quantizer": quantized.loss}

    @torch.no_grad()
    def after_step(self, model: nn.Module, step: int, accelerator: Accelerator) -> dict[str, float]:
        assert isinstance(model, VQTokenizer)
        places_B, tokens_BL, z_BLZ = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
        self._seen.clear()
        restart, usage_V = self.config.restart, model.quantizer.usage_V
        hits_KV = accelerator.reduce(hits(tokens_BL, model.pyramid, len(usage_V)), "sum")
        hits_V = hits_KV.sum(0)
        usage_V.lerp_(hits_V / hits_V.sum(), 1 / restart.memory)
        restarted = 0
        if restart.every and (step + 1) % restart.every == 0 and step < restart.until * self.steps:
            restarted = restart_unused(
                model.quantizer,
                z_BLZ,
                places_B,
                below=restart.below,
                batch=self.config.batch,
                step=step,
                seed=self.seed,
                accelerator=accelerator,
            )
        logs = {"perplexity": float(perplexity(hits_V)), "restarted": float(restarted)}
        return logs | {f"perplexity/level_{k}": float(perplexity(hits_V)) for k, hits_V in enumerate(hits_KV)}

    @torch.no_grad()
    def validate(self, model: nn.Module, accelerator: Accelerator) -> dict[str, float]:
        """PSNR in dB over the original picture's area, each level's perplexity and share of codes used."""
        assert isinstance(model, VQTokenizer)
        size = len(model.quantizer.codebook_VZ)
        hits_KV = torch.zeros(model.pyramid.num_levels, size, device=accelerator.device)
        total = torch.zeros(2, device=accelerator.device)
        for chosen in shares(len(self.validation), 256, accelerator):  # type: ignore[arg-type]
            images_BCHW = torch.stack([self.validation[i]["image"] for i in chosen]).to(accelerator.device)
            tokens_BL = model.encode(images_BCHW)
            total += torch.stack(
                [
                    psnr(model.decode(tokens_BL), images_BCHW, self.content).sum(),
                    total.new_tensor(len(chosen)),
                ]
            )
            hits_KV += hits(tokens_BL, model.pyramid, size)
        total, hits_KV = accelerator.reduce(total, "sum"), accelerator.reduce(hits_KV, "sum")
        result = {
            "validation/psnr": float(total[0] / total[1]),
            "validation/perplexity": float(perplexity(hits_KV.sum(0))),
        }
        for level, hits_V in enumerate(hits_KV):
            result[f"validation/perplexity/level_{level}"] = float(perplexity(hits_V))
            result[f"validation/usage/level_{level}"] = float((hits_V > 0).float().mean())
        return result

    @torch.no_grad()
    def preview(self, model: nn.Module, path: str) -> None:
        """Originals above their reconstructions."""
        assert isinstance(model, VQTokenizer)
        number = min(8, len(self.validation))  # type: ignore[arg-type]
        images_BCHW = torch.stack([self.validation[i]["image"] for i in range(number)]).to(model.device)
        both = torch.cat([images_BCHW, model.decode(model.encode(images_BCHW))])
        save_image((both + 1) / 2, path, nrow=number)


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
        dropped_B = label_drops(batch["place"].tolist(), self.config.label_drop, self.seed).to(
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


def psnr(reconstruction_BCHW: Tensor, images_BCHW: Tensor, content: Box) -> Tensor:
    """Peak signal-to-noise ratio (dB) of each image in [-1, 1], over the box (top, left, height, width)."""
    top, left, height, width = content
    area = (slice(None), slice(None), slice(top, top + height), slice(left, left + width))
    error_B = ((reconstruction_BCHW.float()[area] - images_BCHW.float()[area]) / 2).square().mean((1, 2, 3))
    return -10 * error_B.clamp(min=1e-10).log10()
