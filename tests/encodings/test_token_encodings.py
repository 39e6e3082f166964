"""What encodings that add a code to the tokens mean: grids, factors, features, gates, channel orders."""

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from timm.layers import build_sincos2d_pos_embed, resample_abs_pos_embed
from torch import Tensor

from var_pe.encodings import PositionEncoding, build_encoding
from var_pe.encodings.machinery.codes import standard_deviation
from var_pe.models.initialisation import initialise
from var_pe.pyramid import Pyramid

LADDER = Pyramid.square(1, 2, 4, 8)
UNEVEN = Pyramid(((1, 1), (2, 3), (5, 7)))
FOLLOWING = [
    "learned_grid",
    "learned_grid(grid=(3, 5), resample=timm, init=sinusoidal)",
    "factorized",
    "fourier",
    "fourier(features=gaussian)",
    "coordinate",
    "sinusoidal(coordinates=index, order=mae)",
    "mixed(learned_grid=0.4, factorized=0.3, coordinate=0.3)",
]


def built(line: str, pyramid: Pyramid = LADDER, dim: int = 64, seed: int = 0) -> PositionEncoding:
    encoding = build_encoding(line, dim=dim, num_heads=4, depth=2, pyramid=pyramid)
    initialise(encoding, seed)
    return encoding


def code(encoding: PositionEncoding, pyramid: Pyramid = LADDER) -> Tensor:
    return encoding.prepare(pyramid.positions()).detach()


def rms(code_LC: Tensor) -> float:
    return code_LC.square().mean().sqrt().item()


# all of them


@pytest.mark.parametrize("line", FOLLOWING)
def test_they_follow_any_pyramid(line):
    """Other sizes, aspects and level counts, in slices as in one piece; and a point keeps its code."""
    encoding = built(line)
    for pyramid in (UNEVEN, Pyramid.square(1), Pyramid.square(1, 2, 3, 4, 5, 6, 9), Pyramid(((1, 6),))):
        positions, full_LC = pyramid.positions(), code(encoding, pyramid)
        assert full_LC.shape == (pyramid.num_tokens, 64)
        assert full_LC.isfinite().all()
        for level, span in enumerate(pyramid.spans):
            torch.testing.assert_close(encoding.prepare(positions.only(level, level + 1)), full_LC[span])
    longer = Pyramid((*LADDER.grids[:2], *LADDER.grids))
    torch.testing.assert_close(code(encoding, longer)[5:], code(encoding))


@pytest.mark.parametrize("line", FOLLOWING)
def test_codes_are_float32_and_scaled(line):
    encoding = built(line)
    with torch.autocast("cpu", torch.bfloat16):
        inside_LC = encoding.prepare(LADDER.positions())
    assert inside_LC.dtype == torch.float32
    assert torch.equal(inside_LC, code(encoding))
    once, thrice = (
        f"{line[:-1]}, scale={scale})" if line.endswith(")") else f"{line}(scale={scale})" for scale in (1, 3)
    )
    torch.testing.assert_close(code(built(thrice)), 3 * code(built(once)))


@pytest.mark.parametrize("line", ["learned", "factorized", "fourier", "coordinate", "sinusoidal"])
def test_codes_start_as_large_as_a_table(line):
    """Amplitude and kind are set apart: all start at the size of a learned table, on every level."""
    code_LC = code(built(line, dim=512))
    assert rms(code_LC[LADDER.spans[-1]]) == pytest.approx(standard_deviation(512), rel=0.15)
    if line in ("learned", "fourier", "sinusoidal"):
        for span in LADDER.spans:
            assert rms(code_LC[span]) == pytest.approx(standard_deviation(512), rel=0.15)


@pytest.mark.parametrize("line", ["learned_grid", "factorized", "fourier(features=gaussian)", "mixed_gate"])
def test_compiles_as_one_graph(line):
    encoding = built("mixed(factorized=0.5, fourier=0.5, gate=true)" if line == "mixed_gate" else line)
    positions, x_BLC = LADDER.positions(), torch.randn(2, LADDER.num_tokens, 64)

    def both(x_BLC: Tensor) -> Tensor:
        return encoding.embed(x_BLC, encoding.prepare(positions))

    torch._dynamo.reset()
    compiled_BLC = torch.compile(both, fullgraph=True, backend="aot_eager")(x_BLC)  # before any other use
    torch.testing.assert_close(compiled_BLC, both(x_BLC))


# learned_grid


def test_a_level_of_the_table_s_own_grid_reads_its_rows():
    encoding = built("learned_grid", UNEVEN)
    assert torch.equal(code(encoding, UNEVEN)[UNEVEN.spans[-1]], encoding.table_LC.detach())
    assert torch.equal(code(encoding, Pyramid(((5, 7),))), encoding.table_LC.detach())


def test_a_coarse_token_takes_the_mean_over_what_it_covers():
    """Area, as FlexVAR's code has it; a random table is fainter by the root of the cells averaged."""
    encoding = built("learned_grid", dim=512)
    table_hwC, code_LC = encoding.table_LC.detach().view(8, 8, -1), code(encoding)
    for side, span in zip((1, 2, 4), LADDER.spans, strict=False):
        cells = 8 // side
        for token_C, (row, column) in zip(
            code_LC[span], [(r, c) for r in range(side) for c in range(side)], strict=True
        ):
            covered = table_hwC[row * cells :, column * cells :][:cells, :cells]
            torch.testing.assert_close(token_C, covered.mean((0, 1)))
        assert rms(code_LC[span]) == pytest.approx(standard_deviation(512) / cells, rel=0.2)


@pytest.mark.parametrize("grid", [(4, 4), (6, 10), (2, 8)], ids=str)
def test_it_is_resampled_by_the_convention_asked_for(grid):
    encoding = built("learned_grid(resample=timm)", UNEVEN)
    expected_1LC = resample_abs_pos_embed(
        encoding.table_LC.detach()[None], list(grid), old_size=[5, 7], num_prefix_tokens=0
    )
    torch.testing.assert_close(code(encoding, Pyramid((grid,))), expected_1LC[0])


def test_a_sinusoidal_start_is_smooth_and_so_not_fainter_on_coarse_levels():
    encoding = built("learned_grid(init=sinusoidal)")
    assert encoding.table_LC.shape == (64, 64)
    sizes = [rms(code(encoding)[span]) for span in LADDER.spans]
    assert min(sizes) > 0.6 * max(sizes)


def test_one_table_keeps_its_grid():
    """2x8 and 4x4 have as many cells. Moving the model to another pyramid leaves the table as it is."""
    table = built("learned_grid", Pyramid(((1, 1), (2, 8))))
    assert table.state_dict()["grids_K2"].tolist() == [[2, 8]]
    with pytest.raises(RuntimeError, match="stored for the grids 2x8, this model's are 4"):
        built("learned_grid", Pyramid(((1, 1), (4, 4)))).load_state_dict(table.state_dict())
    before_LC = code(table, UNEVEN)
    table.set_pyramid(UNEVEN)
    assert torch.equal(code(table, UNEVEN), before_LC)
    square = built("learned_grid(grid=4)", UNEVEN)
    assert square.state_dict()["grids_K2"].tolist() == [[4, 4]]


def test_every_level_trains_the_one_table():
    encoding = built("learned_grid")
    for level in range(4):
        encoding.zero_grad()
        encoding.prepare(LADDER.positions().only(level, level + 1)).sum().backward()
        assert encoding.table_LC.grad.all()


# factorized


def test_rows_and_columns_add_up():
    """On the finest level, a cell has exactly its row's vector plus its column's."""
    encoding = built("factorized", UNEVEN)
    assert (encoding.rows_hC.shape, encoding.columns_wC.shape) == ((5, 64), (7, 64))
    expected_hwC = encoding.rows_hC[:, None] + encoding.columns_wC
    finest_LC = code(encoding, UNEVEN)[UNEVEN.spans[-1]]
    torch.testing.assert_close(finest_LC, expected_hwC.flatten(0, 1).detach(), atol=1e-6, rtol=1e-4)


def test_between_entries_a_factorized_table_is_linear():
    """The rule, by hand: entry i stands at (i + 0.5) / n, and nothing lies beyond the outer entries."""
    encoding = built("factorized", Pyramid.square(4), dim=8)
    with torch.no_grad():
        encoding.rows_hC.copy_(torch.tensor([0.0, 1.0, 4.0, 9.0])[:, None].expand(4, 8))
        encoding.columns_wC.zero_()
    rows = {
        1: [2.5],
        2: [0.5, 6.5],
        3: [1 / 6, 2.5, 9 - 5 / 6],
        4: [0, 1, 4, 9],
        8: [0, 0.25, 0.75, 1.75, 3.25, 5.25, 7.75, 9],
    }
    for side, expected in rows.items():
        code_hC = code(encoding, Pyramid(((side, 1),)))
        torch.testing.assert_close(
            code_hC[:, 0], torch.tensor(expected, dtype=torch.float32), atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("line", ["factorized", "sinusoidal"])
def test_without_a_cross_term_rows_differ_alike_in_all_columns(line):
    map_hwC = code(built(line, UNEVEN), UNEVEN)[UNEVEN.spans[-1]].view(5, 7, -1)
    step_wC = map_hwC[3] - map_hwC[1]
    torch.testing.assert_close(step_wC, step_wC[:1].expand(7, -1), atol=1e-5, rtol=1e-5)


# fourier


def test_log_linear_features_are_octaves_of_the_centre():
    encoding = built("fourier(bands=3)", UNEVEN, dim=8)
    places_L2, expected = UNEVEN.positions().yx_L2, []
    for y, x in places_L2.tolist():
        angles = [2**k * torch.pi * centre for centre in (y, x) for k in range(3)]
        features_F = torch.tensor(angles + angles)
        features_F[:6], features_F[6:] = features_F[:6].sin(), features_F[6:].cos()
        expected.append(features_F @ encoding.map_FC.detach())
    torch.testing.assert_close(code(encoding, UNEVEN), torch.stack(expected), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("side", "bands"), [(1, 1), (2, 1), (8, 3), (9, 4), (16, 4)])
def test_the_fastest_octave_is_what_the_finest_grid_can_carry(side, bands):
    """Neighbours half a turn apart at most; one octave more would repeat what others say."""
    encoding = built("fourier", Pyramid.square(side))
    assert encoding.bands == bands
    assert side == 1 or 0.5 <= 2.0**bands / side < 2


@pytest.mark.parametrize("line", ["fourier", "fourier(features=gaussian)", "sinusoidal", "learned"])
def test_neighbours_can_be_told_apart(line):
    pyramid = Pyramid.square(1, 8)
    map_hwC = code(built(line, pyramid, dim=256), pyramid)[pyramid.spans[-1]].view(8, 8, -1)
    centred = map_hwC - map_hwC.mean((0, 1))
    for one, other in ((centred[1:], centred[:-1]), (centred[:, 1:], centred[:, :-1])):
        assert torch.cosine_similarity(one, other, dim=-1).mean() < 0.95


def test_gaussian_directions_follow_the_seed_and_are_stored():
    """Drawn once: neither trained nor drawn anew when a checkpoint is read."""
    line = "fourier(features=gaussian, bands=500, sigma=3)"
    encoding, same, other = built(line), built(line), built(line, seed=1)
    assert torch.equal(encoding.direction_2F, same.direction_2F)
    assert not torch.equal(encoding.direction_2F, other.direction_2F)
    assert encoding.direction_2F.std().item() == pytest.approx(3, rel=0.1)
    assert {name for name, _ in encoding.named_parameters()} == {"map_FC"}
    other.load_state_dict(encoding.state_dict())
    assert torch.equal(code(other), code(encoding))
    angle_LF = 2 * torch.pi * LADDER.positions().yx_L2 @ encoding.direction_2F
    expected_LC = torch.cat([angle_LF.sin(), angle_LF.cos()], 1) @ encoding.map_FC.detach()
    torch.testing.assert_close(code(encoding), expected_LC)


# coordinate


def test_coordinate_is_a_network_of_the_centre():
    encoding = built("coordinate(hidden=5)", UNEVEN)
    yx_L2 = UNEVEN.positions().yx_L2
    hidden_LU = F.gelu(yx_L2 @ encoding.in_2U + encoding.bias_U, approximate="tanh")
    torch.testing.assert_close(code(encoding, UNEVEN), (hidden_LU @ encoding.out_UC).detach())
    assert encoding.out_UC.shape == (5, 64)


def test_coordinate_is_smooth():
    """The nearer two points, the more alike their codes: what sets it apart from a table."""
    pyramid = Pyramid.square(32)
    map_hwC = code(built("coordinate", pyramid), pyramid).view(32, 32, -1)
    steps = [(map_hwC[:, step:] - map_hwC[:, :-step]).norm(dim=-1).mean() for step in (1, 4, 16)]
    assert steps[0] < 0.3 * steps[1] < 0.15 * steps[2]


# sinusoidal's options


@pytest.mark.parametrize("temperature", [20, 10000])
@pytest.mark.parametrize("grid", [(5, 5), (2, 3)], ids=str)
def test_raw_indices_in_timm_s_order_are_timm_s_code(grid, temperature):
    line = f"sinusoidal(coordinates=index, temperature={temperature}, scale=1)"
    expected_LC = build_sincos2d_pos_embed(list(grid), dim=64, temperature=temperature)
    torch.testing.assert_close(code(built(line), Pyramid((grid,))), expected_LC)


def test_timm_s_fixture():
    """As in timm: token (0, 1) of a grid of 2x3 at width 8."""
    token_C = code(built("sinusoidal(scale=1, coordinates=index)", dim=8), Pyramid(((2, 3),)))[1]
    expected_C = torch.tensor([0, 0, 0.8415, 0.0100, 1, 1, 0.5403, 0.9999])
    torch.testing.assert_close(token_C, expected_C, atol=1e-4, rtol=0)


def test_mae_s_order_is_the_one_diffusers_builds_for_dit():
    """The x axis first, each axis's sines before its cosines; the frequencies are timm's."""
    ours_LC = code(built("sinusoidal(scale=1, coordinates=index, order=mae)"), Pyramid.square(5))
    expected_LC = get_2d_sincos_pos_embed(64, 5, base_size=5, output_type="pt").float()
    torch.testing.assert_close(ours_LC, expected_LC, atol=1e-5, rtol=0)
    timm_LC = code(built("sinusoidal(scale=1, coordinates=index)"), Pyramid.square(5))
    sin_y, sin_x, cos_y, cos_x = timm_LC.chunk(4, dim=1)
    assert torch.equal(ours_LC, torch.cat([sin_x, cos_x, sin_y, cos_y], dim=1))


@pytest.mark.parametrize("grid", [(5, 5), (2, 3)], ids=str)
def test_big_vision_s_code_has_other_frequencies(grid):
    """Its exponents k / (C / 4 - 1) end at exactly 1 / temperature: no order of timm's channels gives it."""
    ours_LC = code(built("sinusoidal(scale=1, coordinates=index, order=big_vision)"), Pyramid((grid,)))
    expected = []
    for y in range(grid[0]):
        for x in range(grid[1]):
            angle_2F = torch.tensor([[x * 10000 ** -(k / 15), y * 10000 ** -(k / 15)] for k in range(16)]).T
            expected.append(torch.stack([angle_2F.sin(), angle_2F.cos()], 1).flatten())
    torch.testing.assert_close(ours_LC, torch.stack(expected), atol=1e-5, rtol=0)
    assert ours_LC[1, 15].item() == pytest.approx(1e-4, rel=1e-4)  # the slowest sine of x at x = 1


@pytest.mark.parametrize("order", ["timm", "mae", "big_vision"])
@pytest.mark.parametrize("coordinates", ["center", "index"])
def test_inner_products_depend_on_the_displacement_only(coordinates, order):
    """And the norm on nothing: PE(p) changes with p, PE(p) . PE(p + d) does not."""
    line = f"sinusoidal(coordinates={coordinates}, order={order}, scale=1)"
    map_hwC = code(built(line), Pyramid(((5, 7),))).view(5, 7, -1)
    for dy, dx in [(0, 0), (0, 1), (2, 0), (1, 3)]:
        product_hw = (map_hwC[dy:, dx:] * map_hwC[: 5 - dy, : 7 - dx]).sum(-1)
        torch.testing.assert_close(product_hw, product_hw[0, 0].expand_as(product_hw))


def test_raw_indices_do_not_tell_levels_apart():
    """Token 0, 0 has one code on all levels; centres put it elsewhere on each."""
    index_LC, centre_LC = code(built("sinusoidal(scale=1, coordinates=index)")), code(built("sinusoidal"))
    firsts = [span.start for span in LADDER.spans]
    assert (index_LC[firsts] == index_LC[0]).all()
    assert (centre_LC[firsts[1:]] - centre_LC[0]).abs().amax(1).min() > 0.1


# gates


def with_and_without(parts: str) -> tuple[PositionEncoding, PositionEncoding]:
    return built(f"mixed({parts}, gate=true)"), built(f"mixed({parts})")


@pytest.mark.parametrize(
    "parts",
    [
        "learned=0.7, sinusoidal=0.3",
        "learned=-0.7, sinusoidal=0.3, scale=2",
        "learned=0.5, sinusoidal=0.2, fourier=0.3, trainable=true",
        "learned=0.7, sinusoidal=0.3, match_rms=false",
    ],
)
def test_a_gate_starts_as_the_fixed_mix(parts):
    gated, fixed = with_and_without(parts)
    x_BLC, positions = torch.randn(2, LADDER.num_tokens, 64), LADDER.positions()
    expected_BLC = fixed.embed(x_BLC, fixed.prepare(positions))
    assert torch.equal(gated.embed(x_BLC, gated.prepare(positions)), expected_BLC)


def test_a_gate_goes_by_the_token_alone():
    """Each token's own content weighs the parts, whatever its neighbours and the batch hold."""
    gated, _ = with_and_without("learned=0.7, sinusoidal=0.3")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        gated.gate_CP.normal_(generator=generator)
        gated.gate_bias_P.normal_(generator=generator)
    x_BLC, context = (
        torch.randn(2, LADDER.num_tokens, 64, generator=generator),
        gated.prepare(LADDER.positions()),
    )
    added_BLC = (gated.embed(x_BLC, context) - x_BLC).detach()
    share_BLP = 2 * torch.sigmoid(x_BLC @ gated.gate_CP + gated.gate_bias_P).detach()
    learned_LC, fixed_LC = context.detach()
    expected_BLC = share_BLP[..., :1] * learned_LC + share_BLP[..., 1:] * fixed_LC
    torch.testing.assert_close(added_BLC, expected_BLC, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(added_BLC[0], added_BLC[1], atol=1e-2)
    alone_BLC = gated.embed(x_BLC[1:, 5:9], context[:, 5:9])
    torch.testing.assert_close(alone_BLC, gated.embed(x_BLC, context)[1:, 5:9])


def test_a_closed_gate_and_a_weight_of_zero_leave_the_learned_part():
    for match_rms in ("true", "false"):
        mixture = built(f"mixed(learned=1, sinusoidal=0, match_rms={match_rms})")
        pure_LC = code(mixture.parts[0]) * mixture.factor_P[0]
        torch.testing.assert_close(code(mixture), pure_LC)
    gated, _ = with_and_without("learned=1, sinusoidal=1, match_rms=false")
    with torch.no_grad():
        gated.gate_bias_P.copy_(torch.tensor([0.0, -1e4]))
    x_BLC = torch.randn(2, LADDER.num_tokens, 64)
    added_BLC = gated.embed(x_BLC, gated.prepare(LADDER.positions()))
    torch.testing.assert_close(added_BLC, x_BLC + code(gated.parts[0]))


def test_a_gate_stays_float32_under_autocast():
    gated, _ = with_and_without("learned=0.7, sinusoidal=0.3")
    with torch.no_grad():
        gated.gate_CP.normal_(generator=torch.Generator().manual_seed(0))
    x_BLC, context = torch.randn(2, LADDER.num_tokens, 64), gated.prepare(LADDER.positions())
    expected_BLC = gated.embed(x_BLC, context)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gated.embed(x_BLC, context), expected_BLC)


def test_weights_keep_their_signs():
    plus, minus = (built(f"mixed(learned={share}, sinusoidal=0.3)") for share in (0.7, -0.7))
    both_LC, fixed_LC = code(plus) + code(minus), code(plus.parts[1]) * plus.factor_P[1]
    torch.testing.assert_close(both_LC, 2 * 0.3 * fixed_LC)


@pytest.mark.parametrize(
    "inner", ["sinusoidal(coordinates=index)", "mixed(sinusoidal, sinusoidal(order=mae))"]
)
def test_a_mixture_with_nothing_to_learn_is_built_without_memory(inner):
    line = f"mixed(sinusoidal, {inner}, weights=(0.5, 0.5))"
    with torch.device("meta"):
        assert all(buffer.is_meta for buffer in built(line).buffers())
    assert code(built(line)).isfinite().all()


def test_a_move_leaves_the_factors_of_a_mixture():
    """They were measured where training started; anew, a trained table would change its share."""
    mixture = built("mixed(learned=0.7, sinusoidal=0.3)")
    with torch.no_grad():
        mixture.parts[0].table_LC.mul_(3)
    before_P = mixture.factor_P.clone()
    mixture.set_pyramid(UNEVEN, "timm")
    assert torch.equal(mixture.factor_P, before_P)


def test_a_gate_trains_from_the_first_step():
    gated, _ = with_and_without("learned=0.7, sinusoidal=0.3")
    x_BLC = torch.randn(2, LADDER.num_tokens, 64)
    gated.embed(x_BLC, gated.prepare(LADDER.positions())).square().sum().backward()
    assert gated.gate_CP.grad.all()
    assert gated.gate_bias_P.grad.all()


# options


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("learned_grid(resample=nearest)", r"\)': resample is one of .*, got 'nearest'"),
        ("learned_grid(grid=0)", "learned_grid: grid is one side or two from 1 to 1024, got 0"),
        ("learned_grid(grid=(3, 4000000000))", "numbers are at most 1e.09, got 4000000000"),
        ("learned_grid(grid=(3, 4, 5))", "int or list of int or null, 2 of them, got .3, 4, 5."),
        ("learned(scale=1e39)", r"encoding 'learned\(scale=1e39\)': numbers are at most 1e.09, got 1e\+39"),
        ("learned(scale=-1)", r"encoding 'learned\(scale=-1\)': scale must be above 0 and finite, got -1"),
        (
            "sinusoidal + learned(resample=foo)",
            r"encoding '.*resample=foo\)': resample is one of .*, got 'foo'",
        ),
        ("pyramid_peg(after=9)", r"encoding 'pyramid_peg\(after=9\)': after takes blocks in 0..1, .*got 9"),
        (
            "pyramid_peg(kernels=100000)",
            "pyramid_peg: kernels are sides from 1 to 255, each once, got 100000",
        ),
        (
            "mixed(sinusoidal, mixed(sinusoidal, sinusoidal, weights=(1, -1)), weights=(1, 1))",
            "mixed: part 2 of 2 starts at zero everywhere, so no factor gives it its share",
        ),
        ("learned_grid(init=zeros)", "init is one of trunc_normal, xavier, sinusoidal, got 'zeros'"),
        ("fourier(features=waves)", "fourier: features is one of log_linear, gaussian, got 'waves'"),
        ("fourier(bands=0)", "fourier: bands is a whole number from 1 to 4096, got 0"),
        ("fourier(bands=2.5)", "bands of fourier must be int or null, got 2.5"),
        ("fourier(bands=17)", r"fourier\(features=log_linear\) has at most 16 bands, got 17"),
        ("fourier(sigma=0)", "fourier: sigma must be above 0 and finite, got 0"),
        ("coordinate(hidden=true)", "hidden of coordinate must be int or null, got true"),
        ("sinusoidal(coordinates=corner)", "sinusoidal: coordinates is one of center, index, got 'corner'"),
        ("sinusoidal(order=dit)", "sinusoidal: order is one of timm, mae, big_vision, got 'dit'"),
        ("factorized(scale=0)", "scale must be above 0 and finite, got 0"),
        (
            "mixed(mixed(learned, sinusoidal, weights=(1, 1), gate=true), learned, weights=(1, 1))",
            "a mixture with gate=true depends on the token and cannot be a part",
        ),
    ],
)
def test_wrong_options_are_named(line, sentence):
    with pytest.raises(ValueError, match=sentence):
        built(line)


def test_big_vision_needs_two_frequencies():
    with pytest.raises(
        ValueError, match=r"sinusoidal\(order=big_vision\) needs a width of at least 8, got 4"
    ):
        built("sinusoidal(order=big_vision)", dim=4)
