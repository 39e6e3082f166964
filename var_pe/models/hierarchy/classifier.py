"""Classifiers of several stages: each halves the map of the one before, and attends in its own way."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from operator import mul

from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from var_pe.encodings import PositionEncoding, settled
from var_pe.models.classifier import Classifier, MapShape, check_classes
from var_pe.models.hierarchy.blocks import EPSILON
from var_pe.models.hierarchy.lines import (
    AttentionShape,
    Mobile,
    StageShape,
    Windowed,
    maps_of,
    read_hierarchy,
)
from var_pe.models.hierarchy.stages import MobileStage, Stage, StageLayout
from var_pe.models.initialisation import initialise
from var_pe.models.layers import BlockSettings, as_map, as_tokens
from var_pe.models.patches import Stem, build_stem
from var_pe.models.vit import ClassifierConfig
from var_pe.pyramid import Grid, Pyramid, Sides, sides_of


class StagedClassifier(Classifier):
    """Class logits from the mean over the last stage's map, and a map per stage: of pictures, or of clips.

    `times` is how many moments a clip has, None that the model sees pictures. A saved model has the stages'
    lines with nothing left open.

    Raises:
        ValueError: a line is wrong, the image cannot be divided so often, or an encoding does not fit a
            stage.
    """

    def __init__(
        self,
        *,
        image_size: Sequence[int],
        channels: int,
        num_classes: int,
        hierarchy: Sequence[str],
        encoding: str,
        patch_size: int,
        stem: Stem,
        dim: int,
        num_heads: int,
        drop_path: float,
        dynamic: bool,
        kept_grids: Sequence[Grid] | None,
        settings: BlockSettings,
        times: int | None = None,
        time_positions: bool = True,
    ) -> None:
        super().__init__()
        check_classes(num_classes)
        shapes = read_hierarchy(
            hierarchy, dim=dim, num_heads=num_heads, encoding=encoding, clips=times is not None
        )
        if not shapes:
            raise ValueError("hierarchy needs at least one stage, got none")

        # What an encoding's line leaves to the width is saved with the model.
        self.register_to_config(encoding=settled(encoding, dim))
        self._set_shapes(tuple(with_settled_encoding(shape) for shape in shapes))

        self.patch_size = patch_size
        self.dynamic = dynamic
        self.times = times
        self.image_size = sides_of(image_size, "image_size")
        self.pyramid = self._grids(self.image_size)
        kept = self.pyramid if kept_grids is None else Pyramid.of(kept_grids)

        # From images to the first map
        shapes = self.shapes
        first = shapes[0].dim if shapes[0].stride == 1 else dim
        self.patch_embed = build_stem(stem, channels, first, patch_size)
        self.stem_norm = nn.LayerNorm(first, eps=EPSILON)

        # Stochastic depth grows from the first block to the last, whatever their stages.
        stops = list(accumulate(shape.blocks for shape in shapes))
        self.stages = nn.ModuleList()
        for index, shape in enumerate(shapes):
            before = first if index == 0 else shapes[index - 1].dim
            start, stop = stops[index] - shape.blocks, stops[index] - 1
            drops = (drop_path * start / max(1, stops[-1] - 1), drop_path * stop / max(1, stops[-1] - 1))
            layout = StageLayout(
                shape,
                width_before=None if shape.stride == 1 and shape.dim == before else before,
                grid=self.sides(index),
                kept_grid=self._over_time(kept.grids[-1 - index]),
                drops=drops,
                time_positions=time_positions,
            )
            kind = MobileStage if isinstance(shape, Mobile) else Stage
            self.stages.append(kind(layout, settings))

        self.norm = nn.LayerNorm(shapes[-1].dim, eps=EPSILON)
        self.head = nn.Linear(shapes[-1].dim, num_classes) if num_classes else nn.Identity()

    def sides(self, index: int) -> Sides:
        """Of a stage's map: rows and columns, of clips moments before them."""
        return self._over_time(self.pyramid.grids[-1 - index])

    def _over_time(self, grid: Grid) -> Sides:
        return grid if self.times is None else (self.times, *grid)

    @property
    def blocks_by_stage(self) -> list[int]:
        return [shape.blocks for shape in self.shapes]

    def position_encodings(self) -> dict[str, PositionEncoding]:
        found: dict[str, PositionEncoding] = {}
        for index, stage in enumerate(self.stages):
            assert isinstance(stage, Stage), "no other module is put there"
            found |= {f"stages.{index}.{name}": encoding for name, encoding in stage.encodings.items()}
        return found

    def set_input_size(
        self, image_size: Sequence[int], resample: str | None = None, window: int | None = None
    ) -> None:
        """Images of another size from now on, and in a saved copy; with `window`, windows of so many cells.

        `resample` names the convention under which tables move: those of a whole map where its size changes,
        those of a window where its own does (`swin`). What moves is a new parameter: make the optimizer
        afterwards.

        Raises:
            ValueError: a side does not fit, or a table has to move and no `resample` says how.
        """
        before = self.shapes
        if window is not None:
            windowed = [shape for shape in before if isinstance(shape, Windowed)]
            if not windowed:
                raise ValueError("window: no stage has windows")
            self._set_shapes(
                tuple(
                    replace(shape, window=window) if isinstance(shape, Windowed) else shape
                    for shape in before
                )
            )
        try:
            super().set_input_size(image_size, resample)
        except ValueError:
            self._set_shapes(before)
            raise

    def _set_shapes(self, shapes: tuple[StageShape, ...]) -> None:
        self.shapes = shapes
        self.register_to_config(hierarchy=[shape.line() for shape in shapes])

    def _grids(self, image_size: tuple[int, int]) -> Pyramid:
        """The stages' maps as a pyramid, whose finest level is the first stage's."""
        maps = maps_of(self.shapes, self._patches(image_size))
        return Pyramid.of(list(reversed(maps)))

    def _set_pyramid(self, new: Pyramid, resample: str | None) -> None:
        """All stages move or, where one refuses, none."""
        moved = []
        for index, stage in enumerate(self.stages):
            assert isinstance(stage, Stage), "no other module is put there"
            sides = self._over_time(new.grids[-1 - index])
            moved.append((stage, stage.moved(self.shapes[index], sides, resample)))
        for index, (stage, encodings) in enumerate(moved):
            stage.shape = self.shapes[index]
            for name, encoding in encodings.items():
                setattr(stage, name, encoding)

    def embedded(self, images_BCHW: Tensor) -> Tensor:
        """The patches as a map, (B, C, h, w), or a clip's, (B, C, T, h, w)."""
        raise NotImplementedError

    def forward_features(self, images_BCHW: Tensor) -> list[Tensor]:
        """The map that each stage gives, (B, C, h, w), from the finest to the coarsest.

        Of clips (B, C, T, h, w): all stages keep the moments.
        """
        pyramid = self._pyramid_of(images_BCHW)
        x_BChw = self.embedded(images_BCHW)
        grid: Sides = tuple(x_BChw.shape[2:])
        x_BLC = self.stem_norm(as_tokens(x_BChw))

        maps = []
        for stage in self.stages:
            x_BLC, grid = stage(x_BLC, grid)
            maps.append(as_map(x_BLC, grid))
        assert grid[-2:] == pyramid.grids[0], "the stages end at the coarsest grid"
        return maps

    def pooled(self, images_BCHW: Tensor) -> Tensor:
        """The normalised mean over the last map, (B, C)."""
        return self.norm(as_tokens(self.forward_features(images_BCHW)[-1])).mean(1)


class HierarchicalClassifier(StagedClassifier):
    """Images in [-1, 1] to class logits, read from the mean over the last stage's map, and a map per stage.

    Arguments as in `ClassifierConfig`; `image_size` is (height, width) in pixels; `hierarchy` has a line for
    each stage (`read_hierarchy`). With 0 classes there is no head and the model gives features.
    """

    @register_to_config
    def __init__(
        self,
        image_size: Sequence[int] = (32, 32),
        image_channels: int = 3,
        num_classes: int = 10,
        hierarchy: Sequence[str] = (),
        encoding: str = ClassifierConfig.encoding,
        patch_size: int = ClassifierConfig.patch_size,
        stem: Stem = ClassifierConfig.stem,
        dim: int = ClassifierConfig.dim,
        num_heads: int = ClassifierConfig.num_heads,
        mlp_ratio: float = ClassifierConfig.mlp_ratio,
        drop_path: float = ClassifierConfig.drop_path,
        dropout: float = ClassifierConfig.dropout,
        qk_norm: bool = ClassifierConfig.qk_norm,
        seed: int = 0,
        dynamic: bool = ClassifierConfig.dynamic,
        gelu: str = ClassifierConfig.gelu,
        layer_scale: float = ClassifierConfig.layer_scale,
        kept_grids: Sequence[Grid] | None = None,
    ) -> None:
        super().__init__(
            image_size=image_size,
            channels=image_channels,
            num_classes=num_classes,
            hierarchy=hierarchy,
            encoding=encoding,
            patch_size=patch_size,
            stem=stem,
            dim=dim,
            num_heads=num_heads,
            drop_path=drop_path,
            dynamic=dynamic,
            kept_grids=kept_grids,
            settings=BlockSettings(mlp_ratio, dropout, qk_norm, gelu, layer_scale),
        )

        initialise(self, seed)

    def embedded(self, images_BCHW: Tensor) -> Tensor:
        return self.patch_embed(images_BCHW)

    @property
    def map_shapes(self) -> list[MapShape]:
        strides = accumulate((shape.stride for shape in self.shapes), mul, initial=self.patch_size)
        pairs = zip(self.shapes, list(strides)[1:], strict=True)
        return [MapShape(shape.dim, stride) for shape, stride in pairs]

    def feature_maps(self, images_BCHW: Tensor) -> list[Tensor]:
        """The map of every stage."""
        maps = self.forward_features(images_BCHW)
        last_BChw = maps.pop()
        grid = (last_BChw.shape[2], last_BChw.shape[3])
        return [*maps, as_map(self.norm(as_tokens(last_BChw)), grid)]


def with_settled_encoding(shape: StageShape) -> StageShape:
    """A stage whose encoding's line leaves nothing to its width."""
    if not isinstance(shape, AttentionShape):
        return shape
    return replace(shape, encoding=settled(shape.encoding, shape.dim))
