"""ViTs of timm, torchvision and DINOv2 as our classifier, with the same logits."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn

from var_pe.interop.vit.architecture import of_architecture
from var_pe.interop.vit.names import ViTWeights
from var_pe.interop.vit.parts import BIASES, Settings, query_and_value_bias, read_stem
from var_pe.interop.vit.positions import read_positions
from var_pe.interop.vit.swin import convert_swin, is_swin
from var_pe.interop.vit.unseen import Unseen, unseen_in
from var_pe.interop.vit.verification import check_same_outputs
from var_pe.models.hierarchy.classifier import HierarchicalClassifier
from var_pe.models.hierarchy.lines import AttentionShape
from var_pe.models.vit import Pool, ViTClassifier
from var_pe.pyramid import Pyramid

# the ways in which a block's gains are named
SCALES = (("ls1.gamma", "ls2.gamma"), ("gamma_1", "gamma_2"))


def convert(
    state_dict: object,
    *,
    source: str,
    like: nn.Module | str | Path | None = None,
    verify: nn.Module | None = None,
    image_size: int | Sequence[int] | None = None,
    patch_size: int | None = None,
    num_heads: int | None = None,
    pool: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    entry: Sequence[str] = (),
) -> ViTClassifier | HierarchicalClassifier:
    """A classifier with copies of the weights, float32, in evaluation mode; without a head, its features.

    Weights do not show everything: the number of heads, the shape of the grid (2x8 and 4x4 have equal
    tables), the activation, what is pooled, the norms' epsilon and place. For timm `like` says it all.
    torchvision and dinov2 publish one form of it, beside which `image_size` and `num_heads` are said.
    `set_input_size(..., resample=...)` then moves the model by the library's own convention: `timm`,
    `torchvision`, and `dinov2` or, with registers, `dinov2_reg`.

    A file that lost a weight is refused, unless what is left is another model's: one without a head, with
    fewer blocks, without `pos_embed` beside relative tables, without tokens that have no row in it.

    Args:
        state_dict: names to tensors, or a training checkpoint with them; see `plain_weights`.
        source: `timm` (VisionTransformer, VisionTransformerRelPos with tables, BEiT; Swin and Swin v2, as a
            classifier in stages), `torchvision`
            (VisionTransformer) or `dinov2` (the backbone).
        like: the library's model, of which only the form is read; or the name of timm's architecture, or
            the folder of timm's config.json, at `image_size` if that is given.
        verify: the library's model with these weights, whose outputs on random pictures must be ours.
        image_size: in pixels, that the position table was made for.
        pool: `class_token` or `mean`; by default as `like`, or the class token.
        mean: with `std`, per channel, what the library normalises images in [0, 1] by: it moves into the
            patch kernel, and the classifier takes images in [-1, 1]. None: images as the library's model.
        entry: the names that lead to the weights in a checkpoint that has several sets of them.
    Raises:
        ValueError: a weight is missing, unknown, not finite or of another shape, the source is another, an
            argument is out of its range or not what `like` has, or `verify` gives other outputs.
    """
    weights = ViTWeights(state_dict, source, entry)
    arguments = _checked_arguments(image_size, patch_size, num_heads, pool)
    if like is not None and not isinstance(like, nn.Module):
        like = of_architecture(like, weights.classes, weights.channels, arguments.image_size)
    if like is not None and source == "timm" and is_swin(like):
        swin = convert_swin(weights, like, mean, std)
        heads = [shape.heads for shape in swin.shapes if isinstance(shape, AttentionShape)]
        arguments.check(swin.image_size, swin.patch_size, ", ".join(map(str, heads)), "mean")
        if verify is not None:
            check_same_outputs(swin, verify, mean, std)
        return swin

    unseen = _unseen(weights, like, arguments)
    pyramid = _grid(unseen)

    # Each part reads its weights into `ours` and returns the settings that follow from their shapes.
    ours: dict[str, Tensor] = {}
    settings = read_stem(weights, unseen.patch_size, mean, std, ours)
    settings |= _tokens(weights, settings["dim"], unseen.pool, ours)
    settings |= read_positions(weights, pyramid, unseen.num_heads, unseen.positions, ours)
    settings |= _blocks(weights, settings["dim"], ours)
    settings |= _head(weights, settings["dim"], ours)
    weights.check_all_taken()

    with torch.device("meta"):
        model = ViTClassifier(
            image_size=unseen.image_size,
            num_heads=unseen.num_heads,
            qk_norm=False,
            gelu=unseen.gelu,
            **settings,
        )
    model.load_state_dict(ours, assign=True)
    model.eval()
    if verify is not None:
        check_same_outputs(model, verify, mean, std)
    return model


@dataclass(frozen=True)
class Arguments:
    """The arguments that a caller gave beside the weights; None: not given."""

    image_size: tuple[int, int] | None
    patch_size: int | None
    num_heads: int | None
    pool: str | None

    def check(self, image_size: tuple[int, int], patch_size: int, num_heads: int | str, pool: str) -> None:
        """Checks each that is given against what `like` has.

        Raises:
            ValueError: one of them is another.
        """
        has = {"image_size": image_size, "patch_size": patch_size, "num_heads": num_heads, "pool": pool}
        for name, there in has.items():
            wanted = getattr(self, name)
            if wanted is not None and wanted != there:
                raise ValueError(f"{name} {wanted} is not what like= has: {there}")


def _checked_arguments(
    image_size: int | Sequence[int] | None, patch_size: int | None, num_heads: int | None, pool: str | None
) -> Arguments:
    for name, number in (("patch_size", patch_size), ("num_heads", num_heads)):
        if number is not None and (type(number) is not int or number < 1):
            raise ValueError(f"{name} must be a whole number of at least 1, got {number!r}")
    if pool not in (None, *get_args(Pool)):
        raise ValueError(f"pool is one of {', '.join(get_args(Pool))}, got {pool!r}")
    sides = None if image_size is None else _sides(image_size)
    return Arguments(sides, patch_size, num_heads, pool)


def _unseen(weights: ViTWeights, like: nn.Module | None, arguments: Arguments) -> Unseen:
    """What `like` says, or for the other sources their published form and the arguments."""
    if like is None:
        return _as_published(weights, arguments)

    unseen = unseen_in(like, weights.source)
    arguments.check(unseen.image_size, unseen.patch_size, unseen.num_heads, unseen.pool)
    return unseen


def _as_published(weights: ViTWeights, arguments: Arguments) -> Unseen:
    """The one form of torchvision's and DINOv2's ViTs: exact GELU, class token, a table."""
    if weights.source == "timm":
        raise ValueError(
            "like: the weights of a timm model do not show its activation, what it pools, its norms' epsilon "
            "and place, and its number of heads; give like=, the model, the name of its architecture, or the "
            "folder with its config.json"
        )
    if arguments.image_size is None or arguments.num_heads is None:
        raise ValueError(f"image_size and num_heads must be given: {weights.source} weights do not show them")

    kernel = arguments.patch_size or int(weights.shape("patch_embed.proj.weight")[-1])
    pool = arguments.pool or "class_token"
    return Unseen(arguments.image_size, kernel, arguments.num_heads, pool, "exact", positions=True)


def _sides(image_size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width in pixels."""
    sides = tuple(image_size) if isinstance(image_size, Sequence) else (image_size, image_size)
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise ValueError(
            f"image_size must be a side or two (height, width) of at least 1, got {image_size!r}"
        )
    return sides[0], sides[1]


def _grid(unseen: Unseen) -> Pyramid:
    """The patches of an image; timm's own models drop a rest, ours have none."""
    (height, width), side = unseen.image_size, unseen.patch_size
    if height % side or width % side:
        raise ValueError(f"image sides must be multiples of patch_size {side}, got {height}x{width}")
    return Pyramid(((height // side, width // side),))


def _pools_first(weights: ViTWeights) -> bool:
    """Whether the mean is normed rather than the tokens."""
    return "fc_norm.weight" in weights or "fc_norm.bias" in weights


def _tokens(weights: ViTWeights, dim: int, pool: str, ours: dict[str, Tensor]) -> Settings:
    """Class token, then registers; a class token that is not read at the end is one more register."""
    names = [name for name in ("cls_token", "reg_token") if name in weights]
    if pool == "class_token" and "cls_token" not in names:
        raise ValueError(
            f"pool class_token: the {weights.source} state dict lacks {weights.theirs('cls_token')}"
        )
    if names:
        ours["prefix_tokens_PC"] = torch.cat([weights.take(name, 1, -1, dim)[0] for name in names])

    prefix = len(ours.get("prefix_tokens_PC", ()))
    return {"pool": pool, "registers": prefix - 1 if pool == "class_token" else prefix}


def _blocks(weights: ViTWeights, dim: int, ours: dict[str, Tensor]) -> Settings:
    if not weights.depth:
        raise ValueError(f"the {weights.source} state dict has no blocks")
    hidden = len(weights.take("blocks.0.mlp.fc1.weight", -1, dim))
    linear = {"attn.proj": (dim, dim), "mlp.fc1": (hidden, dim), "mlp.fc2": (dim, hidden)}
    shapes: dict[str, tuple[int, ...]] = {"norm1": (dim,), "norm2": (dim,), **linear}

    biases, scales = weights.form(*BIASES), weights.form(*SCALES)
    if (biases, scales) == (BIASES[0], SCALES[1]):
        raise ValueError(
            f"the {weights.source} state dict has {scales[0]} beside {biases[0]}, as Eva's models do, which "
            f"turn queries and keys by angles that are not among the weights"
        )

    for block in range(weights.depth):
        start = f"blocks.{block}."
        for name, shape in shapes.items():
            ours[f"{start}{name}.weight"] = weights.take(f"{start}{name}.weight", *shape)
            ours[f"{start}{name}.bias"] = weights.take(f"{start}{name}.bias", shape[0])
        ours[f"{start}attn.qkv.weight"] = weights.take(f"{start}attn.qkv.weight", 3 * dim, dim)
        ours |= query_and_value_bias(weights, start, biases, dim)
        for number, name in enumerate(scales, start=1):
            ours[f"{start}scale{number}.gain_C"] = weights.take(f"{start}{name}", dim)

    return {"depth": weights.depth, "mlp_ratio": hidden / dim, "layer_scale": 1e-5 if scales else 0.0}


def _head(weights: ViTWeights, dim: int, ours: dict[str, Tensor]) -> Settings:
    norm = "fc_norm" if _pools_first(weights) else "norm"
    for part in ("weight", "bias"):
        ours[f"norm.{part}"] = weights.take(f"{norm}.{part}", dim)

    if "head.weight" in weights or "head.bias" in weights:
        ours["head.weight"] = weights.take("head.weight", -1, dim)
        ours["head.bias"] = weights.take("head.bias", len(ours["head.weight"]))

    classes = len(ours.get("head.weight", ()))
    return {"num_classes": classes, "final_norm": "pooled" if norm == "fc_norm" else "tokens"}
