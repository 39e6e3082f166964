"""Segmenter: images to the class of every pixel, by a decoder on the maps of any classifier of ours."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from var_pe.encodings import PositionEncoding
from var_pe.models.classifier import MapShape
from var_pe.models.dense.decoders import FPNDecoder, QueryDecoder, UNetDecoder, at_size
from var_pe.models.dense.encoder import DenseModel, encoder_of
from var_pe.models.initialisation import initialise
from var_pe.pyramid import Grid
from var_pe.seeding import mix
from var_pe.settings.fields import Doc, Positive, check_choice, section

Decoder = Literal["fpn", "unet", "transformer"]
Finer = Annotated[
    int | None,
    Ge(0),
    Le(8),
    Doc(
        "how often the finest map's sides are doubled by transposed convolutions; null: twice where the "
        "encoder has one map, else not, and no cell smaller than a pixel"
    ),
]


@section
class SegmenterConfig:
    decoder: Annotated[
        Decoder,
        Doc(
            "fpn: a feature pyramid whose maps are summed; unet: from map to map beside the encoder's, to "
            "the pixels; transformer: a query for each class, whose products with the finest map are its mask"
        ),
    ] = "fpn"
    width: Annotated[Positive, Doc("width of the decoder's maps")] = 64
    finer: Finer = None
    depth: Annotated[Positive, Doc("blocks of decoder=transformer")] = 2


class Segmenter(DenseModel):
    """Images in [-1, 1] to logits of every pixel, (B, classes, H, W).

    Args:
        encoder_config: a classifier without classes, as `described` describes it.
        num_classes: of pixels; what is nothing else is a class, too.
        kept_grids: the last map that the head was first built for, alone (see `build_encoding`).

    The others are as in `SegmenterConfig`.

    Raises:
        ValueError: an option is not known, or does not fit the encoder.
    """

    @register_to_config
    def __init__(
        self,
        encoder_config: Mapping[str, Any],
        num_classes: int,
        decoder: Decoder = SegmenterConfig.decoder,
        width: int = SegmenterConfig.width,
        finer: int | None = SegmenterConfig.finer,
        depth: int = SegmenterConfig.depth,
        seed: int = 0,
        kept_grids: Sequence[Grid] | None = None,
    ) -> None:
        super().__init__()
        check_choice("decoder", decoder, Decoder)
        if num_classes < 2:
            raise ValueError(f"a segmenter needs at least two classes of pixels, got {num_classes}")

        self.encoder = encoder_of(encoder_config)
        self.describe_encoder()
        self.head: FPNDecoder | UNetDecoder | QueryDecoder
        if decoder == "fpn":
            self.head = FPNDecoder(self.encoder, num_classes, width, finer)
        elif decoder == "unet":
            channels = self.encoder.config["image_channels"]
            self.head = UNetDecoder(self.encoder, num_classes, width, finer, channels)
        else:
            self.head = QueryDecoder(self.encoder, num_classes, width, finer, depth, kept_grids)
        initialise(self.head, mix(seed, "decoder"))

    @property
    def ladder_shapes(self) -> list[MapShape]:
        """The maps that the head reads, from the finest to the coarsest."""
        ladder = self.head.ladder if isinstance(self.head, UNetDecoder) else self.head.fine_map.ladder
        return ladder.shapes

    def _own_encodings(self) -> dict[str, PositionEncoding]:
        if not isinstance(self.head, QueryDecoder):
            return {}
        return {"head.position_encoding": self.head.position_encoding}

    def forward(self, images_BCHW: Tensor) -> Tensor:
        logits_BVhw = self.head(self.encoder.feature_maps(images_BCHW), images_BCHW)
        return at_size(logits_BVhw.float(), images_BCHW.shape[2:])
