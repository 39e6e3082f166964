"""timm's Swin and Swin v2 give the same logits as our classifier in stages, also moved to other sizes."""

import pytest
import timm
import torch
from timm.layers import resize_rel_pos_bias_table_simple
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2

from tests.interop.vit.reference import loud, pictures
from var_pe.interop.vit.conversion import convert
from var_pe.models.hierarchy.classifier import HierarchicalClassifier

SMALL = dict(patch_size=4, embed_dim=16, depths=(2, 3, 1), num_heads=(2, 4, 8), num_classes=5)
BOTH = pytest.mark.parametrize("cls", [SwinTransformer, SwinTransformerV2])


def swin(cls, size=(64, 32), window: int | tuple[int, int] = 4, **options):
    return loud(cls(img_size=size, window_size=window, **(SMALL | options)))


def converted(theirs, **options) -> HierarchicalClassifier:
    return convert(theirs.state_dict(), source="timm", like=theirs, verify=theirs, **options)


@torch.no_grad()
def check_same(ours: HierarchicalClassifier, theirs, size: tuple[int, int]) -> None:
    logits = theirs(pictures(*size))
    assert logits.std() > 0.1
    torch.testing.assert_close(ours(pictures(*size)), logits, atol=1e-5, rtol=0)


@BOTH
@pytest.mark.parametrize("size", [(64, 32), (32, 128)], ids=str)
def test_a_swin_has_timm_s_logits(cls, size):
    """Windows, shifts, merging, and maps that a window covers along one side or both."""
    check_same(converted(swin(cls, size)), swin(cls, size), size)


OPTIONS = [
    (SwinTransformer, {"qkv_bias": False, "num_classes": 0}),
    (SwinTransformer, {"mlp_ratio": 2.5, "depths": (1, 2), "num_heads": (4, 4)}),
    (SwinTransformerV2, {"pretrained_window_sizes": (2, 4, 6), "act_layer": "gelu_tanh"}),
    (SwinTransformerV2, {"qkv_bias": False}),
]


@pytest.mark.parametrize(("cls", "options"), OPTIONS, ids=str)
def test_options_of_a_swin_convert(cls, options):
    check_same(converted(swin(cls, **options)), swin(cls, **options), (64, 32))


@torch.no_grad()
def test_tables_of_a_swin_move_as_its_loader_moves_them():
    """Swin's own loader, bicubic: windows of 4 become windows of 8."""
    small, theirs = swin(SwinTransformer, (64, 64)), swin(SwinTransformer, (128, 128), window=8)
    ours, state = converted(small), small.state_dict()
    ours.set_input_size((128, 128), resample="swin", window=8)
    for name, table_RH in state.items():
        if name.endswith("relative_position_bias_table"):
            new = tuple(theirs.state_dict()[name].shape)
            state[name] = resize_rel_pos_bias_table_simple(table_RH, (8, 8), new)
    theirs.load_state_dict(state)
    check_same(ours, theirs, (128, 128))


def test_networks_of_a_swin_v2_follow_another_window():
    """As timm's do for weights of another `pretrained_window_size`: nothing is resampled."""
    options = dict(pretrained_window_sizes=(4, 4, 4))
    ours = converted(swin(SwinTransformerV2, **options))
    ours.set_input_size((128, 64), window=8)
    theirs = swin(SwinTransformerV2, (128, 64), window=8, **options)
    check_same(ours, theirs, (128, 64))


def test_the_library_s_normalisation_moves_into_the_patch_kernel_of_a_swin():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    converted(swin(SwinTransformer), mean=mean, std=std)  # which verifies it


REFUSED = [
    (SwinTransformer, {"size": (64, 96), "window": 8}, "which they do not fill"),
    (SwinTransformer, {"window": (2, 4)}, "windows of"),
    (SwinTransformer, {"norm_layer": timm.layers.RmsNorm}, "ours has LayerNorm"),
    (SwinTransformer, {"global_pool": ""}, "global_pool"),
    (SwinTransformer, {"head_dim": 4}, "proj.weight must be 16 x 16"),
    (SwinTransformerV2, {"act_layer": "silu"}, "activation SiLU"),
]


@pytest.mark.parametrize(("cls", "options", "sentence"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_ours_does_not_compute_is_refused(cls, options, sentence):
    theirs = swin(cls, **options)
    with pytest.raises(ValueError, match=sentence):
        convert(theirs.state_dict(), source="timm", like=theirs)


def test_a_lost_or_strange_weight_is_refused():
    theirs = swin(SwinTransformer)
    state = theirs.state_dict()
    with pytest.raises(ValueError, match="no counterpart for: extra"):
        convert(state | {"extra": torch.ones(1)}, source="timm", like=theirs)
    lost = {name: value for name, value in state.items() if name != "layers.1.blocks.2.attn.qkv.bias"}
    with pytest.raises(ValueError, match=r"lacks layers.1.blocks.2.attn.qkv.bias"):
        convert(lost, source="timm", like=theirs)
    with pytest.raises(ValueError, match="num_heads 3 is not what like= has: 2, 4, 8"):
        convert(state, source="timm", like=theirs, num_heads=3)


NAMES = timm.list_models(module="swin_transformer") + timm.list_models(module="swin_transformer_v2")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_timm_converts(name):
    """Narrow, of its own size and windows, with two blocks in each stage."""
    heads = timm.create_model(name, depths=(1, 1, 1, 1), embed_dim=192).layers[0].blocks[0].attn.num_heads
    options = dict(embed_dim=8 * heads, depths=(2, 2, 2, 2), num_classes=5)
    theirs = loud(timm.create_model(name, **options))
    converted(theirs)
