"""Scores that depend on content and displacement: `pape` and `irpe`."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from var_pe.encodings import PositionEncoding, build_encoding
from var_pe.models.attention import PositionContext, attend
from var_pe.models.initialisation import initialise
from var_pe.pyramid import Pyramid

GRID = Pyramid.square(4)
LADDER = Pyramid(((1, 1), (2, 3), (4, 6)))
LINES = ["pape", "pape(isotropic=true)", "irpe", "irpe(method=cross, on=both)"]


def built(line: str, pyramid: Pyramid = GRID) -> PositionEncoding:
    """For two heads of 8 in two layers, with parameters as large as after training."""
    encoding = build_encoding(line, dim=16, num_heads=2, depth=2, pyramid=pyramid)
    with torch.no_grad():
        for seed, parameter in enumerate(encoding.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    return encoding


def vectors(length: int, seed: int) -> Tensor:
    return torch.randn(2, 2, length, 8, generator=torch.Generator().manual_seed(seed))


def products(encoding: PositionEncoding, q_BHQD: Tensor, k_BHKD: Tensor, pyramid: Pyramid = GRID) -> Tensor:
    context = encoding.prepare(pyramid.positions())
    return encoding.products(q_BHQD, k_BHKD, context, context, 1).detach()


def displacement(query: int, key: int, side: int = 4) -> tuple[int, int]:
    return query // side - key // side, query % side - key % side


def test_a_score_is_a_sum_of_parabolas():
    """By hand, over all directions, which the code folds into one quadratic form."""
    encoding, q_BHQD = built("pape"), vectors(16, 1)
    found_BHQK = products(encoding, q_BHQD, vectors(16, 2))
    u_HP2, fall_HDP, lean_HDP = (p[1] for p in encoding.parameters())
    for query, key in [(0, 0), (5, 10), (3, 12), (15, 1)]:
        d_2 = -torch.tensor(displacement(query, key)).float()
        for head in range(2):
            q_D, along_P = q_BHQD[1, head, query], u_HP2[head] @ d_2
            fall_P, lean_P = F.softplus(q_D @ fall_HDP[head]), q_D @ lean_HDP[head]
            expected = (lean_P * along_P - fall_P * along_P**2).sum()
            torch.testing.assert_close(found_BHQK[1, head, query, key], expected, atol=1e-3, rtol=1e-4)


def test_turning_the_picture_changes_nothing_where_all_directions_are_one():
    """PaPE-RI; the general one leans to sides."""
    turned = torch.arange(16).view(4, 4).rot90().flatten()
    q_BHQD, k_BHKD = vectors(16, 1), vectors(16, 2)
    gaps = []
    for line in ("pape(isotropic=true)", "pape"):
        before_BHQK = products(built(line), q_BHQD, k_BHKD)
        after_BHQK = products(built(line), q_BHQD[:, :, turned], k_BHKD[:, :, turned])
        gaps.append((after_BHQK - before_BHQK[:, :, turned][..., turned]).abs().max().item())
    assert gaps[0] < 1e-5
    assert gaps[1] > 0.1


def test_a_parabola_falls_without_end():
    """Distance decay: whatever the content, the farthest lose where nothing leans."""
    row_K = products(
        built("pape(isotropic=true)", Pyramid(((1, 9),))), *[vectors(9, 1)] * 2, Pyramid(((1, 9),))
    )
    assert (row_K[:, :, 0].diff(dim=-1) < 0).all()


def bucket(t: float, last: int = 3, ratio: float = 1.9) -> int:
    """The public code's piecewise index, for one number."""
    if abs(t) <= ratio:
        return round(t)
    grown = ratio + math.log(abs(t) / ratio) / math.log(8) * ratio
    return int(math.copysign(min(last, round(grown)), t))


@pytest.mark.parametrize("on", ["keys", "queries", "both"])
@pytest.mark.parametrize("method", ["product", "cross", "euclidean"])
def test_queries_and_keys_meet_the_vector_of_their_displacement(method, on):
    """By hand; on a grid of 9, so that far buckets are wide."""
    pyramid = Pyramid.square(9)
    encoding = built(f"irpe(method={method}, on={on})", pyramid)
    q_BHQD, k_BHKD = vectors(81, 1), vectors(81, 2)
    found_BHQK = products(encoding, q_BHQD, k_BHKD, pyramid)
    for query, key in [(0, 0), (5, 44), (80, 2), (40, 13)]:
        dy, dx = displacement(query, key, 9)
        if method == "euclidean":
            rows = [bucket(math.hypot(dy, dx))]
        else:
            y, x = bucket(dy) + 3, bucket(dx) + 3
            rows = [7 * y + x] if method == "product" else [y, 7 + x]
        expected = torch.zeros(())
        for row in rows:
            if on != "queries":
                expected = expected + q_BHQD[0, 1, query] @ encoding.for_queries_NHBD[1, 1, row]
            if on != "keys":
                expected = expected + k_BHKD[0, 1, key] @ encoding.for_keys_NHBD[1, 1, row]
        torch.testing.assert_close(found_BHQK[0, 1, query, key], expected.detach(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", ["product", "cross", "euclidean"])
def test_a_query_gathers_the_vectors_of_displacements_by_the_weights_of_their_keys(method):
    """By hand, pair by pair; buckets only say in which order to add up."""
    encoding = built(f"irpe(method={method}, values=true)")
    weights_BHQK = (vectors(16, 1) @ vectors(16, 2).mT).softmax(-1)
    context = encoding.prepare(GRID.positions())
    found_BHQD = encoding.values(weights_BHQK, context, context, 1).detach()
    for query in (0, 6, 15):
        expected = torch.zeros(8)
        for key in range(16):
            dy, dx = displacement(query, key)
            if method == "euclidean":
                rows = [bucket(math.hypot(dy, dx))]
            else:
                y, x = bucket(dy) + 3, bucket(dx) + 3
                rows = [7 * y + x] if method == "product" else [y, 7 + x]
            for row in rows:
                expected = expected + weights_BHQK[1, 0, query, key] * encoding.for_values_NHBD[1, 0, row]
        torch.testing.assert_close(found_BHQD[1, 0, query], expected.detach(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("line", ["irpe(values=true)", "learned + irpe(on=both, values=true)"])
@pytest.mark.parametrize("prefix", [0, 2])
def test_what_is_gathered_is_added_to_attention_after_the_softmax(line, prefix):
    """Prefix tokens have no place: they get nothing, and what is paid to them brings nothing."""
    encoding = built(line)
    query = encoding.prepare(GRID.positions())
    context = PositionContext(encoding, query, query, prefix=prefix)
    q_BHLD, k_BHLD, v_BHLD = (vectors(prefix + 16, seed) for seed in (1, 2, 3))
    found_BLHD = attend(q_BHLD, k_BHLD, v_BHLD, context, 1, dropout=0.0, scale=0.5)

    added_BHQK = encoding.products(0.5 * q_BHLD[:, :, prefix:], k_BHLD[:, :, prefix:], query, query, 1)
    scores_BHLL = 0.5 * q_BHLD @ k_BHLD.mT + F.pad(added_BHQK, (prefix, 0, prefix, 0))
    weights_BHLL = scores_BHLL.softmax(-1)
    gathered = encoding.values(weights_BHLL[:, :, prefix:, prefix:], query, query, 1)
    expected = weights_BHLL @ v_BHLD + F.pad(gathered, (0, 0, prefix, 0))
    torch.testing.assert_close(found_BLHD.transpose(1, 2), expected, atol=1e-4, rtol=1e-4)


def test_before_anything_is_learned_nothing_is_added():
    encoding = build_encoding("irpe(on=both, values=true)", dim=16, num_heads=2, depth=2, pyramid=GRID)
    initialise(encoding, 0)
    assert not products(encoding, vectors(16, 1), vectors(16, 2)).any()
    context = encoding.prepare(GRID.positions())
    assert not encoding.values(torch.ones(1, 2, 16, 16), context, context, 0).any()


@pytest.mark.parametrize("line", LINES)
def test_a_cached_level_is_answered_as_in_the_full_pass(line):
    encoding, here = built(line, LADDER), LADDER.positions()
    q_BHQD, k_BHKD = vectors(31, 1), vectors(31, 2)
    full_BHLL = products(encoding, q_BHQD, k_BHKD, LADDER)
    for level, span in enumerate(LADDER.spans):
        query, key = encoding.prepare(here.only(level, level + 1)), encoding.prepare(here.only(0, level + 1))
        alone = encoding.products(q_BHQD[:, :, span], k_BHKD[:, :, : span.stop], query, key, 1).detach()
        torch.testing.assert_close(alone, full_BHLL[:, :, span, : span.stop], atol=1e-4, rtol=1e-6)


@pytest.mark.parametrize("line", LINES)
def test_half_precision_around_it_changes_no_score(line):
    """Squares of places in 16 bits would be off by whole scores."""
    encoding, q_BHQD, k_BHKD = built(line), vectors(16, 1), vectors(16, 2)
    with torch.autocast("cpu", torch.bfloat16):
        inside = products(encoding, q_BHQD, k_BHKD)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, products(encoding, q_BHQD, k_BHKD))


def test_products_and_biases_add_up():
    """Joined with +, and with a bias for all images: the mask that attention gets is their sum."""
    both, q_BHQD, k_BHKD = built("pape + alibi + irpe", GRID), vectors(16, 1), vectors(16, 2)
    context = both.prepare(GRID.positions())
    mask = PositionContext(both, context, context).mask(1, torch.float32, compared=(q_BHQD, k_BHKD))
    expected = sum(
        part.products(q_BHQD, k_BHKD, own, own, 1)
        for part, own in zip(both.parts, context, strict=True)
        if part.uses("products")
    )
    torch.testing.assert_close(mask, expected + both.bias(context, context, 1))
