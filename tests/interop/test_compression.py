"""Smaller classifiers: how near whole-number weights are, which weights go, what fewer channels mean."""

import pytest
import torch
from torch import nn

from var_pe.interop.compression import linear_layers, narrower, stored_bytes, with_int4, with_int8, with_zeros
from var_pe.models.vit import ViTClassifier

IMAGES_BCHW = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def model() -> ViTClassifier:
    torch.manual_seed(0)
    model = ViTClassifier(
        image_size=(8, 8), image_channels=1, num_classes=4, patch_size=4, dim=32, depth=2, num_heads=2
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


@torch.no_grad()
def test_whole_number_weights_are_near_and_small(model):
    """Of 8 bits nearer than of 4, and each about its share of the bytes; the original stays."""
    pytest.importorskip("torchao")
    before = model(IMAGES_BCHW)
    int8, int4 = with_int8(model), with_int4(model)
    errors = [float((small(IMAGES_BCHW) - before).norm() / before.norm()) for small in (int8, int4)]
    assert 0 < errors[0] < 0.03
    assert errors[0] < errors[1] < 0.3
    assert torch.equal(model(IMAGES_BCHW), before)

    weights = sum(layer.weight.numel() for layer in linear_layers(model))
    rows = sum(layer.out_features for layer in linear_layers(model))
    assert stored_bytes(model) - stored_bytes(int8) == 3 * weights - 4 * rows
    assert stored_bytes(int4) < stored_bytes(int8)


def test_the_smallest_weights_become_zero(model):
    """Half of all, over all layers together."""
    sparse = with_zeros(model, 0.5)
    before = torch.cat([layer.weight.flatten() for layer in linear_layers(model)])
    after = torch.cat([layer.weight.flatten() for layer in linear_layers(sparse)])
    zero = after == 0
    assert int(zero.sum()) == round(len(before) / 2)
    assert before[zero].abs().max() <= before[~zero].abs().min()
    assert torch.equal(before[~zero], after[~zero])


@torch.no_grad()
def test_leaving_channels_out_is_setting_their_weights_to_zero(model):
    """A hidden channel that reaches nothing may as well not be there."""
    pytest.importorskip("torch_pruning")
    small = narrower(model, 0.25)
    for block, narrow in zip(model.blocks, small.blocks, strict=True):
        mlp = block.mlp
        assert narrow.mlp.fc1.out_features == narrow.mlp.fc2.in_features == 96
        importance_F = mlp.fc1.weight.square().sum(1) + mlp.fc2.weight.square().sum(0)
        mlp.fc2.weight[:, importance_F.argsort()[:32]] = 0
    torch.testing.assert_close(small(IMAGES_BCHW), model(IMAGES_BCHW), atol=1e-5, rtol=1e-5)
    assert stored_bytes(small) < stored_bytes(model)
