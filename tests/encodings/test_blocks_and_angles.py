"""`liere`, which turns blocks of channels, and `pope`: lengths are content and angles positions."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from var_pe.encodings import PositionEncoding, build_encoding
from var_pe.encodings.machinery.orthogonal import exponential, skew
from var_pe.models.attention import PositionContext
from var_pe.models.initialisation import initialise
from var_pe.models.layers import Attention
from var_pe.pyramid import Pyramid

GRID = Pyramid(((4, 5),))
HEADS, WIDTH = 2, 16
COMMUTING = "liere(commuting=true)"


def built(line: str, noise: float = 0.0) -> PositionEncoding:
    """For two heads of 16, moved off their start by some noise."""
    encoding = build_encoding(line, dim=HEADS * WIDTH, num_heads=HEADS, depth=2, pyramid=GRID)
    initialise(encoding, 0)
    with torch.no_grad():
        for seed, parameter in enumerate(encoding.parameters()):
            generator = torch.Generator().manual_seed(seed)
            parameter.add_(noise * torch.randn(parameter.shape, generator=generator))
    return encoding


def vectors(length: int, seed: int = 0) -> Tensor:
    return torch.randn(1, HEADS, length, WIDTH, generator=torch.Generator().manual_seed(seed))


def turned(encoding: PositionEncoding, x_BHLD: Tensor, layer: int = 1) -> Tensor:
    return encoding.rotate(x_BHLD, encoding.prepare(GRID.positions()), layer).detach()


def scores(line: str, noise: float) -> Tensor:
    """Of one query and one key wherever they sit, (H, h, w, h, w)."""
    encoding = built(line, noise)
    q_BHLD, k_BHLD = (vectors(1, seed).expand(-1, -1, 20, -1) for seed in (1, 2))
    if encoding.uses("remap"):
        context = encoding.prepare(GRID.positions())
        q_BHLD, k_BHLD = (x.detach() for x in encoding.remap(q_BHLD, k_BHLD, context, 1))
    else:
        q_BHLD, k_BHLD = turned(encoding, q_BHLD), turned(encoding, k_BHLD)
    return (q_BHLD @ k_BHLD.mT)[0].unflatten(2, (4, 5)).unflatten(1, (4, 5))


def moved_by(scores_Hhwhw: Tensor, dy: int, dx: int) -> float:
    """The largest change where both move by a step."""
    here = scores_Hhwhw[:, : 4 - dy, : 5 - dx, : 4 - dy, : 5 - dx]
    return (here - scores_Hhwhw[:, dy:, dx:, dy:, dx:]).abs().max().item()


@pytest.mark.parametrize("norm", [0.1, 5.0, 50.0])
def test_the_exponential_is_torch_s_and_a_rotation(norm):
    matrix_bb = skew(torch.randn(20, 6, 6, generator=torch.Generator().manual_seed(0)))
    matrix_bb = matrix_bb * norm / torch.linalg.matrix_norm(matrix_bb, ord=2)[:, None, None]
    turn_bb = exponential(matrix_bb)
    torch.testing.assert_close(turn_bb.double(), torch.matrix_exp(matrix_bb.double()), atol=2e-5, rtol=0)
    torch.testing.assert_close(turn_bb @ turn_bb.mT, torch.eye(6).expand(20, 6, 6), atol=2e-5, rtol=0)


@pytest.mark.parametrize("line", ["liere", "liere(block=4)", COMMUTING])
def test_blocks_start_as_pairs(line):
    """Before anything is learned it is `rope`."""
    x_BHLD = vectors(20)
    expected_BHLD = turned(built("rope(layout=interleaved)"), x_BHLD)
    torch.testing.assert_close(turned(built(line), x_BHLD), expected_BHLD, atol=2e-5, rtol=0)


@pytest.mark.parametrize("line", ["liere", COMMUTING])
def test_learned_generators_turn_and_keep_lengths(line):
    x_BHLD = vectors(20)
    moved_BHLD = turned(built(line, 0.3), x_BHLD)
    torch.testing.assert_close(moved_BHLD.norm(dim=-1), x_BHLD.norm(dim=-1))
    assert (moved_BHLD - turned(built(line), x_BHLD)).abs().max() > 0.5


def test_generators_that_commute_know_displacements_alone():
    """STRING's promise; in general places count, and this is how one sees that these are learned freely."""
    free, commuting = scores("liere", 0.3), scores(COMMUTING, 0.3)
    for step in [(0, 1), (1, 0), (2, 3)]:
        assert moved_by(commuting, *step) < 1e-4
    assert moved_by(free, 1, 1) > 0.1


@torch.no_grad()
def test_one_generator_alone_is_relative():
    """exp(y A)^T exp(y' A) = exp((y' - y) A), whatever A."""
    encoding = built("liere", 0.3)
    encoding.generator_2NHGbb[1] = 0.0
    turned_BHLD = turned(encoding, vectors(1).expand(-1, -1, 20, -1))
    scores_Hhwhw = (turned_BHLD @ turned_BHLD.mT)[0].unflatten(2, (4, 5)).unflatten(1, (4, 5))
    assert moved_by(scores_Hhwhw, 1, 1) < 1e-4
    assert scores_Hhwhw[0, 0, 0, :, 0].std() > 0.1


def test_a_block_must_divide_a_head():
    with pytest.raises(ValueError, match="block is an even divisor of the heads' width 16, got 3"):
        built("liere(block=3)")


def test_a_polar_score_is_its_formula():
    """By hand: content makes lengths, the displacement angles, and delta comes on top of the keys'."""
    encoding, q_BHLD, k_BHLD = built("pope", 0.5), vectors(20, 1), vectors(20, 2)
    context = encoding.prepare(GRID.positions())
    q_wide, k_wide = encoding.remap(q_BHLD, k_BHLD, context, 1)
    assert q_wide.shape[-1] == encoding.width_of(WIDTH) == 2 * WIDTH
    found_HLL = (q_wide @ k_wide.mT)[0].detach()
    for query, key in [(0, 0), (3, 17), (12, 4)]:
        d = [query // 5 - key // 5, query % 5 - key % 5]
        for head in range(HEADS):
            expected = 0.0
            for c in range(WIDTH):
                lengths = F.softplus(q_BHLD[0, head, query, c]) * F.softplus(k_BHLD[0, head, key, c])
                angle = d[c // 8] * 100 ** (-(c % 8) / 8) - encoding.delta_NHD[1, head, c].item()
                expected += lengths.item() * math.cos(angle)
            assert found_HLL[head, query, key].item() == pytest.approx(expected, abs=1e-4)


def test_polar_scores_know_displacements_alone():
    polar = scores("pope", 0.5)
    for step in [(0, 1), (1, 0), (2, 3)]:
        assert moved_by(polar, *step) < 1e-4
    assert polar[0, 0, 0].std() > 0.1


@torch.no_grad()
@pytest.mark.parametrize("qk_norm", [True, False])
def test_wider_queries_and_keys_are_scaled_by_what_was_projected(qk_norm):
    """The formula around it, with a prefix token, which has a length and no angle."""
    encoding, attention = built("pope", 0.5), Attention(HEADS * WIDTH, HEADS, qk_norm=qk_norm, dropout=0.0)
    initialise(attention, 0)
    x_BLC = torch.randn(2, 21, HEADS * WIDTH, generator=torch.Generator().manual_seed(0))
    context = encoding.prepare(GRID.positions())
    found_BLC = attention(x_BLC, PositionContext(encoding, context, context, prefix=1), 1)

    q, k, v = (x.unflatten(2, (HEADS, WIDTH)).transpose(1, 2) for x in attention.qkv(x_BLC).chunk(3, dim=-1))
    wide = encoding.remap(q[:, :, 1:], k[:, :, 1:], context, 1)
    q, k = (torch.cat([F.pad(x[:, :, :1], (0, WIDTH)), y], 2) for x, y in zip((q, k), wide, strict=True))
    if qk_norm:
        q, k = 4 * F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    share = (q @ k.mT * (1.0 if qk_norm else WIDTH**-0.5)).softmax(-1)
    torch.testing.assert_close(found_BLC, attention.proj((share @ v).transpose(1, 2).flatten(2)))


@pytest.mark.parametrize("line", ["pope + rope", "rope + pope", "pope + harope"])
def test_what_widens_queries_and_keys_turns_them_alone(line):
    with pytest.raises(ValueError, match="an encoding that widens queries and keys cannot be joined"):
        built(line)


@pytest.mark.parametrize("line", ["pope + irpe", "pape + pope"])
def test_what_widens_queries_and_keys_has_no_products_with_them(line):
    """Their vectors are as wide as a head."""
    with pytest.raises(
        ValueError, match="cannot be joined with one that compares them with vectors of a head"
    ):
        built(line)
