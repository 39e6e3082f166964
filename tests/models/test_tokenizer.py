"""The tokenizer's promises: images become tokens and come back, on any size, the same after saving."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from var_pe.models.tokenizer import VQTokenizer
from var_pe.pyramid import Pyramid

SIZES = [((1, 2, 3, 4), (8, 8)), (((1, 1), (2, 3), (4, 6)), (8, 12)), (((3, 5),), (6, 10))]


def images(height: int, width: int, batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize(
    "options", [{}, {"patch": 2, "channel_multipliers": (1,), "shortcut": True}], ids=str
)
@pytest.mark.parametrize(("levels", "size"), SIZES, ids=str)
def test_images_become_tokens_and_come_back(levels, size, options, make_tokenizer):
    tokenizer = make_tokenizer(levels, **options)
    tokens_BL = tokenizer.encode(images(*size))
    assert tokens_BL.dtype == torch.int64
    assert tokens_BL.shape == (2, tokenizer.pyramid.num_tokens)
    assert 0 <= tokens_BL.min() <= tokens_BL.max() < 16
    decoded = tokenizer.decode(tokens_BL)
    assert decoded.shape == (2, 3, *size)
    assert decoded.abs().max() <= 1
    reconstruction, quantized = tokenizer(images(*size))
    assert torch.equal(quantized.tokens_BL, tokens_BL)
    torch.testing.assert_close(reconstruction.clamp(-1, 1), decoded)


def test_other_sizes_take_the_same_ladder(make_tokenizer):
    tokenizer = make_tokenizer()
    pyramid = tokenizer.pyramid_for(images(16, 8))
    assert pyramid.grids == ((2, 1), (4, 2), (6, 3), (8, 4))
    tokens_BL = tokenizer.encode(images(16, 8))
    assert tokens_BL.shape == (2, pyramid.num_tokens)
    assert tokenizer.decode(tokens_BL, pyramid).shape == (2, 3, 16, 8)
    short = Pyramid.square(1, 4)
    assert tokenizer.encode(images(8, 8), short).shape == (2, 17)
    assert tokenizer.decode(tokenizer.encode(images(8, 8), short), short).shape == (2, 3, 8, 8)


def test_every_parameter_learns(make_tokenizer):
    """The whole loss reaches encoder, codebook, phis and decoder."""
    tokenizer = make_tokenizer(attention=True).train()
    pictures = images(8, 8)
    reconstruction, quantized = tokenizer(pictures)
    ((reconstruction - pictures).square().mean() + quantized.loss).backward()
    idle = [name for name, p in tokenizer.named_parameters() if p.grad is None or not p.grad.any()]
    # A key's bias adds the same number to all scores of a query: its gradient is rounding.
    assert not [name for name in idle if not name.endswith("to_k.bias")], idle


def test_weights_follow_from_the_seed_and_the_name_alone(make_tokenizer):
    one, again, other = (make_tokenizer(seed=seed).state_dict() for seed in (0, 0, 1))
    many = make_tokenizer(num_phi=2, codebook_size=8).state_dict()
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["encoder.conv_in.weight"], other["encoder.conv_in.weight"])
    shared = [name for name in many if "codebook" not in name and "usage" not in name]
    assert all(torch.equal(one[name], many[name]) for name in shared)


def test_saved_and_loaded_it_is_the_same_tokenizer(make_tokenizer, tmp_path):
    tokenizer = make_tokenizer(((1, 1), (2, 3), (4, 6)), attention=True)
    tokenizer.save_pretrained(tmp_path)
    loaded = VQTokenizer.from_pretrained(tmp_path)
    assert loaded.pyramid == tokenizer.pyramid
    assert torch.equal(loaded.encode(images(8, 12)), tokenizer.encode(images(8, 12)))
    ours, theirs = tokenizer.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_an_image_s_tokens_do_not_depend_on_its_batch(make_tokenizer):
    tokenizer, pictures = make_tokenizer(), images(8, 8, batch=4)
    alone = torch.cat([tokenizer.encode(picture[None]) for picture in pictures])
    assert torch.equal(alone, tokenizer.encode(pictures))


def test_wrong_sizes_are_named(make_tokenizer):
    tokenizer = make_tokenizer()
    with pytest.raises(ValueError, match="multiples of the downsampling factor 2, got 8x7"):
        tokenizer.encode(images(8, 7))
    with pytest.raises(ValueError, match=r"last level must be the latent grid \(4, 4\), got \(8, 8\)"):
        tokenizer.encode(images(8, 8), Pyramid.square(1, 8))
    with pytest.raises(ValueError, match="the pyramid 1-2-3-4 has 30 tokens, got 29"):
        tokenizer.decode(torch.zeros(1, 29, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"multiples of norm_groups \(4\), got \(6, 12\)"):
        make_tokenizer(channels=6)


def test_the_shortcut_adds_the_mean_colours_of_cells_on_both_sides(make_tokenizer):
    plain, tokenizer = make_tokenizer(), make_tokenizer(shortcut=True)
    pictures = images(8, 12)
    added_BZhw = tokenizer.latent(pictures) - plain.latent(pictures)
    means_BChw = pictures.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean((3, 5))
    torch.testing.assert_close(added_BZhw, F.pad(means_BChw, (0, 0, 0, 0, 0, 1)))

    # Before anything is learned an image is the colours of its map.
    colours_BCHW = means_BChw.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(tokenizer.reconstruct(F.pad(means_BChw, (0, 0, 0, 0, 0, 1))), colours_BCHW)
    with torch.no_grad():
        tokenizer.enable_slicing()
        torch.testing.assert_close(tokenizer.reconstruct(added_BZhw), colours_BCHW)


@pytest.mark.parametrize("shortcut", [False, True])
def test_a_pass_on_a_processor_takes_as_many_images_as_its_caches_hold(make_tokenizer, shortcut, monkeypatch):
    """The results are those of all at once. The passes that a training rests on take all."""
    model = make_tokenizer((1, 4), shortcut=shortcut, patch=1)
    pictures = torch.rand(5, 3, 8, 8) * 2 - 1
    with torch.no_grad():
        map_BZhw = model.latent(pictures)
        whole_BL, whole_BCHW = model.encode(pictures), model.reconstruct(map_BZhw)

    passes = []
    for part in (model.encoder, model.decoder):
        part.register_forward_pre_hook(lambda module, inputs: passes.append(len(inputs[0])))
    of_two = 2 * model.full_width * 8 * 8 * 4
    monkeypatch.setattr("var_pe.models.tokenizer.AT_ONCE", of_two + 1)
    with torch.no_grad():
        assert torch.equal(model.encode(pictures), whole_BL)
        torch.testing.assert_close(model.reconstruct(map_BZhw), whole_BCHW)
    assert passes == [2, 2, 1, 2, 2, 1]

    # A value takes half as much under autocast; what the user says comes first.
    passes.clear()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model.encode(pictures)
    with torch.no_grad():
        model.enable_slicing(3)
        model.reconstruct(map_BZhw)
    assert passes == [4, 1, 3, 2]

    passes.clear()
    model.disable_slicing()
    model.reconstruct(map_BZhw)
    model.encode(pictures, whole=True)
    with torch.no_grad():
        model.latent(pictures)
        model(pictures)
    assert passes == [5, 5, 5, 5, 5]


def test_a_pass_that_is_exported_takes_any_number_of_images(make_tokenizer):
    """By slices it would take a number that is known beforehand."""

    class Encoding(nn.Module):
        def __init__(self, tokenizer):
            super().__init__()
            self.tokenizer = tokenizer

        def forward(self, images_BCHW):
            return self.tokenizer.encode(images_BCHW)

    model, pictures = make_tokenizer((1, 4)), torch.rand(3, 3, 8, 8) * 2 - 1
    shapes = {"images_BCHW": {0: torch.export.Dim("batch", min=1, max=64)}}
    program = torch.export.export(Encoding(model).eval(), (pictures[:2],), dynamic_shapes=shapes)
    assert torch.equal(program.module()(pictures), model.encode(pictures))


def test_flat_colours_come_through_untrained(make_tokenizer):
    """Group norms take away what is the same in all places; the shortcut does not pass them."""
    tokenizer = make_tokenizer((1, 4), shortcut=True)
    flat = torch.tensor([[0.8, -0.6, 0.1], [-0.2, 0.9, 0.3]])[:, :, None, None].expand(-1, -1, 8, 8)
    apart = [model.latent(flat).diff(dim=0).abs().mean() for model in (tokenizer, make_tokenizer((1, 4)))]
    assert apart[0] > 0.5 > apart[1]


def test_a_shortcut_needs_a_channel_for_each_colour(make_tokenizer):
    with pytest.raises(
        ValueError, match="shortcut takes 3 of the latent map's channels, got latent_channels=2"
    ):
        make_tokenizer(shortcut=True, latent_channels=2)


def test_a_tokenizer_saved_before_there_was_a_shortcut_has_none(make_tokenizer, tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["shortcut"], config["patch"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = VQTokenizer.from_pretrained(tmp_path)
    assert torch.equal(loaded.latent(images(8, 8)), tokenizer.latent(images(8, 8)))
