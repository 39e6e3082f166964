"""The classifier's promises: every encoding serves it unchanged, and tokens without a position have none."""

import pytest
import torch
from torch import Tensor

from var_pe.models.vit import ViTClassifier

SHAPES = [
    {},
    {"pool": "class_token"},
    {"pool": "class_token", "registers": 3},
    {"registers": 2},
    {"image_size": (4, 4), "qk_norm": False},
]


def images(height: int = 8, width: int = 12, batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_encoding_serves_every_shape(line, shape, make_vit, make_loud):
    """A patch grid is a pyramid of one level; rectangles, class token and registers included."""
    vit = make_loud(make_vit(line, **shape))
    pictures = images(*shape.get("image_size", (8, 12)))
    logits, features = vit(pictures), vit.forward_features(pictures)
    assert logits.shape == (2, 3)
    assert features.shape == (2, 32)
    torch.testing.assert_close(vit.forward_head(features), logits)
    torch.testing.assert_close(vit(pictures[1:]), logits[1:])
    assert not torch.allclose(logits[0], logits[1])


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_prefix_tokens_have_no_place(shape, make_vit, make_loud, monkeypatch):
    """The encoding sees the patches, all of them and nothing else: a sliced-off patch would be silent."""
    vit, seen = make_loud(make_vit("sinusoidal", **shape)), []
    embed = vit.position_encoding.embed
    monkeypatch.setattr(
        vit.position_encoding, "embed", lambda x, context: seen.append((x, embed(x, context))) or seen[-1][1]
    )
    pictures, entering = images(*shape.get("image_size", (8, 12))), []
    vit.blocks[0].register_forward_pre_hook(lambda module, inputs: entering.append(inputs[0]))
    vit(pictures)
    (before, after), prefix = seen[0], shape.get("registers", 0) + (shape.get("pool") == "class_token")
    assert torch.equal(before, vit.patch_embed(pictures).flatten(2).transpose(1, 2))
    assert torch.equal(entering[0][:, prefix:], after)
    if prefix:
        assert torch.equal(entering[0][:, :prefix], vit.prefix_tokens_PC.expand(2, -1, -1))
    else:
        assert vit.prefix_tokens_PC is None


@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_every_parameter_learns(line, shape, make_vit, make_loud):
    vit = make_loud(make_vit(line, **shape)).train()
    vit(images()).square().mean().backward()
    idle = [name for name, p in vit.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle, f"no gradient reaches {idle}"


def test_the_same_network_around_every_encoding(line, make_vit):
    ours, plain = (make_vit(name, seed=4, registers=1).state_dict() for name in (line, "none"))
    around = {name for name in ours if not name.startswith("position_encoding.")}
    assert around == set(plain)
    assert all(torch.equal(ours[name], plain[name]) for name in around)
    other = make_vit(line, seed=5, registers=1).state_dict()
    assert not any(torch.equal(ours[name], other[name]) for name in around if ours[name].dim() > 1)


@torch.no_grad()
def test_only_an_encoding_tells_patches_apart(line, make_vit, make_loud):
    """Without one, a picture is a bag of patches: attention and mean pooling do not see their order."""
    vit, pictures = make_loud(make_vit(line)), images()
    patches = pictures.unfold(2, 2, 2).unfold(3, 2, 2)  # (B, C, 4, 6, 2, 2)
    shuffled = patches.flip(2).roll(1, 3).permute(0, 1, 2, 4, 3, 5).reshape_as(pictures)
    same = torch.allclose(vit(shuffled), vit(pictures), atol=1e-4)
    assert same == (line == "none")


@torch.no_grad()
def test_saved_and_loaded_it_is_the_same_model(line, make_vit, make_loud, tmp_path):
    vit = make_loud(make_vit(line, pool="class_token", registers=2))
    vit.save_pretrained(tmp_path)
    loaded = ViTClassifier.from_pretrained(tmp_path)
    assert torch.equal(loaded(images()), vit(images()))
    ours, theirs = vit.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@torch.no_grad()
def test_bf16_keeps_codes_in_float32(line, make_vit, make_loud, monkeypatch):
    vit, seen = make_loud(make_vit(line, registers=1)), []
    exact, embed = vit(images()), vit.position_encoding.embed
    monkeypatch.setattr(
        vit.position_encoding, "embed", lambda x, context: seen.append(embed(x, context)) or seen[-1]
    )
    with torch.autocast("cpu", torch.bfloat16):
        rounded = vit(images())
    assert seen[0].dtype == rounded.dtype == torch.float32
    assert (rounded - exact).abs().max() < 0.1 * exact.std()


@torch.no_grad()
def test_another_size_where_the_encoding_can_follow(make_vit, make_loud):
    vit = make_loud(make_vit("sinusoidal"))
    with pytest.raises(
        ValueError, match="set to grids of 4x6, got images of 6x16; set_input_size changes it"
    ):
        vit(images(6, 16))
    vit.set_input_size((6, 16))
    built = make_loud(make_vit("sinusoidal", image_size=(6, 16)))
    torch.testing.assert_close(vit(images(6, 16)), built(images(6, 16)))
    with pytest.raises(ValueError, match="made for the grids 4x6; moving it to 6x4 needs the name of"):
        make_vit("learned").set_input_size((12, 8))  # as many tokens, another grid


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"pool": "max"}, "pool is one of class_token, mean, got 'max'"),
        ({"num_classes": 1}, "at least two classes, got 1"),
        ({"image_size": (8, 9)}, "patch_size must divide the sides of the images, got 2 for 8x9"),
        ({"num_heads": 5}, "multiple of the number of heads, got 32 and 5"),
    ],
)
def test_wrong_options_are_named(option, sentence, make_vit):
    with pytest.raises(ValueError, match=sentence):
        make_vit(**option)


@pytest.mark.parametrize("size", [56, (16,), ("16", "16"), (16.0, 16), (0, 16)], ids=str)
def test_an_image_size_is_two_sides(size, make_vit):
    with pytest.raises(
        ValueError, match="image_size is two whole numbers of at least 1, rows and columns, got"
    ):
        make_vit("sinusoidal").set_input_size(size)
    with pytest.raises(ValueError, match="image_size is two whole numbers"):
        make_vit("sinusoidal", image_size=size)


def test_a_convention_is_checked_where_nothing_moves(make_vit):
    with pytest.raises(ValueError, match=r"convention is one of .*, got 'foo'"):
        make_vit("rope").set_input_size((8, 12), "foo")
