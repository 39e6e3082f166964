"""The discriminator as the tokenizer's opponent: the loss of each of the two, and which one is winning.

The discriminator learns to tell reconstructions from images, the tokenizer to make them look alike (Esser et
al. 2021, VQGAN, section 3.1). Both are trained in the same step (`Opponent`).
"""

from collections.abc import Callable, Sequence
from dataclasses import field
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from var_pe.models.feature_stages import FeatureStages
from var_pe.processes import Processes
from var_pe.settings.fields import (
    Doc,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Share,
    ShareBelowOne,
    section,
)
from var_pe.tasks.losses.augmentation import NUMBERS, Augmentation, augmented, uniforms
from var_pe.training.schedule import first_after

Logits = Sequence[Tensor]
GameLoss = Literal["hinge", "non_saturating"]


@section
class AdversarialConfig:
    weight: Annotated[NonNegativeFloat, Doc("weight of the adversarial term; 0: off")] = 0.0
    discriminator: Annotated[
        Literal["patch", "features"],
        Doc("what the discriminator looks at: patches of the picture, or features of perceptual.network"),
    ] = "patch"
    channels: Annotated[Positive, Doc("width of the discriminator")] = 64
    spectral_norm: Annotated[bool, Doc("spectral normalisation of the weights; false: group norms")] = True
    loss: Annotated[
        GameLoss, Doc("loss of both players: hinge, or the non-saturating one of the first GANs")
    ] = "hinge"
    start: Annotated[ShareBelowOne, Doc("share of the steps after which the discriminator starts")] = 0.25
    warmup: Annotated[Share, Doc("share of the steps over which the term then rises to its weight")] = 0.1
    adaptive_limit: Annotated[
        NonNegativeFloat,
        Doc(
            "adaptive weight: multiplied by the norm of the other terms' gradient over that of this "
            "term's, at most by this number; 0: the weight is fixed"
        ),
    ] = 10.0
    rate: Annotated[
        PositiveFloat, Doc("learning rate of the discriminator, as a multiple of the tokenizer's")
    ] = 1.0
    r1: Annotated[NonNegativeFloat, Doc("weight of the R1 penalty on the discriminator; 0: off")] = 0.0
    lecam: Annotated[NonNegativeFloat, Doc("weight of LeCam regularisation; 0: off")] = 0.0
    augment: Annotated[
        list[Augmentation],
        Doc(
            "differentiable augmentations before the discriminator, for small data sets: color, "
            "translation, cutout"
        ),
    ] = field(default_factory=list)

    def first_step(self, steps: int) -> int:
        """The step of so many in which the discriminator begins to play."""
        return first_after(self.start, steps)


# R1 is taken every so many steps and counts as much more (Karras et al. 2020, StyleGAN2, appendix B)
R1_EVERY = 16
# steps over which logits and accuracy are averaged, for LeCam and for what is said
MEMORY = 100
# One has won that is right this often; one has died whose mean logits of both sides differ by less.
WON = 0.97
SAME = 0.02
# what `Judgement.said` holds
NOTHING, HAS_WON, HAS_DIED = 0, 1, 2


def over_heads(logits: Logits, value: Callable[[Tensor], Tensor]) -> Tensor:
    """The mean of a value of the logits over images and places, each head counting the same."""
    return torch.stack([value(head.float()).mean() for head in logits]).mean()


def tokenizer_loss(of_rebuilt: Logits, kind: GameLoss) -> Tensor:
    """The tokenizer's adversarial loss, which is low where its reconstructions pass for images."""
    if kind == "hinge":
        return over_heads(of_rebuilt, lambda logit: -logit)
    return over_heads(of_rebuilt, lambda logit: F.softplus(-logit))


def discriminator_loss(of_images: Logits, of_rebuilt: Logits, kind: GameLoss) -> Tensor:
    """The discriminator's loss: half the hinge losses (Lim & Ye 2017), or half the cross-entropies."""
    if kind == "hinge":
        real = over_heads(of_images, lambda logit: F.relu(1 - logit))
        return (real + over_heads(of_rebuilt, lambda logit: F.relu(1 + logit))) / 2
    real = over_heads(of_images, lambda logit: F.softplus(-logit))
    return (real + over_heads(of_rebuilt, F.softplus)) / 2


def r1_penalty(logits: Logits, images_BCHW: Tensor) -> Tensor:
    """Half the squared gradient of an image's mean logit by its pixels (Mescheder et al. 2018, eq. 9)."""
    mean_B = torch.stack([head.float().flatten(1).mean(1) for head in logits]).mean(0)
    (gradient_BCHW,) = torch.autograd.grad(mean_B.sum(), images_BCHW, create_graph=True)
    return gradient_BCHW.square().sum((1, 2, 3)).mean() / 2


def lecam_penalty(of_images: Logits, of_rebuilt: Logits, mean_image: Tensor, mean_rebuilt: Tensor) -> Tensor:
    """How far logits are beyond the other side's recent mean (Tseng et al. 2021, as their code has it)."""
    real = over_heads(of_images, lambda logit: F.relu(logit - mean_rebuilt).square())
    return real + over_heads(of_rebuilt, lambda logit: F.relu(mean_image - logit).square())


class Judgement(nn.Module):
    """The discriminator and recent means of its logits and accuracy, which a checkpoint holds."""

    # logits of images and of reconstructions, and the share that is on the right side; (3,)
    means_3: Tensor
    # steps that they are of
    steps: Tensor
    # NOTHING, HAS_WON or HAS_DIED: what was last said of it
    said: Tensor

    def __init__(self, discriminator: nn.Module) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.register_buffer("means_3", torch.zeros(3))
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("said", torch.zeros(()))


class Adversary:
    """The discriminator in the game: it is shown each micro-batch, and plays from a step on.

    `network` is what a discriminator of features looks through.
    """

    betas = (0.5, 0.9)

    def __init__(
        self,
        discriminator: nn.Module,
        network: FeatureStages | None,
        config: AdversarialConfig,
        *,
        steps: int,
        seed: int,
        log_every: int,
    ) -> None:
        self.module = Judgement(discriminator)
        self.network = network
        self.config = config
        self.seed = seed
        self.log_every = log_every

        self.rate_ratio = config.rate
        self.first_step = config.first_step(steps)
        self.warmup_steps = config.warmup * steps

        self._images: Tensor | None = None
        self._rebuilt: Tensor | None = None
        self._draw_numbers_B: Tensor | None = None
        # sums over the step's micro-batches, and their number
        self._sums_3: Tensor | None = None
        self._micro_batches = 0

    def plays(self, step: int) -> bool:
        return step >= self.first_step

    def weight(self, step: int) -> float:
        """The weight of the tokenizer's term, which rises linearly once the discriminator plays."""
        if not self.plays(step):
            return 0.0
        if not self.warmup_steps:
            return self.config.weight
        return self.config.weight * min(1.0, (step + 1 - self.first_step) / self.warmup_steps)

    def logits(self, images_BCHW: Tensor) -> Logits:
        maps = [images_BCHW] if self.network is None else self.network(images_BCHW)
        return self.module.discriminator(maps)

    def changed(self, images_BCHW: Tensor, draw_numbers_B: Tensor, what: str) -> Tensor:
        """Pictures as the discriminator sees them, images and reconstructions changed differently."""
        if not self.config.augment:
            return images_BCHW
        numbers_BN = uniforms(draw_numbers_B, NUMBERS, self.seed, "augmentation", what)
        return augmented(images_BCHW, numbers_BN, self.config.augment)

    def term(self, rebuilt_BCHW: Tensor, images_BCHW: Tensor, draw_numbers_B: Tensor) -> Tensor:
        """The tokenizer's loss; the pair is kept for `loss`, which has the discriminator's."""
        self._images, self._rebuilt = images_BCHW, rebuilt_BCHW.detach()
        self._draw_numbers_B = draw_numbers_B

        # The discriminator's weights get no gradient of what is not its loss.
        self.module.requires_grad_(False)
        of_rebuilt = self.logits(self.changed(rebuilt_BCHW, draw_numbers_B, "rebuilt"))
        self.module.requires_grad_(True)
        return tokenizer_loss(of_rebuilt, self.config.loss)

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]] | None:
        """The discriminator's loss of the pair that `term` was given; None before it plays."""
        if self._images is None or self._rebuilt is None or self._draw_numbers_B is None:
            return None
        images_BCHW = self.changed(self._images, self._draw_numbers_B, "image")
        rebuilt_BCHW = self.changed(self._rebuilt, self._draw_numbers_B, "rebuilt")
        self._images = self._rebuilt = self._draw_numbers_B = None

        # One pass for both sides, as one update of the spectral norms
        both = self.logits(torch.cat([images_BCHW, rebuilt_BCHW]))
        of_images = [head[: len(images_BCHW)] for head in both]
        of_rebuilt = [head[len(images_BCHW) :] for head in both]
        loss = discriminator_loss(of_images, of_rebuilt, self.config.loss)
        values = {"discriminator": loss}

        if self.config.r1 and step % R1_EVERY == 0:
            seen_BCHW = images_BCHW.detach().requires_grad_()
            with torch.autocast(seen_BCHW.device.type, enabled=False):
                penalty = r1_penalty(self.logits(seen_BCHW), seen_BCHW)
            values["discriminator/r1"] = penalty
            loss = loss + self.config.r1 * R1_EVERY * penalty

        means_3 = self.module.means_3
        if self.config.lecam:
            # No step has a mean before the first one.
            began = (self.module.steps > 0).float()
            penalty = began * lecam_penalty(of_images, of_rebuilt, means_3[0], means_3[1])
            values["discriminator/lecam"] = penalty
            loss = loss + self.config.lecam * penalty

        said_3 = self._found(of_images, of_rebuilt)
        self._sums_3 = said_3 if self._sums_3 is None else self._sums_3 + said_3
        self._micro_batches += 1
        names = ("discriminator/image", "discriminator/rebuilt", "discriminator/accuracy")
        return loss, values | dict(zip(names, said_3, strict=True))

    @torch.no_grad()
    def _found(self, of_images: Logits, of_rebuilt: Logits) -> Tensor:
        """Mean logits of images and of reconstructions, and the share of logits on the right side."""
        right = over_heads(of_images, lambda logit: (logit > 0).float())
        right = (right + over_heads(of_rebuilt, lambda logit: (logit < 0).float())) / 2
        image = over_heads(of_images, lambda logit: logit)
        return torch.stack([image, over_heads(of_rebuilt, lambda logit: logit), right])

    @torch.no_grad()
    def after_step(self, step: int, processes: Processes, updates: Tensor) -> None:
        """Keeps the recent means, of all processes, and says when the discriminator has won or died.

        Numbers are read from the device in steps that are logged alone; `updates` as in `Task.after_step`.
        """
        if self._sums_3 is None:
            return
        found_3 = processes.sum(self._sums_3) / (self._micro_batches * processes.world)
        self._sums_3, self._micro_batches = None, 0

        # The first steps count alike, later ones less the longer they are ago.
        module = self.module
        module.steps += updates
        moved_3 = module.means_3.lerp(found_3, 1 / module.steps.clamp(min=1, max=MEMORY))
        module.means_3.copy_(torch.where(updates > 0, moved_3, module.means_3))
        if step % self.log_every == 0:
            self._say(step, processes)

    def _say(self, step: int, processes: Processes) -> None:
        """Says once that the game is over; again if it was not over in between."""
        module = self.module
        image, rebuilt, right = module.means_3.tolist()
        if int(module.steps) < MEMORY:
            return

        over = NOTHING
        if right > WON:
            over = HAS_WON
        elif abs(image - rebuilt) < SAME:
            over = HAS_DIED
        before = int(module.said)
        module.said.fill_(over)

        if over == HAS_WON and before != HAS_WON:
            processes.say(
                f"step {step + 1}: the discriminator has won: over {MEMORY} steps {right:.1%} of its answers "
                f"are right, so the tokenizer learns little from it; lower adversarial.rate, or set "
                f"adversarial.r1, lecam or augment"
            )
        if over == HAS_DIED and before != HAS_DIED:
            processes.say(
                f"step {step + 1}: the discriminator has died: over {MEMORY} steps its answers to images "
                f"and to reconstructions differ by {abs(image - rebuilt):.2g}, so it tells the tokenizer "
                f"nothing; raise adversarial.rate or channels, or lower adversarial.r1 and lecam"
            )
