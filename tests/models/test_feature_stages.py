"""Frozen networks that losses look through: every size, grey and colour, and never trained."""

import pytest
import torch
from torch import nn

from var_pe.models.efficientnet_lite import EfficientNetLite, SameConv2d, fold_norms
from var_pe.models.feature_stages import ClassifierStages, LiteStages, VGG16Stages


@pytest.fixture
def make_stages(make_vit):
    def make(name, channels=3):
        torch.manual_seed(0)
        if name == "vgg16":
            return VGG16Stages()
        if name == "lite0":
            network = EfficientNetLite().eval()
            fold_norms(network)
            return LiteStages("lite0", network)
        return ClassifierStages(make_vit(image_channels=channels, depth=4), name, channels)

    return make


@pytest.mark.parametrize("name", ["lite0", "vgg16", "classifier"])
@pytest.mark.parametrize(("channels", "height", "width"), [(1, 28, 28), (3, 48, 64), (3, 100, 8)])
def test_maps_of_any_picture(make_stages, name, channels, height, width):
    """A data set of any size, grey or in colour, can use every network; gradients reach the pictures."""
    stages = make_stages(name, channels)
    pictures = torch.rand(2, channels, height, width, requires_grad=True)
    maps = stages(pictures)
    assert [map.shape[1] for map in maps] == list(stages.channels)
    assert all(stages.weight_of(index).shape == (width,) for index, width in enumerate(stages.channels))
    sum(map.square().mean() for map in maps).backward()
    assert pictures.grad.abs().amax((1, 2, 3)).min() > 0
    assert all(parameter.grad is None for parameter in stages.parameters())


def test_small_pictures_are_enlarged_until_the_coarsest_map_is_no_single_cell(make_stages):
    """28 pixels are less than one cell of stride 32."""
    stages = make_stages("lite0")
    assert [map.shape[-1] for map in stages(torch.zeros(1, 1, 28, 28))] == [32, 16, 8, 4, 2]
    assert [map.shape[-1] for map in stages(torch.zeros(1, 3, 256, 256))] == [128, 64, 32, 16, 8]


def test_a_frozen_network_stays_in_evaluation(make_stages):
    """Dropout or batch statistics would make the same two pictures differ."""
    stages = make_stages("classifier")
    nn.ModuleList([stages]).train()
    assert not any(module.training for module in stages.modules())


def test_a_classifier_shows_its_blocks(make_stages):
    """The last map is what its head reads, before the norm."""
    stages = make_stages("classifier")
    pictures = torch.rand(2, 3, 8, 12)
    maps = stages(pictures)
    tokens, prefix = stages.classifier.forward_tokens(pictures)
    torch.testing.assert_close(maps[-1].flatten(2).transpose(1, 2), tokens[:, prefix:])
    assert len(stages(pictures)) == len(maps) == 4


def test_a_classifier_of_grey_pictures_does_not_see_colour(make_vit):
    with pytest.raises(
        ValueError, match=r"grey_run classifies pictures of 1 channel, but data.channels is 3"
    ):
        ClassifierStages(make_vit(image_channels=1), "grey_run", 3)


def test_vgg16_has_the_layers_of_torchvision():
    """Its weights are loaded by these names, and the maps are those before each pooling."""
    from torchvision.models.vgg import cfgs, make_layers

    theirs = make_layers(cfgs["D"])
    ours = VGG16Stages()
    ours.features.load_state_dict(theirs.state_dict())
    pictures = torch.rand(1, 3, 32, 32) * 2 - 1
    x = (pictures - ours.shift) / ours.scale
    wanted = []
    for layer in theirs:
        if isinstance(layer, nn.MaxPool2d):
            wanted.append(x.clone())
        x = layer(x)
    for found, map in zip(ours(pictures), wanted, strict=True):
        torch.testing.assert_close(found, map)


@pytest.mark.parametrize(("stride", "needed"), [(1, torch.bfloat16), (2, torch.float32)])
def test_strided_filters_of_single_channels_stay_out_of_bf16(stride, needed):
    """On processors their gradient would take many times as long."""
    torch.manual_seed(0)
    convolution = SameConv2d(8, 8, 3, stride, groups=8).requires_grad_(False)
    pictures = torch.randn(2, 8, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert convolution(pictures).dtype == torch.bfloat16
        assert convolution(pictures.requires_grad_()).dtype == needed
