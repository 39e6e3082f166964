"""Attention's promises, and those it makes to encodings that turn, bias or refine."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from var_pe.encodings import PositionEncoding, build_encoding
from var_pe.encodings.machinery.compose import Composed
from var_pe.models.attention import PositionContext
from var_pe.models.layers import MLP, Attention, LevelCache
from var_pe.pyramid import Pyramid

PYRAMID = Pyramid(((1, 1), (2, 3), (4, 6)))


class Turn(PositionEncoding):
    """A toy rotary code: the pairs of a head's channels turn with the position."""

    def prepare(self, positions):
        return 2 * positions.yx_L2.sum(1)

    def rotate(self, x_BHLD, context, layer):
        a, b = x_BHLD.chunk(2, dim=-1)
        cos, sin = context.cos()[:, None], context.sin()[:, None]
        return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).type_as(x_BHLD)


class Far(PositionEncoding):
    """A toy bias: the further a key is away, the less it counts, for every head at another rate."""

    def bias(self, query, key, layer):
        distance_QK = (query.yx_L2[:, None] - key.yx_L2).abs().sum(-1)
        return -(torch.arange(4.0)[:, None, None] + layer) * distance_QK


class Blur(PositionEncoding):
    """A toy refinement: every token takes in its level's mean, as a convolution per level would."""

    def refine(self, x_BLC, context, layer):
        levels = x_BLC.split([h * w for h, w in context.grids_here], dim=1)
        return torch.cat([level + 0.5 * level.mean(1, keepdim=True) for level in levels], dim=1)


TOYS = [Turn, Far, Blur, lambda: Composed([Turn(), Far(), Blur(), Far()])]
TOY_NAMES = ["rotate", "bias", "refine", "all"]


def position_context_of(
    encoding: PositionEncoding, visible_QK: Tensor | None = None, prefix: int = 0
) -> PositionContext:
    context = encoding.prepare(PYRAMID.positions())
    return PositionContext(encoding, context, context, visible_QK, prefix)


@pytest.fixture
def attention(make_loud) -> Attention:
    return make_loud(Attention(16, 4, qk_norm=True, dropout=0.0))


def plainly(attention: Attention, x_LC: Tensor, visible_LL: Tensor) -> Tensor:
    """Cosine attention of one image, query by query and head by head."""
    q, k, v = (x_LC @ w.T for w in attention.qkv.weight.chunk(3))
    q, v, out = q + attention.q_bias, v + attention.v_bias, torch.zeros_like(x_LC)
    for head in range(4):
        channels = slice(4 * head, 4 * head + 4)
        temperature = attention.log_scale_H[head].exp().clamp(max=100)
        for i in range(len(x_LC)):
            cosine = F.cosine_similarity(q[i, channels], k[:, channels], dim=-1)
            share = (temperature * cosine).masked_fill(~visible_LL[i], -math.inf).softmax(0)
            out[i, channels] = share @ v[:, channels]
    return attention.proj(out)


@pytest.mark.parametrize("training", [True, False])
def test_attention_equals_a_plain_loop(attention, training):
    """In both of torch's kernels: the one that trains and the one that draws."""
    visible_LL = PYRAMID.positions().level_L[:, None] >= PYRAMID.positions().level_L
    x_BLC = torch.randn(2, PYRAMID.num_tokens, 16, generator=torch.Generator().manual_seed(0))
    with torch.set_grad_enabled(training):
        y_BLC = attention(x_BLC, position_context_of(PositionEncoding(), visible_LL), 0)
    for x_LC, y_LC in zip(x_BLC, y_BLC, strict=True):
        torch.testing.assert_close(y_LC, plainly(attention, x_LC, visible_LL), atol=1e-5, rtol=1e-5)


def test_the_learned_temperature_ends_at_a_hundred(attention):
    """Swin v2's limit: beyond it a score's rounding is larger than its differences."""
    x_BLC = torch.randn(1, PYRAMID.num_tokens, 16)
    outputs = []
    for log_scale in (math.log(100), 7.0):
        torch.nn.init.constant_(attention.log_scale_H, log_scale)
        outputs.append(attention(x_BLC, position_context_of(PositionEncoding()), 0))
    assert torch.equal(*outputs)


@torch.no_grad()
def test_feed_forward_uses_the_tanh_gelu():
    mlp = MLP(8, ratio=4.0, dropout=0.0, gelu="tanh")
    x = torch.randn(3, 8)
    hidden = mlp.fc1(x)
    gelu = 0.5 * hidden * (1 + torch.tanh((2 / math.pi) ** 0.5 * (hidden + 0.044715 * hidden**3)))
    torch.testing.assert_close(mlp(x), mlp.fc2(gelu))
    assert mlp.fc1.out_features == 32


def test_the_cache_returns_what_was_stored():
    cache = LevelCache(2, batch=3, heads=4, length=7, width=5, like=torch.empty(0))
    first, second = (torch.randn(2, 2, 3, 4, length, 5) for length in (1, 6))
    for level_N2BHlD in (first, second):
        cache.open(level_N2BHlD.shape[4])
        kept = [layer.append(*own) for layer, own in zip(cache.layers, level_N2BHlD, strict=True)]
    for layer in range(2):
        for stored, pair in zip(kept[layer], (0, 1), strict=True):
            assert torch.equal(stored, torch.cat([first[layer, pair], second[layer, pair]], dim=2))


# encodings that do more than add to tokens


@torch.no_grad()
@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("toy", TOYS, ids=TOY_NAMES)
def test_prefix_tokens_have_no_position(toy, prefix):
    """Class token and registers are neither turned nor biased nor refined, bit for bit."""
    position_context = position_context_of(toy(), prefix=prefix)
    length = prefix + PYRAMID.num_tokens
    x_BHLD, x_BLC = torch.randn(2, 4, length, 8), torch.randn(2, length, 32)
    assert torch.equal(position_context.rotate(x_BHLD, 0)[:, :, :prefix], x_BHLD[:, :, :prefix])
    assert torch.equal(position_context.refine(x_BLC, 0)[:, :prefix], x_BLC[:, :prefix])
    mask = position_context.mask(1, torch.float32)
    if mask is not None:
        assert mask.shape == (4, length, length)
        assert not mask[:, :prefix].any()
        assert not mask[:, :, :prefix].any()
        context = PYRAMID.positions()
        times = 2 if isinstance(position_context.encoding, Composed) else 1
        assert torch.equal(mask[:, prefix:, prefix:], times * Far().bias(context, context, 1))
    changed = {"rotate": not torch.equal(position_context.rotate(x_BHLD, 0), x_BHLD)}
    changed |= {"refine": not torch.equal(position_context.refine(x_BLC, 0), x_BLC), "bias": mask is not None}
    assert changed == {hook: position_context.encoding.uses(hook) for hook in changed}


def test_a_bias_never_opens_what_is_hidden():
    """Level-causal attention stays so whatever an encoding adds to the scores."""
    level_L = PYRAMID.positions().level_L
    visible_LL = level_L[:, None] >= level_L
    mask_HLL = position_context_of(Far(), visible_LL).mask(0, torch.bfloat16)
    assert mask_HLL.dtype == torch.bfloat16
    assert torch.equal(mask_HLL == torch.finfo(torch.bfloat16).min, (~visible_LL).expand(4, -1, -1))


@torch.no_grad()
@pytest.mark.parametrize("toy", TOYS, ids=TOY_NAMES)
def test_the_generator_asks_toys_the_same_in_full_and_level_by_level(toy, make_generator, make_loud):
    """What any encoding to come relies on: the cache holds turned keys, biases see all keys so far."""
    model = make_loud(make_generator("none", ((1, 1), (2, 3), (4, 6))))
    labels_B, inputs_BLZ = torch.tensor([0, 3]), torch.randn(2, 30, 4)
    without_BLV = model(labels_B, inputs_BLZ)
    model.position_encoding = toy()
    full_BLV = model(labels_B, inputs_BLZ)
    assert not torch.allclose(full_BLV, without_BLV, atol=1e-2)
    positions, class_BC = model.pyramid.positions(), model.class_embed(labels_B)
    x_BlC = model.first_level(class_BC, positions)
    cache = model.new_cache(x_BlC, model.pyramid)
    for level, span in enumerate(model.pyramid.spans):
        if level:
            x_BlC = model.embed_inputs(inputs_BLZ[:, span.start - 1 : span.stop - 1])
        level_BlV = model.level_logits(x_BlC, class_BC, positions, level, cache)
        torch.testing.assert_close(level_BlV, full_BLV[:, span], atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("toy", [Turn, Far], ids=["rotate", "bias"])
def test_relative_toys_do_not_care_where_the_image_starts(toy, attention):
    """Queries and keys are both turned: with one of them, moving all tokens would change the scores."""
    encoding, positions = toy(), PYRAMID.positions()
    moved = type(positions)(
        positions.cell_L2, positions.level_L, positions.yx_L2 + 0.25, positions.grids, positions.levels
    )
    x_BLC = torch.randn(2, PYRAMID.num_tokens, 16)
    here, there = (
        attention(x_BLC, PositionContext(encoding, context, context), 0)
        for context in (encoding.prepare(positions), encoding.prepare(moved))
    )
    torch.testing.assert_close(here, there, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(here, attention(x_BLC, position_context_of(PositionEncoding()), 0), atol=1e-3)


@torch.no_grad()
def test_attention_computes_in_float64_where_it_is_given_float64():
    """To check gradients against differences, or a low precision against a high one."""
    attention = Attention(16, 2, qk_norm=True, dropout=0.0).double()
    x_BLC = torch.randn(2, 5, 16, dtype=torch.float64)
    row = Pyramid.of([(1, 5)])
    encoding = build_encoding("rope", dim=16, num_heads=2, depth=1, pyramid=row)
    context = encoding.prepare(row.positions())
    position_context = PositionContext(encoding, context, context)
    y_BLC = attention(x_BLC, position_context, 0)
    assert y_BLC.dtype == torch.float64
    torch.testing.assert_close(y_BLC.float(), attention.float()(x_BLC.float(), position_context, 0))
