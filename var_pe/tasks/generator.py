"""Training the generator: its loss under the pyramid of the step, validation and preview."""

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import Annotated, Literal

import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn

from var_pe.data.classes import from_all_classes
from var_pe.data.image_set import Batch, TrainingSet
from var_pe.encodings.machinery.coordinates import learned_maps
from var_pe.encodings.machinery.share import share_in_sinusoid
from var_pe.models.generator import VARTransformer
from var_pe.models.tokenizer import VQTokenizer
from var_pe.pages.sheets import Cell, Section, class_name, sheet
from var_pe.pyramid import Levels, Pyramid
from var_pe.sampling.config import SamplingConfig
from var_pe.sampling.drawing import draw_images
from var_pe.sampling.pipeline import VARPipeline
from var_pe.seeding import mix, random_bits, shifted
from var_pe.settings.fields import Doc, NonNegative, ShareBelowOne, section
from var_pe.tasks.fading import Fading
from var_pe.tasks.losses.contrastive import Contrastive, contrast_of_levels
from var_pe.tasks.losses.tokens import per_level, token_losses
from var_pe.tasks.progressive import Progressive
from var_pe.tasks.pyramids import which_pyramid
from var_pe.training.config import TrainingConfig
from var_pe.training.groups import ONE_RATE
from var_pe.training.stopping import held_out_batches
from var_pe.training.validations import Measure


@section
class GeneratorTraining(TrainingConfig):
    keep: Annotated[
        Literal["best", "last"],
        Doc(
            "which moving average becomes the finished model: that of the lowest validation loss or of "
            "the last step"
        ),
    ] = "best"
    views: Annotated[
        NonNegative,
        Doc("augmented views of each image in the token cache; 0: no cache, images are encoded on the fly"),
    ] = 1
    label_drop: Annotated[
        ShareBelowOne,
        Doc("share of the images that are trained without their label, for classifier-free guidance"),
    ] = 0.1
    pyramids: Annotated[
        list[Levels],
        Doc(
            "pyramids, one of which is drawn for each step, the first being tokenizer.levels; []: "
            "tokenizer.levels alone"
        ),
    ] = field(default_factory=list)
    progressive: Annotated[
        Progressive | None,
        Doc(
            "progressive training: levels are added one after another, coarse first; null: all are "
            "trained from the first step"
        ),
    ] = None
    contrastive: Annotated[
        Contrastive | None,
        Doc("contrastive term that pulls together tokens of two levels at the same place; null: off"),
    ] = None


SHOWN = 100  # images that a preview draws at most


class GeneratorTask:
    """Cross-entropy of every token given all coarser levels and mostly the label, one pyramid per step."""

    layers = ONE_RATE
    opponent = None
    measure = Measure()

    def __init__(
        self,
        model: VARTransformer,
        tokenizer: VQTokenizer,
        dataset: TrainingSet,
        pyramids: Sequence[Pyramid],
        validation: Mapping[Pyramid, tuple[Tensor, Tensor]],
        config: GeneratorTraining,
        sampling: SamplingConfig,
        *,
        steps: int,
        fading: Fading | None = None,
        seed: int,
        class_names: Sequence[str] = (),
    ) -> None:
        """`validation` holds (tokens_BL, labels_B) for each pyramid; previews are drawn with `sampling`.

        `steps` are those that progressive training counts its shares of: the ones first asked of a run, so
        that no level goes out again when it is extended. `class_names` stand in previews; empty if the
        classes have no names.
        """
        self.model, self.tokenizer, self.dataset = model, tokenizer, dataset
        self.pyramids, self.validation = tuple(pyramids), validation
        self.config, self.sampling, self.seed = config, sampling, seed
        self.steps = steps
        self.fading = fading
        self.class_names = tuple(class_names)

    def start(self, model: nn.Module, batch: Batch, accelerator: Accelerator) -> None:
        """Does nothing: the initial weights follow from the seed."""

    def loss(self, model: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        faded = {} if self.fading is None else self.fading.set(step)

        # Teacher forcing: every level's input is read from the true tokens of the levels before it.
        pyramid = self.pyramids[which_pyramid(self.seed, step, len(self.pyramids))]
        with torch.no_grad():
            if "tokens" in batch:
                tokens_BL = batch["tokens"]
            else:
                tokens_BL = self.tokenizer.encode(batch["image"], pyramid, whole=True)
            levels = self.levels_in(step, pyramid)
            if levels is not None:
                tokens_BL = tokens_BL[:, : pyramid.spans[levels - 1].stop]
            inputs_BLZ = self.tokenizer.quantizer.teacher_forcing(tokens_BL, pyramid, levels)

        # Some images lose their label, for guidance (Ho & Salimans 2022).
        unconditional = self.model.num_classes
        dropped_B = label_drops(batch["draw_number"], self.config.label_drop, self.seed)
        labels_B = known_labels(batch["label"], unconditional).masked_fill(dropped_B, unconditional)

        contrastive = self.config.contrastive
        if contrastive is None:
            losses_BL = token_losses(model(labels_B, inputs_BLZ, pyramid, levels), tokens_BL)
            return losses_BL.mean(), self._named(losses_BL.detach(), pyramid, "loss") | faded

        # Hidden tokens of two levels at the same place are pulled together.
        blocks = self.model.blocks
        with blocks.watching(contrastive.block(len(blocks))) as seen:
            losses_BL = token_losses(model(labels_B, inputs_BLZ, pyramid, levels), tokens_BL)
        contrast = contrast_of_levels(seen[0], pyramid, levels or pyramid.num_levels, contrastive.temperature)
        named = self._named(losses_BL.detach(), pyramid, "loss") | {"contrast": contrast.detach()} | faded
        return losses_BL.mean() + contrastive.weight * contrast, named

    def levels_in(self, step: int, pyramid: Pyramid) -> int | None:
        """How many levels are trained in a step, coarsest first; None: all, without progressive training."""
        if self.config.progressive is None:
            return None
        levels = self.config.progressive.levels_at(step, self.steps, pyramid.num_levels)
        return levels if levels < pyramid.num_levels else None

    def _named(self, losses_BL: Tensor, pyramid: Pyramid, name: str) -> dict[str, Tensor]:
        """Losses by level; with several pyramids, under the pyramid's name and with its mean."""
        if len(self.pyramids) == 1:
            return per_level(losses_BL, pyramid, name)

        name = f"{name}/{pyramid}"
        return {name: losses_BL.mean(), **per_level(losses_BL, pyramid, name)}

    def after_step(
        self, model: nn.Module, step: int, accelerator: Accelerator, updates: Tensor
    ) -> dict[str, Tensor]:
        return {}

    @torch.no_grad()
    def validate(self, model: nn.Module, accelerator: Accelerator) -> dict[str, float]:
        """Nats per token on the test split, given the labels: of the first pyramid, then of all in detail."""
        assert isinstance(model, VARTransformer)
        found: dict[str, float] = {}
        for pyramid in self.validation:
            mean_1L = self._mean_losses(model, pyramid, accelerator)
            found.setdefault("validation/loss", float(mean_1L.mean()))

            values = self._named(mean_1L, pyramid, "validation/loss")
            found |= {name: float(value) for name, value in values.items()}

        # Does a trained table stay, or become, what the fixed code could have been?
        share = share_in_sinusoid(model.position_encoding, model.pyramid, model.config["dim"])
        if share is not None:
            found["validation/share_in_sinusoid"] = share

        # And where do learned coordinates go?
        maps = learned_maps(model.position_encoding, model.pyramid)
        return found | {f"validation/coordinates/{name}": value for name, value in maps.items()}

    def _mean_losses(self, model: VARTransformer, pyramid: Pyramid, accelerator: Accelerator) -> Tensor:
        """The mean loss of each token of the pyramid over all validation images, (1, L)."""
        tokens_NL, labels_N = self.validation[pyramid]
        total_L = torch.zeros(tokens_NL.shape[1], device=accelerator.device)
        for chosen in held_out_batches(len(tokens_NL), 256, accelerator):
            tokens_BL = tokens_NL[chosen.start : chosen.stop].to(accelerator.device)
            labels_B = labels_N[chosen.start : chosen.stop].to(accelerator.device)
            labels_B = known_labels(labels_B, model.num_classes)

            inputs_BLZ = self.tokenizer.quantizer.teacher_forcing(tokens_BL, pyramid)
            total_L += token_losses(model(labels_B, inputs_BLZ, pyramid), tokens_BL).sum(0)

        return accelerator.reduce(total_L, "sum")[None] / len(tokens_NL)

    def preview(self, model: nn.Module) -> Image.Image:
        """A column of drawn images for each class, with the same seeds at every step.

        Of more than `SHOWN` classes some are shown, always the same. Uses the run's sampling settings, but
        always the trained size, and a drawing for each.
        """
        assert isinstance(model, VARTransformer)
        labels: list[int | None] = [None] * 20
        title = "Drawn images"
        each = 1
        if model.num_classes:
            shown = from_all_classes(range(model.num_classes), SHOWN, seed=0)
            each = min(10, SHOWN // len(shown))
            labels = [label for label in shown for _ in range(each)]
            title = "Drawn images of every class"
            if len(shown) < model.num_classes:
                title = f"Drawn images of {len(shown)} of {model.num_classes} classes"

        sampling = replace(self.sampling, size=None, levels=None, draws_per_image=1)
        pipeline = VARPipeline(self.tokenizer, model)
        images_BCHW = draw_images(pipeline, labels, range(len(labels)), sampling)
        pictures = list(images_BCHW.permute(0, 2, 3, 1).numpy())

        cells = []
        for first in range(0, len(labels), each):
            label = labels[first]
            name = "" if label is None else class_name(self.class_names, label)
            cells.append(Cell(pictures[first : first + each], name))
        return sheet([Section(f"{title}, guidance {self.sampling.guidance_scale:g}", cells)])


def label_drops(draw_numbers_B: Tensor, share: float, seed: int) -> Tensor:
    """Which images lose their label, by the seed and each image's draw number alone."""
    bits_B = random_bits(mix(seed, "label drop"), draw_numbers_B)
    return shifted(bits_B, 11) < round(share * 2**53)  # whole numbers, so that no device rounds


def known_labels(labels_B: Tensor, num_classes: int) -> Tensor:
    """The labels; missing ones (-1) become the unconditional label, without classes all of them do."""
    if num_classes == 0:
        return torch.full_like(labels_B, num_classes)
    return labels_B.where(labels_B >= 0, num_classes)
