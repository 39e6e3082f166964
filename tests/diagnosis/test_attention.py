"""What is shown as attention is what multiplies the values; its sums and distances are what they say."""

import pytest
import torch

from var_pe.diagnosis.attention import (
    as_read,
    attention_of_classifier,
    attention_of_generator,
    by_level,
    distances,
    rollout,
)
from var_pe.diagnosis.attributions import attributions
from var_pe.models.hierarchy.classifier import HierarchicalClassifier

# It gathers vectors of displacements beside the values.
GATHERS_MORE = "irpe(method=cross, values=true)"


def images(batch=2):
    return torch.rand(batch, 3, 8, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1


def watch(blocks):
    """Lists that get, once a call, what each block's attention is given and what it reads from the values."""
    given, read = [], []
    for block in blocks:
        block.attn.register_forward_pre_hook(lambda module, inputs: given.append((module, inputs[0])))
        block.attn.proj.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    return given, read


@torch.no_grad()
def test_weights_times_values_are_what_a_layer_reads(line, make_vit, make_loud):
    """With all that an encoding does to queries, keys and scores; else the maps would be of another model."""
    if line == GATHERS_MORE:
        return
    vit = make_loud(make_vit(line, pool="class_token"))
    given, read = watch(vit.blocks)
    for weights, (attention, x), wanted in zip(
        attention_of_classifier(vit, images()), given, read, strict=True
    ):
        values = attention.projected(x)[2]
        torch.testing.assert_close((weights @ values).transpose(1, 2).flatten(2), wanted)


@torch.no_grad()
def test_levels_weigh_the_values_of_all_before_them(line, make_generator, make_tokenizer, make_loud):
    """The same of a generator, whose values come from a cache."""
    if line == GATHERS_MORE:
        return
    transformer, tokenizer = make_loud(make_generator(line)), make_tokenizer()
    tokens_BL = torch.randint(16, (2, 30), generator=torch.Generator().manual_seed(0))
    given, read = watch(transformer.blocks)
    found = attention_of_generator(transformer, tokenizer, tokens_BL, torch.tensor([0, 1]))
    layers = len(transformer.blocks)
    for layer in range(layers):
        values = torch.cat([attention.projected(x)[2] for attention, x in given[layer::layers]], dim=2)
        for of_level, wanted in zip(found, read[layer::layers], strict=True):
            weights = of_level[layer]
            made = weights @ values[:, :, : weights.shape[-1]]
            torch.testing.assert_close(made.transpose(1, 2).flatten(2), wanted)


@torch.no_grad()
@pytest.mark.parametrize("levels_before", [None, 1])
def test_attention_without_preference_is_even(levels_before, make_generator, make_tokenizer):
    """Queries of zeros weigh all keys alike: shares are those of the tokens, distances those of the cells."""
    transformer, tokenizer = make_generator("none", levels_before=levels_before), make_tokenizer()
    for block in transformer.blocks:
        block.attn.qkv.weight.zero_()
    tokens_BL = torch.zeros(2, 30, dtype=torch.long)
    found = by_level(
        transformer, attention_of_generator(transformer, tokenizer, tokens_BL, torch.zeros(2).long())
    )
    torch.testing.assert_close(found.mass_NHKK, found.even_mass_KK.expand_as(found.mass_NHKK))
    torch.testing.assert_close(
        found.distance_NHKK, found.even_distance_KK.expand_as(found.distance_NHKK), equal_nan=True
    )

    # By hand: two cells in four are as far as a half of the side or its diagonal; 1 and 4 tokens are seen.
    assert float(found.even_distance_KK[1, 1]) == pytest.approx((0 + 0.5 + 0.5 + 0.5**0.5) / 4)
    assert found.even_mass_KK[1].tolist() == pytest.approx([0.2, 0.8, 0, 0])
    assert found.even_mass_KK[2, 0] == (0 if levels_before else pytest.approx(1 / 14))


def test_rollout_is_the_product_of_half_attention_and_half_identity():
    """Two layers of two tokens, multiplied by hand; the last layer comes first in the product."""
    first = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    second = torch.tensor([[0.5, 0.5], [0.0, 1.0]])
    heads = torch.stack([second, second])[None]
    wanted = torch.tensor([[0.875, 0.125], [0.5, 0.5]])
    torch.testing.assert_close(rollout([first[None, None], heads])[0], wanted)


def test_nothing_comes_through_prompts_to_the_next_layer():
    """By hand: token 1 looks at token 2 in the first layer through a prompt that the second one replaces."""
    looks = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    layers = [looks[None, None], looks[None, None]]
    assert rollout(layers)[0].tolist() == [[0.25, 0, 0.75], [0.5, 0.25, 0.25], [0, 0, 1]]
    assert rollout(layers, prompts=1)[0].tolist() == [[0.5, 0, 0.5], [0.75, 0.25, 0], [0, 0, 1]]


@torch.no_grad()
@pytest.mark.parametrize("prompts", [0, 3])
def test_what_classes_are_read_from_looks_at_patches(prompts, make_vit, make_loud):
    """All that has no place is left out of maps: the class token's row, else the mean of the patches'."""
    for pool, registers in (("class_token", 2), ("mean", 1)):
        vit = make_loud(make_vit("rope", pool=pool, registers=registers, prompts=prompts))
        weights = attention_of_classifier(vit, images())[0]
        before = prompts + vit.num_prefix_tokens
        wanted = weights[:, :, before:, before:].mean(2)
        if pool == "class_token":
            wanted = weights[:, :, prompts, before:]
        assert torch.equal(as_read(vit, weights), wanted.unflatten(2, (4, 6)))
        assert distances(vit, [weights]).shape == (1, 4)


def test_attributions_are_maps_of_the_images(make_vit, make_loud):
    """Of a plain ViT without class token and prompts, of stages on their last map; no gradient is left."""
    pytest.importorskip("pytorch_grad_cam")
    stages = HierarchicalClassifier(
        (8, 12), num_classes=3, patch_size=2, dim=16, num_heads=2, hierarchy=["full(blocks=1)"] * 2
    )
    prompted = make_vit("learned", pool="class_token", prompts=2)
    for model in (make_vit("learned", pool="class_token"), prompted, stages.eval()):
        make_loud(model)
        maps = attributions(model, images())
        assert set(maps) == {"Grad-CAM", "EigenCAM"}
        for map_BHW in maps.values():
            assert map_BHW.shape == (2, 8, 12)
            assert 0 <= map_BHW.min() <= map_BHW.max() <= 1
        assert all(parameter.grad is None for parameter in model.parameters())


def test_attributions_look_at_tokens_and_not_at_what_one_branch_adds(make_loud):
    """With norms after the branches, a branch that adds nothing hides nothing of what classes rest on."""
    pytest.importorskip("pytorch_grad_cam")
    lines = ["full(blocks=1, norm=post)"] * 2
    stages = HierarchicalClassifier((8, 12), patch_size=2, dim=16, num_heads=2, hierarchy=lines)
    make_loud(stages.eval())
    with torch.no_grad():
        norm = stages.stages[-1].get_submodule("blocks")[-1].get_submodule("norm1")
        norm.weight.zero_()
        norm.bias.zero_()
    for map_BHW in attributions(stages, images()).values():
        assert map_BHW.flatten(1).std(1).min() > 0
