"""Training the tokenizer: its loss, the restart of unused codes, validation and picture."""

from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.utils import save_image

from var_pe.models.tokenizer import VQTokenizer
from var_pe.training.codebook import RestartConfig, hits, perplexity, restart_unused, start_from_data
from var_pe.training.groups import ONE_RATE
from var_pe.training.loop import TrainingConfig
from var_pe.training.losses import reconstruction_terms
from var_pe.training.validation import Box, psnr, shares


@dataclass(frozen=True)
class TokenizerTraining(TrainingConfig):
    l1: float = 1.0  # weight of the mean absolute difference
    l2: float = 1.0  # weight of the mean squared difference
    restart: RestartConfig = field(default_factory=RestartConfig)


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
