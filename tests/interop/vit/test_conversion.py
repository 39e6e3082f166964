"""Other libraries' ViTs give the same logits as our classifier, at their size and at others."""

import pytest
import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torchvision.models import VisionTransformer as TorchvisionViT

from tests.interop.vit.reference import beit, dinov2_state, pictures, relative_vit, timm_vit, torchvision_vit
from var_pe.interop.vit.conversion import convert
from var_pe.models.vit import ViTClassifier


@torch.no_grad()
def check_same(ours: ViTClassifier, theirs, size: tuple[int, int]) -> None:
    logits = theirs(pictures(*size))
    assert logits.std() > 0.1
    torch.testing.assert_close(ours(pictures(*size)), logits, atol=1e-5, rtol=0)


def converted(theirs: torch.nn.Module, source: str = "timm", **options) -> ViTClassifier:
    return convert(theirs.state_dict(), source=source, like=theirs, verify=theirs, **options)


TIMM = [
    {},
    {"no_embed_class": True},
    {"reg_tokens": 3},
    {"reg_tokens": 3, "no_embed_class": True},
    {"global_pool": "avg"},
    {"global_pool": "avg", "reg_tokens": 2},
    {"global_pool": "avg", "class_token": False},
    {"global_pool": "avg", "class_token": False, "fc_norm": False},
    {"global_pool": "avg", "class_token": False, "reg_tokens": 2, "no_embed_class": True},
    {"qkv_bias": False},
    {"init_values": 1e-5},
    {"mlp_ratio": 2.5, "num_classes": 0},
    {"pos_embed": "none"},
    {"act_layer": "gelu_tanh"},
    {"global_pool": "avg", "fc_norm": False},
    {"global_pool": "token", "fc_norm": True},
    {"global_pool": "avg", "class_token": False, "pool_include_prefix": True},
    {"dynamic_img_size": True, "dynamic_img_pad": True},
]


@pytest.mark.parametrize("options", TIMM, ids=str)
def test_a_timm_vit_has_timm_s_logits(options):
    """At its size, and moved as timm moves it: another size, another aspect ratio, as many tokens."""
    theirs = timm_vit(**options)
    check_same(converted(theirs), theirs, (32, 48))
    for size in [(48, 32), (64, 24), (24, 64)]:
        ours, moved = converted(theirs), move_timm(timm_vit(**options), size)
        ours.set_input_size(size, resample="timm")
        check_same(ours, moved, size)


def move_timm(model: TimmViT, size: tuple[int, int]) -> TimmViT:
    """What its `set_input_size` does, which leaves a table of as many tokens in another grid as it is."""
    model.patch_embed.set_input_size(size)
    if model.pos_embed is not None:
        prefix = 0 if model.no_embed_class else model.num_prefix_tokens
        model.pos_embed.data = resample_abs_pos_embed(
            model.pos_embed.data, [size[0] // 8, size[1] // 8], [4, 6], num_prefix_tokens=prefix
        )
    return model


def test_the_library_s_normalisation_moves_into_the_patch_kernel():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    theirs = timm_vit()
    ours = converted(theirs, mean=mean, std=std)  # which verifies it, too
    unit = pictures(32, 48).sigmoid()
    normalised = (unit - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    with torch.no_grad():
        torch.testing.assert_close(ours(2 * unit - 1), theirs(normalised), atol=1e-5, rtol=0)


def rectangular(model: TorchvisionViT, images: torch.Tensor) -> torch.Tensor:
    """torchvision's forward pass without its check for squares."""
    x_BLC = model.conv_proj(images).flatten(2).transpose(1, 2)
    x_BLC = torch.cat([model.class_token.expand(len(images), -1, -1), x_BLC], dim=1)
    return model.heads(model.encoder(x_BLC)[:, 0])


@pytest.mark.parametrize("size", [(32, 32), (48, 48), (24, 64), (64, 16)], ids=str)
def test_a_torchvision_vit_has_torchvision_s_logits(size):
    theirs, new = torchvision_vit(), (size[0] // 8, size[1] // 8)
    ours = converted(theirs, "torchvision")
    ours.set_input_size(size, resample="torchvision")
    table_1LC = theirs.encoder.pos_embedding.data
    map_1Chw = table_1LC[:, 1:].permute(0, 2, 1).reshape(1, 32, 4, 4)
    moved = F.interpolate(map_1Chw, size=new, mode="bicubic", align_corners=True).flatten(2).permute(0, 2, 1)
    theirs.encoder.pos_embedding.data = torch.cat([table_1LC[:, :1], moved], dim=1)
    check_same(ours, lambda images: rectangular(theirs, images), size)
    if size == (32, 32):
        check_same(ours, theirs, size)


def test_torchvision_s_old_names_are_read():
    theirs = torchvision_vit()
    old = {
        key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): value
        for key, value in theirs.state_dict().items()
    }
    ours = convert(old, source="torchvision", image_size=32, patch_size=8, num_heads=4)
    check_same(ours, theirs, (32, 32))


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("size", [(32, 32), (48, 48), (24, 72)], ids=str)
def test_a_dinov2_backbone_has_its_features(size, registers):
    """Without registers the published code gives the scale (n + 0.1) / 4, with them the size, antialiased."""
    theirs, state = dinov2_state(registers)
    ours = convert(state, source="dinov2", image_size=32, num_heads=4, verify=theirs)
    ours.set_input_size(size, resample="dinov2_reg" if registers else "dinov2")
    new = (size[0] // 8, size[1] // 8)
    map_1Chw = theirs.pos_embed.data.permute(0, 2, 1).reshape(1, 32, 4, 4)
    if size != (32, 32):
        how = dict(size=new, antialias=True) if registers else dict(scale_factor=[(n + 0.1) / 4 for n in new])
        map_1Chw = F.interpolate(map_1Chw, mode="bicubic", **how)
    theirs.pos_embed.data = map_1Chw.flatten(2).permute(0, 2, 1)
    theirs.patch_embed.set_input_size(size)
    check_same(ours, theirs, size)


@pytest.mark.parametrize("shared", [False, True])
def test_timm_s_relative_tables_are_ours(shared):
    theirs = relative_vit(shared_rel_pos=shared)
    ours = converted(theirs)
    assert ours.config.encoding == ("relative_bias(shared=true)" if shared else "relative_bias")
    check_same(ours, theirs, (32, 48))


@pytest.mark.parametrize("absolute", [False, True])
def test_class_rows_of_a_relative_table_are_folded_or_refused(absolute):
    """A class token's bias to itself is its bias to the patches: then it changes nothing. Else, refused."""
    with pytest.raises(ValueError, match=r"blocks.0.attn.relative_position_bias_table has class rows"):
        converted(beit(foldable=False))
    theirs = beit()
    nearly = theirs.state_dict()
    nearly["blocks.1.attn.relative_position_bias_table"][-1, 2] += 1e-4
    with pytest.raises(ValueError, match=r"blocks.1.attn.relative_position_bias_table has class rows"):
        convert(nearly, source="timm", like=theirs)
    theirs = beit(use_abs_pos_emb=absolute)
    ours = converted(theirs)
    assert ours.config.encoding == ("learned + relative_bias" if absolute else "relative_bias")
    check_same(ours, theirs, (32, 48))


def test_a_converted_model_is_saved_and_loaded_as_any_other(tmp_path):
    theirs = timm_vit(init_values=1e-5, reg_tokens=2, global_pool="avg")
    converted(theirs).save_pretrained(tmp_path)
    check_same(ViTClassifier.from_pretrained(tmp_path), theirs, (32, 48))
    moved = ViTClassifier.from_pretrained(tmp_path, image_size=(64, 16), resample="timm")
    assert moved.pyramid.finest == (8, 2)


def test_the_weights_are_copies():
    theirs = timm_vit()
    ours, before = converted(theirs), theirs.pos_embed.clone()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(1)
    assert torch.equal(theirs.pos_embed, before)
    assert all(parameter.requires_grad for parameter in ours.parameters())


def test_a_converted_model_evaluates():
    """As `from_pretrained` gives models, whatever mode the library's was in."""
    assert not any(module.training for module in converted(timm_vit().train()).modules())
