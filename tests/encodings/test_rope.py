"""Rotary encodings: what turned queries and keys know of each other's positions, and where tokens are."""

import math

import pytest
import torch
import torch.nn.functional as F
from timm.layers import RotaryEmbeddingCat, RotaryEmbeddingDinoV3, RotaryEmbeddingMixed
from timm.layers.pos_embed_sincos import apply_rot_embed_cat
from torch import Tensor

from var_pe.encodings import PositionEncoding, build_encoding
from var_pe.encodings.machinery.coordinates import MAPS, learned_maps, level_maps
from var_pe.encodings.machinery.turn import LAYOUTS, Angles, turn
from var_pe.models.attention import PositionContext
from var_pe.models.initialisation import initialise
from var_pe.pyramid import Pyramid

HEADS, WIDTH = 3, 16
LADDER = Pyramid(((1, 1), (2, 3), (3, 3), (5, 7)))
NESTED = Pyramid.square(1, 2, 4, 8, 16)
LINES = [
    *(f"rope(coordinates={kind})" for kind in MAPS),
    *(f"rope(coordinates={kind}, unit=image)" for kind in MAPS if kind != "index"),
    "rope(layout=interleaved, base=10000)",
    "rope_mixed",
    "rope_mixed(unit=image, layout=interleaved, coordinates=learned)",
    "rope_mixed(polar=true)",
    "rope(directions=golden, unit=image)",
    "rope(directions=spiral, level_axis=true)",
    "rope(unit=query, level_axis=true)",
    "rope_mixed(unit=query, coordinates=learned)",
    "rope(remap=parts, trained=(3, 4), directions=golden)",
]


def built(line: str, pyramid: Pyramid = LADDER, seed: int = 0) -> PositionEncoding:
    """For three heads of 16; learned coordinates are moved off their start."""
    encoding = build_encoding(line, dim=HEADS * WIDTH, num_heads=HEADS, depth=2, pyramid=pyramid).eval()
    initialise(encoding, seed)
    with torch.no_grad():
        for name, parameter in encoding.named_parameters():
            if "coordinates" in name:
                noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
                parameter.add_(0.3 * noise)
    return encoding


def vectors(length: int, seed: int = 0, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, HEADS, length, WIDTH, generator=generator)


def turned(encoding: PositionEncoding, x_BHLD: Tensor, pyramid: Pyramid = LADDER, layer: int = 0) -> Tensor:
    return encoding.rotate(x_BHLD, encoding.prepare(pyramid.positions()), layer).detach()


def tables(context: Angles | list[Angles]) -> list[Tensor]:
    """Angles, cosines and sines of every layer that has its own."""
    each = [context] if isinstance(context, Angles) else context
    return [table for angles in each for table in (angles.angle, angles.cos, angles.sin)]


def logits_of(q_BHLD: Tensor, k_BHLD: Tensor) -> Tensor:
    return q_BHLD @ k_BHLD.transpose(-1, -2)


def depends_on_more_than_displacement(logits_BHLL: Tensor, h: int, w: int) -> float:
    """The largest change of a logit when query and key move by the same step."""
    map_BHhwhw = logits_BHLL.unflatten(-1, (h, w)).unflatten(2, (h, w))
    worst = 0.0
    for dy, dx in [(0, 1), (1, 0), (1, 1), (h - 1, w - 1)]:
        if h > dy and w > dx:
            here = map_BHhwhw[:, :, : h - dy, : w - dx, : h - dy, : w - dx]
            there = map_BHhwhw[:, :, dy:, dx:, dy:, dx:]
            worst = max(worst, (here - there).abs().max().item())
    return worst


# turning


@pytest.mark.parametrize("line", LINES)
def test_turning_keeps_lengths(line):
    """Interpolated tables of cosines would not (0.878 of the length in one public generator)."""
    encoding, x_BHLD = built(line), vectors(LADDER.num_tokens)
    for layer in (0, 1):
        moved_BHLD = turned(encoding, x_BHLD, layer=layer)
        torch.testing.assert_close(moved_BHLD.norm(dim=-1), x_BHLD.norm(dim=-1))
        assert not torch.allclose(moved_BHLD, x_BHLD, atol=0.1)


@pytest.mark.parametrize("line", LINES)
def test_within_a_level_logits_depend_on_the_displacement_only(line):
    """The same query and the same key, wherever they sit: moving both by one step changes nothing."""
    encoding = built(line)
    q_BHLD, k_BHLD = (vectors(1, seed).expand(-1, -1, LADDER.num_tokens, -1) for seed in (1, 2))
    logits_BHLL = logits_of(turned(encoding, q_BHLD), turned(encoding, k_BHLD))
    for (h, w), span in zip(LADDER.grids, LADDER.spans, strict=True):
        assert depends_on_more_than_displacement(logits_BHLL[:, :, span, span], h, w) < 2e-5
    one_query = logits_BHLL[0, 0, LADDER.spans[-1].start, LADDER.spans[-1]].view(5, 7)
    assert one_query[:, 0].std() > 0.1
    assert one_query[0].std() > 0.1  # it does depend on the displacement, along both axes


def test_mixed_up_layouts_break_it():
    """No shape and no norm tells that queries and keys pair their channels differently, or that one is not
    turned."""
    grid = Pyramid(((5, 7),))
    half, other = built("rope", grid), built("rope(layout=interleaved)", grid)
    q_BHLD, k_BHLD = (vectors(1, seed).expand(-1, -1, 35, -1) for seed in (1, 2))
    right_BHLD = turned(half, q_BHLD, grid)
    assert depends_on_more_than_displacement(logits_of(right_BHLD, turned(half, k_BHLD, grid)), 5, 7) < 2e-5
    for wrong_BHLD in (turned(other, k_BHLD, grid), k_BHLD):
        assert depends_on_more_than_displacement(logits_of(right_BHLD, wrong_BHLD), 5, 7) > 0.5


@pytest.mark.parametrize("name", ["rope", "rope_mixed"])
def test_the_two_layouts_are_one_operator_up_to_the_order_of_channels(name):
    x_BHLD = vectors(LADDER.num_tokens)
    order = torch.cat([torch.arange(0, WIDTH, 2), torch.arange(1, WIDTH, 2)])  # [0, 2, 4, ..., 1, 3, 5, ...]
    half = turned(built(f"{name}(layout=half)"), x_BHLD[..., order])
    interleaved = turned(built(f"{name}(layout=interleaved)"), x_BHLD)
    torch.testing.assert_close(half, interleaved[..., order], rtol=0, atol=0)


def test_half_of_the_pairs_is_for_each_axis():
    """Tokens of one row differ in the second half of the pairs only, tokens of one column in the first."""
    angle_hwP = built("rope").prepare(_finest(LADDER)).angle.view(5, 7, -1)
    assert (angle_hwP[:, :, :4] == angle_hwP[:, :1, :4]).all()
    assert (angle_hwP[:, :, 4:] == angle_hwP[:1, :, 4:]).all()
    torch.testing.assert_close(angle_hwP[2, 0, :4] - angle_hwP[1, 0, :4], 100.0 ** -(torch.arange(4) / 4))


def _finest(pyramid: Pyramid):
    return pyramid.positions().only(pyramid.num_levels - 1, pyramid.num_levels)


# other libraries


@pytest.mark.parametrize("grid", [(4, 4), (3, 7)], ids=str)
@pytest.mark.parametrize("base", [100.0, 10000.0])
def test_equals_timm_s_axial_rotation(grid, base):
    x_BHLD = vectors(grid[0] * grid[1])
    timm = RotaryEmbeddingCat(WIDTH, temperature=base, in_pixels=False)
    expected = apply_rot_embed_cat(x_BHLD, timm.get_embed(list(grid)))
    ours = built(f"rope(coordinates=index, layout=interleaved, base={base})", Pyramid((grid,)))
    torch.testing.assert_close(turned(ours, x_BHLD, Pyramid((grid,))), expected)


@pytest.mark.parametrize("grid", [(4, 4), (3, 7)], ids=str)
def test_equals_timm_s_dinov3_rotation(grid):
    x_BHLD = vectors(grid[0] * grid[1])
    expected = apply_rot_embed_cat(x_BHLD, RotaryEmbeddingDinoV3(WIDTH).get_embed(list(grid)), half=True)
    ours = built("rope(unit=image)", Pyramid((grid,)))
    torch.testing.assert_close(turned(ours, x_BHLD, Pyramid((grid,))), expected)


@pytest.mark.parametrize("grid", [(4, 4), (3, 7)], ids=str)
def test_equals_timm_s_mixed_rotation(grid):
    x_BHLD = vectors(grid[0] * grid[1])
    ours = built("rope_mixed(coordinates=index, layout=interleaved)", Pyramid((grid,)))
    timm = RotaryEmbeddingMixed(HEADS * WIDTH, depth=2, num_heads=HEADS, grid_indexing="ij")
    assert timm.freqs.shape == ours.frequency_2NHP.shape
    theirs, own = (freqs.norm(dim=0).detach() for freqs in (timm.freqs, ours.frequency_2NHP))
    torch.testing.assert_close(own, theirs)  # the same wavelengths to start with
    with torch.no_grad():
        timm.freqs.copy_(ours.frequency_2NHP)
        for layer in (0, 1):
            expected = apply_rot_embed_cat(x_BHLD, timm.get_embed(list(grid))[layer])
            torch.testing.assert_close(turned(ours, x_BHLD, Pyramid((grid,)), layer), expected)


def test_mixed_directions_start_at_right_angles_and_differ_between_heads():
    frequency_2NHP = built("rope_mixed").frequency_2NHP.detach()
    first, second = frequency_2NHP.chunk(2, dim=-1)
    torch.testing.assert_close((first * second).sum(0), torch.zeros(2, HEADS, 4), atol=1e-6, rtol=0)
    directions = (first / first.norm(dim=0))[..., 0].flatten(1).T
    assert (directions @ directions.T - torch.eye(len(directions))).max() < 0.9999
    assert torch.equal(frequency_2NHP, built("rope_mixed").frequency_2NHP)
    assert not torch.equal(frequency_2NHP, built("rope_mixed", seed=1).frequency_2NHP)


# other directions, levels as an axis, and maps before the turn


def test_two_rays_are_the_axes():
    """Spiral RoPE with two directions is its simpler kin."""
    x_BHLD = vectors(LADDER.num_tokens)
    axial, spiral = built("rope"), built("rope(directions=spiral, rays=2)")
    torch.testing.assert_close(turned(spiral, x_BHLD), turned(axial, x_BHLD), atol=2e-5, rtol=0)


@pytest.mark.parametrize("line", ["rope(directions=spiral)", "rope(directions=golden)"])
def test_oblique_displacements_are_met_as_axial_ones_are(line):
    """The mean cosine six cells away, by the direction: with axes alone it knows where they point."""
    angle_A = torch.arange(64) * math.pi / 64
    dy_A, dx_A = 6 * angle_A.sin(), 6 * angle_A.cos()

    def spread(line: str) -> float:
        encoding = build_encoding(line, dim=64, num_heads=1, depth=1, pyramid=LADDER)
        along_y, along_x = encoding.waves("cpu")
        similar_A = (dy_A[:, None] * along_y + dx_A[:, None] * along_x).cos().mean(1)
        return similar_A.std().item()

    assert spread(line) < 0.5 * spread("rope(directions=spiral, rays=2)")


def test_rays_are_evenly_spread_over_half_a_circle():
    along_y, along_x = built("rope(directions=spiral, rays=8)").waves("cpu")
    angle_P = torch.atan2(along_y, along_x) % math.pi
    expected_P = torch.arange(8) * math.pi / 8
    torch.testing.assert_close(angle_P.sort().values, expected_P, atol=1e-5, rtol=0)


def test_golden_directions_are_those_of_the_golden_ratio():
    """Pair p along p pi / phi: by hand."""
    along_yx = built("rope(directions=golden)").waves("cpu")
    for p in range(8):
        length, angle = 100 ** (-p / 8), p * math.pi / ((1 + math.sqrt(5)) / 2)
        expected = torch.tensor([length * math.sin(angle), length * math.cos(angle)])
        torch.testing.assert_close(along_yx[:, p], expected, atol=1e-5, rtol=0)


def test_a_level_is_an_axis_like_y_and_x():
    """A pair turns by w' times the octaves to the finest level, the slowest pairs of places the fastest."""
    plain, with_levels = (
        built(line, NESTED).prepare(NESTED.positions()).angle for line in ("rope", "rope(level_axis=true)")
    )
    octave_L = 4.0 - NESTED.positions().level_L
    for half in (0, 4):
        for pair in range(4):
            expected_L = octave_L * 100 ** (-(3 - pair) / 4)
            found_L = (with_levels - plain)[:, half + pair]
            torch.testing.assert_close(found_L, expected_L, atol=1e-4, rtol=0)
    assert torch.equal(with_levels[NESTED.spans[-1]], plain[NESTED.spans[-1]])  # a ViT is as without


def noisy_harope(pyramid: Pyramid = LADDER) -> PositionEncoding:
    encoding = built("harope", pyramid)
    with torch.no_grad():
        for seed, parameter in enumerate(encoding.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
            parameter.copy_(0.3 * noise)
    return encoding


def compared(encoding: PositionEncoding, q_BHLD: Tensor, k_BHLD: Tensor) -> Tensor:
    """The scores of an encoding that maps queries and keys before it turns them."""
    context = encoding.prepare(LADDER.positions())
    q_BHLD, k_BHLD = encoding.remap(q_BHLD, k_BHLD, context, 1)
    q_BHLD, k_BHLD = (encoding.rotate(x_BHLD, context, 1) for x_BHLD in (q_BHLD, k_BHLD))
    return logits_of(q_BHLD, k_BHLD).detach()


def test_learned_maps_start_as_none():
    q_BHLD, k_BHLD = vectors(LADDER.num_tokens, 1), vectors(LADDER.num_tokens, 2)
    plain_BHLL = logits_of(turned(built("rope"), q_BHLD), turned(built("rope"), k_BHLD))
    assert torch.equal(compared(built("harope"), q_BHLD, k_BHLD), plain_BHLL)


def test_learned_maps_leave_displacements_and_the_products_of_one_place():
    """Whatever the map: scores know displacements alone, and a token at its own place sees q . k."""
    encoding = noisy_harope()
    q_BHLD, k_BHLD = (vectors(1, seed).expand(-1, -1, LADDER.num_tokens, -1) for seed in (1, 2))
    logits_BHLL = compared(encoding, q_BHLD, k_BHLD)
    for (h, w), span in zip(LADDER.grids, LADDER.spans, strict=True):
        assert depends_on_more_than_displacement(logits_BHLL[:, :, span, span], h, w) < 1e-4
    here_BHL = (q_BHLD * k_BHLD).sum(-1)
    torch.testing.assert_close(logits_BHLL.diagonal(dim1=2, dim2=3), here_BHL, atol=1e-4, rtol=0)
    plain_BHLL = logits_of(turned(built("rope"), q_BHLD), turned(built("rope"), k_BHLD))
    assert (logits_BHLL - plain_BHLL).abs().max() > 1  # elsewhere the map matters


# precision and sizes


@pytest.mark.parametrize("line", LINES)
def test_angles_stay_float32_under_autocast(line):
    """In bf16 all positions beyond a few cells collapse; the rotation itself may be rounded at its end."""
    encoding, x_BHLD = built(line), vectors(LADDER.num_tokens)
    exact = logits_of(turned(encoding, x_BHLD), turned(encoding, x_BHLD)) / WIDTH
    outside = tables(encoding.prepare(LADDER.positions()))
    with torch.autocast("cpu", torch.bfloat16):
        context = encoding.prepare(LADDER.positions())
        moved_BHLD = encoding.rotate(x_BHLD.bfloat16(), context, 0)
    for table, expected in zip(tables(context), outside, strict=True):
        assert table.dtype == torch.float32
        assert torch.equal(table, expected)
    exact_of_rounded = turned(encoding, x_BHLD.bfloat16().float())
    assert torch.equal(moved_BHLD, exact_of_rounded.bfloat16())  # rounded once
    moved_BHLD = moved_BHLD.float()
    torch.testing.assert_close(logits_of(moved_BHLD, moved_BHLD) / WIDTH, exact, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("line", ["rope", "rope(unit=image)", "rope_mixed"])
def test_sizes_in_turn_are_as_each_alone(line):
    """A table kept from another size, or sliced from a larger one, would differ."""
    encoding = built(line)
    for grid in [(4, 4), (3, 7), (8, 2), (4, 4)]:
        pyramid = Pyramid((grid,))
        x_BHLD = vectors(pyramid.num_tokens)
        alone = turned(built(line, pyramid), x_BHLD, pyramid)
        assert torch.equal(turned(encoding, x_BHLD, pyramid), alone)


@pytest.mark.parametrize("line", LINES)
def test_a_cached_level_is_turned_as_in_a_full_pass(line):
    encoding, x_BHLD, positions = built(line), vectors(LADDER.num_tokens), LADDER.positions()
    full_BHLD = turned(encoding, x_BHLD)
    for level, span in enumerate(LADDER.spans):
        context = encoding.prepare(positions.only(level, level + 1))
        assert torch.equal(encoding.rotate(x_BHLD[:, :, span], context, 0), full_BHLD[:, :, span])


def test_prefix_tokens_are_not_turned():
    encoding = built("rope")
    context = encoding.prepare(LADDER.positions())
    x_BHLD = vectors(LADDER.num_tokens + 2)
    moved_BHLD = PositionContext(encoding, context, context, prefix=2).rotate(x_BHLD, 0)
    assert torch.equal(moved_BHLD[:, :, :2], x_BHLD[:, :, :2])
    assert torch.equal(moved_BHLD[:, :, 2:], turned(encoding, x_BHLD[:, :, 2:]))


@pytest.mark.parametrize("line", ["rope(rescale=2)", "rope_mixed(coordinates=learned)"])
def test_compiles_as_one_graph(line):
    encoding, x_BHLD, positions = built(line).train(), vectors(LADDER.num_tokens), LADDER.positions()

    def both(x_BHLD: Tensor) -> Tensor:
        return encoding.rotate(x_BHLD, encoding.prepare(positions), 1)

    torch._dynamo.reset()
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    results = []
    for run in (both, compiled):
        torch.manual_seed(0)
        turned_BHLD = run(x_BHLD.requires_grad_())
        turned_BHLD.square()[..., :3].sum().backward()
        learned = [parameter.grad for parameter in encoding.parameters()]
        results.append([turned_BHLD, x_BHLD.grad, *learned])
        x_BHLD.grad = None
        encoding.zero_grad()
    for eager, traced in zip(*results, strict=True):
        torch.testing.assert_close(eager, traced)


# points across levels


def points(line: str, pyramid: Pyramid = NESTED, training: bool = False) -> Tensor:
    return built(line, pyramid).train(training).coordinates(pyramid.positions()).detach()


@pytest.mark.parametrize(
    ("resizing", "pyramid"),
    [("area", NESTED), *(("bilinear", grids) for grids in (NESTED, LADDER, Pyramid.square(1, 2, 3, 4, 5)))],
    ids=str,
)
def test_a_coarse_centre_is_where_resizing_puts_it(resizing, pyramid):
    """The fine coordinates themselves, resized: nested cells average what they cover; half-pixel sampling,
    VAR's, agrees for any grids. (Over cells cut in two, a mean of centres is not the centre: 5/6, not 3/4,
    of a cell for the first of two over three.)"""
    for kind in ("center", "start", "corner", "index"):
        yx_L2 = points(f"rope(coordinates={kind})", pyramid)
        fine_12hw = yx_L2[pyramid.spans[-1]].T.unflatten(1, pyramid.finest)[None]
        for grid, span in zip(pyramid.grids[:-1], pyramid.spans, strict=False):
            resized_L2 = F.interpolate(fine_12hw, size=grid, mode=resizing)[0].flatten(1).T
            agrees = torch.allclose(yx_L2[span], resized_L2, atol=1e-5)
            assert agrees == (kind == "center")


@pytest.mark.parametrize(
    ("kind", "levels"),
    [
        ("center", [[8], [4, 12], [2, 6, 10, 14]]),
        ("start", [[0], [0, 8], [0, 4, 8, 12]]),  # HART
        (
            "corner",
            [[0], [0, 15], [0, 5, 10, 15]],
        ),  # STAR's 0, {0, 16}, {0, 5.33 ..}, in cells between corners
        ("index", [[0], [0, 1], [0, 1, 2, 3]]),
    ],
)
def test_where_each_map_puts_coarse_tokens(kind, levels):
    """Where the tokens of each level lie, in cells of a finest level of 16."""
    yx_L2 = points(f"rope(coordinates={kind})")
    for level, expected in enumerate(levels):
        side = len(expected)
        map_hw2 = yx_L2[NESTED.spans[level]].view(side, side, 2)
        torch.testing.assert_close(map_hw2[:, 0, 0], torch.tensor(expected, dtype=torch.float32))
        torch.testing.assert_close(map_hw2[0, :, 1], torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize("kind", ["center", "start", "corner", "index"])
def test_neighbours_on_the_finest_level_are_one_cell_apart(kind):
    for pyramid in (NESTED, LADDER):
        fine_hw2 = points(f"rope(coordinates={kind})", pyramid)[pyramid.spans[-1]].view(*pyramid.finest, 2)
        steps = fine_hw2[1:, :, 0] - fine_hw2[:-1, :, 0], fine_hw2[:, 1:, 1] - fine_hw2[:, :-1, 1]
        for step in steps:
            torch.testing.assert_close(step, torch.ones_like(step))


@pytest.mark.parametrize("pyramid", [NESTED, LADDER, Pyramid.square(1)], ids=str)
def test_the_unit_image_is_the_picture_s_own_square(pyramid):
    """Distances then shrink where a grid grows, while those in cells stay."""
    torch.testing.assert_close(points("rope(unit=image)", pyramid), pyramid.positions().yx_L2)
    assert points("rope(unit=image, coordinates=start)", pyramid).min() == -1


@pytest.mark.parametrize("start", ["center", "start", "corner", "index"])
def test_learned_coordinates_start_as_the_map_that_is_asked_for(start):
    """Where they end says something only if they could have ended elsewhere."""
    line = f"rope(coordinates=learned, learned_from={start}, learned_rate=10)"
    encoding = build_encoding(line, dim=48, num_heads=3, depth=2, pyramid=LADDER)
    positions = LADDER.positions()
    torch.testing.assert_close(encoding.coordinates(positions), points(f"rope(coordinates={start})", LADDER))
    with torch.no_grad():
        encoding.coordinates.offset_K2[1, 0] = 0.3
        encoding.coordinates.log_scale_K2[1, 1] = 0.1
    found = learned_maps(encoding, LADDER)
    scale, offset = level_maps(start, LADDER.grids, torch.device("cpu"))
    assert found["level_1/offset_y"] == pytest.approx(float(offset[1, 0]) + 3)
    assert found["level_1/scale_x"] == pytest.approx(float(scale[1, 1]) * math.e)
    assert learned_maps(build_encoding("rope", dim=48, num_heads=3, depth=2, pyramid=LADDER), LADDER) == {}


def test_a_start_of_coordinates_that_are_not_learned_is_refused():
    """It would be read as the map that is used."""
    with pytest.raises(ValueError, match="learned_from and learned_rate go with coordinates=learned"):
        built("rope(coordinates=start, learned_from=corner)")


def test_learned_coordinates_start_as_centres_and_are_trained():
    encoding = build_encoding("rope(coordinates=learned)", dim=48, num_heads=3, depth=2, pyramid=LADDER)
    initialise(encoding, 0)
    x_BHLD, coordinates = vectors(LADDER.num_tokens), encoding.coordinates
    assert torch.equal(turned(encoding, x_BHLD), turned(built("rope"), x_BHLD))
    encoding.rotate(x_BHLD, encoding.prepare(LADDER.positions()), 0).square()[..., :6].sum().backward()
    assert coordinates.offset_K2.grad.all()
    assert coordinates.log_scale_K2.grad[1:].all()  # of a single cell there is nothing to scale
    wider = LADDER.for_size(10, 14)
    torch.testing.assert_close(coordinates(wider.positions()), built("rope").coordinates(wider.positions()))


@pytest.mark.parametrize("name", ["rope", "rope_mixed"])
def test_learned_coordinates_refuse_another_number_of_levels(name):
    sentence = (
        rf"{name}\(coordinates=learned\) has 4 levels, asked for 5; coordinates=center also serves levels"
    )
    with pytest.raises(ValueError, match=sentence):
        built(f"{name}(coordinates=learned)").prepare(NESTED.positions())


def test_learned_coordinates_scale_by_an_exponential_and_shift_each_axis_apart():
    coordinates, centre_L2 = built("rope(coordinates=learned)").coordinates, points("rope", LADDER)
    with torch.no_grad():
        coordinates.log_scale_K2.zero_()[3] = torch.tensor([math.log(2), math.log(0.5)])
        coordinates.offset_K2.zero_()[3] = torch.tensor([5.0, -1.0])
    finest, cells_L2 = LADDER.spans[3], LADDER.positions().cell_L2[LADDER.spans[3]]
    expected_L2 = torch.tensor([2.0, 0.5]) * cells_L2 + 0.5 + torch.tensor([5.0, -1.0])
    found_L2 = coordinates(LADDER.positions()).detach()
    torch.testing.assert_close(found_L2[finest], expected_L2)
    torch.testing.assert_close(found_L2[: finest.start], centre_L2[: finest.start])


@pytest.mark.parametrize("name", ["rope", "rope_mixed"])
def test_learned_coordinates_refuse_a_move_to_other_levels(name):
    with pytest.raises(ValueError, match="has 4 levels, asked for 5"):
        built(f"{name}(coordinates=learned)").set_pyramid(NESTED)


# augmentation


def test_training_moves_all_places_by_one_draw():
    """DINOv3's: shift, then a factor per axis, then one for both; none of it outside training."""
    line, plain_L2 = "rope(unit=image, shift=0.5, jitter=1.5, rescale=2)", points("rope(unit=image)")
    assert torch.equal(points(line), plain_L2)
    factors = []
    for seed in range(40):
        torch.manual_seed(seed)
        moved_L2 = points(line, training=True)
        corner, other = NESTED.spans[-1].start, NESTED.spans[-1].stop - 1
        factor_2 = (moved_L2[other] - moved_L2[corner]) / (plain_L2[other] - plain_L2[corner])
        shift_2 = moved_L2[0] / factor_2
        torch.testing.assert_close(moved_L2, (plain_L2 + shift_2) * factor_2, atol=1e-5, rtol=1e-5)
        assert shift_2.abs().max() <= 0.5 + 1e-4
        factors.append(factor_2.log())
    log_factor_N2 = torch.stack(factors) / math.log(1.5 * 2)
    assert log_factor_N2.abs().max() <= 1
    assert log_factor_N2.abs().max() > 0.5
    apart_N = (log_factor_N2[:, 0] - log_factor_N2[:, 1]).abs() * math.log(3) / math.log(1.5)
    assert 1 < apart_N.max() <= 2  # only the jitter tells the axes apart


@pytest.mark.parametrize("option", ["jitter", "rescale"])
def test_jitter_is_per_axis_and_rescale_for_both(option):
    torch.manual_seed(0)
    ratio_L2 = points(f"rope({option}=3)", training=True) / points("rope")
    assert torch.allclose(ratio_L2[:, 0], ratio_L2[:, 1]) == (option == "rescale")


@pytest.mark.parametrize("name", ["rope", "rope_mixed"])
def test_queries_keys_and_layers_share_the_draw(name, make_vit, monkeypatch):
    """A draw per call would turn queries against keys by something that is no displacement."""
    vit, seen, drawn = make_vit(f"{name}(rescale=2)").train(), [], []
    rotate, prepare = vit.position_encoding.rotate, vit.position_encoding.prepare
    monkeypatch.setattr(
        vit.position_encoding, "prepare", lambda positions: drawn.append(prepare(positions)) or drawn[-1]
    )
    monkeypatch.setattr(
        vit.position_encoding,
        "rotate",
        lambda x, context, layer: seen.append(context) or rotate(x, context, layer),
    )
    vit(torch.zeros(2, 3, 8, 12))
    first = list(seen)
    assert len(first) == 4  # two layers, queries and keys
    assert len(drawn) == 1
    of_draw = {id(table) for table in tables(drawn[0])}
    assert all(id(table) in of_draw for context in first for table in tables(context))
    vit(torch.zeros(2, 3, 8, 12))
    assert not torch.equal(tables(seen[-1])[0], tables(first[0])[0])


# options


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("coordinates=middle", "coordinates is one of center, start, corner, index, learned, got 'middle'"),
        ("unit=pixels", "unit is one of cells, image, query, got 'pixels'"),
        (
            "unit=image, coordinates=index",
            "coordinates=index counts cells of each level, so it does not go with unit=image",
        ),
        ("base=1", "base must be above 1 and finite, got 1"),
        ("layout=split", "layout is one of half, interleaved, got 'split'"),
        ("shift=-1", "shift must be at least 0 and finite, got -1"),
        ("jitter=0.5", "jitter is a factor of at least 1, finite, got 0.5"),
        ("rescale=0", "rescale is a factor of at least 1, finite, got 0"),
    ],
)
@pytest.mark.parametrize("name", ["rope", "rope_mixed"])
def test_wrong_options_are_named(name, options, sentence):
    with pytest.raises(ValueError, match=f"{name}: {sentence}"):
        built(f"{name}({options})")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("directions=diagonal", "directions is one of axial, spiral, golden, got 'diagonal'"),
        ("directions=spiral, rays=3", "rays is even, from 2 to 8 here, got 3"),
        ("rays=8", "rays go with directions=spiral, got axial"),
        ("directions=golden, rays=8", "rays go with directions=spiral, got golden"),
    ],
)
def test_wrong_directions_are_named(options, sentence):
    with pytest.raises(ValueError, match=f"rope: {sentence}"):
        built(f"rope({options})")


@pytest.mark.parametrize("name", ["rope", "rope_mixed"])
def test_a_head_s_width_must_fit(name):
    with pytest.raises(ValueError, match=f"{name} needs dim / num_heads to be a multiple of 4, got 36 / 6"):
        build_encoding(name, dim=36, num_heads=6, depth=1, pyramid=LADDER)


def test_turn_is_a_rotation_of_pairs():
    """By hand: a quarter turn takes (1, 0) to (0, 1)."""
    x_BHLD = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 1, 4)
    angles = Angles.of(torch.tensor([[math.pi / 2, 0.0]]))
    for layout, wanted in {"half": [-3, 2, 1, 4], "interleaved": [-2, 1, 3, 4]}.items():
        torch.testing.assert_close(turn(x_BHLD, angles, layout).flatten(), torch.tensor(wanted).float())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(5, 4), (3, 5, 4)], ids=["all heads alike", "a head each"])
def test_the_gradient_of_turning_is_right(layout, shape):
    """In float64 against differences, for what is turned and for the angles."""
    x_BHLD = torch.randn(2, 3, 5, 8, dtype=torch.float64, requires_grad=True)
    angle = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, angle: turn(x, Angles.of(angle), layout), (x_BHLD, angle))


def test_turning_rounds_once():
    """A bf16 vector is turned in float32: the result is the float32 result in bf16."""
    x_BHLD, angles = torch.randn(2, 3, 5, 8).bfloat16(), Angles.of(torch.randn(5, 4))
    assert torch.equal(turn(x_BHLD, angles, "half"), turn(x_BHLD.float(), angles, "half").bfloat16())


def test_a_polar_pair_turns_along_its_angle_from_the_x_axis():
    encoding = built("rope_mixed(polar=true)")
    with torch.no_grad():
        encoding.get_parameter("angle_NHP").zero_()
    along_y, along_x = encoding.learned_waves()
    assert (along_y == 0).all()
    torch.testing.assert_close(along_x, encoding.get_parameter("log_length_NHP").exp())
