"""Training an encoder without labels: each method's loss, validation, and pictures of what it is shown."""

from collections.abc import Sequence
from math import log
from typing import TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from einops import rearrange
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import default_collate

from var_pe.data.hidden_patches import HeldOutHidden, HiddenPatches, WithTokens
from var_pe.data.image_set import Batch
from var_pe.data.part import drawn
from var_pe.data.views import HeldOutViews, TwoViews
from var_pe.evaluation.folder import to_uint8
from var_pe.models.pretraining import (
    Contrast,
    HiddenPixels,
    HiddenTokens,
    Pretrained,
    momentum_at,
    numbers_where,
    without_hidden,
)
from var_pe.models.tokenizer import VQTokenizer
from var_pe.pages.sheets import Cell, Pixels, Section, sheet
from var_pe.processes import Processes
from var_pe.pyramid import Grid
from var_pe.resampling.precision import full_precision
from var_pe.training.groups import ONE_RATE
from var_pe.training.stopping import held_out_batches
from var_pe.training.validations import Measure

SHOWN = 16  # images that a sheet shows
TOGETHER = 256  # images of a validation's batch, among which views are told apart


class Found(TypedDict):
    """The result of a batch: its loss, and values to log."""

    loss: Tensor
    values: dict[str, Tensor]


class PretrainingTask:
    """What the methods have in common; the measure is the loss of held-out images."""

    measure = Measure()
    opponent = None
    layers = ONE_RATE

    model: Pretrained
    validation: HeldOutHidden | HeldOutViews

    def start(self, model: nn.Module, batch: Batch, accelerator: Accelerator) -> None:
        """Does nothing: the initial weights follow from the seed."""

    def found(self, model: nn.Module, batch: Batch) -> Found:
        """The loss of a batch."""
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        found = self.found(model, batch)
        return found["loss"], found["values"]

    def after_step(
        self, model: nn.Module, step: int, accelerator: Accelerator, updates: Tensor
    ) -> dict[str, Tensor]:
        return {}

    @torch.no_grad()
    def validate(self, model: nn.Module, accelerator: Accelerator) -> dict[str, float]:
        """The same values of held-out images, each time with the same patches hidden or the same views."""
        totals: dict[str, Tensor] = {}
        for chosen in held_out_batches(len(self.validation), TOGETHER, accelerator):
            batch = default_collate([self.validation[i] for i in chosen])
            found = self.found(model, {name: value.to(accelerator.device) for name, value in batch.items()})
            for name, value in {"loss": found["loss"], **found["values"], "number": torch.ones(())}.items():
                value = value.double().to(accelerator.device)
                totals[name] = totals.get(name, value.new_zeros(())) + len(chosen) * value

        # A process without a batch of its own has nothing to add.
        names = ["loss", *self.names, "number"]
        none = torch.zeros((), device=accelerator.device, dtype=torch.float64)
        sums = torch.stack([totals.get(name, none) for name in names])
        *values, number = accelerator.reduce(sums, "sum").tolist()
        return {f"validation/{name}": value / number for name, value in zip(names, values, strict=False)}

    @property
    def names(self) -> list[str]:
        """Of the values that `found` gives."""
        return []

    @torch.no_grad()
    def preview(self, model: nn.Module) -> Image.Image:
        """The same held-out images each time."""
        items = [self.validation[number] for number in drawn(len(self.validation), SHOWN, seed=0)]
        batch = {name: value.to(self.device_of(model)) for name, value in default_collate(items).items()}
        columns = [pictures.float().cpu() for pictures in self.pictures(model, batch)]
        cells = [Cell([pixels(picture) for picture in of_image]) for of_image in zip(*columns, strict=True)]
        return sheet([Section(self.title, cells)])

    @staticmethod
    def device_of(model: nn.Module) -> torch.device:
        return next(model.parameters()).device

    title = ""

    def pictures(self, model: nn.Module, batch: Batch) -> Sequence[Tensor]:
        """What a sheet shows of every image, one below another, each (B, C, H, W)."""
        raise NotImplementedError


def pixels(image_CHW: Tensor) -> Pixels:
    """An image in [-1, 1] as a sheet takes it."""
    return to_uint8(image_CHW.clamp(-1, 1)).permute(1, 2, 0).numpy().astype(np.uint8)


# ------------------------------------------------------------------------------------- pixels


def patches_of(images_BCHW: Tensor, grid: Grid) -> Tensor:
    """The pixels of each patch, (B, L, p p c), row by row."""
    return rearrange(images_BCHW, "B C (h p) (w q) -> B (h w) (p q C)", h=grid[0], w=grid[1])


def images_of(patches_BLX: Tensor, grid: Grid, channels: int) -> Tensor:
    """The images that such pixels make."""
    side = round((patches_BLX.shape[2] / channels) ** 0.5)
    return rearrange(
        patches_BLX, "B (h w) (p q C) -> B C (h p) (w q)", h=grid[0], w=grid[1], p=side, C=channels
    )


def normalised(patches_BLX: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels less the mean of their patch, over its deviation; and both, (B, L, 1)."""
    mean_BL1 = patches_BLX.mean(-1, keepdim=True)
    deviation_BL1 = (patches_BLX.var(-1, keepdim=True) + 1e-6).sqrt()
    return (patches_BLX - mean_BL1) / deviation_BL1, mean_BL1, deviation_BL1


class HiddenPixelsTask(PretrainingTask):
    """The squared error of normalised pixels, over hidden patches alone (He et al. 2022)."""

    title = (
        "Held-out images, what is shown of each, and what is drawn in the hidden patches (their own means)"
    )

    def __init__(
        self, model: HiddenPixels, dataset: HiddenPatches, validation: HeldOutHidden, grid: Grid
    ) -> None:
        self.model, self.dataset, self.validation = model, dataset, validation
        self.grid = grid

    def found(self, model: nn.Module, batch: Batch) -> Found:
        drawn_BLX = model(batch["image"], batch["hidden"])
        target_BLX, _, _ = normalised(patches_of(batch["image"], self.grid))
        error_BL = (drawn_BLX.float() - target_BLX).square().mean(-1)
        hidden_BL = batch["hidden"].float()
        return {"loss": (error_BL * hidden_BL).sum() / hidden_BL.sum(), "values": {}}

    def pictures(self, model: nn.Module, batch: Batch) -> Sequence[Tensor]:
        images_BCHW, hidden_BL = batch["image"], batch["hidden"]
        true_BLX = patches_of(images_BCHW, self.grid)
        _, mean_BL1, deviation_BL1 = normalised(true_BLX)
        drawn_BLX = model(images_BCHW, hidden_BL).float() * deviation_BL1 + mean_BL1
        whole_BLX = torch.where(hidden_BL[:, :, None], drawn_BLX, true_BLX)
        drawn_BCHW = images_of(whole_BLX, self.grid, images_BCHW.shape[1])
        return images_BCHW, without_hidden(images_BCHW, hidden_BL, self.grid), drawn_BCHW


# ------------------------------------------------------------------------------------- tokens


class HiddenTokensTask(PretrainingTask):
    """Cross-entropy of the tokens of all levels under hidden patches; every level counts the same.

    A hidden patch is asked for the token of each level at its place, so a coarse cell counts as often as
    patches of it are hidden.
    """

    title = "Held-out images, what is shown of each, and what the tokens said of the hidden patches look like"

    def __init__(
        self,
        model: HiddenTokens,
        tokenizer: VQTokenizer,
        dataset: HiddenPatches | WithTokens,
        validation: HeldOutHidden,
    ) -> None:
        self.model, self.dataset, self.validation = model, dataset, validation
        self.tokenizer = tokenizer.eval().requires_grad_(False)
        self.spans = model.levels.spans

    @property
    def names(self) -> list[str]:
        return ["bits_per_token", *(f"accuracy_{grid[0]}x{grid[1]}" for grid in self.model.levels.grids)]

    def targets(self, batch: Batch) -> list[Tensor]:
        """The tokens under hidden patches, for each level (B, M, R)."""
        tokens_BL = batch.get("tokens")
        if tokens_BL is None:
            with full_precision(batch["image"]):
                tokens_BL = self.tokenizer.encode(batch["image"], whole=True)

        hidden_BM = numbers_where(batch["hidden"], self.model.hidden)
        wanted = []
        for level, span in enumerate(self.spans):
            cells_BMR = self.model.cells(level).to(hidden_BM.device)[hidden_BM]
            tokens_Bl = tokens_BL[:, span]
            wanted.append(tokens_Bl.gather(1, cells_BMR.flatten(1)).view_as(cells_BMR))
        return wanted

    def found(self, model: nn.Module, batch: Batch) -> Found:
        said, wanted = model(batch["image"], batch["hidden"]), self.targets(batch)
        losses, right = [], []
        for logits_BMRV, tokens_BMR in zip(said, wanted, strict=True):
            losses.append(F.cross_entropy(logits_BMRV.float().flatten(0, 2), tokens_BMR.flatten()))
            right.append((logits_BMRV.argmax(-1) == tokens_BMR).float().mean())
        loss = torch.stack(losses).mean()
        values = dict(zip(self.names, [loss.detach() / log(2), *right], strict=True))
        return {"loss": loss, "values": values}

    def pictures(self, model: nn.Module, batch: Batch) -> Sequence[Tensor]:
        """Cells take the token that most of their hidden patches predict; most shown: the true one."""
        images_BCHW, hidden_BL = batch["image"], batch["hidden"]
        tokens_BL = self.tokenizer.encode(images_BCHW)
        said = model(images_BCHW, hidden_BL)
        hidden_BM = numbers_where(hidden_BL, self.model.hidden)

        # Guesses add up in the cells that they are about
        found_BL = tokens_BL.clone()
        for level, (span, logits_BMRV) in enumerate(zip(self.spans, said, strict=True)):
            cells_LR = self.model.cells(level).to(hidden_BM.device)
            cells_BM = cells_LR[hidden_BM].flatten(1)
            share_BMV = logits_BMRV.float().softmax(-1).flatten(1, 2)
            number = span.stop - span.start
            sums_BlV = share_BMV.new_zeros(len(cells_BM), number, share_BMV.shape[2])
            sums_BlV = sums_BlV.scatter_add(1, cells_BM[:, :, None].expand_as(share_BMV), share_BMV)
            patches_l = torch.bincount(cells_LR.flatten(), minlength=number)
            mostly_Bl = sums_BlV.sum(-1) > patches_l / 2
            found_BL[:, span] = torch.where(mostly_Bl, sums_BlV.argmax(-1), tokens_BL[:, span])

        grid = self.model.encoder.pyramid.finest
        return images_BCHW, without_hidden(images_BCHW, hidden_BL, grid), self.tokenizer.decode(found_BL)


# ----------------------------------------------------------------------------------- contrast


def info_nce(queries_BD: Tensor, keys_KD: Tensor, first: int, temperature: float) -> tuple[Tensor, Tensor]:
    """The loss of queries whose keys are number `first` and those after it, and how often these are nearest.

    InfoNCE (van den Oord et al. 2018) on unit vectors, times 2 temperatures as in MoCo v3's equation 1.
    """
    with full_precision(queries_BD):
        logits_BK = queries_BD.float() @ keys_KD.float().T / temperature
        own_B = first + torch.arange(len(queries_BD), device=queries_BD.device)
        loss = 2 * temperature * F.cross_entropy(logits_BK, own_B)
    return loss, (logits_BK.argmax(1) == own_B).float().mean()


class ContrastTask(PretrainingTask):
    """Finds among all views the one of the same picture, in both directions (Chen, Xie & He 2021)."""

    title = "Held-out images as two views of each"

    def __init__(
        self,
        model: Contrast,
        dataset: TwoViews,
        validation: HeldOutViews,
        *,
        temperature: float,
        momentum: float,
        steps: int,
        processes: Processes,
    ) -> None:
        self.model, self.dataset, self.validation = model, dataset, validation
        self.temperature, self.momentum, self.steps = temperature, momentum, steps
        self.processes = processes

    @property
    def names(self) -> list[str]:
        return ["accuracy"]

    def loss(self, model: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Among the views of all processes, so that several train as one would."""
        queries_2BD, keys_2BD = model(batch["image"], batch["view"])
        accelerator, first = self.processes.accelerator, 0
        if accelerator is not None and self.processes.world > 1:
            first = self.processes.rank * keys_2BD.shape[1]
            keys_2BD = accelerator.gather(keys_2BD.transpose(0, 1).contiguous()).transpose(0, 1)
        found = self.compared(queries_2BD, keys_2BD, first)
        return found["loss"], found["values"]

    def found(self, model: nn.Module, batch: Batch) -> Found:
        return self.compared(*model(batch["image"], batch["view"]))

    def compared(self, queries_2BD: Tensor, keys_2KD: Tensor, first: int = 0) -> Found:
        """Each view's predictions against the keys of the other views."""
        ways = [info_nce(queries_2BD[way], keys_2KD[1 - way], first, self.temperature) for way in (0, 1)]
        loss = ways[0][0] + ways[1][0]
        return {"loss": loss, "values": {"accuracy": (ways[0][1] + ways[1][1]) / 2}}

    def after_step(
        self, model: nn.Module, step: int, accelerator: Accelerator, updates: Tensor
    ) -> dict[str, Tensor]:
        assert isinstance(model, Contrast)
        model.follow(momentum_at(step, self.steps, self.momentum), updates)
        return {}

    def pictures(self, model: nn.Module, batch: Batch) -> Sequence[Tensor]:
        return batch["image"], batch["view"]
