"""`lookhere` and `fire`: what a head does not see, and how a learned function follows the size."""

import math

import pytest
import torch
from torch import Tensor

from var_pe.encodings import PositionEncoding, build_encoding
from var_pe.models.initialisation import initialise
from var_pe.pyramid import Pyramid

GRID = Pyramid.square(5)
MIDDLE = 12


def built(line: str, pyramid: Pyramid = GRID, heads: int = 12) -> PositionEncoding:
    encoding = build_encoding(line, dim=4 * heads, num_heads=heads, depth=3, pyramid=pyramid)
    initialise(encoding, 0)
    return encoding


def bias(encoding: PositionEncoding, pyramid: Pyramid = GRID, layer: int = 0) -> Tensor:
    context = encoding.prepare(pyramid.positions())
    return encoding.bias(context, context, layer).detach()


def seen(line: str, head: int) -> list[str]:
    """What the middle of 5 x 5 sees by a head, row by row."""
    map_hw = bias(built(line))[head, MIDDLE].isfinite().view(5, 5)
    return ["".join("#" if cell else "." for cell in row) for row in map_hw.tolist()]


@pytest.mark.parametrize(
    ("line", "head", "expected"),
    [
        ("lookhere(fov=180)", 0, ["..###"] * 5),  # right, its own column included
        ("lookhere(fov=180)", 3, ["#####"] * 3 + ["....."] * 2),  # up
        ("lookhere", 1, [".....", ".....", "..#..", ".###.", "#####"]),  # down, to the diagonals
        ("lookhere", 6, ["###..", "###..", "###..", ".....", "....."]),  # up and left
        ("lookhere(fov=45)", 0, [".....", ".....", "..###", "...##", "....#"]),  # right to down right
        ("lookhere", 11, ["#####"] * 5),  # all around
    ],
)
def test_a_head_sees_its_field_of_view(line, head, expected):
    assert seen(line, head) == expected


def test_with_twelve_heads_slopes_are_the_paper_s():
    """Eight directed heads of 1/2 and four undirected ones; layers from 1.5 to 0.5 of it."""
    encoding = built("lookhere(slope=2)")
    for layer, factor in enumerate((1.5, 1.0, 0.5)):
        bias_HLL = bias(encoding, layer=layer)
        for head, slope in enumerate([1 / 2] * 8 + [1 / 4, 1 / 16, 1 / 64, 1 / 256]):
            seen_LL = bias_HLL[head].isfinite()
            corner, far = (MIDDLE, MIDDLE + 1) if head == 0 else (0, 24)
            if seen_LL[corner, far]:
                distance = 1.0 if head == 0 else math.hypot(4, 4)
                expected = torch.tensor(-2 * factor * slope * distance)
                torch.testing.assert_close(bias_HLL[head, corner, far], expected)


def test_levels_are_seen_all_around_and_nobody_is_blind():
    """A coarse token's middle lies to no side of what it covers; a level's edge still sees itself."""
    pyramid = Pyramid(((1, 1), (2, 3), (3, 4)))
    level_L, bias_HLL = pyramid.positions().level_L, bias(built("lookhere", pyramid), pyramid)
    other_LL = level_L[:, None] != level_L
    assert bias_HLL[:, other_LL].isfinite().all()
    assert bias_HLL.diagonal(dim1=1, dim2=2).isfinite().all()
    assert bias_HLL.isneginf().any()


@torch.no_grad()
def test_a_larger_picture_stretches_the_function():
    """At twice the displacements on a grid of twice the reach, the same: exactly so where psi is linear."""
    encoding = built("fire(shared=true)", heads=2)
    encoding.log_scale_N.fill_(math.log(1e-4))
    encoding.log_reach_scale_N.fill_(0.0)
    small_Hhw = bias(encoding)[:, MIDDLE].view(2, 5, 5)
    large_Hhw = bias(encoding, Pyramid.square(9))[:, 40].view(2, 9, 9)
    torch.testing.assert_close(large_Hhw[:, ::2, ::2], small_Hhw, atol=2e-6, rtol=1e-3)
    assert small_Hhw.flatten(1).std(1).min() > 1e-4


@torch.no_grad()
def test_the_function_is_of_the_logarithm_of_displacements():
    """By hand: u(d) = sign(d) log(1 + c |d|) / log(1 + c max(R, n - 1)) into the network."""
    encoding = built("fire", heads=2)
    c, reach = 0.7, 6.0
    encoding.log_scale_N.fill_(math.log(c))
    encoding.log_reach_scale_N.fill_(math.log(reach))
    weight1, bias1, weight2 = (w[1] for w in encoding.cells.parameters())
    bias_HLL = bias(encoding, layer=1)
    for key in (0, 7, 13, 23):
        u = []
        for d in (2 - key // 5, 2 - key % 5):
            u.append(math.copysign(math.log(1 + c * abs(d)), d) / math.log(1 + c * reach))
        expected_H = weight2 @ (weight1 @ torch.tensor(u) + bias1).relu()
        torch.testing.assert_close(bias_HLL[:, MIDDLE, key], expected_H, atol=1e-6, rtol=1e-4)
