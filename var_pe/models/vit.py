"""ViT classifier: a patch grid is a pyramid of one level, so every position encoding serves it unchanged."""

from collections.abc import Sequence
from dataclasses import field, fields
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from var_pe.encodings import build_encoding, settled
from var_pe.encodings.machinery.some import Chosen, OfSome, check_serves_some, rows_of
from var_pe.models.attention import PositionContext
from var_pe.models.blocks import Blocks
from var_pe.models.classifier import Classifier, MapShape, check_classes
from var_pe.models.hierarchy.lines import StageShape, read_hierarchy
from var_pe.models.initialisation import initialise
from var_pe.models.layers import (
    GELUS,
    MLP,
    Attention,
    BlockSettings,
    as_map,
    as_tokens,
    layer_scale,
    with_gain,
)
from var_pe.models.patches import Padding, PatchEmbedding, Stem, build_stem, padded
from var_pe.pyramid import Grid, Positions, Pyramid, sides_of
from var_pe.resampling.precision import full_precision
from var_pe.settings.fields import (
    Doc,
    NonNegative,
    NonNegativeFloat,
    OneOf,
    Positive,
    PositiveFloat,
    ShareBelowOne,
    check_choice,
    section,
)
from var_pe.settings.files import show

Pool = Literal["class_token", "mean"]
FinalNorm = Literal["tokens", "pooled"]

Spread = Literal["joint", "divided"]

# settings of a plain ViT, which a hierarchy refuses
PLAIN = ("pool", "registers", "final_norm", "prompts", "padding")
# and of one for clips
OF_CLIPS = ("tubelet", "attention", "time_positions")


@section
class ClassifierConfig:
    encoding: Annotated[str, Doc("position encoding, one line, as for the generator")] = "learned"
    patch_size: Annotated[Positive, Doc("pixels")] = 4
    stem: Annotated[
        Stem, Doc("patch: one linear map a patch; convolutions: 3x3, stride 2, which learn faster")
    ] = "patch"
    dim: Annotated[Positive, Doc("width")] = 192
    depth: Annotated[Positive, Doc("blocks")] = 6
    num_heads: Annotated[Positive, Doc("attention heads")] = 6
    mlp_ratio: Annotated[
        PositiveFloat, Doc("hidden width of the feed-forward layers, as a multiple of dim")
    ] = 4.0
    pool: Annotated[Pool, Doc("what the classes are read from; mean: over the patches")] = "mean"
    registers: Annotated[NonNegative, Doc("extra tokens without a place (Darcet et al. 2024)")] = 0
    drop_path: Annotated[
        ShareBelowOne, Doc("stochastic depth of the last block, growing linearly from 0")
    ] = 0.0
    dropout: Annotated[ShareBelowOne, Doc("in attention and feed-forward layers")] = 0.0
    qk_norm: Annotated[bool, Doc("cosine attention with a learned temperature per head")] = True
    dynamic: Annotated[bool, Doc("every batch has its images' own size, where the encoding can follow")] = (
        False
    )
    gelu: Annotated[str, OneOf(GELUS), Doc("exact, or its tanh approximation")] = "tanh"
    layer_scale: Annotated[
        NonNegativeFloat, Doc("initial gain of each branch's channels (Touvron et al. 2021); 0: none")
    ] = 0.0
    final_norm: Annotated[FinalNorm, Doc("pooled: after the mean, timm's fc_norm")] = "tokens"
    prompts: Annotated[
        NonNegative,
        Doc("learned tokens that every block has of its own (deep prompts, Jia et al. 2022); 0: none"),
    ] = 0
    hierarchy: Annotated[
        list[str],
        Doc(
            "stages in place of depth, a line each, such as windowed(blocks=2, window=7); dim and "
            "num_heads are the first one's"
        ),
    ] = field(default_factory=list)
    padding: Annotated[
        Padding,
        Doc(
            "of pictures whose sides are no multiple of patch_size. end: zeros below and at the right, which "
            "are not looked at; none: refused"
        ),
    ] = "none"
    tubelet: Annotated[
        Positive | None,
        Doc(
            "frames that a patch of a clip covers, beside patch_size pixels a side; null: pictures, no clips"
        ),
    ] = None
    attention: Annotated[
        Spread,
        Doc(
            "of clips: joint, among all tokens; divided: first among those of one place, then among those of "
            "one moment (TimeSformer)"
        ),
    ] = "joint"
    time_positions: Annotated[
        bool, Doc("of clips: whether the encoding says when a token is; false: only where, the control")
    ] = True

    def __post_init__(self) -> None:
        self._check_clips()
        if not self.hierarchy:
            return

        # What a plain ViT has and a hierarchy has not
        for setting in fields(self):
            if setting.name in PLAIN and getattr(self, setting.name) != setting.default:
                raise ValueError(
                    f"{setting.name} has no meaning in a hierarchy: leave it at {setting.default}, got "
                    f"{getattr(self, setting.name)}"
                )
        assert self.stages, "the lines of a hierarchy are read"

    def _check_clips(self) -> None:
        """Refuses settings of clips for a model of pictures, and settings that a model of clips lacks."""
        if self.tubelet is None:
            for setting in fields(self):
                if setting.name in OF_CLIPS and getattr(self, setting.name) != setting.default:
                    given = show(getattr(self, setting.name))
                    raise ValueError(f"{setting.name}={given} is for clips: give tubelet=1 or more, too")
        elif self.hierarchy:
            if self.attention != "joint":
                raise ValueError(
                    f"attention={self.attention} has no meaning in a hierarchy, whose stages say what a "
                    f"token sees: leave it at joint"
                )
        elif self.prompts:
            raise ValueError(f"prompts={self.prompts} are for pictures: leave them at 0 with tubelet")
        elif self.padding != "none":
            raise ValueError(f"padding={self.padding} is for pictures: leave it at none with tubelet")
        else:
            check_prefix(self.attention, self.pool, self.registers)

    @property
    def stages(self) -> tuple[StageShape, ...]:
        """The stages of the hierarchy; none of a plain ViT."""
        return read_hierarchy(
            self.hierarchy,
            dim=self.dim,
            num_heads=self.num_heads,
            encoding=self.encoding,
            clips=self.tubelet is not None,
        )


def check_prefix(attention: Spread, pool: Pool, registers: int) -> None:
    """Refuses tokens that are at no place and of no moment where attention is divided by these.

    Raises:
        ValueError: there are some.
    """
    if attention == "divided" and (pool == "class_token" or registers):
        raise ValueError(
            f"attention=divided has no part for tokens without a place: it takes pool=mean and registers=0, "
            f"got pool={pool} and registers={registers}"
        )


class Block(nn.Module):
    """A pre-norm transformer block (Dosovitskiy et al. 2021)."""

    def __init__(self, dim: int, num_heads: int, settings: BlockSettings) -> None:
        super().__init__()
        prompts = settings.prompts
        self.prompt_tokens_PC = nn.Parameter(torch.zeros(prompts, dim)) if prompts else None
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, settings.qk_norm, settings.dropout)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLP(dim, settings.mlp_ratio, settings.dropout, settings.gelu)
        self.scale1 = layer_scale(dim, settings.layer_scale)
        self.scale2 = layer_scale(dim, settings.layer_scale)

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        nn.init.trunc_normal_(parameter, std=0.02, generator=generator)

    def forward(
        self,
        x_BLC: Tensor,
        position_context: PositionContext,
        layer: int,
        gains_2B11: Tensor | None = None,
    ) -> Tensor:
        """`gains_2B11` are the factors of stochastic depth, if there is any.

        The block's own prompts take the places of the first tokens.
        """
        if self.prompt_tokens_PC is not None:
            prompts_BPC = self.prompt_tokens_PC.to(x_BLC.dtype).expand(x_BLC.shape[0], -1, -1)
            x_BLC = torch.cat([prompts_BPC, x_BLC[:, len(self.prompt_tokens_PC) :]], dim=1)

        attended_BLC = self.attn(self.norm1(x_BLC), position_context, layer)
        x_BLC = x_BLC + with_gain(self.scale1(attended_BLC), gains_2B11, 0)

        transformed_BLC = self.mlp(self.norm2(x_BLC))
        return x_BLC + with_gain(self.scale2(transformed_BLC), gains_2B11, 1)


class PlainClassifier(Classifier):
    """A classifier whose blocks all see the same tokens, and what its classes are read from."""

    blocks: Blocks
    norm: nn.LayerNorm

    def __init__(
        self,
        *,
        image_size: Sequence[int],
        num_classes: int,
        encoding: str,
        patch_size: int,
        dim: int,
        pool: Pool,
        registers: int,
        dynamic: bool,
        final_norm: FinalNorm,
        padding: Padding = "none",
    ) -> None:
        super().__init__()
        check_choice("pool", pool, Pool)
        check_choice("padding", padding, Padding)
        check_choice("final_norm", final_norm, FinalNorm)
        check_classes(num_classes)

        self.patch_size = patch_size
        self.padding = padding
        self.pool = pool
        self.dynamic = dynamic
        self.final_norm = final_norm
        self.image_size = sides_of(image_size, "image_size")
        self.pyramid = self._grids(self.image_size)
        prefix = registers + (pool == "class_token")
        self.prefix_tokens_PC = nn.Parameter(torch.zeros(prefix, dim)) if prefix else None

        # What the encoding's line leaves to the width is saved with the model.
        self.register_to_config(encoding=settled(encoding, dim))

    def _grids(self, image_size: tuple[int, int]) -> Pyramid:
        return Pyramid.of([self._patches(image_size)])

    @property
    def num_prefix_tokens(self) -> int:
        """Registers and class token, which come first."""
        return 0 if self.prefix_tokens_PC is None else len(self.prefix_tokens_PC)

    @property
    def blocks_by_stage(self) -> list[int]:
        return [len(self.blocks)]

    def with_prefix(self, x_BLC: Tensor) -> Tensor:
        """Class token and registers, if there are any, before the patches."""
        if self.prefix_tokens_PC is None:
            return x_BLC
        return torch.cat([self.prefix_tokens_PC.expand(x_BLC.shape[0], -1, -1), x_BLC], dim=1)

    def forward_tokens(self, images_BCHW: Tensor) -> tuple[Tensor, int]:
        """What the last block gives, (B, P + L, C), and the number P of prefix tokens that come first."""
        raise NotImplementedError

    def forward_features(self, images_BCHW: Tensor) -> Tensor:
        """The pooled, normalised last layer, (B, C)."""
        return self.read(*self.forward_tokens(images_BCHW))

    def read(self, x_BLC: Tensor, prefix: int, held_BL: Tensor | None = None) -> Tensor:
        """The features of the last block's tokens, (B, C); of patches those that are `held`, None: all."""
        if self.pool == "class_token":
            return self.norm(x_BLC[:, 0])
        if self.final_norm == "pooled":
            return self.norm(mean_of(x_BLC[:, prefix:], held_BL))
        return mean_of(self.norm(x_BLC[:, prefix:]), held_BL)

    def pooled(self, images_BCHW: Tensor) -> Tensor:
        return self.forward_features(images_BCHW)


def mean_of(x_BLC: Tensor, held_BL: Tensor | None) -> Tensor:
    """The mean over tokens, (B, C), or over those alone that are held, (B or 1, L)."""
    if held_BL is None:
        return x_BLC.mean(1)
    held_BL1 = held_BL[:, :, None].to(x_BLC.dtype)
    return (x_BLC * held_BL1).sum(1) / held_BL1.sum(1)


class ViTClassifier(PlainClassifier):
    """Images in [-1, 1] to class logits; class token and registers come first and have no position.

    With `padding="end"` images may have any sides. They lie in the upper left corner of the grid, which is
    the model's own or, where it is `dynamic`, the smallest that holds the batch; every patch has the position
    of its cell in that grid. Pixels of the padding are zero, and patches that hold nothing else are seen
    neither by attention nor by the mean. Where a batch has several sizes, `sizes` says which.

    Arguments as in `ClassifierConfig`; `image_size` is (height, width) in pixels; with 0 classes there is no
    head and the model gives features; `patch_kernel` is the side of the stored kernel where `set_patch_size`
    left it behind.

    Raises:
        ValueError: the image is not a whole number of patches and not padded, or an option is not known.
    """

    @register_to_config
    def __init__(
        self,
        image_size: Sequence[int] = (32, 32),
        image_channels: int = 3,
        num_classes: int = 10,
        encoding: str = ClassifierConfig.encoding,
        patch_size: int = ClassifierConfig.patch_size,
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
        patch_kernel: int | None = None,
        kept_grids: Sequence[Grid] | None = None,
        prompts: int = ClassifierConfig.prompts,
        padding: Padding = ClassifierConfig.padding,
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
            padding=padding,
        )
        if padding != "none" and stem != "patch":
            raise ValueError(
                f"padding={padding} needs stem=patch: convolutions would mix patches of pixels with "
                f"patches of padding, got stem={stem}"
            )

        self.prompts = prompts

        # From images to tokens that know their positions
        self.patch_embed = build_stem(stem, image_channels, dim, patch_size, patch_kernel)
        self.position_encoding = build_encoding(
            encoding, dim=dim, num_heads=num_heads, depth=depth, pyramid=self.pyramid, kept_grids=kept_grids
        )

        # Through the blocks to the classes
        settings = BlockSettings(mlp_ratio, dropout, qk_norm, gelu, layer_scale, prompts)
        self.blocks = Blocks((Block(dim, num_heads, settings) for _ in range(depth)), drop_path)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, num_classes) if num_classes else nn.Identity()

        initialise(self, seed)

    @property
    def num_before_patches(self) -> int:
        """The tokens that come before the patches in every block: prompts, class token and registers."""
        return self.prompts + self.num_prefix_tokens

    def set_patch_size(self, patch_size: int) -> None:
        """Patches of another size from now on, and in a saved copy; the stored kernel stays as it is.

        The grid stays too, so images have that many times more pixels or fewer: `set_input_size` changes
        that, and a dynamic classifier takes what comes.

        Raises:
            ValueError: the stem is made of convolutions.
        """
        if not isinstance(self.patch_embed, PatchEmbedding):
            raise ValueError("stem convolutions cannot change its patch size; stem patch can")
        if patch_size < 1:
            raise ValueError(f"patch_size must be at least 1, got {patch_size}")

        rows, columns = self.pyramid.finest
        self.patch_size = patch_size
        self.patch_embed.patch_size = patch_size
        self.image_size = (rows * patch_size, columns * patch_size)
        self.register_to_config(
            image_size=list(self.image_size),
            patch_size=patch_size,
            patch_kernel=self.patch_embed.kernel_size[0],
        )

    def _pyramid_of(self, images_BCHW: Tensor) -> Pyramid:
        rows, columns = (cells * self.patch_size for cells in self.pyramid.finest)
        height, width = images_BCHW.shape[-2:]
        if self.padding != "none" and not self.dynamic and height <= rows and width <= columns:
            return self.pyramid
        return super()._pyramid_of(images_BCHW)

    def forward(self, images_BCHW: Tensor, sizes: Sequence[Grid] | None = None) -> Tensor:
        """Class logits, (B, classes); `sizes` are (rows, columns) of padded images in a batch."""
        return self.forward_head(self.forward_features(images_BCHW, sizes)).float()

    def forward_features(self, images_BCHW: Tensor, sizes: Sequence[Grid] | None = None) -> Tensor:
        """The pooled, normalised last layer, (B, C).

        Raises:
            ValueError: the images do not fit, or patches are not looked at and the encoding needs them all.
        """
        patches_BLC, positions, held_BL = self._patches_at(images_BCHW, sizes)
        x_BLC = self.forward_patches(patches_BLC, positions, held_BL=held_BL)
        return self.read(x_BLC, self.num_prefix_tokens, held_BL)

    def forward_tokens(self, images_BCHW: Tensor) -> tuple[Tensor, int]:
        patches_BLC, positions, held_BL = self._patches_at(images_BCHW, None)
        return self.forward_patches(patches_BLC, positions, held_BL=held_BL), self.num_prefix_tokens

    def _patches_at(
        self, images_BCHW: Tensor, sizes: Sequence[Grid] | None
    ) -> tuple[Tensor, Positions, Tensor | None]:
        """Patches, where they are, and which of them hold pixels, (B or 1, L); None: all."""
        if sizes is not None and self.padding == "none":
            raise ValueError("images of several sizes in a batch need a classifier with padding=end")

        pyramid, held_BL = self._pyramid_of(images_BCHW), None
        if self.padding != "none":
            images_BCHW, held_BL = padded(images_BCHW, pyramid.finest, self.patch_size, sizes)
        return as_tokens(self.patch_embed(images_BCHW)), pyramid.positions(images_BCHW.device), held_BL

    def forward_patches(
        self,
        patches_BLC: Tensor,
        positions: Positions,
        kept_Bl: Tensor | None = None,
        held_BL: Tensor | None = None,
    ) -> Tensor:
        """What the last block gives of patches at these positions, (B, P + L, C), P prefix tokens first.

        With `kept_Bl` an image's patches of these numbers alone go through the blocks, at their own places:
        (B, P + l, C). With `held_BL`, (B or 1, L), all go through, and no token looks at one where it is
        False.

        Raises:
            ValueError: patches are left out or not looked at, and the encoding needs them all.
        """
        # What is added to patches for their positions: in float32, or neighbours would coincide.
        encoding, context = self.position_encoding, self.position_encoding.prepare(positions)
        with full_precision(patches_BLC):
            x_BLC = encoding.embed(patches_BLC.float(), context)
        x_BLC = x_BLC.to(self.norm.weight.dtype)  # of a half model; under autocast the weights are float32

        if kept_Bl is not None:
            x_BLC = rows_of(x_BLC, kept_Bl)
            encoding, context = OfSome(encoding), Chosen(context, kept_Bl, positions.num_tokens)
        x_BLC = self.with_prefix(x_BLC)

        # Prompts, whose places each block fills with its own, come before all others, and go in the end.
        if self.prompts:
            x_BLC = F.pad(x_BLC, (0, 0, self.prompts, 0))
        prefix, visible = self.num_before_patches, None
        if held_BL is not None:
            check_serves_some(encoding)
            visible = F.pad(held_BL, (prefix, 0), value=True)[:, None, None]
        x_BLC = self.blocks(x_BLC, PositionContext(encoding, context, context, visible, prefix))
        return x_BLC[:, self.prompts :] if self.prompts else x_BLC

    @property
    def map_shapes(self) -> list[MapShape]:
        return [MapShape(self.norm.normalized_shape[0], self.patch_size)]

    def feature_maps(self, images_BCHW: Tensor) -> list[Tensor]:
        """The one map of the patches, of padded images of those that hold pixels."""
        x_BLC, prefix = self.forward_tokens(images_BCHW)
        map_BChw = as_map(self.norm(x_BLC[:, prefix:]), self._pyramid_of(images_BCHW).finest)
        rows, columns = self._patches((images_BCHW.shape[-2], images_BCHW.shape[-1]))
        return [map_BChw[:, :, :rows, :columns]]
