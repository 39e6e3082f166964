"""ViT classifier of clips: patches of several frames (tubelets), whose positions have a time axis."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from diffusers.configuration_utils import register_to_config
from einops import rearrange
from torch import Tensor, nn

from var_pe.encodings import PositionEncoding, build_encoding
from var_pe.encodings.machinery.compose import move_all
from var_pe.models.attention import PositionContext
from var_pe.models.blocks import BlockContext, Blocks
from var_pe.models.classifier import MapShape
from var_pe.models.initialisation import initialise
from var_pe.models.layers import MLP, Attention, BlockSettings, as_tokens, layer_scale, with_gain
from var_pe.models.patches import Stem, build_stem
from var_pe.models.vit import (
    Block,
    ClassifierConfig,
    FinalNorm,
    PlainClassifier,
    Pool,
    Spread,
    check_prefix,
)
from var_pe.pyramid import Grid, Positions, Pyramid
from var_pe.resampling.precision import full_precision
from var_pe.settings.fields import check_choice


@dataclass(frozen=True)
class DividedContext:
    """The contexts that blocks of divided attention get in one forward pass."""

    # of the tokens of one place at all moments, and of those of one moment: the same in all of them
    over_time: PositionContext
    over_space: PositionContext
    times: int

    def at(self, layer: int) -> "DividedContext":
        return replace(self, over_time=self.over_time.at(layer), over_space=self.over_space.at(layer))

    def refine(self, x_BLC: Tensor, layer: int) -> Tensor:
        return x_BLC


class DividedBlock(nn.Module):
    """Attention of each place to itself at all moments, then among the places of each moment, then an MLP.

    TimeSformer's divided space-time attention (Bertasius et al. 2021, section 3.5 and figure 2). The
    published one begins with weights trained on pictures, and none over time; here all branches start alike.
    """

    def __init__(self, dim: int, num_heads: int, settings: BlockSettings) -> None:
        super().__init__()
        self.norm_time = nn.LayerNorm(dim, eps=1e-6)
        self.attn_time = Attention(dim, num_heads, settings.qk_norm, settings.dropout)
        self.scale_time = layer_scale(dim, settings.layer_scale)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, settings.qk_norm, settings.dropout)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLP(dim, settings.mlp_ratio, settings.dropout, settings.gelu)
        self.scale1 = layer_scale(dim, settings.layer_scale)
        self.scale2 = layer_scale(dim, settings.layer_scale)

    def forward(
        self, x_BLC: Tensor, context: DividedContext, layer: int, gains_2B11: Tensor | None = None
    ) -> Tensor:
        """`gains_2B11` are the factors of stochastic depth, if there is any; both attentions have one."""
        images, times = len(x_BLC), context.times
        x_BTC = rearrange(self.norm_time(x_BLC), "B (T l) C -> (B l) T C", T=times)
        y_BTC = self.attn_time(x_BTC, context.over_time, layer)
        y_BLC = rearrange(y_BTC, "(B l) T C -> B (T l) C", B=images)
        x_BLC = x_BLC + with_gain(self.scale_time(y_BLC), gains_2B11, 0)

        x_BlC = rearrange(self.norm1(x_BLC), "B (T l) C -> (B T) l C", T=times)
        y_BlC = self.attn(x_BlC, context.over_space, layer)
        y_BLC = rearrange(y_BlC, "(B T) l C -> B (T l) C", B=images)
        x_BLC = x_BLC + with_gain(self.scale1(y_BLC), gains_2B11, 0)

        return x_BLC + with_gain(self.scale2(self.mlp(self.norm2(x_BLC))), gains_2B11, 1)


def moments_of(frames: int, tubelet: int) -> int:
    """How many moments the patches of a clip have.

    Raises:
        ValueError: they do not fill it.
    """
    if frames % tubelet:
        raise ValueError(f"tubelet must divide the frames of a clip, got {tubelet} for {frames}")
    return frames // tubelet


def check_between_blocks(encodings: Iterable[PositionEncoding], line: str) -> None:
    """Refuses an encoding that acts on a picture's map between blocks.

    Raises:
        ValueError: one does.
    """
    if any(encoding.uses("refine") for encoding in encodings):
        raise ValueError(f"encoding {line!r}: its part between blocks serves single pictures, not clips")


class TakesClips(Protocol):
    """What classifiers of clips have in common."""

    frames: int
    tubelet: int
    dynamic: bool
    patch_embed: nn.Module


# of their maps, for models of single pictures
NO_MAPS = "a classifier of clips gives no maps of a picture"


def tubelets(model: TakesClips, clips_BTCHW: Tensor) -> Tensor:
    """The patches of clips (B, frames, channels, height, width) as a map, (B, C, T, h, w).

    Raises:
        ValueError: the clips do not have the model's number of frames, or one that it can follow.
    """
    # Tubelets as patches of pictures of `tubelet` times the channels
    times = _times_of(model, clips_BTCHW)
    pictures = rearrange(clips_BTCHW, "B (T p) C h w -> (B T) (p C) h w", T=times)
    return rearrange(model.patch_embed(pictures), "(B T) C h w -> B C T h w", T=times)


def _times_of(model: TakesClips, clips_BTCHW: Tensor) -> int:
    if clips_BTCHW.dim() != 5:
        raise ValueError(
            f"a classifier of clips takes (clips, frames, channels, height, width), got a batch of shape "
            f"{tuple(clips_BTCHW.shape)}"
        )
    frames = clips_BTCHW.shape[1]
    if frames != model.frames and not model.dynamic:
        raise ValueError(
            f"the classifier is set to clips of {model.frames} frames, got {frames}; dynamic=true takes "
            f"every length that the encoding can follow"
        )

    times, own = moments_of(frames, model.tubelet), moments_of(model.frames, model.tubelet)
    if (times == 1) != (own == 1):
        raise ValueError(
            f"one moment is a picture, without a time: a classifier of clips of {own} moments "
            f"cannot follow one of {times}"
        )
    return times


class ClipClassifier(PlainClassifier):
    """Clips in [-1, 1], (B, frames, channels, height, width), to class logits.

    A patch is `tubelet` frames of `patch_size` pixels a side (ViViT, Arnab et al. 2021), mapped as a picture
    of so many times the channels would be. Tokens come moment by moment, a moment's row by row; class token
    and registers come first and have no position. By the rule of hierarchies, what an encoding adds to tokens
    belongs to the whole clip, what it does in attention to the tokens that see each other. Arguments as in
    `ClassifierConfig`; `frames` is those of a clip.

    Raises:
        ValueError: frames or pixels are not a whole number of patches, or the encoding has no time axis.
    """

    @register_to_config
    def __init__(
        self,
        frames: int = 8,
        image_size: Sequence[int] = (32, 32),
        image_channels: int = 3,
        num_classes: int = 10,
        encoding: str = ClassifierConfig.encoding,
        tubelet: int = 2,
        patch_size: int = ClassifierConfig.patch_size,
        attention: Spread = ClassifierConfig.attention,
        time_positions: bool = ClassifierConfig.time_positions,
        stem: Stem = ClassifierConfig.stem,
        dim: int = ClassifierConfig.dim,
        depth: int = ClassifierConfig.depth,
        num_heads: int = ClassifierConfig.num_heads,
        mlp_ratio: float = ClassifierConfig.mlp_ratio,
        pool: Pool = ClassifierConfig.pool,
        registers: int = ClassifierConfig.registers,
        drop_path: float = ClassifierConfig.drop_path,
        dropout: float = ClassifierConfig.dropout,
        qk_norm: bool = ClassifierConfig.qk_norm,
        seed: int = 0,
        dynamic: bool = ClassifierConfig.dynamic,
        gelu: str = ClassifierConfig.gelu,
        layer_scale: float = ClassifierConfig.layer_scale,
        final_norm: FinalNorm = ClassifierConfig.final_norm,
        kept_grids: Sequence[Grid] | None = None,
    ) -> None:
        super().__init__(
            image_size=image_size,
            num_classes=num_classes,
            encoding=encoding,
            patch_size=patch_size,
            dim=dim,
            pool=pool,
            registers=registers,
            dynamic=dynamic,
            final_norm=final_norm,
        )
        check_choice("attention", attention, Spread)
        check_prefix(attention, pool, registers)

        self.frames = frames
        self.tubelet = tubelet
        self.attention = attention
        self.time_positions = time_positions
        self.times = moments_of(frames, tubelet)

        # From tubelets to tokens that know their positions
        self.patch_embed = build_stem(stem, image_channels * tubelet, dim, patch_size)
        times = self.times if time_positions else 1
        shape = dict(dim=dim, num_heads=num_heads, depth=depth, times=times)
        self.map_position_encoding = build_encoding(
            encoding, pyramid=self.pyramid, kept_grids=kept_grids, acting="on tokens", **shape
        )
        self.position_encoding = build_encoding(
            encoding, pyramid=self.pyramid, kept_grids=kept_grids, acting="in attention", **shape
        )
        check_between_blocks([self.map_position_encoding], encoding)

        # Through the blocks to the classes
        block = DividedBlock if attention == "divided" else Block
        settings = BlockSettings(mlp_ratio, dropout, qk_norm, gelu, layer_scale)
        self.blocks = Blocks((block(dim, num_heads, settings) for _ in range(depth)), drop_path)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, num_classes) if num_classes else nn.Identity()

        initialise(self, seed)

    def position_encodings(self) -> dict[str, PositionEncoding]:
        return {
            "map_position_encoding": self.map_position_encoding,
            "position_encoding": self.position_encoding,
        }

    def _set_pyramid(self, new: Pyramid, resample: str | None) -> None:
        move_all([self.map_position_encoding, self.position_encoding], new, resample)

    def forward_tokens(self, clips_BTCHW: Tensor) -> tuple[Tensor, int]:
        x_BCThw = tubelets(self, clips_BTCHW)
        positions = self._pyramid_of(clips_BTCHW).positions(clips_BTCHW.device, x_BCThw.shape[2])

        # What is added for their positions, in float32, or neighbours would coincide
        x_BLC = as_tokens(x_BCThw)
        context = self.map_position_encoding.prepare(self._told(positions))
        with full_precision(clips_BTCHW):
            x_BLC = self.map_position_encoding.embed(x_BLC.float(), context)
        x_BLC = self.with_prefix(x_BLC.to(self.norm.weight.dtype))

        return self.blocks(x_BLC, self._in_attention(positions)), self.num_prefix_tokens

    def _told(self, positions: Positions) -> Positions:
        """What the model is to know of positions."""
        return positions if self.time_positions else positions.without_time()

    def _in_attention(self, positions: Positions) -> BlockContext:
        """What blocks are told of places and moments."""
        encoding = self.position_encoding

        def among(part: Positions) -> PositionContext:
            context = encoding.prepare(self._told(part))
            return PositionContext(encoding, context, context, prefix=self.num_prefix_tokens)

        if self.attention == "joint":
            return among(positions)
        return DividedContext(among(positions.at_place()), among(positions.at_moment()), positions.times)

    @property
    def map_shapes(self) -> list[MapShape]:
        raise ValueError(NO_MAPS)
