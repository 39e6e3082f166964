"""Decoders: from an encoder's maps to the class of every cell or pixel."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from var_pe.encodings import PositionEncoding, build_encoding
from var_pe.models.attention import PositionContext
from var_pe.models.blocks import Blocks
from var_pe.models.classifier import Classifier, MapShape
from var_pe.models.dense.maps import ConvolutionBlock, Ladder, TopDown
from var_pe.models.layers import BlockSettings, as_map, as_tokens
from var_pe.models.vit import Block
from var_pe.pyramid import Grid, Pyramid
from var_pe.resampling.precision import full_precision


def at_size(x_BChw: Tensor, size: Sequence[int]) -> Tensor:
    """A map at another size, bilinear."""
    if x_BChw.shape[2:] == tuple(size):
        return x_BChw
    return F.interpolate(x_BChw, size=tuple(size), mode="bilinear", align_corners=False)


class FineMap(nn.Module):
    """The maps of a feature pyramid as one: each through a convolution, at the finest one's size, summed."""

    def __init__(self, shapes: Sequence[MapShape], width: int, finer: int | None) -> None:
        super().__init__()
        self.ladder = Ladder(shapes, finer)
        self.top_down = TopDown(self.ladder.shapes, width)
        self.smooth = nn.ModuleList(ConvolutionBlock(width, width) for _ in self.ladder.shapes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        levels = self.top_down(self.ladder(maps))
        smoothed = [smooth(x_BChw) for smooth, x_BChw in zip(self.smooth, levels, strict=True)]
        summed_BChw = smoothed[0]
        for x_BChw in smoothed[1:]:
            summed_BChw = summed_BChw + at_size(x_BChw, summed_BChw.shape[2:])
        return summed_BChw


class FPNDecoder(nn.Module):
    """Semantic FPN (Kirillov et al. 2019): classes of the sum of a feature pyramid's maps."""

    def __init__(self, encoder: Classifier, num_classes: int, width: int, finer: int | None) -> None:
        super().__init__()
        self.fine_map = FineMap(encoder.map_shapes, width, finer)
        self.classes = nn.Conv2d(width, num_classes, 1)

    def forward(self, maps: Sequence[Tensor], images_BCHW: Tensor) -> Tensor:
        """Logits (B, classes, h, w) of the finest map's cells."""
        return self.classes(self.fine_map(maps))


class UNetDecoder(nn.Module):
    """U-Net's way up (Ronneberger et al. 2015): from map to map, beside what the encoder knew there.

    Last comes the image itself, through two convolutions, as in UNETR (Hatamizadeh et al. 2022): the encoder
    knows nothing as fine.
    """

    def __init__(
        self, encoder: Classifier, num_classes: int, width: int, finer: int | None, image_channels: int
    ) -> None:
        super().__init__()
        self.ladder = Ladder(encoder.map_shapes, finer)
        *skips, coarsest = self.ladder.shapes
        self.bottom = ConvolutionBlock(coarsest.width, width)
        self.up = nn.ModuleList(_joined(width, skip) for skip in reversed(skips))

        self.image: nn.Module | None = None
        if self.ladder.shapes[0].stride > 1:
            self.image = nn.Sequential(
                ConvolutionBlock(image_channels, width), ConvolutionBlock(width, width)
            )
            self.up.append(_joined(width, MapShape(width, 1)))
        self.classes = nn.Conv2d(width, num_classes, 1)

    def forward(self, maps: Sequence[Tensor], images_BCHW: Tensor) -> Tensor:
        """Logits (B, classes, H, W) of the pixels."""
        *skips, coarsest_BChw = self.ladder(maps)
        if self.image is not None:
            skips.insert(0, self.image(images_BCHW))

        x_BChw = self.bottom(coarsest_BChw)
        for join, skip_BChw in zip(self.up, reversed(skips), strict=True):
            x_BChw = join(torch.cat([at_size(x_BChw, skip_BChw.shape[2:]), skip_BChw], dim=1))
        return self.classes(x_BChw)


def _joined(width: int, skip: MapShape) -> nn.Sequential:
    """Two convolutions over a coarser map, enlarged, and the encoder's own beside it."""
    return nn.Sequential(ConvolutionBlock(width + skip.width, width), ConvolutionBlock(width, width))


class QueryDecoder(nn.Module):
    """A query for each class and the tokens of the last map attend to each other; masks are their products.

    Queries and tokens go through the same blocks, as in Segmenter (Strudel et al. 2021, section 3.2), where
    queries are tokens without a place and the others have the encoder's position encoding. The tokens go on
    into a feature pyramid, and the product of a query with a cell of its sum is the class's logit there, as
    in MaskFormer (Cheng et al. 2021, section 3.2).

    Args:
        kept_grids: the last map that this was first built for, alone (see `build_encoding`).
    Raises:
        ValueError: the last map's width is not a multiple of the width of the encoder's heads.
    """

    def __init__(
        self,
        encoder: Classifier,
        num_classes: int,
        width: int,
        finer: int | None,
        depth: int,
        kept_grids: Sequence[Grid] | None,
    ) -> None:
        super().__init__()
        config, dim = encoder.config, encoder.map_shapes[-1].width
        of_head = config["dim"] // config["num_heads"]
        if dim % of_head:
            raise ValueError(
                f"decoder=transformer attends on the last map, whose width must be a multiple of the width "
                f"of the first stage's heads, got {dim} and {of_head}"
            )

        self.queries_token_VC = nn.Parameter(torch.zeros(num_classes, dim))
        self.position_encoding: PositionEncoding = build_encoding(
            config["encoding"],
            dim=dim,
            num_heads=dim // of_head,
            depth=depth,
            pyramid=Pyramid.of([encoder.pyramid.grids[0]]),
            kept_grids=kept_grids,
        )
        as_before = {name: config[name] for name in ("mlp_ratio", "dropout", "qk_norm", "gelu")}
        of_blocks = BlockSettings(layer_scale=0.0, **as_before)
        self.blocks = Blocks((Block(dim, dim // of_head, of_blocks) for _ in range(depth)), drop_path=0.0)
        self.norm = nn.LayerNorm(dim, eps=1e-6)

        self.fine_map = FineMap(encoder.map_shapes, width, finer)
        self.to_masks = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, width))

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        nn.init.trunc_normal_(parameter, std=0.02, generator=generator)

    def forward(self, maps: Sequence[Tensor], images_BCHW: Tensor) -> Tensor:
        """Logits (B, classes, h, w) of the finest map's cells."""
        *finer, last_BChw = maps
        grid: Grid = (last_BChw.shape[2], last_BChw.shape[3])
        number = len(self.queries_token_VC)

        # Positions are added in float32, as in the encoder.
        context = self.position_encoding.prepare(Pyramid.of([grid]).positions(last_BChw.device))
        with full_precision(last_BChw):
            x_BLC = self.position_encoding.embed(as_tokens(last_BChw).float(), context)
        x_BLC = x_BLC.to(self.norm.weight.dtype)
        x_BLC = torch.cat([self.queries_token_VC.expand(x_BLC.shape[0], -1, -1), x_BLC], dim=1)
        x_BLC = self.blocks(x_BLC, PositionContext(self.position_encoding, context, context, prefix=number))
        x_BLC = self.norm(x_BLC)

        fine_BChw = self.fine_map([*finer, as_map(x_BLC[:, number:], grid)])
        masks_BVC = self.to_masks(x_BLC[:, :number])
        return torch.einsum("BVC,BChw->BVhw", masks_BVC, fine_BChw) / math.sqrt(fine_BChw.shape[1])
