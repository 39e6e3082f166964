"""Training the tokenizer: its loss, the restart of unused codes, and preview."""

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Annotated, Literal, NamedTuple

import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn

from var_pe.data.classes import from_all_classes, labels_of
from var_pe.data.image_set import Batch, HeldOutImages, TrainingSet, stacked
from var_pe.data.images import Box
from var_pe.evaluation.folder import to_uint8
from var_pe.models.feature_stages import FeatureStages
from var_pe.models.quantizers import MultiScaleQuantizer
from var_pe.models.tokenizer import VQTokenizer
from var_pe.pages.sheets import Cell, Section, class_name, sheet
from var_pe.processes import Processes
from var_pe.pyramid import Levels, Pyramid
from var_pe.seeding import mix, random_bits, shifted
from var_pe.settings.fields import Doc, NonNegativeFloat, Share, section
from var_pe.tasks.codebook import (
    RestartConfig,
    follow_data,
    hits,
    perplexity,
    restart_unused,
    squares,
    start_from_data,
)
from var_pe.tasks.losses.adversarial import AdversarialConfig, Adversary
from var_pe.tasks.losses.last_layer import LastLayer
from var_pe.tasks.losses.perceptual import PerceptualConfig
from var_pe.tasks.losses.picture import PictureLoss
from var_pe.tasks.losses.reconstruction import psnr
from var_pe.tasks.pyramids import which_pyramid
from var_pe.tasks.redrawn import RedrawnConfig
from var_pe.tasks.tokenizer_quality import in_values, measure_tokenizer
from var_pe.training.config import TrainingConfig
from var_pe.training.groups import ONE_RATE
from var_pe.training.guard import undone_without
from var_pe.training.validations import Measure


@section
class TokenizerTraining(TrainingConfig):
    l1: Annotated[NonNegativeFloat, Doc("weight of the mean absolute difference")] = 1.0
    l2: Annotated[NonNegativeFloat, Doc("weight of the mean squared difference")] = 1.0
    perceptual: PerceptualConfig = field(default_factory=PerceptualConfig)
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    pyramids: Annotated[
        list[Levels],
        Doc(
            "pyramids, one of which is drawn for each step, the first being tokenizer.levels; []: "
            "tokenizer.levels alone"
        ),
    ] = field(default_factory=list)
    codebook_start: Annotated[
        Literal["vectors", "kmeans"],
        Doc("what a learned codebook starts as: random latent vectors of the first batch, or their centres"),
    ] = "vectors"
    restart: RestartConfig = field(default_factory=RestartConfig)
    quantizer_dropout: Annotated[
        Share, Doc("share of the images that are rebuilt from a random number of their coarsest levels")
    ] = 0.0
    redrawn: RedrawnConfig = field(default_factory=RedrawnConfig)
    tuned: Annotated[
        Literal["all", "decoder"],
        Doc(
            "what is trained; decoder: nothing else, so tokens stay those of tokenizer_init_from's tokenizer"
        ),
    ] = "all"

    @property
    def looks_through(self) -> tuple[str, ...]:
        """The networks that a loss looks through: the perceptual term or a discriminator does; else none."""
        of_discriminator = self.adversarial.weight > 0 and self.adversarial.discriminator == "features"
        return self.perceptual.networks if self.perceptual.weight or of_discriminator else ()


WORST = 8  # images of the lowest PSNR that a preview shows


class Seen(NamedTuple):
    """A micro-batch in the quantizer: its images, their tokens, and the vectors rounded to them."""

    draw_numbers_B: Tensor
    tokens_BL: Tensor
    z_BLZ: Tensor


class TokenizerTask:
    """The picture's and the quantizer's loss, one pyramid per step; unused codes restart from data."""

    layers = ONE_RATE
    measure = Measure("validation/psnr", higher_is_better=True)

    def __init__(
        self,
        model: VQTokenizer,
        dataset: TrainingSet,
        pyramids: Sequence[Pyramid],
        validation: Mapping[Pyramid, tuple[HeldOutImages, Box]],
        config: TokenizerTraining,
        *,
        steps: int,
        first_asked: int | None = None,
        seed: int,
        trained_codes: int = 0,
        network: FeatureStages | None = None,
        discriminator: nn.Module | None = None,
        processes: Processes = Processes(),
    ) -> None:
        """`validation` holds each pyramid's images, and the box in them that shows the picture.

        Restarts count their share of the `steps` in all. The discriminator's start and warm-up, and where
        tokens begin to be drawn anew, are shares of the steps `first_asked` of the run (None: the same), so
        that neither ends and begins again when the run is extended.
        The first `trained_codes` codes of the model are trained ones: only the others start from data.
        `network` is that of the perceptual term and of a discriminator of features.
        """
        self.model, self.dataset = model, dataset
        self.pyramids, self.validation = tuple(pyramids), validation
        self.config, self.steps, self.seed = config, steps, seed
        self.first_asked = first_asked or steps
        self.trained_codes = trained_codes
        self._micro_batches: list[Seen] = []

        # The terms of the picture, and the opponent that one of them comes from
        self.opponent: Adversary | None = None
        if discriminator is not None:
            looks_through = network if config.adversarial.discriminator == "features" else None
            self.opponent = Adversary(
                discriminator,
                looks_through,
                config.adversarial,
                steps=self.first_asked,
                seed=seed,
                log_every=config.log_every,
            )
        self.last_layer = LastLayer(model.last_layer, processes)
        self.picture_loss = PictureLoss(
            {
                "l1": config.l1,
                "l2": config.l2,
                "perceptual": config.perceptual.weight,
            },
            self.last_layer,
            network=network if config.perceptual.weight else None,
            adversary=self.opponent,
            log_every=config.log_every,
        )

        # For previews: which images show all classes, and each image's PSNR at the last validation
        self._shown: dict[Pyramid, list[int]] = {}
        self._psnr: dict[Pyramid, Tensor] = {}

    def pyramid_of(self, step: int) -> Pyramid:
        return self.pyramids[which_pyramid(self.seed, step, len(self.pyramids))]

    def start(self, model: nn.Module, batch: Batch, accelerator: Accelerator) -> None:
        """Starts the codes that are not trained yet from the encoder's latent vectors of the first batch."""
        assert isinstance(model, VQTokenizer)
        with torch.no_grad():
            f_BZhw = model.latent(batch["image"].to(accelerator.device))

        start_from_data(
            model.quantizer,
            f_BZhw,
            batch["draw_number"].to(accelerator.device),
            self.pyramid_of(0),
            first=self.trained_codes,
            kmeans=self.config.codebook_start == "kmeans",
            batch=self.config.batch // self.config.accumulate,
            seed=self.seed,
            accelerator=accelerator,
        )

    def loss(self, model: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        images_BCHW, pyramid = batch["image"], self.pyramid_of(step)
        self.last_layer.watch()
        kept_B = self._levels_kept(batch["draw_number"], pyramid)
        redrawn = None
        if step >= self.config.redrawn.first_step(self.first_asked):
            redrawn = self.config.redrawn.of(batch["draw_number"], pyramid, seed=self.seed)
        reconstruction_BCHW, quantized = model(images_BCHW, pyramid, kept_B, redrawn)
        loss, terms = self.picture_loss(reconstruction_BCHW, images_BCHW, batch["draw_number"], step)

        self._micro_batches.append(Seen(batch["draw_number"], quantized.tokens_BL, quantized.z_BLZ))
        values = {**terms, "quantizer": quantized.loss}
        if step % self.config.log_every == 0:
            squares_K2 = squares(self.model.quantizer, quantized, pyramid)
            for level, (lost, whole) in enumerate(squares_K2):
                values[f"code_distance/level_{level}"] = lost / whole.clamp(min=1e-30)
        tag = self._tag(pyramid)
        return loss + quantized.loss, {f"{name}{tag}": value for name, value in values.items()}

    def _levels_kept(self, draw_numbers_B: Tensor, pyramid: Pyramid) -> Tensor | None:
        if not self.config.quantizer_dropout:
            return None
        return levels_kept(draw_numbers_B, self.config.quantizer_dropout, pyramid.num_levels, self.seed)

    def _tag(self, pyramid: Pyramid) -> str:
        """The end of the names of a pyramid's values; empty if there is only one pyramid."""
        return f"/{pyramid}" if len(self.pyramids) > 1 else ""

    @torch.no_grad()
    def after_step(
        self, model: nn.Module, step: int, accelerator: Accelerator, updates: Tensor
    ) -> dict[str, Tensor]:
        """Counts how often each code was used, and restarts those that hardly ever are."""
        assert isinstance(model, VQTokenizer)
        quantizer, pyramid = model.quantizer, self.pyramid_of(step)
        seen = Seen(*(torch.cat(parts) for parts in zip(*self._micro_batches, strict=True)))
        self._micro_batches.clear()
        if self.opponent is not None:
            self.opponent.after_step(step, Processes.of(accelerator), updates)

        hits_KV = accelerator.reduce(hits(seen.tokens_BL, pyramid, len(quantizer.usage_V)), "sum")
        restarted = hits_KV.new_zeros(())
        if self.config.tuned == "all":
            with undone_without(updates, quantizer):
                restarted = self._care_for_codes(quantizer, hits_KV.sum(0), seen, step, accelerator)

        name = f"perplexity{self._tag(pyramid)}"
        logs = {name: perplexity(hits_KV.sum(0)), "restarted": restarted}
        for level, level_V in enumerate(hits_KV):
            logs[f"{name}/level_{level}"] = perplexity(level_V)
        return logs

    def _care_for_codes(
        self, quantizer: MultiScaleQuantizer, hits_V: Tensor, seen: Seen, step: int, accelerator: Accelerator
    ) -> Tensor:
        """Averages the use of codes, moves those that follow the data; returns how many are restarted."""
        restart = self.config.restart
        quantizer.usage_V.lerp_(hits_V / hits_V.sum(), 1 / restart.memory)
        follow_data(quantizer, hits_V, seen.tokens_BL, seen.z_BLZ, accelerator)

        due = restart.every and (step + 1) % restart.every == 0
        if not due or step >= restart.until * self.steps:
            return hits_V.new_zeros(())
        return restart_unused(
            quantizer,
            seen.z_BLZ,
            seen.draw_numbers_B,
            below=restart.below,
            batch=self.config.batch,
            step=step,
            seed=self.seed,
            accelerator=accelerator,
        )

    def validate(self, model: nn.Module, accelerator: Accelerator) -> dict[str, float]:
        assert isinstance(model, VQTokenizer)
        measured = measure_tokenizer(model, self.validation, accelerator)
        self._psnr = {pyramid: found.psnr_N for pyramid, found in measured.items()}
        return in_values(measured)

    def preview(self, model: nn.Module) -> Image.Image:
        """Originals above their reconstructions: the same images of all classes each time, then the worst.

        The worst are those of the last validation; before the first one none are shown.
        """
        assert isinstance(model, VQTokenizer)
        sections = []
        for pyramid, (images, box) in self.validation.items():
            if pyramid not in self._shown:
                self._shown[pyramid] = of_all_classes(images)
            shown = self._shown[pyramid]
            classes = len(images.class_names)
            of_how_many = f", of {len(shown)} of {classes} classes" if classes > len(shown) else ""
            title = f"Test images above their reconstructions ({pyramid}){of_how_many}; PSNR"
            sections.append(Section(title, pairs(model, pyramid, images, shown, box)))

            # Nothing is added where all images are shown above.
            if pyramid in self._psnr and len(images) > len(shown):
                worst = self._psnr[pyramid].argsort(stable=True)[:WORST].tolist()
                title = f"The {len(worst)} of {len(images)} with the lowest PSNR at the last validation"
                sections.append(Section(title, pairs(model, pyramid, images, worst, box)))
        return sheet(sections)


def levels_kept(draw_numbers_B: Tensor, share: float, num_levels: int, seed: int) -> Tensor:
    """How many of its coarsest levels each image is rebuilt from; follows from seed and draw number alone.

    A `share` of the images keep 1 .. num_levels - 1, each as often; the others keep all.
    """
    bits_B = random_bits(mix(seed, "quantizer dropout"), draw_numbers_B)
    drops_B = shifted(bits_B, 11) < round(share * 2**53)
    number_B = 1 + shifted(random_bits(mix(seed, "levels kept"), draw_numbers_B), 11) % max(1, num_levels - 1)
    return torch.where(drops_B, number_B, num_levels)


def of_all_classes(images: HeldOutImages) -> list[int]:
    """The numbers of the images that a preview shows: about 16, each class as often, at most 64 classes."""
    classes = max(1, len(images.class_names))
    number = min(64, classes * max(1, 16 // classes))
    return from_all_classes(labels_of(images), number, seed=0)


@torch.no_grad()
def pairs(
    tokenizer: VQTokenizer, pyramid: Pyramid, images: HeldOutImages, numbers: Sequence[int], box: Box
) -> list[Cell]:
    """Images of these numbers above their reconstructions, with class and PSNR over the box."""
    items = [images[number] for number in numbers]
    images_BCHW = stacked(items).to(tokenizer.device)
    rebuilt_BCHW = tokenizer.decode(tokenizer.encode(images_BCHW, pyramid), pyramid)

    cells = []
    quality = psnr(rebuilt_BCHW, images_BCHW, box).tolist()
    for item, rebuilt_CHW, decibels in zip(items, rebuilt_BCHW, quality, strict=True):
        pictures = [to_uint8(image).permute(1, 2, 0).cpu().numpy() for image in (item["image"], rebuilt_CHW)]
        cells.append(Cell(pictures, class_name(images.class_names, item["label"]), f"{decibels:.1f} dB"))
    return cells
