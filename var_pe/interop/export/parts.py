"""The parts that a model is exported as: networks of tensors, by name, with examples of their inputs.

Letters beside the package's: `M` tokens of the levels before, `N` layers.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from var_pe.models.classifier import Classifier
from var_pe.models.generator import VARTransformer
from var_pe.models.layers import LayerCache, LevelCache
from var_pe.models.quantizers.projection import Projection
from var_pe.models.quantizers.residual import MultiScaleQuantizer
from var_pe.models.tokenizer import VQTokenizer
from var_pe.pyramid import Grid

# Rows and columns of patches from which on sizes are free: torch.export takes a side of 1 for a constant.
LEAST_PATCHES = 2


@dataclass(frozen=True)
class FreeSizes:
    """Images whose sides a program leaves free: whole numbers of patches, `LEAST_PATCHES` or more."""

    # pixels
    patch_size: int
    # rows and columns of patches: of the example that the program is traced with, and of others to compare
    traced: Grid
    others: tuple[Grid, ...]
    # what goes in for so many images of so many patches
    examples: Callable[[int, Grid], dict[str, Tensor]]


@dataclass(frozen=True)
class Part:
    """A network that becomes one program."""

    name: str
    module: nn.Module
    # what goes in for so many images, by name in the order of the module's arguments
    examples: Callable[[int], dict[str, Tensor]]
    # the dimension of each input in which the images are
    batch_of: dict[str, int]
    outputs: tuple[str, ...]
    # None: images have one size
    sizes: FreeSizes | None = None

    @torch.no_grad()
    def run(self, given: dict[str, Tensor]) -> list[Tensor]:
        """The network's outputs, in the order of `outputs`."""
        made = self.module(*given.values())
        return [made] if isinstance(made, Tensor) else list(made)


def classifier_parts(model: Classifier) -> list[Part]:
    """Images in [-1, 1] of the classifier's size to logits, or to features where it has no classes."""

    def examples(batch: int) -> dict[str, Tensor]:
        return {"images": noise(batch, model.config["image_channels"], model.image_size)}

    return [Part("classifier", model, examples, {"images": 0}, ("logits",))]


# ----------------------------------------------------------------------------------------- tokenizer


class SolvedProjection(Projection):
    """A projection whose way down is worked out once: ONNX inverts no matrices."""

    inverse_ZF: Tensor

    def __init__(self, projection: Projection) -> None:
        channels, latent_channels = projection.weight_FZ.shape
        super().__init__(channels, latent_channels)
        self.weight_FZ = projection.weight_FZ
        self.register_buffer("inverse_ZF", projection.inverse())

    def inverse(self) -> Tensor:
        return self.inverse_ZF


class Encode(nn.Module):
    """Images in [-1, 1] to tokens (B, L), int64."""

    def __init__(self, tokenizer: VQTokenizer) -> None:
        super().__init__()
        self.tokenizer = copy.deepcopy(tokenizer)
        for module in self.tokenizer.modules():
            for name, child in list(module.named_children()):
                if isinstance(child, Projection):
                    setattr(module, name, SolvedProjection(child))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.tokenizer.encode(images_BCHW)


class Decode(nn.Module):
    """Tokens (B, L) to images in [-1, 1]."""

    def __init__(self, tokenizer: VQTokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, tokens_BL: Tensor) -> Tensor:
        return self.tokenizer.decode(tokens_BL)


def tokenizer_parts(tokenizer: VQTokenizer) -> list[Part]:
    """Images to tokens, and back."""
    size = tokenizer.image_size(tokenizer.pyramid)

    def images(batch: int) -> dict[str, Tensor]:
        return {"images": noise(batch, tokenizer.config["image_channels"], size)}

    def tokens(batch: int) -> dict[str, Tensor]:
        return {"tokens": some_tokens(batch, tokenizer.pyramid.num_tokens, tokenizer.quantizer.num_codes)}

    return [
        Part("encode", Encode(tokenizer), images, {"images": 0}, ("tokens",)),
        Part("decode", Decode(tokenizer), tokens, {"tokens": 0}, ("images",)),
    ]


# ----------------------------------------------------------------------------------------- generator


class GivenLayer(LayerCache):
    """A layer's keys and values of the levels before, which are given and not written to."""

    def __init__(self, before_2BHMD: Tensor | None) -> None:
        super().__init__(torch.empty(0))
        self.before_2BHMD = before_2BHMD

    def append(self, k_BHlD: Tensor, v_BHlD: Tensor) -> tuple[Tensor, Tensor]:
        self.kv_2BHLD = torch.stack([k_BHlD, v_BHlD])
        if self.before_2BHMD is not None:
            self.kv_2BHLD = torch.cat([self.before_2BHMD, self.kv_2BHLD], dim=3)
        return self.kv_2BHLD[0], self.kv_2BHLD[1]


class GivenCache(LevelCache):
    """The cache as a tensor that goes in and another that comes out: a program has no memory of its own."""

    def __init__(self, layers: int, before_N2BHMD: Tensor | None) -> None:
        before = [None] * layers if before_N2BHMD is None else list(before_N2BHMD.unbind())
        self.given = [GivenLayer(of_layer) for of_layer in before]
        self.layers = list[LayerCache](self.given)

    def open(self, num_tokens: int, kept: int | None = None) -> None:
        """Does nothing: the cache that is given already holds exactly the tokens that are kept."""

    def after(self, kept: int) -> Tensor:
        """The last `kept` tokens of all layers, (N, 2, B, H, kept, D)."""
        whole_N2BHLD = torch.stack([layer.kv_2BHLD for layer in self.given])
        return whole_N2BHLD[:, :, :, :, whole_N2BHLD.shape[4] - kept :]


class FirstLevel(nn.Module):
    """Labels to the logits (B, l, V) of the first level, and the cache for the next."""

    def __init__(self, transformer: VARTransformer) -> None:
        super().__init__()
        self.transformer = transformer
        self.kept = kept_for(transformer, 1)

    def forward(self, labels_B: Tensor) -> tuple[Tensor, Tensor]:
        transformer = self.transformer
        positions = transformer.pyramid.positions(labels_B.device)
        class_BC = transformer.class_embed(labels_B)
        cache = GivenCache(len(transformer.blocks), None)
        x_BlC = transformer.first_level(class_BC, positions)
        logits_BlV = transformer.level_logits(x_BlC, class_BC, positions, 0, cache)
        return logits_BlV, cache.after(self.kept)


class NextLevel(nn.Module):
    """One step of the walk: adds the tokens of the level before, reads this level's input, gives its logits.

    `f_hat` is the running reconstruction before those tokens, zeros before the first level's; what comes out
    is the one with them. The walk is `VARTransformer.walk`, without the draw.
    """

    def __init__(self, transformer: VARTransformer, quantizer: MultiScaleQuantizer, level: int) -> None:
        super().__init__()
        self.transformer = transformer
        self.quantizer = quantizer
        self.level = level
        self.kept = kept_for(transformer, level + 1)

    def forward(
        self, labels_B: Tensor, tokens_Bl: Tensor, f_hat_BZhw: Tensor, cache_N2BHMD: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        transformer, pyramid = self.transformer, self.transformer.pyramid
        f_hat_BZhw = self.quantizer.add_level(f_hat_BZhw, tokens_Bl, self.level - 1, pyramid)
        x_BlC = transformer.embed_inputs(self.quantizer.input_for(f_hat_BZhw, self.level, pyramid))

        positions = pyramid.positions(labels_B.device)
        class_BC = transformer.class_embed(labels_B)
        cache = GivenCache(len(transformer.blocks), cache_N2BHMD)
        logits_BlV = transformer.level_logits(x_BlC, class_BC, positions, self.level, cache)
        return logits_BlV, cache.after(self.kept), f_hat_BZhw


def kept_for(transformer: VARTransformer, level: int) -> int:
    """How many tokens before `level` it sees; none beyond the last one."""
    pyramid = transformer.pyramid
    if level == pyramid.num_levels:
        return 0
    first = 0 if transformer.levels_before is None else max(0, level - transformer.levels_before)
    return pyramid.spans[level].start - pyramid.spans[first].start


def generator_parts(transformer: VARTransformer, tokenizer: VQTokenizer) -> list[Part]:
    """A step for each level, `level_0` and so on; what one gives is what the next one takes."""
    first = Part(
        "level_0",
        FirstLevel(transformer),
        lambda batch: {"labels": some_labels(batch, transformer)},
        {"labels": 0},
        ("logits", "next_cache"),
    )

    parts = [first]
    for level in range(1, transformer.pyramid.num_levels):
        step = NextLevel(transformer, tokenizer.quantizer, level)
        examples = walked_to(level, parts[:level], transformer, tokenizer)
        batch_of = {"labels": 0, "tokens": 0, "f_hat": 0, "cache": 2}
        parts.append(Part(f"level_{level}", step, examples, batch_of, ("logits", "next_cache", "next_f_hat")))
    return parts


def walked_to(
    level: int, before: Sequence[Part], transformer: VARTransformer, tokenizer: VQTokenizer
) -> Callable[[int], dict[str, Tensor]]:
    """What `level` is given after a walk through the levels before it, with tokens at random."""
    pyramid, quantizer = transformer.pyramid, tokenizer.quantizer

    def examples(batch: int) -> dict[str, Tensor]:
        labels_B = some_labels(batch, transformer)
        f_hat_BZhw = quantizer.start(batch, pyramid)
        cache_N2BHMD = before[0].run({"labels": labels_B})[1]
        given: dict[str, Tensor] = {}
        for next_level in range(1, level + 1):
            rows, columns = pyramid.grids[next_level - 1]
            tokens_Bl = some_tokens(batch, rows * columns, quantizer.num_codes)
            given = {"labels": labels_B, "tokens": tokens_Bl, "f_hat": f_hat_BZhw, "cache": cache_N2BHMD}
            if next_level < level:
                _, cache_N2BHMD, f_hat_BZhw = before[next_level].run(given)
        return given

    return examples


# ------------------------------------------------------------------------------------------ examples


def noise(batch: int, channels: int, size: tuple[int, int]) -> Tensor:
    """Images in [-1, 1]."""
    return torch.rand(batch, channels, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def some_tokens(batch: int, length: int, codes: int) -> Tensor:
    return torch.randint(codes, (batch, length), generator=torch.Generator().manual_seed(1))


def some_labels(batch: int, transformer: VARTransformer) -> Tensor:
    """All labels in turn, that of no class among them."""
    return torch.arange(batch) % (transformer.num_classes + 1)
