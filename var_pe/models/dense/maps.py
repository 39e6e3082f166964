"""From the maps of an encoder to a ladder of maps: finer and coarser ones where the encoder has too few."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d
from torchvision.ops import FeaturePyramidNetwork

from var_pe.models.classifier import MapShape

# over the channels of a place, never over the batch: an image's result does not depend on those beside it
norm_of = partial(LayerNorm2d, eps=1e-6)

# doublings of a plain ViT's map, whose cells are large (ViTDet has the same)
FINER_OF_ONE_MAP = 2


class ConvolutionBlock(nn.Sequential):
    """A 3x3 convolution, norm and GELU."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__(nn.Conv2d(before, width, 3, padding=1, bias=False), norm_of(width), nn.GELU())


class Ladder(nn.Module):
    """An encoder's maps, with `finer` ones made of its finest, and a coarser one if it has but one.

    A single map becomes a pyramid as in ViTDet (Li et al. 2022, section 3): by transposed convolutions that
    double its sides, and by one of stride 2. Maps are normalised, but for the encoder's last, which is
    already.

    Args:
        shapes: those of the encoder's maps, from the finest to the coarsest.
        finer: None: two where there is one map, none where there are several, and no cell below a pixel.
    Raises:
        ValueError: cells would be smaller than a pixel.
    """

    def __init__(self, shapes: Sequence[MapShape], finer: int | None) -> None:
        super().__init__()
        finest, last = shapes[0], shapes[-1]
        doublings = doublings_of(shapes, finer)

        self.norms = nn.ModuleList(norm_of(shape.width) for shape in shapes[:-1])
        self.finer = nn.ModuleList(_doubled(finest.width, times) for times in range(doublings, 0, -1))
        self.coarser: nn.Module | None = None
        if len(shapes) == 1:
            self.coarser = nn.Conv2d(last.width, last.width, 3, stride=2, padding=1)

        # What the ladder gives, from the finest to the coarsest
        finer_shapes = [
            MapShape(finest.width >> times, finest.stride >> times) for times in range(doublings, 0, -1)
        ]
        coarser_shapes = [MapShape(last.width, 2 * last.stride)] if len(shapes) == 1 else []
        self.shapes = [*finer_shapes, *shapes, *coarser_shapes]

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        own = [norm(x_BChw) for norm, x_BChw in zip(self.norms, maps, strict=False)] + [maps[-1]]
        finer = [double(own[0]) for double in self.finer]
        coarser = [] if self.coarser is None else [self.coarser(own[-1])]
        return [*finer, *own, *coarser]


def doublings_of(shapes: Sequence[MapShape], finer: int | None) -> int:
    """How often the finest map is doubled.

    Raises:
        ValueError: cells would be smaller than a pixel, or have no channel left.
    """
    width, stride = shapes[0].width, shapes[0].stride
    most = 0
    while stride % 2 ** (most + 1) == 0 and width % 2 ** (most + 1) == 0:
        most += 1
    if finer is None:
        return min(FINER_OF_ONE_MAP, most) if len(shapes) == 1 else 0
    if finer > most:
        times = "once" if most == 1 else f"{most} times"
        raise ValueError(
            f"finer={finer} is too large: the finest map has cells of {stride} pixels and {width} "
            f"channels, which can be halved {times}"
        )
    return finer


def _doubled(width: int, times: int) -> nn.Sequential:
    """Transposed convolutions that double a map's sides and halve its channels, `times` times."""
    layers: list[nn.Module] = []
    for time in range(times):
        if time:
            layers += [norm_of(width), nn.GELU()]
        layers.append(nn.ConvTranspose2d(width, width // 2, 2, stride=2))
        width //= 2
    return nn.Sequential(*layers)


class TopDown(nn.Module):
    """torchvision's feature pyramid network (Lin et al. 2017): maps of one width, coarser ones added in."""

    def __init__(self, shapes: Sequence[MapShape], width: int) -> None:
        super().__init__()
        self.network = FeaturePyramidNetwork([shape.width for shape in shapes], width, norm_layer=norm_of)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        named = {str(number): x_BChw for number, x_BChw in enumerate(maps)}
        return list(self.network(named).values())
