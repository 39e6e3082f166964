"""How far the tokenizer's reconstruction is from the image in the features of a trained network."""

from typing import Annotated

import torch
from torch import Tensor

from var_pe.models.feature_stages import FeatureStages
from var_pe.settings.fields import Doc, FilePath, NonNegativeFloat, section


@section
class PerceptualConfig:
    weight: Annotated[NonNegativeFloat, Doc("weight of the perceptual distance; 0: off")] = 0.0
    network: Annotated[
        FilePath,
        Doc(
            "network whose features are compared: efficientnet_lite0 | vgg16 (LPIPS) | the folder of a "
            "classifier's run; with + between several, their distances are added"
        ),
    ] = "efficientnet_lite0"
    vgg16_weights: Annotated[
        FilePath | None, Doc("a local file with torchvision's VGG16 for vgg16; null: downloaded")
    ] = None
    lpips_weights: Annotated[
        FilePath | None, Doc("a local file with LPIPS's linear heads for vgg16; null: downloaded")
    ] = None

    def __post_init__(self) -> None:
        if "" in self.networks or len(set(self.networks)) < len(self.networks):
            raise ValueError(
                f"network is a network or several different ones with + between them, got {self.network!r}"
            )

    @property
    def networks(self) -> tuple[str, ...]:
        """Each of them by its name or folder."""
        return tuple(name.strip() for name in f" {self.network} ".split(" + "))


def perceptual_distance(network: FeatureStages, reconstruction_BCHW: Tensor, images_BCHW: Tensor) -> Tensor:
    """The mean distance of reconstructions in [-1, 1] from their images (LPIPS, Zhang et al. 2018, eq. 1).

    At every place of every stage's map the two vectors of channels are brought to unit length; the squares of
    their difference are weighted by channel and summed, and the means over places are summed over stages.
    VGG16 has LPIPS's trained weights; the other networks weigh all channels alike and each stage by one over
    the number of stages, so their distance is the mean of 2 - 2 cos, in [0, 4]. The distances of several
    networks are added (`StagesOfSeveral`). Gradients reach the reconstruction alone.
    """
    with torch.no_grad():
        wanted = network(images_BCHW)

    distance = reconstruction_BCHW.new_zeros(())
    for stage, (ours_BChw, theirs_BChw) in enumerate(zip(network(reconstruction_BCHW), wanted, strict=True)):
        difference_BChw = unit(ours_BChw) - unit(theirs_BChw)
        weight_C11 = network.weight_of(stage)[:, None, None]
        distance = distance + (weight_C11 * difference_BChw.square()).sum(1).mean()
    return distance


def unit(map_BChw: Tensor) -> Tensor:
    """Vectors of channels at unit length, float32; zeros stay so."""
    map_BChw = map_BChw.float()
    # Under the root, so that a vector of zeros has a gradient.
    return map_BChw / (map_BChw.square().sum(1, keepdim=True) + 1e-10).sqrt()
