"""Pictures that are not a whole number of patches: nothing that stands for no pixel is looked at."""

import pytest
import torch
from torch import Tensor

from var_pe.models.patches import padded
from var_pe.models.vit import ViTClassifier

CONVOLUTIONS = ("peg", "pyramid_peg")
READ = [{}, {"pool": "class_token", "registers": 1}, {"final_norm": "pooled", "prompts": 2}]


def images(height: int, width: int, batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


@torch.no_grad()
def test_pictures_of_whole_patches_get_the_same_bits(line, make_vit, make_loud):
    plain, vit = make_loud(make_vit(line)), make_loud(make_vit(line, padding="end"))
    assert torch.equal(vit(images(8, 12)), plain(images(8, 12)))
    assert torch.equal(vit.feature_maps(images(8, 12))[0], plain.feature_maps(images(8, 12))[0])


@torch.no_grad()
def test_a_patch_in_part_of_padding_is_one_with_zeros_there(line, make_vit, make_loud):
    """The grid is the one of the padded picture, so every encoding serves it unchanged."""
    vit = make_loud(make_vit(line, image_size=(7, 11), padding="end"))
    plain, whole = make_loud(make_vit(line)), torch.zeros(2, 3, 8, 12)
    whole[:, :, :7, :11] = images(7, 11)
    assert vit.pyramid == plain.pyramid
    assert torch.equal(vit(images(7, 11)), plain(whole))
    assert vit.feature_maps(images(7, 11))[0].shape[2:] == (4, 6)


@torch.no_grad()
@pytest.mark.parametrize("read", READ, ids=str)
def test_what_the_padding_holds_changes_nothing(line, read, make_vit, make_loud):
    """Neither pixels beside a picture in its batch, even infinite ones, nor tokens of nothing else."""
    if line in CONVOLUTIONS:
        return
    vit = make_loud(make_vit(line, padding="end", **read))
    sizes = [(5, 7), (8, 12)]
    batch, other = images(8, 12), images(8, 12)
    other[0, :, 5:], other[0, :, :, 7:] = torch.inf, torch.nan
    assert torch.equal(vit(other, sizes), vit(batch, sizes))

    # Each picture's logits are those it has alone
    torch.testing.assert_close(vit(batch, sizes)[:1], vit(batch[:1, :, :5, :7]))
    torch.testing.assert_close(vit(batch, sizes)[1:], vit(batch[1:]))

    # The tokens that stand for no pixel, whatever becomes of them
    positions, whole = vit.pyramid.positions(), torch.randn(2, 24, 32)
    held_BL = padded(batch, (4, 6), 2, sizes)[1]
    assert held_BL is not None
    assert held_BL.sum(1).tolist() == [3 * 4, 4 * 6]
    changed = torch.where(held_BL[:, :, None], whole, 9 * whole.flip(2))
    first, second = (
        vit.read(vit.forward_patches(x, positions, held_BL=held_BL), vit.num_prefix_tokens, held_BL)
        for x in (whole, changed)
    )
    torch.testing.assert_close(second, first)


@torch.no_grad()
def test_patches_of_padding_might_as_well_be_left_out(line, make_vit, make_loud):
    """The other way to the same numbers: the patches that hold pixels alone, at their own places."""
    if line in CONVOLUTIONS:
        return
    vit = make_loud(make_vit(line, padding="end"))
    picture, grid, prefix = images(6, 8), (4, 6), vit.num_prefix_tokens
    filled, held_1L = padded(picture, grid, 2, None)
    assert held_1L is not None
    kept_Bl = held_1L[0].nonzero()[:, 0].expand(2, -1)
    patches_BLC = vit.patch_embed(filled).flatten(2).transpose(1, 2)
    alone_BlC = vit.forward_patches(patches_BLC, vit.pyramid.positions(), kept_Bl)
    torch.testing.assert_close(vit.forward_features(picture), vit.read(alone_BlC, prefix))


@torch.no_grad()
def test_a_dynamic_classifier_takes_the_smallest_grid(make_vit, make_loud):
    vit = make_loud(make_vit("rope", dynamic=True, padding="end"))
    picture, whole = images(5, 9), torch.zeros(2, 3, 6, 10)
    whole[:, :, :5, :9] = picture
    assert torch.equal(vit(picture), vit(whole))
    assert vit.feature_maps(picture)[0].shape[2:] == (3, 5)


@torch.no_grad()
def test_it_is_timms(make_loud):
    """`dynamic_img_pad` of timm's ViT, with equal weights."""
    timm = pytest.importorskip("timm")
    from var_pe.interop.vit.conversion import convert

    theirs = timm.models.vision_transformer.VisionTransformer(
        img_size=(8, 12),
        patch_size=2,
        embed_dim=32,
        depth=2,
        num_heads=4,
        num_classes=3,
        dynamic_img_size=True,
        dynamic_img_pad=True,
    ).eval()
    make_loud(theirs)
    given = convert(theirs.state_dict(), source="timm", like=theirs)
    options = {name: value for name, value in given.config.items() if not name.startswith("_")}
    ours = ViTClassifier(**{**options, "padding": "end", "image_size": (7, 11)}).eval()
    ours.load_state_dict(given.state_dict())
    torch.testing.assert_close(ours(images(7, 11)), theirs(images(7, 11)))


def test_a_saved_model_keeps_it(tmp_path, make_vit):
    vit = make_vit("learned", image_size=(7, 11), padding="end")
    vit.save_pretrained(tmp_path)
    loaded = ViTClassifier.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(images(7, 11)), vit(images(7, 11)))
    loaded.set_input_size((9, 12), resample="timm")
    assert loaded(images(9, 12)).shape == (2, 3)


@pytest.mark.parametrize(
    ("options", "call", "sentence"),
    [
        ({"padding": "none"}, {}, "got images of 7x11"),
        ({"padding": "none"}, {"sizes": [(7, 11)] * 2}, "need a classifier with padding=end"),
        ({}, {"sizes": [(7, 11)]}, "sizes are one for each picture, got 1 for 2"),
        ({}, {"sizes": [(7, 11), (7, 12)]}, "within the batch of 7x11 pixels, got 7x12"),
        ({}, {"sizes": [(7, 11), (0, 1)]}, "a size of a padded picture is two whole numbers of at least 1"),
        ({"image_size": (6, 12)}, {}, "got images of 7x11"),
        ({"encoding": "peg", "image_size": (10, 12)}, {}, "has no neighbours .* or are padding"),
    ],
)
def test_what_does_not_fit_is_said(options, call, sentence, make_vit):
    vit = make_vit(**({"padding": "end"} | options))
    with pytest.raises(ValueError, match=sentence):
        vit(images(7, 11), **call)


def test_wrong_settings_are_named(make_vit):
    with pytest.raises(ValueError, match="padding=end needs stem=patch"):
        make_vit(padding="end", stem="convolutions")
    with pytest.raises(ValueError, match="padding is one of none, end, got 'same'"):
        make_vit(padding="same")
