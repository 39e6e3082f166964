"""What stages promise: every encoding in every kind, parts that are full attention under a mask, sizes."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from var_pe.encodings import build_encoding
from var_pe.models.attention import PositionContext
from var_pe.models.hierarchy.attention import (
    DividedAttention,
    LinearAttention,
    LocalAttention,
    MapContext,
    calls_of,
    divisions_of,
)
from var_pe.models.hierarchy.classifier import HierarchicalClassifier
from var_pe.models.hierarchy.lines import AttentionShape, Linear, Local, Mobile, Windowed, read_hierarchy
from var_pe.models.layers import Attention, as_map, as_tokens
from var_pe.pyramid import Pyramid

GRID = (5, 7)


def hierarchical(*lines: str, **options) -> HierarchicalClassifier:
    """On a stem's map of 8 x 12 cells, 16 wide in two heads."""
    given = dict(image_size=(16, 24), num_classes=3, patch_size=2, dim=16, num_heads=2, qk_norm=False)
    return HierarchicalClassifier(hierarchy=lines, **(given | options)).eval()


def images(height: int = 16, width: int = 24) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def context_of(shape: AttentionShape, encoding, grid=GRID, images: int = 2) -> MapContext:
    """For the first block of a stage."""
    nothing = build_encoding("none", dim=16, num_heads=2, depth=2, pyramid=Pyramid.of([grid]))
    calls = calls_of(shape, encoding, grid, images, torch.device("cpu"))
    return MapContext(grid, PositionContext(nothing, None, None), calls)


def shape_of(kind: type[AttentionShape], line: str = "none", **options) -> AttentionShape:
    return kind(blocks=2, dim=16, stride=1, heads=2, encoding=line, **options)


def tokens(grid=GRID) -> Tensor:
    return torch.randn(2, grid[0] * grid[1], 16, generator=torch.Generator().manual_seed(1))


KINDS = [
    "convolution(blocks=1)",
    "windowed(blocks=2, window=3)",
    "local(blocks=1, radius=1, stride=1)",
    "mobile(blocks=1, stride=1)",
    "full(blocks=1, stride=1, norm=post)",
]


def test_every_encoding_serves_every_kind_and_learns(line, make_loud):
    """Another size of images follows where the encoding does; there is a map for every stage."""
    model = make_loud(hierarchical(*KINDS, encoding=line)).train()
    maps = model.forward_features(images())
    assert [tuple(one.shape) for one in maps] == [(2, 16, 8, 12)] + 4 * [(2, 32, 4, 6)]

    model(images()).square().mean().backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)

    model.set_input_size((32, 24), resample="swin")
    assert model.eval()(images(32, 24)).isfinite().all()


@torch.no_grad()
def test_neighbourhoods_are_full_attention_under_a_mask(line, make_loud):
    """For whatever acts in attention, on a map that is no whole number of blocks, queries at every border."""
    shape = shape_of(Local, radius=1)
    options = dict(dim=16, num_heads=2, depth=2, pyramid=Pyramid.of([GRID]))
    encoding = make_loud(build_encoding(line, acting="in attention", **options))
    attention = make_loud(LocalAttention(16, 2, qk_norm=True, dropout=0.0)).eval()
    whole = Attention(16, 2, qk_norm=True, dropout=0.0).eval()
    whole.load_state_dict(attention.state_dict())

    positions = Pyramid.of([GRID]).positions()
    cell_L2 = positions.cell_L2
    near_LL = (cell_L2[:, None] - cell_L2).abs().amax(-1) <= 1
    context = encoding.prepare(positions)
    expected = whole(tokens(), PositionContext(encoding, context, context, near_LL), 0)
    found = attention(tokens(), context_of(shape, encoding).at(0), 0)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("layer", [0, 1])
def test_a_window_attends_as_if_it_were_alone(layer, make_loud):
    """Cut out by hand: windows of 3 x 3 as they lie, then one cell down and right, cut off at the borders."""
    shape = shape_of(Windowed, "relative_bias", window=3)
    options = dict(dim=16, num_heads=2, depth=2, pyramid=Pyramid.of([(3, 3)]))
    encoding = make_loud(build_encoding("relative_bias + rope", **options))
    attention = make_loud(DividedAttention(16, 2, qk_norm=False, dropout=0.0)).eval()
    found_BChw = as_map(attention(tokens(), context_of(shape, encoding).at(layer), layer), GRID)

    alone = Attention(16, 2, qk_norm=False, dropout=0.0).eval()
    alone.load_state_dict(attention.state_dict())
    x_BChw = as_map(tokens(), GRID)
    shift = 1 if layer else 0
    cuts = [[(max(0, start), min(side, start + 3)) for start in range(shift - 3, side, 3)] for side in GRID]
    number = 0
    for top, bottom in cuts[0]:
        for left, right in cuts[1]:
            if bottom <= top or right <= left:
                continue
            part_BlC = as_tokens(x_BChw[:, :, top:bottom, left:right])

            # The same displacements, counted in a whole window of which these cells are the corner
            window = Pyramid.of([(3, 3)]).positions()
            here = (window.cell_L2[:, 0] < bottom - top) & (window.cell_L2[:, 1] < right - left)
            part = type(window)(
                window.cell_L2[here], window.level_L[here], window.yx_L2[here], window.grids, range(1)
            )
            context = encoding.prepare(part)
            expected = alone(part_BlC, PositionContext(encoding, context, context), layer)
            there = found_BChw[:, :, top:bottom, left:right]
            torch.testing.assert_close(as_tokens(there), expected, atol=1e-5, rtol=1e-4)
            number += 1
    assert number == (9 if layer else 6)


def test_windows_that_cover_a_side_are_not_shifted_along_it():
    shape = shape_of(Windowed, window=4)
    assert [division.shift for division in divisions_of(shape, (4, 12))] == [(0, 0), (0, 2)]
    assert len(divisions_of(shape, (3, 4))) == 1
    assert len(divisions_of(shape_of(Windowed, window=4, shift=False), (8, 12))) == 1


@torch.no_grad()
def test_mobile_attention_is_among_equal_places_of_patches():
    """A change in one cell reaches the cells that lie as it does in their patches, and no others."""
    shape = shape_of(Mobile, patch=2)
    encoding = build_encoding("rope", dim=16, num_heads=2, depth=2, pyramid=Pyramid.of([(2, 3)]))
    attention = DividedAttention(16, 2, qk_norm=False, dropout=0.0).eval()
    context = context_of(shape, encoding, (4, 6)).at(0)
    before, changed = tokens((4, 6)), tokens((4, 6))
    changed[:, 1 * 6 + 2] += 1
    moved_hw = (attention(changed, context, 0) - attention(before, context, 0)).norm(dim=2)[0].view(4, 6) > 0
    expected_hw = torch.zeros(4, 6, dtype=torch.bool)
    expected_hw[1::2, 0::2] = True
    assert torch.equal(moved_hw, expected_hw)


@torch.no_grad()
def test_linear_attention_is_its_formula(make_loud):
    """With every pair's weight worked out: features, turned for the sum of values alone."""
    options = dict(dim=16, num_heads=2, depth=2, pyramid=Pyramid.of([GRID]))
    rope = build_encoding("rope", **options)
    attention = make_loud(LinearAttention(16, 2, dropout=0.0)).eval()
    found = attention(tokens(), context_of(shape_of(Linear), rope).at(0), 0)

    q, k, v = attention.projected(tokens())
    q, k = F.elu(q) + 1, F.elu(k) + 1
    angles = rope.prepare(Pyramid.of([GRID]).positions())
    products = rope.rotate(q, angles, 0) @ rope.rotate(k, angles, 0).transpose(2, 3)
    y = products / (q @ k.transpose(2, 3)).sum(-1, keepdim=True) @ v
    torch.testing.assert_close(found, attention.proj(y.transpose(1, 2).flatten(2)), atol=1e-5, rtol=1e-4)


def test_linear_attention_is_finite_where_all_features_are_zero():
    """Queries so far below 0 that elu + 1 rounds to 0: neither outputs nor gradients divide by it."""
    rope = build_encoding("rope", dim=16, num_heads=2, depth=2, pyramid=Pyramid.of([GRID]))
    attention = LinearAttention(16, 2, dropout=0.0)
    with torch.no_grad():
        attention.q_bias.fill_(-40)
    found = attention(tokens(), context_of(shape_of(Linear), rope).at(0), 0)
    found.square().sum().backward()
    assert found.isfinite().all()
    assert all(p.grad.isfinite().all() for p in attention.parameters() if p.grad is not None)


def test_linear_attention_says_with_what_it_cannot_be_combined(line):
    """Whatever adds to scores or widens queries and keys; all others serve it."""
    options = dict(dim=16, num_heads=2, depth=2, pyramid=Pyramid.of([GRID]))
    encoding = build_encoding(line, **options)
    if encoding.uses("remap") or encoding.adds_to_scores:
        with pytest.raises(ValueError, match="linear attention works out no scores"):
            hierarchical("linear(blocks=2)", encoding=line)
    else:
        model = hierarchical("linear(blocks=2)", encoding=line)
        assert model(images()).isfinite().all()


def test_a_line_leaves_open_what_follows_from_the_model():
    stages = read_hierarchy(
        ["convolution(blocks=1)", "windowed(blocks=2)", "full(blocks=1, dim=48, encoding=none)"],
        dim=16,
        num_heads=2,
        encoding="rope",
    )
    assert [stage.line() for stage in stages] == [
        "convolution(blocks=1, dim=16, stride=1, expansion=4)",
        "windowed(blocks=2, dim=32, stride=2, heads=4, encoding='rope', norm='pre', window=7, shift=true)",
        "full(blocks=1, dim=48, stride=2, heads=6, encoding='none', norm='pre')",
    ]
    lines = [stage.line() for stage in stages]
    assert read_hierarchy(lines, dim=8, num_heads=1, encoding="peg") == stages  # nothing was left open


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("windwed(blocks=2)", "stage 1.*did you mean windowed"),
        ("full(depth=2)", "unknown key depth of full"),
        ("full(heads=2)", "full needs its number of blocks"),
        ("full(blocks=2.5)", "blocks of full must be int, got 2.5"),
        ("full(blocks=0)", "blocks must be at least 1, got 0"),
        ("full(blocks=1, dim=20)", "heads must be given: a width of 20"),
        ("full(blocks=1, heads=3)", "dim must be a multiple of heads, got 16 and 3"),
        ("full(blocks=1, norm=batch)", "norm is one of pre, post"),
        ("windowed(blocks=1, window=0)", "window must be at least 1"),
        ("full(blocks=1) + full(blocks=1)", "a stage is one kind"),
        ("mobile(blocks=1, patch=3)", r"stage 1, mobile: patch 3 must divide the sides of its map, 8x12"),
        ("full(blocks=1, stride=5)", r"5x5 patches, which do not fill an image of 8x12 patches"),
        ("full(blocks=1, encoding=rop)", "there is no encoding 'rop'"),
    ],
)
def test_a_wrong_line_is_a_sentence(line, sentence):
    with pytest.raises(ValueError, match=sentence):
        hierarchical(line)


@torch.no_grad()
def test_a_hierarchy_moves_to_another_size_and_window_and_is_saved_there(tmp_path, make_loud):
    model = make_loud(
        hierarchical("windowed(blocks=2, window=4)", "full(blocks=1)", encoding="relative_bias")
    )
    with pytest.raises(ValueError, match="needs the name of a resampling convention"):
        model.set_input_size((32, 24), window=8)
    assert model.shapes[0].window == 4  # nothing has moved
    assert model.image_size == (16, 24)

    model.set_input_size((32, 24), resample="swin", window=8)
    assert model.stages[0].position_encoding.table_NHyx.shape[2:] == (15, 15)
    assert model.stages[1].position_encoding.table_NHyx.shape[2:] == (15, 11)
    model.save_pretrained(tmp_path)
    again = HierarchicalClassifier.from_pretrained(tmp_path)
    assert torch.equal(again(images(32, 24)), model(images(32, 24)))


def test_stochastic_depth_grows_from_the_first_stage_to_the_last():
    model = hierarchical("full(blocks=2)", "full(blocks=3)", drop_path=0.4)
    drops = [(stage.blocks.first_drop, stage.blocks.drop_path) for stage in model.stages]
    assert drops == [(0.0, 0.1), (0.2, 0.4)]


@torch.no_grad()
def test_an_image_s_result_is_its_own():
    """Neither norms nor windows mix the images of a batch."""
    lines = ["convolution(blocks=1)", "windowed(blocks=2, window=3)", "mobile(blocks=1, stride=1)"]
    model = hierarchical(*lines, "local(blocks=1, radius=1, stride=1)", encoding="relative_bias")
    torch.testing.assert_close(model(images())[1:], model(images()[1:]))
