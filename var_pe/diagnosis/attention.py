"""What attention looks at, read off the calls that a model makes: by head, layer and, of a generator, level.

The weights are those that multiply the values: of queries and keys as they are compared, turned and normed,
with all that the encoding adds to their scores. Models know nothing of it, and cost nothing more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from var_pe.models.generator import VARTransformer
from var_pe.models.kernels import served_by
from var_pe.models.tokenizer import VQTokenizer
from var_pe.models.vit import ViTClassifier
from var_pe.pyramid import Positions


class Called(Protocol):
    """One of torch's functions."""

    def __call__(self, *args: object, **kwargs: object) -> object: ...


class AttentionRecorder(TorchFunctionMode):
    """Within it, `weights` gets what every call of attention weighs its values by, (B, H, Q, K), float32.

    Calls are seen where one of torch's kernels serves them (`served_by("fused")`).
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []

    def __torch_function__(
        self,
        func: Called,
        types: object,
        args: tuple[Tensor, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        given = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self.weights.append(attention_weights(args[0], args[1], given))
        return func(*args, **given)


def attention_weights(q_BHQD: Tensor, k_BHKD: Tensor, given: dict[str, object]) -> Tensor:
    """The softmax that `scaled_dot_product_attention` takes of these queries and keys, (B, H, Q, K)."""
    scale, mask = given.get("scale"), given.get("attn_mask")
    factor = scale if isinstance(scale, float) else q_BHQD.shape[-1] ** -0.5
    scores_BHQK = q_BHQD.float() @ k_BHKD.float().mT * factor
    if isinstance(mask, Tensor):
        if mask.dtype == torch.bool:
            scores_BHQK = scores_BHQK.masked_fill(~mask, float("-inf"))
        else:
            scores_BHQK = scores_BHQK + mask
    return scores_BHQK.softmax(-1)


# ------------------------------------------------------------------------------------------------- ViT


@torch.no_grad()
def attention_of_classifier(model: ViTClassifier, images_BCHW: Tensor) -> list[Tensor]:
    """Of every layer, (B, H, P + L, P + L), the P tokens before the patches first."""
    with served_by("fused"), AttentionRecorder() as recorder:
        model(images_BCHW)
    assert len(recorder.weights) == len(model.blocks), "a plain ViT attends once a block"
    return recorder.weights


def rollout(layers: Sequence[Tensor], prompts: int = 0) -> Tensor:
    """How much of each token has come into each after the last layer, (B, P + L, P + L).

    Abnar & Zuidema 2020: the product of the layers' attention, meaned over heads, each half of it and half
    the identity, which stands for the residual connection. Feed-forward layers and what values hold do not
    count. The first `prompts` tokens are other ones in every layer, so nothing comes through them.
    """
    total_BLL: Tensor | None = None
    for weights_BHLL in layers:
        identity_LL = torch.eye(weights_BHLL.shape[-1])
        mixed_BLL = (weights_BHLL.mean(1) + identity_LL) / 2
        if total_BLL is None:
            total_BLL = mixed_BLL
            continue
        total_BLL[:, :prompts] = identity_LL[:prompts]
        total_BLL = mixed_BLL @ total_BLL
    assert total_BLL is not None, "a model has layers"
    return total_BLL


def as_read(model: ViTClassifier, weights_XLL: Tensor) -> Tensor:
    """The attention to each patch, (X, h, w), by what the classes are read from; weights (X, P + L, P + L).

    That is the class token or, where the mean over patches is read, the mean of the patches' attention.
    """
    prefix = model.num_before_patches
    if model.pool == "class_token":
        row_XL = weights_XLL[..., model.prompts, prefix:]
    else:
        row_XL = weights_XLL[..., prefix:, prefix:].mean(-2)
    return row_XL.unflatten(-1, model.pyramid.finest)


def distances(model: ViTClassifier, layers: Sequence[Tensor]) -> Tensor:
    """How far from a patch attention goes, among patches, in sides of the image, (N, H) of N layers."""
    prefix = model.num_before_patches
    positions = model.pyramid.positions()
    found = []
    for weights_BHLL in layers:
        found.append(mean_distance(weights_BHLL[:, :, prefix:, prefix:], positions, positions))
    return torch.stack(found)


def mean_distance(weights_BHQK: Tensor, query: Positions, key: Positions) -> Tensor:
    """The mean distance of centres under weights, which need not sum to 1, in sides of the image, (H,)."""
    distance_QK = (query.yx_L2[:, None] - key.yx_L2).norm(dim=-1) / 2  # the image goes from -1 to 1
    weight_HQK = weights_BHQK.mean(0)
    return (weight_HQK * distance_QK).sum((1, 2)) / weight_HQK.sum((1, 2)).clamp(min=1e-12)


# ------------------------------------------------------------------------------------------- generator


@dataclass(frozen=True)
class LevelAttention:
    """What each level of a pyramid looks at, over images: rows are levels that look, columns levels seen."""

    # share of attention that goes to a level, of layers and heads, (N, H, K, K); rows sum to 1
    mass_NHKK: Tensor
    # mean distance of what is looked at there, in sides of the image, (N, H, K, K); NaN for levels unseen
    distance_NHKK: Tensor
    # both if attention were even, (K, K)
    even_mass_KK: Tensor
    even_distance_KK: Tensor


@torch.no_grad()
def attention_of_generator(
    transformer: VARTransformer, tokenizer: VQTokenizer, tokens_BL: Tensor, labels_B: Tensor
) -> list[list[Tensor]]:
    """Of every level and layer (B, H, l, seen), level by level with a cache as in drawing, on given tokens.

    `labels_B` are classes, or `num_classes` for none.

    Raises:
        ValueError: its levels attend to some of the keys alone, so that no weight says where it looks.
    """
    if transformer.few_keys:
        raise ValueError(
            "attention is shown where a level attends to all keys in sight, and this generator has "
            f"most_keys={transformer.config['most_keys']}"
        )
    pyramid = transformer.pyramid
    inputs_BLZ = tokenizer.quantizer.teacher_forcing(tokens_BL, pyramid)
    positions = pyramid.positions(labels_B.device)
    class_BC = transformer.class_embed(labels_B)
    x_BlC = transformer.first_level(class_BC, positions)
    cache = transformer.new_cache(x_BlC, pyramid)
    first = pyramid.spans[0].stop

    found = []
    for level, span in enumerate(pyramid.spans):
        if level:
            x_BlC = transformer.embed_inputs(inputs_BLZ[:, span.start - first : span.stop - first])
        with served_by("fused"), AttentionRecorder() as recorder:
            transformer.level_logits(x_BlC, class_BC, positions, level, cache)
        assert len(recorder.weights) == len(transformer.blocks), "a level attends once a block"
        found.append(recorder.weights)
    return found


def by_level(transformer: VARTransformer, found: Sequence[Sequence[Tensor]]) -> LevelAttention:
    """Sums and distances, by levels, of what `attention_of_generator` gives."""
    positions = transformer.pyramid.positions()
    levels, layers, heads = len(found), len(found[0]), found[0][0].shape[1]
    mass_NHKK = torch.zeros(layers, heads, levels, levels)
    distance_NHKK = torch.full((layers, heads, levels, levels), float("nan"))
    even_mass_KK = torch.zeros(levels, levels)
    even_distance_KK = torch.full((levels, levels), float("nan"))

    for looking, of_layers in enumerate(found):
        query = positions.only(looking, looking + 1)
        seen_tokens = of_layers[0].shape[-1]
        stop = transformer.pyramid.spans[looking].stop
        for seen in range(looking + 1):
            # What lies in the cache is the last so many tokens up to this level's own.
            span = transformer.pyramid.spans[seen]
            start = span.start - (stop - seen_tokens)
            if start < 0:
                continue
            key = positions.only(seen, seen + 1)
            columns = slice(start, start + key.num_tokens)

            even_QK = torch.full((1, 1, query.num_tokens, key.num_tokens), 1 / seen_tokens)
            even_mass_KK[looking, seen] = key.num_tokens / seen_tokens
            even_distance_KK[looking, seen] = mean_distance(even_QK, query, key)[0]
            for layer, weights_BHQK in enumerate(of_layers):
                here_BHQK = weights_BHQK[..., columns]
                mass_NHKK[layer, :, looking, seen] = here_BHQK.sum(-1).mean((0, 2))
                distance_NHKK[layer, :, looking, seen] = mean_distance(here_BHQK, query, key)
    return LevelAttention(mass_NHKK, distance_NHKK, even_mass_KK, even_distance_KK)
