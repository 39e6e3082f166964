"""A hierarchy of clips: windows with a third side, time, which no stage makes coarser (Video Swin)."""

from collections.abc import Sequence

from diffusers.configuration_utils import register_to_config
from torch import Tensor

from var_pe.models.classifier import MapShape
from var_pe.models.clips import NO_MAPS, ClipClassifier, check_between_blocks, moments_of, tubelets
from var_pe.models.hierarchy.classifier import StagedClassifier
from var_pe.models.initialisation import initialise
from var_pe.models.layers import BlockSettings
from var_pe.models.patches import Stem
from var_pe.models.vit import ClassifierConfig
from var_pe.pyramid import Grid


class HierarchicalClipClassifier(StagedClassifier):
    """Clips in [-1, 1], (B, frames, channels, height, width), to class logits, through stages.

    Video Swin (Liu et al. 2022, section 3) where the stages are `windowed`: patches of `tubelet` frames,
    attention in windows of moments, rows and columns, of which every second block's are shifted along all
    three, and patch merging in rows and columns alone. Arguments as in `ClassifierConfig`; `frames` is those
    of a clip; classes are read from the mean over the last stage's moments and places.

    Raises:
        ValueError: frames or pixels are not a whole number of patches, a line is wrong or of a kind for
            pictures, or an encoding has no time axis.
    """

    @register_to_config
    def __init__(
        self,
        frames: int = 8,
        image_size: Sequence[int] = (32, 32),
        image_channels: int = 3,
        num_classes: int = 10,
        hierarchy: Sequence[str] = (),
        encoding: str = ClassifierConfig.encoding,
        tubelet: int = 2,
        patch_size: int = ClassifierConfig.patch_size,
        time_positions: bool = ClassifierConfig.time_positions,
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
            channels=image_channels * tubelet,
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
            times=moments_of(frames, tubelet),
            time_positions=time_positions,
        )

        # What of clips is read again when a saved model is loaded
        self.frames = frames
        self.tubelet = tubelet
        self.time_positions = time_positions

        check_between_blocks(self.position_encodings().values(), encoding)
        initialise(self, seed)

    def embedded(self, images_BCHW: Tensor) -> Tensor:
        return tubelets(self, images_BCHW)

    @property
    def map_shapes(self) -> list[MapShape]:
        raise ValueError(NO_MAPS)


CLIP_CLASSIFIERS: dict[str, type[ClipClassifier | HierarchicalClipClassifier]] = {
    cls.__name__: cls for cls in (ClipClassifier, HierarchicalClipClassifier)
}
