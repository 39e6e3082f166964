"""Biases on scores: what they depend on, and equality with timm where it has the same thing."""

from dataclasses import replace

import pytest
import torch
from timm.layers.pos_embed_rel import RelPosMlp, gen_relative_log_coords, gen_relative_position_index
from torch import Tensor, nn

from var_pe.encodings import PositionEncoding, build_encoding
from var_pe.encodings.log_cpb import log_coordinates
from var_pe.models.generator import VARTransformer
from var_pe.models.initialisation import initialise
from var_pe.models.vit import ViTClassifier
from var_pe.pyramid import Positions, Pyramid

LADDER = Pyramid(((1, 1), (2, 2), (2, 3), (4, 4), (5, 7)))
GRIDS = [(2, 3), (4, 4), (1, 5), (7, 3), (1, 1)]
RELATIVE = [
    "relative_bias",
    "relative_bias(shared=true)",
    "relative_bias(spatial_scale=true)",
    "log_cpb",
    "alibi",
    "fire",
    "lookhere",
]


def built(line: str, pyramid: Pyramid = LADDER, heads: int = 4) -> PositionEncoding:
    """With weights as large as after training: at the start, a wrong lookup hides in small numbers."""
    encoding = build_encoding(line, dim=32, num_heads=heads, depth=2, pyramid=pyramid)
    initialise(encoding, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in encoding.named_parameters():
            if "scale" not in name:
                deviation = parameter.shape[-1] ** -0.5 if "weight" in name else 1.0
                parameter.copy_(deviation * torch.randn(parameter.shape, generator=generator))
    return encoding


def bias(encoding: PositionEncoding, asked: Pyramid | Positions = LADDER, layer: int = 0) -> Tensor:
    positions = asked.positions() if isinstance(asked, Pyramid) else asked
    context = encoding.prepare(positions)
    return encoding.bias(context, context, layer).detach()


def without_level_term(line: str, heads: int = 4) -> PositionEncoding:
    encoding = built(line, heads=heads)
    nn.init.zeros_(encoding.level_term.term_NHKK)
    return encoding


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


# the table


def test_the_index_is_swin_s():
    """As in timm: delta is query minus key, rows before columns."""
    pyramid = Pyramid(((2, 3),))
    encoding = built("relative_bias", pyramid, heads=1)
    with torch.no_grad():
        encoding.table_NHyx[0, 0] = torch.arange(15.0).view(3, 5)
    torch.testing.assert_close(bias(encoding, pyramid)[0, 0], torch.tensor([7.0, 6, 5, 2, 1, 0]))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_one_level_is_timm_s_window(grid):
    """A ViT's bias is the classic table, rectangles and single rows included."""
    encoding = built("relative_bias", Pyramid((grid,)))
    assert encoding.level_term.term_NHKK is None
    index_LL = gen_relative_position_index(grid)
    for layer in range(2):
        expected_HLL = encoding.table_NHyx[layer].flatten(1)[:, index_LL]
        torch.testing.assert_close(bias(encoding, Pyramid((grid,)), layer), expected_HLL)


def test_fractions_between_levels_are_read_bilinearly():
    """Half-way between two whole displacements lies the mean of their entries."""
    encoding, here = built("relative_bias"), LADDER.positions()
    table_Hyx, term_HKK = encoding.table_NHyx[0].detach(), encoding.level_term.term_NHKK[0].detach()
    finest = torch.tensor(LADDER.finest)
    bias_HLL = bias(encoding)
    for q, k in torch.randint(
        LADDER.num_tokens, (60, 2), generator=torch.Generator().manual_seed(0)
    ).tolist():
        (ql, kl), expected_H = here.level_L[[q, k]].tolist(), torch.zeros(4)
        centre = [
            (here.cell_L2[i] + 0.5) * finest / torch.tensor(LADDER.grids[j]) for i, j in ((q, ql), (k, kl))
        ]
        y, x = (centre[0] - centre[1] + finest - 1).tolist()
        for row in range(9):
            for column in range(13):
                weight = max(0, 1 - abs(y - row)) * max(0, 1 - abs(x - column))
                expected_H += weight * table_Hyx[:, row, column]
        torch.testing.assert_close(bias_HLL[:, q, k], expected_H + term_HKK[:, ql, kl], atol=1e-5, rtol=0)


def test_the_level_term_tells_concentric_tokens_apart():
    """1x1 and the middle of 3x3 sit at the same point; only their levels differ."""
    pyramid = Pyramid.square(1, 3)
    encoding = built("relative_bias", pyramid)
    whole, middle = 0, 1 + 4
    bias_HLL, term_HKK = bias(encoding, pyramid), encoding.level_term.term_NHKK[0].detach()
    step_H = bias_HLL[:, middle, whole] - bias_HLL[:, middle, middle]
    torch.testing.assert_close(step_H, term_HKK[:, 1, 0] - term_HKK[:, 1, 1])
    assert step_H.abs().min() > 0.01


@pytest.mark.parametrize("line", ["alibi", "local", "relative_bias(shared=true)"])
def test_a_pair_of_levels_has_a_term_per_head(line):
    """It is all that changes between a query level and a key level, and a single level has none."""
    encoding, plain, here = built(line), without_level_term(line), LADDER.positions()
    step_HLL = bias(encoding) - bias(plain)
    term_HKK = encoding.level_term.term_NHKK[0].detach()
    expected_HLL = term_HKK[:, here.level_L][:, :, here.level_L]
    seen_HLL = ~bias(plain).isneginf().expand_as(step_HLL)
    torch.testing.assert_close(step_HLL[seen_HLL], expected_HLL[seen_HLL], atol=1e-5, rtol=0)
    assert built(line, Pyramid(((5, 7),))).level_term.term_NHKK is None


def test_layers_have_their_own_tables_or_share_one():
    own, shared = built("relative_bias"), built("relative_bias(shared=true)")
    assert not torch.allclose(bias(own, layer=0), bias(own, layer=1))
    context = shared.prepare(LADDER.positions())
    assert shared.bias(context, context, 0) is shared.bias(context, context, 1)  # worked out once a forward
    counts = [sum(p.numel() for p in encoding.parameters()) for encoding in (own, shared)]
    assert counts == [2 * 4 * (9 * 13 + 5 * 5), 4 * (9 * 13 + 5 * 5)]


def test_a_spatial_scale_stretches_each_head_s_table():
    """At twice the scale, a head sees at one cell what it saw at two; beyond the table is its border."""
    pyramid = Pyramid(((1, 5),))
    plain, scaled = (built(f"relative_bias{option}", pyramid) for option in ("", "(spatial_scale=true)"))
    torch.testing.assert_close(bias(scaled, pyramid), bias(plain, pyramid))  # it starts at 1
    with torch.no_grad():
        scaled.log_scale_NH[0, 1] = torch.tensor(2.0).log()
    table_x, row_L = plain.table_NHyx[0, 1, 0].detach(), bias(scaled, pyramid)[1, 2]
    torch.testing.assert_close(row_L, table_x[[8, 6, 4, 2, 0]])
    torch.testing.assert_close(bias(scaled, pyramid)[1, 0], table_x[[4, 2, 0, 0, 0]])
    torch.testing.assert_close(bias(scaled, pyramid)[0], bias(plain, pyramid)[0])
    context = scaled.prepare(pyramid.positions())
    scaled.bias(context, context, 0).square().sum().backward()
    assert scaled.log_scale_NH.grad[0].all()


# other grids


def test_a_table_refuses_other_grids():
    for grids in [((5, 7),), (*LADDER.grids[:-1], (7, 5)), (*LADDER.grids, (5, 7))]:
        with pytest.raises(
            ValueError, match="relative_bias table was made for the grids 1-2-2x3-4-5x7, asked"
        ):
            bias(built("relative_bias"), Pyramid(grids))
        with pytest.raises(ValueError, match=r"moving it to .* needs the name of a resampling convention"):
            built("relative_bias").set_pyramid(Pyramid(grids))


@pytest.mark.parametrize("convention", ["swin", "timm", "torchvision"])
@pytest.mark.parametrize("new", [(7, 14), (8, 5), (1, 9), (1, 1), (3, 3)], ids=str)
def test_a_stretched_table_keeps_its_middle(new, convention):
    """No displacement is no displacement on every grid: non-square to non-square included."""
    encoding = built("relative_bias", Pyramid(((4, 6),)))
    middle_NH = encoding.table_NHyx[:, :, 3, 5].detach()
    encoding.set_pyramid(Pyramid((new,)), convention)
    table_NHyx = encoding.table_NHyx.detach()
    assert table_NHyx.shape[2:] == (2 * new[0] - 1, 2 * new[1] - 1)
    assert table_NHyx.isfinite().all()
    # antialiasing takes in the neighbours where a table shrinks, unless a single cell is left
    if convention != "timm" or all(n == 1 or n >= o for n, o in zip(new, (4, 6), strict=True)):
        torch.testing.assert_close(table_NHyx[:, :, new[0] - 1, new[1] - 1], middle_NH, atol=1e-5, rtol=0)


def test_stretching_is_torch_s_bicubic_by_half_pixels():
    """Swin's own transfer; a table of one grid, moved to its own grid, stays the same object."""
    encoding = built("relative_bias", Pyramid(((4, 6),)))
    table_NHyx = encoding.table_NHyx
    encoding.set_pyramid(Pyramid(((4, 6),)), "swin")
    assert encoding.table_NHyx is table_NHyx
    encoding.set_pyramid(Pyramid(((7, 9),)), "swin")
    expected = torch.nn.functional.interpolate(table_NHyx, size=(13, 17), mode="bicubic")
    torch.testing.assert_close(encoding.table_NHyx, expected)
    assert encoding.grids_K2.tolist() == [[7, 9]]


@pytest.mark.parametrize(
    "new", [((2, 2), (3, 9)), ((1, 1), (2, 2), (4, 4), (8, 6)), ((6, 6),), ((1, 1), (4, 4))], ids=str
)
def test_following_equals_moving(new):
    """The stored table read as another, and another table stored, are the same bias; levels go by size."""
    old, new = Pyramid(((1, 1), (2, 3), (4, 6))), Pyramid(new)
    following, moved = (built("relative_bias(resample=swin)", old) for _ in range(2))
    moved.set_pyramid(new)
    if new.num_levels == 1:
        assert moved.level_term.term_NHKK is None
        step_HLL = bias(following, new) - bias(moved, new)
        torch.testing.assert_close(step_HLL, step_HLL[:, :1, :1].expand_as(step_HLL))  # nothing to softmax
    else:
        torch.testing.assert_close(bias(following, new), bias(moved, new))
    torch.testing.assert_close(bias(following, old), bias(built("relative_bias", old), old))


@pytest.mark.parametrize("line", ["alibi", "local(radius=2)"])
@pytest.mark.parametrize("new", [((2, 2), (3, 9)), ((1, 1), (4, 4))], ids=str)
def test_terms_follow_other_levels_as_they_move(line, new):
    old, new = Pyramid(((1, 1), (2, 3), (4, 6))), Pyramid(new)
    following, moved = built(line, old), built(line, old)
    moved.set_pyramid(new)
    assert moved.level_term.term_NHKK.shape == (1, 4, 2, 2)
    assert torch.equal(bias(following, new), bias(moved, new))


@pytest.mark.parametrize("line", ["relative_bias", "alibi", "local"])
def test_levels_that_come_into_being_start_without_a_term(line):
    encoding = built(line, Pyramid(((4, 4),)))
    encoding.set_pyramid(Pyramid.square(1, 2, 4), "swin")
    assert encoding.level_term.term_NHKK.shape[1:] == (4, 3, 3)
    assert not encoding.level_term.term_NHKK.any()


def test_a_following_table_still_learns():
    encoding, new = built("relative_bias(resample=swin)"), Pyramid.square(1, 2, 3, 4, 6)
    for _ in range(2):  # what is remembered for evaluation must not be handed to training
        with torch.no_grad():
            bias(encoding, new)
        context = encoding.prepare(new.positions())
        encoding.bias(context, context, 1).square().sum().backward()
        assert encoding.table_NHyx.grad[1].any()
        assert encoding.level_term.term_NHKK.grad[1].any()


@torch.no_grad()
@pytest.mark.parametrize("size", [(6, 16), (12, 8), (16, 24)], ids=str)
def test_a_moved_classifier_is_saved_and_loaded(size, make_vit, make_loud, tmp_path):
    """timm cannot reload a rectangular window."""
    vit, images = make_loud(make_vit("relative_bias")), random(2, 3, *size)
    vit.save_pretrained(tmp_path / "old")
    vit.set_input_size(size, "swin")
    moved = vit(images)
    vit.save_pretrained(tmp_path / "new")
    torch.testing.assert_close(ViTClassifier.from_pretrained(tmp_path / "new")(images), moved)
    loaded = ViTClassifier.from_pretrained(tmp_path / "old", image_size=size, resample="swin")
    torch.testing.assert_close(loaded(images), moved)


@torch.no_grad()
@pytest.mark.parametrize("line", ["relative_bias", "log_cpb", "alibi + local", "peg"])
def test_a_moved_generator_is_saved_and_loaded(line, make_generator, make_loud, tmp_path):
    model, new = make_loud(make_generator(line, level_embedding="sinusoidal")), Pyramid.square(1, 2, 4, 5, 6)
    model.set_pyramid(new, "swin")
    model.save_pretrained(tmp_path)
    labels_B, inputs_BLZ = torch.tensor([0, 1]), random(2, new.num_tokens - 1, 4)
    moved_BLV = model(labels_B, inputs_BLZ)
    torch.testing.assert_close(VARTransformer.from_pretrained(tmp_path)(labels_B, inputs_BLZ), moved_BLV)


def test_log_cpb_keeps_to_one_level_or_to_several():
    """It has weights for pairs of levels only where there were any."""
    with pytest.raises(ValueError, match="made for one level, asked for 1-4"):
        bias(built("log_cpb", Pyramid.square(4)), Pyramid.square(1, 4))
    with pytest.raises(ValueError, match="keeps to one level or to several, asked to move to 4"):
        built("log_cpb").set_pyramid(Pyramid.square(4))


# what all relative ones promise


@pytest.mark.parametrize("line", RELATIVE)
def test_a_bias_depends_on_the_displacement_and_the_levels_only(line):
    """Two pairs of tokens that are as far apart get the same number, wherever they are."""
    bias_HLL, here = bias(built(line)), LADDER.positions()
    yx_L2 = (here.yx_L2 + 1) / 2 * torch.tensor(LADDER.finest)
    delta_LL2 = ((yx_L2[:, None] - yx_L2) * 1000).round().long()
    levels_LL2 = torch.stack(torch.broadcast_tensors(here.level_L[:, None], here.level_L), dim=-1)
    pairs = torch.cat([levels_LL2, delta_LL2], dim=-1).flatten(0, 1)
    kinds, kind_P = pairs.unique(dim=0, return_inverse=True)
    assert len(kinds) < 0.7 * len(pairs)  # there is something to compare
    any_of_a_kind = torch.zeros(len(kinds), dtype=torch.long).scatter(0, kind_P, torch.arange(len(pairs)))
    flat_HP = bias_HLL.flatten(1)
    torch.testing.assert_close(flat_HP, flat_HP[:, any_of_a_kind[kind_P]], atol=1e-4, rtol=0)


@pytest.mark.parametrize("line", RELATIVE)
def test_a_bias_does_not_care_where_the_image_starts(line):
    """Moving every token by the same amount changes no score; it would if one side were moved alone."""
    encoding, here = built(line), LADDER.positions()
    moved = replace(here, yx_L2=here.yx_L2 + torch.tensor([0.25, -0.5]))
    torch.testing.assert_close(bias(encoding, moved), bias(encoding, here), atol=1e-4, rtol=0)


@pytest.mark.parametrize("line", ["relative_bias", "log_cpb"])
def test_left_and_right_up_and_down_differ(line):
    """iRPE: a bias by distance alone is worse than one that knows directions."""
    bias_HLL = bias(built(line, Pyramid.square(3)), Pyramid.square(3))
    scores_H4 = bias_HLL[:, 4, [1, 3, 5, 7]]
    gaps_H44 = (scores_H4[:, :, None] - scores_H4[:, None]).abs() + torch.eye(4)
    assert gaps_H44.min() > 1e-3


@pytest.mark.parametrize("line", [*RELATIVE, "local"])
def test_a_cached_level_is_answered_as_in_the_full_pass(line):
    encoding, here = built(line), LADDER.positions()
    full_HLL = bias(encoding)
    for level, span in enumerate(LADDER.spans):
        query, key = encoding.prepare(here.only(level, level + 1)), encoding.prepare(here.only(0, level + 1))
        torch.testing.assert_close(
            encoding.bias(query, key, 0).detach(), full_HLL[:, span, : span.stop], atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("line", [*RELATIVE, "local"])
@pytest.mark.parametrize("grids", [((1, 1),), ((1, 4),), ((3, 1),), ((1, 1), (1, 1), (1, 6))], ids=str)
def test_single_rows_and_cells_are_finite(line, grids):
    """Swin v2's coordinates are 0 / 0 for a window of one cell."""
    bias_HLL = bias(built(line, Pyramid(grids)), Pyramid(grids))
    assert bias_HLL[~bias_HLL.isneginf()].isfinite().all()


@pytest.mark.parametrize("line", [*RELATIVE, "local"])
def test_biases_stay_float32_under_autocast(line):
    encoding = built(line)
    with torch.autocast("cpu", torch.bfloat16):
        inside = bias(encoding)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, bias(encoding))


def test_one_query_may_ask_two_sets_of_keys():
    """What is worked out once a forward is kept by the keys' levels, not by the order of asking."""
    encoding, here = built("alibi"), LADDER.positions()
    query, coarse, all_keys = (encoding.prepare(p) for p in (here.only(1, 2), here.only(0, 2), here))
    first, second = encoding.bias(query, coarse, 0), encoding.bias(query, all_keys, 0)
    assert torch.equal(first, second[:, :, : first.shape[2]])
    assert second.shape[2] == LADDER.num_tokens


@pytest.mark.slow
def test_biases_and_convolutions_compile_as_one_graph():
    """Nothing is read back from a tensor: training compiles whole models."""
    encoding = built("relative_bias(spatial_scale=true) + log_cpb + alibi + local + peg")
    positions, x_BLC = LADDER.positions(), random(2, LADDER.num_tokens, 32)

    def asked(x_BLC: Tensor) -> tuple[Tensor, Tensor]:
        context = encoding.prepare(positions)
        return encoding.bias(context, context, 1), encoding.refine(x_BLC, context, 0)

    torch._dynamo.reset()
    compiled = torch.compile(asked, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x_BLC), asked(x_BLC))


# log_cpb


@pytest.mark.parametrize("trained", [(8, 8), (4, 6)], ids=str)
@pytest.mark.parametrize("grid", [(8, 8), (4, 6), (12, 5)], ids=str)
def test_log_coordinates_are_swin_v2_s(grid, trained):
    expected = gen_relative_log_coords(grid, pretrained_win_size=trained)
    torch.testing.assert_close(log_coordinates(grid, torch.tensor(trained)), expected)


def test_the_range_is_that_of_the_paper():
    """As in Swin v2: up to 1.057 at the trained size, 1.383 at twice it."""
    assert log_coordinates((12, 12), torch.tensor([12, 12])).max().item() == pytest.approx(1.057, abs=5e-4)
    assert log_coordinates((24, 24), torch.tensor([12, 12])).max().item() == pytest.approx(1.383, abs=5e-4)


def test_one_level_is_timm_s_continuous_bias():
    """16 sigmoid(MLP), less the 8 that would put prefix tokens, which get 0, at a disadvantage."""
    pyramid = Pyramid(((4, 6),))
    encoding, theirs = built("log_cpb", pyramid), RelPosMlp((4, 6), num_heads=4, hidden_dim=512, mode="swin")
    theirs.eval()  # it has a dropout
    theirs.mlp.load_state_dict(
        {
            "fc1.weight": encoding.cells.weight1[1],
            "fc1.bias": encoding.cells.bias1[1],
            "fc2.weight": encoding.cells.weight2[1],
        }
    )
    torch.testing.assert_close(
        bias(encoding, pyramid, 1), theirs.get_bias()[0].detach() - 8, atol=1e-4, rtol=0
    )


def test_log_cpb_follows_the_size_in_cells():
    """A displacement of two cells means the same on a larger grid; unseen levels are no error."""
    encoding = built("log_cpb", Pyramid.square(2, 4))
    larger = Pyramid.square(2, 3, 6)
    assert bias(encoding, larger).isfinite().all()
    ours_HLL = bias(encoding, Pyramid.square(4))
    cells_L = torch.arange(36).view(6, 6)[:4, :4].flatten()
    torch.testing.assert_close(bias(encoding, Pyramid.square(6))[:, cells_L][:, :, cells_L], ours_HLL)


# alibi


def test_alibi_is_minus_slope_times_distance():
    """The slopes of the paper for 8 heads; Euclidean distances in cells of the finest level."""
    bias_HLL, here = bias(without_level_term("alibi", heads=8)), LADDER.positions()
    yx_L2 = (here.yx_L2 + 1) / 2 * torch.tensor(LADDER.finest)
    slope_H = torch.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256])
    distance_LL = (yx_L2[:, None] - yx_L2).square().sum(-1).sqrt()
    torch.testing.assert_close(bias_HLL, -slope_H[:, None, None] * distance_LL, atol=1e-5, rtol=0)


def test_alibi_is_symmetric_monotone_and_zero_at_home():
    bias_HLL = bias(without_level_term("alibi"))
    torch.testing.assert_close(bias_HLL, bias_HLL.transpose(1, 2))
    assert not bias_HLL.diagonal(dim1=1, dim2=2).any()
    row = bias(built("alibi", Pyramid(((1, 9),))), Pyramid(((1, 9),)))[:, 0]
    assert (row.diff(dim=1) < 0).all()


# local


@pytest.mark.parametrize("radius", [1, 1.5, 2.5])
def test_local_hides_what_is_far_in_the_own_level_and_nothing_else(radius):
    bias_LL, here = bias(without_level_term(f"local(radius={radius})"))[0], LADDER.positions()
    cell, level = here.cell_L2.tolist(), here.level_L.tolist()
    for q in range(LADDER.num_tokens):
        for k in range(LADDER.num_tokens):
            distance = ((cell[q][0] - cell[k][0]) ** 2 + (cell[q][1] - cell[k][1]) ** 2) ** 0.5
            far = level[q] == level[k] and distance > radius
            assert bias_LL[q, k].item() == (float("-inf") if far else 0)
    assert not bias_LL.diagonal().any()  # no row is empty


@torch.no_grad()
def test_local_stops_influence_beyond_its_radius(make_generator, make_loud):
    """One block: a token is reached by its neighbours and by every coarser token, not by a far one."""
    model = make_loud(make_generator("local(radius=1)", depth=1))
    inputs_BLZ, finest = random(1, 29, 4), model.pyramid.spans[-1].start
    before_BLV = model(torch.tensor([0]), inputs_BLZ)
    for token, heard in [
        (finest + 1, True),
        (finest + 4, True),
        (finest + 5, False),
        (finest + 2, False),
        (1, True),
    ]:
        changed_BLZ = inputs_BLZ.clone()
        changed_BLZ[:, token - 1] += 1
        after_BLV = model(torch.tensor([0]), changed_BLZ)
        assert torch.equal(after_BLV[:, finest], before_BLV[:, finest]) != heard


@torch.no_grad()
def test_a_wide_radius_is_no_limit(make_vit, make_loud):
    wide, none = (make_loud(make_vit(line, registers=2)) for line in ("local(radius=99)", "none"))
    images = random(2, 3, 8, 12)
    torch.testing.assert_close(wide(images), none(images))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("local(radius=0.5)", "radius must be at least 1 cell, got 0.5"),
        ("log_cpb(hidden=0)", "hidden is a whole number from 1 to 65536, got 0"),
        ("relative_bias(shared=2)", "shared of relative_bias must be bool, got 2"),
    ],
)
def test_wrong_options_are_named(line, sentence):
    with pytest.raises(ValueError, match=sentence):
        built(line)
