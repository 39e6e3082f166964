"""What an encoder is trained with where there are no labels: who sees what, and what is asked of whom."""

from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from var_pe.data.hidden_patches import hide, number_hidden
from var_pe.data.part import drawn_of_each
from var_pe.encodings import REGISTRY
from var_pe.encodings.machinery.some import Chosen, OfSome
from var_pe.models.pretraining import (
    Contrast,
    EncoderConfig,
    HiddenPixels,
    HiddenTokens,
    cells_under,
    momentum_at,
    numbers_where,
)
from var_pe.models.tuning import Lora, merge, tune
from var_pe.models.vit import ViTClassifier
from var_pe.pyramid import Pyramid
from var_pe.tasks.pretraining import images_of, info_nce, patches_of

LINES = {"mixed": "mixed(learned=0.5, sinusoidal=0.5)", "blocks": "blocks(learned, size=2)"}


def vit(encoding: str = "sinusoidal + rope", **more) -> ViTClassifier:
    given = {"num_classes": 0, "dim": 16, "depth": 2, "num_heads": 2, "patch_size": 4, **more}
    return ViTClassifier((16, 16), 1, encoding=encoding, **given).eval()


def batch(seed: int = 0):
    """Three images of 4 x 4 patches, 8 of them hidden."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(3, 1, 16, 16, generator=generator)
    return images, torch.stack([hide((4, 4), 0.5, 2, generator) for _ in range(3)])


def with_other_hidden_pixels(images, hidden):
    patches = patches_of(images, (4, 4))
    return images_of(torch.where(hidden[:, :, None], torch.randn_like(patches), patches), (4, 4), 1)


def test_the_share_of_hidden_patches_is_exact():
    """In every image, in squares of the asked side, and each patch as often as the others."""
    hidden = torch.stack([hide((8, 4), 0.5, 2, torch.Generator().manual_seed(i)) for i in range(400)])
    assert (hidden.sum(1) == number_hidden((8, 4), 0.5, 2)).all()
    squares = hidden.view(400, 4, 2, 2, 2)
    assert (squares == squares[:, :, :1, :, :1]).all()
    assert (hidden.float().mean(0) - 0.5).abs().max() < 0.1


@pytest.mark.parametrize("stem", ["patch", "convolutions"])
def test_no_hidden_pixel_is_seen(stem):
    """They change, and no answer does; a pixel that is shown changes it."""
    images, hidden = batch()
    others = with_other_hidden_pixels(images, hidden)
    assert not torch.equal(images, others)
    encoder = vit(stem=stem, pool="class_token")
    for model in (
        HiddenPixels(encoder, EncoderConfig(decoder_dim=8), 8, seed=0),
        HiddenTokens(encoder, 8, Pyramid.square(1, 2, 4), 5, seed=0),
    ):
        said, again = model.eval()(images, hidden), model(others, hidden)
        changed = model(with_other_hidden_pixels(images, ~hidden), hidden)
        if isinstance(model, HiddenPixels):
            said, again, changed = [said], [again], [changed]
        assert all(torch.equal(a, b) for a, b in zip(said, again, strict=True))
        assert not any(torch.equal(a, b) for a, b in zip(said, changed, strict=True))


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_patches_keep_their_places_under_every_encoding(name):
    """Some patches alone give what they give among all where nobody looks at those left out."""
    encoder = vit(LINES.get(name, name), registers=1)
    positions, patches = encoder.pyramid.positions(), torch.randn(2, 16, 16)
    kept = torch.stack([torch.randperm(16)[:6].sort().values for _ in range(2)])
    if encoder.position_encoding.uses("refine"):
        with pytest.raises(ValueError, match="has no neighbours to look at where tokens are left out"):
            encoder.forward_patches(patches, positions, kept)
        return

    alone = encoder.forward_patches(patches, positions, kept)
    everything = torch.arange(16).expand(2, 16)
    torch.testing.assert_close(
        encoder.forward_patches(patches, positions, everything),
        encoder.forward_patches(patches, positions),
    )

    # Attention with the columns of the others masked out: scores of minus infinity
    of_all, encoding = encoder.position_encoding, OfSome(encoder.position_encoding)
    context = of_all.prepare(positions)
    chosen = Chosen(context, kept, 16)
    bias = encoding.bias(chosen, chosen, 0) if of_all.uses("bias") else None
    if bias is not None:
        whole = of_all.bias(context, context, 0)
        assert torch.equal(bias[1], whole[:, kept[1]][:, :, kept[1]])
    q = torch.randn(2, 2, 16, 8)
    if of_all.uses("rotate"):
        here = torch.stack([q[i, :, kept[i]] for i in range(2)])
        turned = encoding.rotate(here, chosen, 0)
        assert torch.equal(turned[1], of_all.rotate(q, context, 0)[1, :, kept[1]])
    if of_all.uses("products"):
        here = torch.stack([q[i, :, kept[i]] for i in range(2)])
        products = encoding.products(here, here, chosen, chosen, 0)
        whole = of_all.products(q, q, context, context, 0)
        torch.testing.assert_close(products[1], whole[1, :, kept[1]][:, :, kept[1]])
    assert alone.shape == (2, 7, 16)


def test_cells_under_a_patch():
    """A coarse cell is asked for by each of its patches; of finer ones a patch says all."""
    assert cells_under((4, 4), (1, 1)).unique().tolist() == [0]
    assert cells_under((4, 4), (2, 2)).squeeze(1).tolist() == [0, 0, 1, 1] * 2 + [2, 2, 3, 3] * 2
    assert cells_under((4, 4), (3, 3)).squeeze(1)[:4].tolist() == [0, 1, 1, 2]
    fine = cells_under((2, 2), (4, 4))
    assert fine.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    with pytest.raises(ValueError, match="level of 6x6 cells does not fit the 4x4 patches"):
        cells_under((4, 4), (6, 6))


def test_numbers_where():
    chosen = torch.tensor([[False, True, True, False], [True, False, False, True]])
    assert numbers_where(chosen, 2).tolist() == [[1, 2], [0, 3]]


def test_the_slow_encoder_is_the_average():
    model = Contrast(vit(), EncoderConfig(projection=8, projection_hidden=16), seed=0)
    before = model.slow_encoder.norm.bias.clone()
    with torch.no_grad():
        model.encoder.norm.bias += 1
    model.follow(0.75)
    torch.testing.assert_close(model.slow_encoder.norm.bias, 0.75 * before + 0.25 * (before + 1))
    model.follow(0.0, torch.tensor(0.0))
    torch.testing.assert_close(model.slow_encoder.norm.bias, before + 0.25)
    assert not any(p.requires_grad for p in model.slow_encoder.parameters())
    assert (momentum_at(0, 10, 0.9), momentum_at(10, 10, 0.9)) == (pytest.approx(0.9), 1)


def test_info_nce_is_the_cross_entropy_of_the_own_key():
    """By hand, and with keys of other processes before the own ones."""
    q, k = (F.normalize(torch.randn(4, 8), dim=1) for _ in range(2))
    by_hand = -torch.stack([(q[i] @ k.T / 0.2).log_softmax(0)[i] for i in range(4)]).mean()
    assert info_nce(q, k, 0, 0.2)[0] == pytest.approx(0.4 * by_hand.item(), abs=1e-6)
    halves = [info_nce(q[s : s + 2], k, s, 0.2)[0] for s in (0, 2)]
    assert (sum(halves) / 2).item() == pytest.approx(0.4 * by_hand.item(), abs=1e-6)


def test_a_share_of_the_labels_has_every_class():
    labels = np.repeat([0, 1, 2], [1000, 500, 10])
    numbers = drawn_of_each(labels, 0.01, 0)
    assert Counter(labels[numbers].tolist()) == {0: 10, 1: 5, 2: 1}
    assert set(numbers) <= set(drawn_of_each(labels, 0.1, 0))
    assert set(numbers) != set(drawn_of_each(labels, 0.01, 1))


def test_adapters_begin_as_nothing_and_merge_into_the_weights():
    pytest.importorskip("peft")
    model, images = vit(num_classes=3), torch.randn(2, 1, 16, 16)
    names, plain = set(model.state_dict()), model(images)
    tune(model, "lora", Lora(rank=2), seed=0)
    assert torch.allclose(model(images), plain, atol=1e-6)

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_()
    adapted = model(images)
    for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):  # each of them counts
        module = model.get_submodule(f"blocks.0.{layer}")
        module.enable_adapters(False)
        assert not torch.allclose(model(images), adapted, atol=1e-3)
        module.enable_adapters(True)
    merge(model)
    assert set(model.state_dict()) == names
    torch.testing.assert_close(model(images), adapted, atol=1e-4, rtol=1e-4)


def test_prompts_are_each_block_s_own():
    """Features change with those of every block, and are still of the patches alone."""
    model, images = vit(prompts=3, pool="class_token"), torch.randn(2, 1, 16, 16)
    before = model.pooled(images)
    assert model.forward_tokens(images)[0].shape == (2, 17, 16)
    for block in model.blocks:
        with torch.no_grad():
            block.prompt_tokens_PC.normal_()
        after = model.pooled(images)
        assert not torch.allclose(before, after)
        before = after
