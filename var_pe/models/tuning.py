"""Fine-tuning a part of a trained ViT: its head, prompts of its blocks, or low-rank adapters (LoRA, by peft).

Whatever is not trained has no gradient, so no optimizer holds anything of it.
"""

from importlib.util import find_spec
from typing import Annotated, Literal

import torch
from torch import nn

from var_pe.models.vit import ViTClassifier
from var_pe.seeding import generator_for
from var_pe.settings.fields import Doc, Positive, PositiveFloat, section

Tuned = Literal["all", "head", "prompts", "lora"]

# The layers of a block that adapters are added to
ADAPTED = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


@section
class Lora:
    """Low-rank adapters (Hu et al. 2022): W x becomes W x + alpha / rank * B A x, with B = 0 at first.

    They are on all four matrices of every block.
    """

    rank: Annotated[Positive, Doc("rank of the adapters: rows of A and columns of B")] = 8
    alpha: Annotated[PositiveFloat, Doc("scale of the adapters, times rank")] = 16.0


def tune(model: ViTClassifier, tuned: Tuned, lora: Lora, seed: int) -> None:
    """Leaves only a part of the model to train; adds adapters where these are it.

    Raises:
        ValueError: the library for adapters is not here.
    """
    if tuned == "lora":
        add_adapters(model, lora, seed)
    for name, parameter in model.named_parameters():
        wanted = (tuned == "prompts" and name.endswith("prompt_tokens_PC")) or ".lora_" in name
        parameter.requires_grad_(tuned == "all" or wanted or name.startswith("head."))


def add_adapters(model: ViTClassifier, lora: Lora, seed: int) -> None:
    """Puts an adapter around every matrix of the blocks; A is drawn by seed and name, B is zero.

    Raises:
        ValueError: peft is not here.
    """
    if find_spec("peft") is None:
        raise ValueError(
            'classifier_training.tuned=lora needs peft, which is not installed: pip install -e ".[tuning]"'
        )
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(ADAPTED))
    inject_adapter_in_model(config, model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_A." in name and not parameter.is_meta:
                deviation = (3 * parameter.shape[1]) ** -0.5
                nn.init.trunc_normal_(parameter, std=deviation, generator=generator_for(seed, name))


def merge(model: nn.Module) -> None:
    """Adds what adapters have learned to the weights that they stand around, and takes them away.

    A model without any stays as it is.
    """
    if not any(".lora_" in name for name, _ in model.named_parameters()):
        return
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            place, _, last = name.rpartition(".")
            setattr(model.get_submodule(place), last, module.get_base_layer())
