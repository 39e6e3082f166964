"""Self-supervised training of a ViT encoder: the models around it, of which only the encoder is kept.

tokens: BEiT (Bao et al. 2022), pixels: MAE (He et al. 2022), contrast: MoCo v3 (Chen, Xie & He 2021).
"""

import copy
from itertools import pairwise
from math import cos, pi
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Gt, Lt
from torch import Tensor, nn

from var_pe.encodings import build_encoding, settled
from var_pe.encodings.machinery.some import check_serves_some, rows_of
from var_pe.models.attention import PositionContext
from var_pe.models.blocks import Blocks
from var_pe.models.classifier import ImageModel
from var_pe.models.initialisation import initialise
from var_pe.models.layers import BlockSettings, as_tokens
from var_pe.models.vit import Block, ViTClassifier
from var_pe.pyramid import Grid, Pyramid
from var_pe.resampling.precision import full_precision
from var_pe.settings.fields import Doc, NonNegativeFloat, Positive, PositiveFloat, ShareBelowOne, section

Method = Literal["tokens", "pixels", "contrast"]
HIDES = ("tokens", "pixels")
# hidden share of each, where the config gives none: BEiT's and MAE's
USUAL_SHARE = {"tokens": 0.4, "pixels": 0.75}


@section
class EncoderConfig:
    """How a ViT learns from pictures without labels."""

    method: Annotated[
        Method,
        Doc(
            "what is predicted: the tokenizer's tokens of hidden patches (tokens, BEiT), their pixels "
            "(pixels, MAE), or which two views show the same picture (contrast, MoCo v3)"
        ),
    ] = "pixels"
    hidden_share: Annotated[
        Annotated[float, Gt(0), Lt(1)] | None,
        Doc("share of patches that are hidden; null: 0.75 for pixels, 0.4 for tokens"),
    ] = None
    hidden_block: Annotated[Positive, Doc("side, in patches, of the squares that are hidden together")] = 1
    decoder_dim: Annotated[
        Positive, Doc("for pixels: width of the decoder, which is discarded after training")
    ] = 64
    decoder_depth: Annotated[Positive, Doc("for pixels: blocks of the decoder")] = 1
    decoder_heads: Annotated[Positive, Doc("for pixels: attention heads of the decoder")] = 2
    projection: Annotated[Positive, Doc("for contrast: size of the vectors by which views are compared")] = (
        128
    )
    projection_hidden: Annotated[Positive, Doc("for contrast: hidden width of the projections")] = 512
    temperature: Annotated[PositiveFloat, Doc("for contrast: temperature of the cosine similarities")] = 0.2
    momentum: Annotated[
        ShareBelowOne,
        Doc("for contrast: momentum of the averaged encoder in the first step; it rises to 1 along a cosine"),
    ] = 0.99
    smallest_crop: Annotated[
        float, Gt(0), Lt(1), Doc("for contrast: smallest area of a view, as a share of the picture's")
    ] = 0.3
    jitter: Annotated[
        NonNegativeFloat,
        Doc("for contrast: how strongly brightness and contrast of views vary; 0: not at all"),
    ] = 0.4
    mirror: Annotated[bool, Doc("for contrast: mirror half of the views")] = True

    def __post_init__(self) -> None:
        if self.decoder_dim % self.decoder_heads:
            raise ValueError(
                f"decoder_dim must be a multiple of decoder_heads, got {self.decoder_dim} and "
                f"{self.decoder_heads}"
            )

    @property
    def share(self) -> float:
        """The hidden share; 0 where nothing is hidden."""
        return self.hidden_share or USUAL_SHARE.get(self.method, 0.0)


def without_hidden(images_BCHW: Tensor, hidden_BL: Tensor, grid: Grid) -> Tensor:
    """The images with hidden patches grey, so that no stem sees their pixels, wherever it looks."""
    patch = images_BCHW.shape[-1] // grid[1]
    map_Bhw = hidden_BL.unflatten(1, grid)
    hidden_BHW = map_Bhw.repeat_interleave(patch, 1).repeat_interleave(patch, 2)
    return images_BCHW.masked_fill(hidden_BHW[:, None], 0.0)


def numbers_where(chosen_BL: Tensor, number: int) -> Tensor:
    """The numbers of the tokens that are chosen, ascending, (B, `number`), as many in every image."""
    return (~chosen_BL).byte().argsort(dim=1, stable=True)[:, :number]


class Learned(nn.Module):
    """One learned token that stands in for all hidden ones."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.token_C = nn.Parameter(torch.zeros(dim))

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        nn.init.trunc_normal_(parameter, std=0.02, generator=generator)


class Pretrained(ImageModel):
    """An encoder together with the heads that it is trained with."""

    encoder: ViTClassifier


class HiddenPixels(Pretrained):
    """MAE: the encoder sees the patches that are shown, a light decoder draws the others.

    Every token stays at its own place, in the encoder as in the decoder, whose encoding is the same line.

    Raises:
        ValueError: the encoding cannot do without the tokens that are left out.
    """

    def __init__(self, encoder: ViTClassifier, config: EncoderConfig, hidden: int, seed: int) -> None:
        super().__init__()
        try:
            check_serves_some(encoder.position_encoding)
        except ValueError as error:
            raise ValueError(
                f"method=pixels shows the encoder some of the patches, and {error}: take method=tokens or "
                f"method=contrast, or another encoding"
            ) from error
        self.encoder, self.hidden = encoder, hidden
        dim, wide = encoder.config["dim"], config.decoder_dim

        line = settled(encoder.config["encoding"], wide)
        self.narrow = nn.Linear(dim, wide)
        self.mask = Learned(wide)
        self.decoder_position_encoding = build_encoding(
            line,
            dim=wide,
            num_heads=config.decoder_heads,
            depth=config.decoder_depth,
            pyramid=encoder.pyramid,
        )
        settings = BlockSettings(4.0, 0.0, encoder.config["qk_norm"], encoder.config["gelu"], 0.0)
        blocks = (Block(wide, config.decoder_heads, settings) for _ in range(config.decoder_depth))
        self.decoder = Blocks(blocks, drop_path=0.0)
        self.norm = nn.LayerNorm(wide, eps=1e-6)
        self.draw = nn.Linear(wide, encoder.config["image_channels"] * encoder.patch_size**2)

        parts = [self.narrow, self.mask, self.decoder_position_encoding, self.decoder, self.norm, self.draw]
        for number, part in enumerate(parts):
            initialise(part, seed + number)

    def forward(self, images_BCHW: Tensor, hidden_BL: Tensor) -> Tensor:
        """Normalised pixels of all patches, (B, L, p p c), of what the patches that are shown hold."""
        encoder, grid = self.encoder, self.encoder.pyramid.finest
        positions = encoder.pyramid.positions(images_BCHW.device)
        shown_Bl = numbers_where(~hidden_BL, hidden_BL.shape[1] - self.hidden)

        # The patches that are shown, at their own places
        patches_BLC = as_tokens(encoder.patch_embed(without_hidden(images_BCHW, hidden_BL, grid)))
        x_BlC = encoder.forward_patches(patches_BLC, positions, shown_Bl)
        x_BlC = self.narrow(encoder.norm(x_BlC[:, encoder.num_prefix_tokens :]))

        # Among tokens that are all alike for the others
        to_BlC = shown_Bl[:, :, None].expand(-1, -1, x_BlC.shape[2])
        x_BLC = self.mask.token_C.to(x_BlC.dtype).expand(*hidden_BL.shape, -1).scatter(1, to_BlC, x_BlC)
        context = self.decoder_position_encoding.prepare(positions)
        with full_precision(x_BLC):
            x_BLC = self.decoder_position_encoding.embed(x_BLC.float(), context)
        x_BLC = self.decoder(x_BLC, PositionContext(self.decoder_position_encoding, context, context))
        drawn: Tensor = self.draw(self.norm(x_BLC))
        return drawn


class HiddenTokens(Pretrained):
    """BEiT: predicts, for every hidden patch, the tokenizer's tokens of all levels at its place.

    Raises:
        ValueError: a level's cells are finer than patches, and not so many of them fill a patch.
    """

    def __init__(
        self, encoder: ViTClassifier, hidden: int, levels: Pyramid, num_codes: int, seed: int
    ) -> None:
        super().__init__()
        self.encoder, self.hidden, self.levels = encoder, hidden, levels
        dim = encoder.config["dim"]
        self.mask = Learned(dim)

        # For each level the cells of every patch, and as many guesses
        self.heads = nn.ModuleList()
        for level, grid in enumerate(levels.grids):
            cells_LR = cells_under(encoder.pyramid.finest, grid)
            self.register_buffer(f"cells_{level}", cells_LR, persistent=False)
            self.heads.append(nn.Linear(dim, cells_LR.shape[1] * num_codes))

        initialise(self.mask, seed)
        initialise(self.heads, seed, std=0.02)

    def cells(self, level: int) -> Tensor:
        """The cells of a level that each patch says the tokens of, (L, R), numbered within the level."""
        return self.get_buffer(f"cells_{level}")

    def forward(self, images_BCHW: Tensor, hidden_BL: Tensor) -> list[Tensor]:
        """Logits of the tokens under hidden patches, in the order of these: for each level (B, M, R, V).

        The encoder sees a learned token in a hidden patch's place.
        """
        encoder, grid = self.encoder, self.encoder.pyramid.finest
        positions = encoder.pyramid.positions(images_BCHW.device)
        patches_BLC = as_tokens(encoder.patch_embed(without_hidden(images_BCHW, hidden_BL, grid)))
        mask_C = self.mask.token_C.to(patches_BLC.dtype)
        x_BLC = encoder.forward_patches(torch.where(hidden_BL[:, :, None], mask_C, patches_BLC), positions)

        x_BLC = encoder.norm(x_BLC[:, encoder.num_prefix_tokens :])
        x_BMC = rows_of(x_BLC, numbers_where(hidden_BL, self.hidden))
        said = []
        for level, head in enumerate(self.heads):
            said.append(head(x_BMC).unflatten(2, (self.cells(level).shape[1], -1)))
        return said


def cells_under(patches: Grid, level: Grid) -> Tensor:
    """The cells of a level at each patch, (L, R): those whose centres it holds or, of coarser cells, its own.

    Its own is the one that holds the patch's centre.

    Raises:
        ValueError: cells are finer than patches, and not a whole number of them fills one.
    """
    along = []
    for axis in (0, 1):
        number, cells = patches[axis], level[axis]
        if cells > number and cells % number:
            raise ValueError(
                f"the tokenizer's level of {level[0]}x{level[1]} cells does not fit the "
                f"{patches[0]}x{patches[1]} patches: where cells are finer, a whole number fills a patch"
            )
        each = max(1, cells // number)
        first_n = torch.arange(number)[:, None]
        if cells <= number:
            along.append(((2 * first_n + 1) * cells) // (2 * number))
        else:
            along.append(first_n * each + torch.arange(each))

    rows_nr, columns_ms = along
    cells_nmrs = rows_nr[:, None, :, None] * level[1] + columns_ms[None, :, None, :]
    return cells_nmrs.flatten(2).flatten(0, 1)


class Projection(nn.Sequential):
    """Layers with a norm and ReLU between them; norms are over channels, so that no image sees its batch.

    MoCo v3 has batch norms there, whose numbers would depend on how many processes share a batch.
    """

    def __init__(self, *widths: int) -> None:
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after, bias=False), nn.LayerNorm(after), nn.ReLU()]
        super().__init__(*layers[:-2], nn.LayerNorm(widths[-1], elementwise_affine=False))


class Contrast(Pretrained):
    """MoCo v3: predictions from each view, and keys of the other view by the averaged (momentum) encoder."""

    def __init__(self, encoder: ViTClassifier, config: EncoderConfig, seed: int) -> None:
        super().__init__()
        self.encoder = encoder
        dim, hidden, out = encoder.config["dim"], config.projection_hidden, config.projection
        self.project = Projection(dim, hidden, hidden, out)
        self.predict = Projection(out, hidden, out)
        initialise(self.project, seed)
        initialise(self.predict, seed + 1)

        self.start_slowly()
        self.slow_project = copy.deepcopy(self.project).requires_grad_(False)

    def start_slowly(self) -> None:
        """Makes the slow encoder a copy of the encoder, again where that one was given trained weights."""
        self.slow_encoder = copy.deepcopy(self.encoder).requires_grad_(False)

    def forward(self, first_BCHW: Tensor, second_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions from both views, (2, B, D), and the keys of both from the slow encoder, (2, B, D)."""
        both = torch.cat([first_BCHW, second_BCHW])
        queries = self.predict(self.project(self.encoder.pooled(both)))
        with torch.no_grad():
            keys = self.slow_project(self.slow_encoder.pooled(both))
        queries_2BD = F.normalize(queries.float(), dim=-1).unflatten(0, (2, -1))
        return queries_2BD, F.normalize(keys.float(), dim=-1).unflatten(0, (2, -1))

    @torch.no_grad()
    def follow(self, momentum: float, updates: Tensor | float = 1.0) -> None:
        """Moves the slow encoder by 1 - `momentum` of the way; not at all if `updates` is 0."""
        for slow, fast in ((self.slow_encoder, self.encoder), (self.slow_project, self.project)):
            for old, new in zip(slow.parameters(), fast.parameters(), strict=True):
                old.lerp_(new, (1 - momentum) * updates)


def momentum_at(step: int, steps: int, first: float) -> float:
    """MoCo v3's: from `first` to 1 by half a cosine."""
    return 1 - (1 - first) * (cos(pi * step / steps) + 1) / 2
