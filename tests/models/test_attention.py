"""Attention by parts: exactly the masked formula, in calls that kernels without a mask can serve."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from var_pe.encodings import build_encoding
from var_pe.models.attention import all_levels, attend, coarse_levels, level_blocks
from var_pe.models.initialisation import initialise
from var_pe.models.kernels import BY_PARTS, TABLE, kernel_for, served_by
from var_pe.models.products import AT_A_TIME, _anew_backward, by_products, by_products_anew
from var_pe.pyramid import Pyramid

# VAR's own levels for images of 256, 512 and 1024 pixels
LADDERS = {
    680: (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
    2240: (1, 2, 3, 4, 6, 9, 13, 18, 24, 32),
    9451: (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64),
}
PYRAMIDS = [
    ((1, 1), (2, 3), (4, 6)),
    (1, 2, 3, 4),
    ((2, 2), (1, 4), (3, 5)),
    ((3, 4), (5, 5)),
    ((3, 4),),
    (2, 2, 2, 2, 2, 2),
]
EVERYTHING = "learned + rope + relative_bias + alibi + local(radius=2) + peg"


def passed(model, given: tuple[Tensor, ...]) -> list[Tensor]:
    """A copy's result for some inputs, and the gradients of all its parameters."""
    model = copy.deepcopy(model).train()
    result = model(*given)
    (result * torch.linspace(-1, 1, result.numel(), dtype=result.dtype).view_as(result)).sum().backward()
    return [result.detach(), *(parameter.grad for parameter in model.parameters())]


def dense(
    q_BHLD: Tensor,
    k_BHLD: Tensor,
    v_BHLD: Tensor,
    bias: Tensor | float,
    level_L: Tensor,
    before: int | None = None,
) -> Tensor:
    """The formula, with the mask of all pairs of tokens: (B, L, H, D)."""
    scores_BHLL = q_BHLD @ k_BHLD.transpose(2, 3) + bias
    hidden_LL = level_L[:, None] < level_L
    if before is not None:
        hidden_LL = hidden_LL | (level_L < level_L[:, None] - before)
    share_BHLL = scores_BHLL.masked_fill(hidden_LL, -torch.inf).softmax(-1)
    return (share_BHLL @ v_BHLD).transpose(1, 2)


@pytest.mark.parametrize(
    ("kernel", "before"),
    [(kernel, None) for kernel in ("plain", "products", "fused", "slices")]
    + [("products", 1), ("fused", 1), ("slices", 1)],
)
@pytest.mark.parametrize("levels", PYRAMIDS, ids=str)
@pytest.mark.parametrize("line", ["none", EVERYTHING])
def test_every_kernel_is_the_masked_formula(line, levels, kernel, before):
    """Result and gradients of queries, keys, values and the encoding, in float64."""
    pyramid = Pyramid.of(levels)
    encoding = build_encoding(line, dim=32, num_heads=4, depth=2, pyramid=pyramid)
    initialise(encoding, 0)
    generator = torch.Generator().manual_seed(0)
    qkv_3BHLD = torch.randn(3, 2, 4, pyramid.num_tokens, 8, generator=generator, dtype=torch.float64)
    weight_BLHD = torch.randn(2, pyramid.num_tokens, 4, 8, generator=generator, dtype=torch.float64)

    found = []
    for by_parts in (True, False):
        encoding.zero_grad()
        given_3BHLD = qkv_3BHLD.clone().requires_grad_()
        if by_parts:
            context = all_levels(encoding, pyramid.positions(), kernel, before=before)
            with served_by(kernel):
                y_BLHD = attend(*given_3BHLD, context, 1, dropout=0.0, scale=1.0)
        else:
            context = encoding.prepare(pyramid.positions())
            bias = encoding.bias(context, context, 1)
            bias = 0.0 if bias is None else bias
            y_BLHD = dense(*given_3BHLD, bias, pyramid.positions().level_L, before)
        (y_BLHD * weight_BLHD).sum().backward()
        of_scores = [p.grad for p in encoding.parameters() if p.grad is not None]
        found.append([y_BLHD.detach(), given_3BHLD.grad, *of_scores])

    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[0][:2], found[1][:2], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("levels", PYRAMIDS[:2], ids=str)
def test_training_in_slices_is_training_under_the_mask(line, levels, make_generator, make_loud):
    """Logits and the gradient of every weight, for every encoding, in float64."""
    model = make_loud(make_generator(line, levels)).double()
    pyramid = model.pyramid
    inputs_BLZ = torch.randn(2, pyramid.num_tokens - pyramid.spans[0].stop, 4, dtype=torch.float64)
    results = []
    for kernel in ("plain", "products", "slices"):
        with served_by(kernel):
            results.append(passed(model, (torch.tensor([0, 3]), inputs_BLZ)))
    for anew in results[1:]:
        torch.testing.assert_close(anew, results[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("prefix", [{}, {"pool": "class_token", "registers": 2}], ids=["patches", "prefix"])
def test_a_vit_whose_scores_are_computed_anew_learns_the_same(line, prefix, make_vit, make_loud):
    """One level is one call; class token and registers have no bias, in the second computation either."""
    model = make_loud(make_vit(line, **prefix)).double()
    images_BCHW = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    results = []
    for kernel in ("plain", "products", "slices"):
        with served_by(kernel):
            results.append(passed(model, (images_BCHW,)))
    for anew in results[1:]:
        torch.testing.assert_close(anew, results[0], atol=1e-5, rtol=1e-4)


def test_no_mask_or_bias_of_all_pairs_is_made(monkeypatch):
    """What attention is handed at VAR's sizes: short heads under a mask, and for the rest none at all."""
    calls = []

    def note(q, k, v, attn_mask=None, **options):
        calls.append((q.shape[2], k.shape[2], None if attn_mask is None else tuple(attn_mask.shape)))
        return torch.zeros_like(q)

    monkeypatch.setattr(F, "scaled_dot_product_attention", note)
    for length, sides in LADDERS.items():
        pyramid = Pyramid.square(*sides)
        encoding = build_encoding("none", dim=8, num_heads=1, depth=1, pyramid=pyramid)
        context = all_levels(encoding, pyramid.positions("meta"), "slices")
        x_BHLD = torch.zeros(1, 1, length, 8, device="meta")
        with served_by("slices"):
            attend(x_BHLD, x_BHLD, x_BHLD, context, 0, dropout=0.0, scale=1.0)
    assert calls == [
        *[(155, 155, (155, 155)), (100, 255, None), (169, 424, None), (256, 680, None)],
        *[(316, 316, (316, 316)), (324, 640, None), (576, 1216, None), (1024, 2240, None)],
        *[(1755, 1755, (1755, 1755)), (1296, 3051, None), (2304, 5355, None), (4096, 9451, None)],
    ]


@pytest.mark.parametrize(
    ("tokens_K", "coarse"),
    [
        ([12], 0),
        ([1, 4], 1),
        ([4, 4, 4], 0),
        ([4] * 8, 2),
        ([1, 4, 9, 16], 2),
        ([n * n for n in LADDERS[680]], 7),
    ],
)
def test_a_quarter_of_the_tokens_at_most_shares_the_masked_call(tokens_K, coarse):
    assert coarse_levels(tokens_K) == coarse


@pytest.mark.parametrize(
    ("device", "dtype", "length", "grad", "bias", "kernel"),
    [
        ("cpu", torch.bfloat16, 30, True, False, "plain"),
        ("cpu", torch.bfloat16, 130, True, False, "plain"),
        ("cpu", torch.bfloat16, 680, True, False, "products"),
        ("cpu", torch.float32, 30, True, False, "plain"),
        ("cpu", torch.float32, 130, True, True, "plain"),
        ("cpu", torch.float32, 130, True, False, "fused"),
        ("cpu", torch.float32, 2240, True, True, "slices"),
        ("cpu", torch.float64, 680, False, False, "slices"),
        ("cuda", torch.bfloat16, 680, True, False, "fused"),
        ("cuda", torch.bfloat16, 2240, True, False, "slices"),
    ],
)
def test_which_kernel_serves_what(device, dtype, length, grad, bias, kernel):
    """The rule that docs/method.md states."""
    assert kernel_for(device, dtype, length, length, grad, bias) == kernel


def test_every_kind_of_call_has_a_kernel():
    """A table with a gap would stop a training at its first step; not every kernel serves everywhere."""
    for device in ("cpu", "cuda", "mps"):
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            for grad in (False, True):
                for bias in (False, True):
                    assert kernel_for(device, dtype, 1, 10**5, grad, bias) in BY_PARTS
    for name, served in TABLE.items():
        assert served.beyond != "flex" or not (name.startswith("cpu") or name.endswith("bias"))


@torch.no_grad()
@pytest.mark.parametrize("levels", PYRAMIDS, ids=str)
def test_flex_attention_sees_what_the_mask_shows(levels):
    """Its block mask comes from the levels; here it is not compiled."""
    pyramid = Pyramid.of(levels)
    q, k, v = torch.randn(3, 2, 4, pyramid.num_tokens, 8)
    y_BHLD = flex_attention(q, k, v, block_mask=level_blocks(pyramid.grids, q.device), scale=1.0)
    expected_BLHD = dense(q, k, v, 0.0, pyramid.positions().level_L)
    torch.testing.assert_close(y_BHLD.transpose(1, 2), expected_BLHD, atol=1e-5, rtol=0)


@pytest.mark.slow
@torch.no_grad()
def test_a_model_under_flex_attention_gives_the_same(make_generator, make_loud):
    """Compiled, but for dropout, which it lacks and the slices do instead."""
    model = make_loud(make_generator("rope"))
    given = (torch.tensor([0, 3]), torch.randn(2, 29, 4))
    expected_BLV = model(*given)
    with served_by("flex"):
        torch.testing.assert_close(model(*given), expected_BLV, atol=1e-5, rtol=0)
        for block in model.blocks:
            block.attn.dropout = 0.5
        assert not torch.allclose(model.train()(*given), expected_BLV, atol=1e-2)


@pytest.mark.parametrize("added", ["one for all", "one for each head"])
def test_products_of_many_heads_are_those_of_each(added):
    """More heads than are worked on at a time; one query may look nowhere, and gets numbers all the same."""
    heads, length = 2 + AT_A_TIME // 150**2, 150
    generator = torch.Generator().manual_seed(0)
    qkvw_4BHLD = torch.randn(4, 2, heads, length, 4, generator=generator, dtype=torch.float64)
    visible_LL = torch.rand(length, length, generator=generator) < 0.5
    visible_LL[3] = False
    mask = visible_LL
    if added == "one for each head":
        mask = torch.randn(heads, length, length, generator=generator, dtype=torch.float64)
        mask.masked_fill_(~visible_LL, torch.finfo(torch.float64).min).requires_grad_()

    found = []
    for attention in (by_products_anew, lambda *given: by_products(*given)[0]):
        qkv_3BHLD = qkvw_4BHLD[:3].clone().requires_grad_()
        y_BHLD = attention(*qkv_3BHLD, mask, 0.7)
        (y_BHLD * qkvw_4BHLD[3]).sum().backward()
        found.append((y_BHLD.detach(), qkv_3BHLD.grad, mask.grad))
        mask.grad = None
    assert found[0][0].isfinite().all()
    assert (found[0][2] is not None) == mask.requires_grad
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("shape", [(1, 6, 6), (2, 6, 6)])
def test_what_is_added_to_products_learns(shape):
    """Of all images, and of all heads if these share it."""
    added = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    qkv_3BHLD = torch.randn(3, 3, 2, 6, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda added: by_products_anew(*qkv_3BHLD, added, 0.7), (added,))


def test_a_compiled_graph_knows_how_gradients_of_products_lie():
    """Queries, keys and values of one image are slices of one tensor; what is computed of them is not."""
    qkv_BL3HD = torch.randn(1, 6, 3, 2, 4, requires_grad=True)
    q_BHLD, k_BHLD, v_BHLD = (x_BLHD.transpose(1, 2) for x_BLHD in qkv_BL3HD.unbind(2))

    def attention(q_BHLD: Tensor, k_BHLD: Tensor, v_BHLD: Tensor) -> Tensor:
        return by_products_anew(q_BHLD, k_BHLD, v_BHLD, None, 0.7)

    compiled = torch.compile(attention, backend="aot_eager")
    found = []
    for way in (attention, compiled):
        y_BHLD = way(q_BHLD, k_BHLD, v_BHLD)
        found.append(torch.autograd.grad(y_BHLD.square().sum(), qkv_BL3HD))
    torch.testing.assert_close(*found)
    qkv = [x_BHLD.detach().flatten(0, 1) for x_BHLD in (q_BHLD, k_BHLD, v_BHLD)]
    for added in ((None, False), (torch.randn(6, 6, 2).permute(2, 0, 1), True)):
        given = (torch.randn(2, 6, 4), *qkv, added[0], 0.7, added[1])
        torch.library.opcheck(_anew_backward, given, test_utils=("test_schema", "test_faketensor"))


def kept(make_generator, line: str, sides: tuple[int, ...], depth: int) -> int:
    """Bytes that autograd keeps of a forward pass, each stretch of memory once."""
    model = make_generator(line, sides, depth=depth, dim=16, num_heads=2).train()
    inputs_BLZ = torch.randn(1, model.pyramid.num_tokens - 1, 4)
    stretches = {}

    def note(x: Tensor) -> Tensor:
        stretches[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        logits_BLV = model(torch.tensor([0]), inputs_BLZ)
    assert logits_BLV.requires_grad
    return sum(stretches.values())


@pytest.mark.parametrize("kernel", ["slices", "products"])
@pytest.mark.parametrize("line", ["none", "relative_bias", "alibi + local"])
def test_a_block_keeps_memory_that_grows_with_the_tokens(line, kernel, make_generator):
    """At most 3.3 times for 3.3 times the tokens; with scores of all pairs it would be 10.9 times."""
    found = {}
    for length in (680, 2240):
        with served_by(kernel):
            of_two = kept(make_generator, line, LADDERS[length], depth=2)
            found[length] = kept(make_generator, line, LADDERS[length], depth=3) - of_two
    assert found[2240] / found[680] < 3.6


def test_dropout_in_attention_drops_under_every_kernel(make_generator, make_loud):
    """The kernels that cannot are replaced; with it, two passes differ."""
    model = make_loud(make_generator("alibi", dropout=0.5)).train()
    given = (torch.tensor([0, 3]), torch.randn(2, 29, 4))
    for kernel in ("plain", "products", "fused", "slices", "flex"):
        with served_by(kernel):
            first, second = model(*given), model(*given)
            second.sum().backward()
        assert not torch.equal(first, second)
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
