"""What every encoding owes the model around it: copies, types, files, one graph, and hands off prefix tokens.

Saved folders and bf16 autocast are in test_generator.py and test_vit.py, for every encoding as well.
"""

import copy
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from var_pe.encodings import PositionEncoding, build_encoding
from var_pe.models.attention import PositionContext, all_levels, attend
from var_pe.models.initialisation import initialise
from var_pe.models.layers import Attention
from var_pe.pyramid import Pyramid

LADDER = Pyramid(((1, 1), (2, 3), (4, 6)))
KINDS = ["generator", "vit"]
EVERYTHING = "learned + rope(shift=0.1) + relative_bias + local(radius=2) + peg"  # every hook at once


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def make(make_generator, make_vit, make_loud):
    """A loud model of a kind under a line, and what it is called with."""

    def call(kind: str, line: str, **options) -> tuple[nn.Module, tuple[Tensor, ...]]:
        if kind == "generator":
            return make_loud(make_generator(line, **options)), (torch.tensor([0, 1]), random(2, 29, 4))
        vit = make_loud(make_vit(line, pool="class_token", registers=1, **options))
        return vit, (random(2, 3, 8, 12),)

    return call


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_state_dict_says_all(kind, line, make):
    """Another model of another seed becomes the same: nothing that matters lives outside."""
    (model, given), (other, _) = make(kind, line), make(kind, line, seed=3)
    for name, parameter in other.named_parameters():
        parameter.copy_(random(*parameter.shape, seed=len(name)))
    other(*given)  # whatever it remembers of its own weights must not survive
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(*given), model(*given))


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_built_without_memory_and_filled_it_is_the_same(kind, line, make):
    """As loaders do: what is no parameter and no stored buffer would stay on the meta device."""
    model, given = make(kind, line)
    with torch.device("meta"):
        empty = type(model)(**dict(model.config))
    assert all(p.is_meta for p in empty.parameters())
    empty.load_state_dict(model.state_dict(), assign=True)
    left = [name for name, t in [*empty.named_parameters(), *empty.named_buffers()] if t.is_meta]
    assert not left
    assert torch.equal(empty.eval()(*given), model(*given))


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_equal_and_its_own(kind, line, make):
    """The moving average of the weights is a copy, made after the model has been used."""
    model, given = make(kind, line)
    before = model(*given)
    copied = copy.deepcopy(model)
    assert torch.equal(copied(*given), before)
    for parameter in copied.position_encoding.parameters():
        parameter.add_(1)
    assert torch.equal(model(*given), before)
    if list(copied.position_encoding.parameters()):
        assert not torch.equal(copied(*given), before)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_half_a_model_is_nearly_the_same(kind, line, make):
    """Weights follow `.to`; whole numbers, such as stored grids, stay whole, and codes are float32 inside."""
    model, given = make(kind, line)
    before = model(*given)
    whole = {name for name, t in model.state_dict().items() if not t.is_floating_point()}
    model.to(torch.bfloat16)
    after = model(*(t.bfloat16() if t.is_floating_point() else t for t in given))
    assert (after - before).abs().mean() < 0.1 * before.std()
    assert whole == {name for name, t in model.state_dict().items() if not t.is_floating_point()}
    assert {t.dtype for name, t in model.state_dict().items() if name not in whole} == {torch.bfloat16}


@pytest.mark.parametrize("kind", KINDS)
def test_training_and_back_leaves_no_trace(kind, line, make):
    """Evaluation in the midst of training: the same answers as long as the weights are the same."""
    model, given = make(kind, line)
    with torch.no_grad():
        before = model(*given)
    model.train()(*given).square().sum().backward()
    with torch.no_grad():
        assert torch.equal(model.eval()(*given), before)
        for parameter in model.parameters():
            parameter.sub_(0.01 * parameter.grad.sign())
        after, fresh = model(*given), copy.deepcopy(model)(*given)
    assert not torch.equal(after, before)
    assert torch.equal(after, fresh)  # nothing remembered from the old weights


@pytest.mark.parametrize("prefix", [1, 3])
def test_prefix_tokens_are_neither_turned_nor_biased_nor_refined(line, prefix):
    """Class token and registers have no position: bit for bit, under every hook."""
    encoding = build_encoding(line, dim=32, num_heads=4, depth=2, pyramid=LADDER)
    initialise(encoding, 0)
    context = encoding.prepare(LADDER.positions())
    position_context = PositionContext(encoding, context, context, prefix=prefix)
    length = prefix + LADDER.num_tokens
    x_BHLD, x_BLC = random(2, 4, length, 8), random(2, length, 32)
    assert torch.equal(position_context.rotate(x_BHLD, 0)[:, :, :prefix], x_BHLD[:, :, :prefix])
    for mapped_BHLD in position_context.remap(x_BHLD, x_BHLD, 0):
        assert torch.equal(mapped_BHLD[:, :, :prefix, :8], x_BHLD[:, :, :prefix])
        assert not mapped_BHLD[:, :, :prefix, 8:].any()
    assert torch.equal(position_context.refine(x_BLC, 0)[:, :prefix], x_BLC[:, :prefix])
    if (mask := position_context.mask(0, torch.float32, compared=(x_BHLD, x_BHLD))) is not None:
        assert mask.shape[-2:] == (length, length)
        assert not mask[..., :prefix, :].any()
        assert not mask[..., :prefix].any()


@torch.no_grad()
def test_only_an_encoding_makes_attention_mind_the_order(line):
    """Shuffled tokens give shuffled results without one, and with one they do not."""
    encoding = build_encoding(line, dim=32, num_heads=4, depth=2, pyramid=LADDER)
    attention = Attention(32, 4, qk_norm=True, dropout=0.0)
    initialise(encoding, 0)
    initialise(attention, 0)
    for parameter in encoding.parameters():  # small starts would pass for no encoding at all
        parameter.copy_(random(*parameter.shape, seed=1))
    order_L = torch.randperm(LADDER.num_tokens, generator=torch.Generator().manual_seed(0))
    context, x_BLC = encoding.prepare(LADDER.positions()), random(2, LADDER.num_tokens, 32)

    def once(x_BLC: Tensor) -> Tensor:
        position_context = PositionContext(encoding, context, context)
        return position_context.refine(attention(encoding.embed(x_BLC, context), position_context, 0), 0)

    gap = (once(x_BLC[:, order_L]) - once(x_BLC)[:, order_L]).abs().max()
    assert gap < 1e-5 if line == "none" else gap > 1e-3


def floats_in(context: Any) -> list[Tensor]:
    """The floating-point tensors of a context, which may be one, or several, or a dataclass of some."""
    if isinstance(context, Tensor):
        return [context] if context.is_floating_point() else []
    if is_dataclass(context):
        context = [getattr(context, field.name) for field in fields(context)]
    return [x for part in context for x in floats_in(part)] if isinstance(context, list | tuple) else []


@torch.no_grad()
def test_codes_angles_and_biases_are_exact_under_autocast(line):
    """In bf16, centres beyond a few cells coincide: all that an encoding knows of positions is float32."""
    encoding = build_encoding(line, dim=32, num_heads=4, depth=2, pyramid=LADDER)
    initialise(encoding, 0)

    def known() -> list[Tensor]:
        context = encoding.prepare(LADDER.positions())
        bias = [encoding.bias(context, context, 1)] if encoding.uses("bias") else []
        if encoding.uses("products"):
            x_BHLD = random(2, 4, LADDER.num_tokens, 8)
            bias.append(encoding.products(x_BHLD, x_BHLD, context, context, 1))
        return floats_in(context) + bias

    outside = known()
    with torch.autocast("cpu", torch.bfloat16):
        inside = known()
    assert inside
    assert all(x.dtype == torch.float32 for x in inside)
    assert all(torch.equal(x, y) for x, y in zip(inside, outside, strict=True))


def check_compiled(model: nn.Module, given: tuple[Tensor, ...]) -> None:
    """One graph forward and one backward, with the model's own results and gradients."""
    torch._dynamo.reset()
    found = []
    for run in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        model.zero_grad()
        result = run(*given)
        result.square().sum().backward()
        found.append([result, *(parameter.grad for parameter in model.parameters())])
    torch.testing.assert_close(*found)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_encoding_compiles_as_one_graph(kind, line, make):
    """Nothing is read back from tensors while a whole model runs and learns."""
    check_compiled(*make(kind, line, depth=1))


@pytest.mark.slow
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_all_hooks_at_once_compile_as_one_graph(kind, bf16, make):
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        check_compiled(*make(kind, EVERYTHING))


def test_who_asks_for_weights_alone_costs_the_flash_kernel_and_knows_each_calls_tokens():
    class Gathers(PositionEncoding):
        def values(self, weights_BHQK, query, key, layer):
            return weights_BHQK @ key.yx_L2.sum(-1)[:, None].expand(-1, 4)

    encoding, whole = Gathers(), LADDER.positions()
    assert encoding.adds_to_scores
    q_BHLD, k_BHLD, v_BHLD = (random(1, 2, LADDER.num_tokens, 4, seed=seed) for seed in range(3))
    context = all_levels(encoding, whole, "slices", coarse=0)
    found_BLHD = attend(q_BHLD, k_BHLD, v_BHLD, context, 0, dropout=0.0, scale=1.0)
    for level, span in enumerate(LADDER.spans):
        seen = whole.only(0, level + 1)
        weights_BHQK = (q_BHLD[:, :, span] @ k_BHLD[:, :, : span.stop].mT).softmax(-1)
        expected = weights_BHQK @ v_BHLD[:, :, : span.stop] + encoding.values(weights_BHQK, seen, seen, 0)
        torch.testing.assert_close(found_BLHD[:, span].transpose(1, 2), expected)
