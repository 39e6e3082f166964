"""Parameter groups of the optimizer: each layer's learning rate, and the parameters with weight decay."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class LayerRates:
    """Each layer's share of the learning rate, a pure function of the step; a share of 0 freezes the layer.

    Layers are counted from the head down: 0 is the head with its norm, 1 the last of `depth` blocks, `depth`
    the first block, `depth` + 1 everything before it (patches, positions, class token). With depth 0 the
    whole model is one layer. Of a model in stages, what comes before a stage's blocks goes with its first.
    """

    depth: int = 0
    # share of a layer over the share of the layer above it (BEiT, Bao et al. 2022)
    decay: float = 1.0
    # steps until the next layer down is trained, too; 0: all layers are trained from the start
    unfreeze_every: int = 0
    # how many blocks each stage has; empty: they are not in stages
    stages: tuple[int, ...] = ()
    # how names begin in the part of the model that the layers are of; all outside it counts as the head
    part: str = ""

    def below_head(self, name: str) -> int:
        """The layer of the parameter called `name`."""
        if not self.depth or not name.startswith(self.part):
            return 0
        name = name.removeprefix(self.part)
        if block := re.match(r"blocks\.(\d+)\.", name):
            return self.depth - int(block[1])
        if stage := re.match(r"stages\.(\d+)\.(?:blocks\.(\d+)\.)?", name):
            before = sum(self.stages[: int(stage[1])])
            return self.depth - before - int(stage[2] or 0)
        if name.startswith(("head.", "norm.")):
            return 1 if self.part else 0  # a part's norm is its own
        return self.depth + 1

    def share(self, layer: int, step: int) -> float:
        frozen = self.unfreeze_every and layer > step // self.unfreeze_every
        return 0.0 if frozen else self.decay**layer


ONE_RATE = LayerRates()


def parameter_groups(
    model: nn.Module, weight_decay: float, layers: LayerRates = ONE_RATE, *, matrices: bool = False
) -> list[dict[str, Any]]:
    """Two groups for each layer, with and without weight decay; with `matrices` a third one (`muon.py`).

    Weight decay is for matrices: not for biases, norms, positions, levels, class tokens and the codebook.
    The third group is of those inside blocks: no embeddings, no heads, nothing next to pixels or codes.
    No group is empty: torch cannot restore the state of an optimizer with several empty ones.
    """
    found: list[dict[str, Any]] = []
    for (_, kind), parameters in _sorted_out(model, layers, matrices).items():
        group = {"params": parameters, "weight_decay": 0.0 if kind == "spared" else weight_decay}
        found.append(group | {"matrices": kind == "matrices"} if matrices else group)
    return found


def set_rates(
    groups: list[dict[str, Any]], model: nn.Module, layers: LayerRates, rate: float, step: int
) -> list[dict[str, Any]]:
    """Gives each layer its share of the learning rate; returns the groups of frozen layers."""
    frozen = []
    keys = _sorted_out(model, layers, matrices="matrices" in groups[0])
    for (layer, _), group in zip(keys, groups, strict=True):
        share = layers.share(layer, step)
        group["lr"] = rate * share
        if not share:
            frozen.append(group)
    return frozen


def _sorted_out(
    model: nn.Module, layers: LayerRates, matrices: bool
) -> dict[tuple[int, str], list[nn.Parameter]]:
    """The parameters of each group, by layer, from the head down, and kind."""
    spared = ("position_encoding", "level_embed", "modulation_6C", "token", "codebook")
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups: dict[tuple[int, str], list[nn.Parameter]] = {
        (layer, kind): []
        for layer in sorted({layers.below_head(name) for name, _ in trained})
        for kind in ("decaying", "spared", "matrices")
    }

    for name, parameter in trained:
        kind = "decaying"
        if parameter.dim() < 2 or any(word in name for word in spared):
            kind = "spared"
        elif matrices and re.search(r"blocks?\.", name):
            kind = "matrices"
        groups[layers.below_head(name), kind].append(parameter)

    return {key: parameters for key, parameters in groups.items() if parameters}


def zero_gradients(groups: Iterable[dict[str, Any]]) -> None:
    """Sets the gradients of frozen layers to zero, before the norm of all gradients is taken.

    They have been computed, because DDP waits for the gradient of every parameter.
    """
    for group in groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.zero_()


def forget_steps(groups: Iterable[dict[str, Any]], optimizer: torch.optim.Optimizer) -> None:
    """Restarts AdamW's bias correction for frozen layers, whose moments stay zero until they are trained."""
    for group in groups:
        for parameter in group["params"]:
            if parameter in optimizer.state:
                optimizer.state[parameter]["step"].zero_()
