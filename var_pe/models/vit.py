"""ViT classifier: a patch grid is a pyramid of one level, so every position encoding serves it unchanged."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from var_pe.encodings import build_encoding
from var_pe.models.initialisation import initialise
from var_pe.models.layers import MLP, Attention, Place
from var_pe.pyramid import Pyramid

POOLS = ("class_token", "mean")
STEMS = ("patch", "convolutions")


@dataclass(frozen=True)
class ClassifierConfig:
    encoding: str = "learned"  # position encoding, one line, as for the generator
    patch_size: int = 4  # pixels
    stem: str = "patch"  # patch (one linear map a patch) | convolutions (3x3, stride 2: learns faster)
    dim: int = 192  # width
    depth: int = 6  # blocks
    num_heads: int = 6  # attention heads
    mlp_ratio: float = 4.0  # hidden width of the feed-forward layers, as a multiple of dim
    pool: str = "mean"  # class_token | mean (over the patches)
    registers: int = 0  # extra tokens without a place (Darcet et al. 2024)
    drop_path: float = 0.0  # stochastic depth of the last block, growing linearly from 0
    dropout: float = 0.0  # in attention and feed-forward layers
    qk_norm: bool = True  # cosine attention with a learned temperature per head


class Block(nn.Module):
    """A pre-norm transformer block (Dosovitskiy et al. 2021)."""

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: float, drop_path: float, dropout: float, qk_norm: bool
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, qk_norm, dropout)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLP(dim, mlp_ratio, dropout)
        self.drop_path = StochasticDepth(drop_path, "row")

    def forward(self, x_BLC: Tensor, place: Place, layer: int) -> Tensor:
        x_BLC = x_BLC + self.drop_path(self.attn(self.norm1(x_BLC), place, layer))
        return x_BLC + self.drop_path(self.mlp(self.norm2(x_BLC)))


def build_stem(stem: str, image_channels: int, dim: int, patch_size: int) -> nn.Module:
    """Images to a grid of `patch_size` times fewer rows and columns, (B, dim, h, w).

    A few convolutions instead of one linear map a patch make small ViTs learn faster (Xiao et al. 2021), but
    their zero padding tells the transformer where the border is, whatever the position encoding.
    """
    if stem not in STEMS:
        raise ValueError(f"stem is one of {', '.join(STEMS)}, got {stem!r}")
    if stem == "patch":
        return nn.Conv2d(image_channels, dim, patch_size, stride=patch_size)
    halvings = patch_size.bit_length() - 1
    if halvings < 1 or 2**halvings != patch_size or dim % patch_size:
        raise ValueError(
            f"stem convolutions needs patch_size 2, 4, 8 ... to divide dim, got {patch_size} and {dim}"
        )
    widths = [image_channels, *(dim // 2**k for k in reversed(range(halvings)))]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        for width, stride in ((before, 2), (after, 1)):
            layers += [nn.Conv2d(width, after, 3, stride, padding=1), nn.GroupNorm(1, after), nn.GELU()]
    return nn.Sequential(*layers, nn.Conv2d(dim, dim, 1))


class ViTClassifier(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Images in [-1, 1] to class logits; class token and registers come before the patches and have no place.

    Arguments as in `ClassifierConfig`; `image_size` is (height, width) in pixels.

    Raises:
        ValueError: the image is not a whole number of patches, or an option is not known.
    """

    # what FSDP shards as one piece
    _no_split_modules = ["Block"]  # type: ignore[assignment]  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        image_size: Sequence[int] = (32, 32),
        image_channels: int = 3,
        num_classes: int = 10,
        encoding: str = "learned",
        patch_size: int = 4,
        stem: str = "patch",
        dim: int = 192,
        depth: int = 6,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        pool: str = "mean",
        registers: int = 0,
        drop_path: float = 0.0,
        dropout: float = 0.0,
        qk_norm: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if pool not in POOLS:
            raise ValueError(f"pool is one of {', '.join(POOLS)}, got {pool!r}")
        if num_classes < 2:
            raise ValueError(f"a classifier needs at least two classes, got {num_classes}")
        self.patch_size, self.pool = patch_size, pool
        self.set_input_size(image_size)
        self.patch_embed = build_stem(stem, image_channels, dim, patch_size)
        prefix = registers + (pool == "class_token")
        self.prefix_tokens_PC = nn.Parameter(torch.zeros(prefix, dim)) if prefix else None
        self.position_encoding = build_encoding(
            encoding, dim=dim, num_heads=num_heads, depth=depth, pyramid=self.pyramid
        )
        self.blocks = nn.ModuleList(
            Block(dim, num_heads, mlp_ratio, drop_path * layer / max(1, depth - 1), dropout, qk_norm)
            for layer in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, num_classes)
        initialise(self, seed)

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        nn.init.trunc_normal_(parameter, std=0.02, generator=generator)

    def set_input_size(self, image_size: Sequence[int]) -> None:
        """Images of another size from now on, where the encoding can follow.

        Raises:
            ValueError: a side is not a multiple of the patch size.
        """
        height, width = image_size
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"image sides must be multiples of patch_size {self.patch_size}, got {height}x{width}"
            )
        self.pyramid = Pyramid(((height // self.patch_size, width // self.patch_size),))

    def forward_tokens(self, images_BCHW: Tensor) -> tuple[Tensor, int]:
        """The normalised last layer (B, P + L, C), and the number P of prefix tokens that come first."""
        patches_BChw = self.patch_embed(images_BCHW)
        if tuple(patches_BChw.shape[2:]) != self.pyramid.finest:
            raise ValueError(
                f"the classifier is set to grids of {self.pyramid}, got images of "
                f"{'x'.join(map(str, images_BCHW.shape[2:]))}; set_input_size changes it"
            )
        context = self.position_encoding.prepare(self.pyramid.positions(images_BCHW.device))
        with torch.autocast(images_BCHW.device.type, enabled=False):
            x_BLC = self.position_encoding.embed(patches_BChw.flatten(2).transpose(1, 2).float(), context)
        prefix = 0
        if self.prefix_tokens_PC is not None:
            prefix = len(self.prefix_tokens_PC)
            x_BLC = torch.cat([self.prefix_tokens_PC.expand(len(x_BLC), -1, -1), x_BLC], dim=1)
        place = Place(self.position_encoding, context, context, prefix=prefix)
        for layer, block in enumerate(self.blocks):
            x_BLC = place.refine(block(x_BLC, place, layer), layer)
        return self.norm(x_BLC), prefix

    def forward_features(self, images_BCHW: Tensor) -> Tensor:
        """The pooled last layer, (B, C)."""
        x_BLC, prefix = self.forward_tokens(images_BCHW)
        return x_BLC[:, 0] if self.pool == "class_token" else x_BLC[:, prefix:].mean(1)

    def forward_head(self, features_BC: Tensor) -> Tensor:
        return self.head(features_BC)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Class logits, (B, classes)."""
        return self.forward_head(self.forward_features(images_BCHW)).float()
