"""What each encoding means: the numbers a token gets for its position, apart from the network around it."""

import json

import pytest
import torch
from timm.layers import build_sincos2d_pos_embed

from var_pe.encodings import PositionEncoding, build_encoding
from var_pe.encodings.machinery.codes import standard_deviation
from var_pe.encodings.machinery.level import LevelEmbedding
from var_pe.models.generator import VARTransformer
from var_pe.models.initialisation import initialise
from var_pe.pyramid import Pyramid
from var_pe.resampling.conventions import resample_table

LADDER = Pyramid.square(1, 2, 3, 4, 6, 8)
TOKEN_LINES = ["learned", "sinusoidal", "mixed(learned=0.7, sinusoidal=0.3)"]


def built(line: str, pyramid: Pyramid = LADDER, dim: int = 64, seed: int = 0) -> PositionEncoding:
    encoding = build_encoding(line, dim=dim, num_heads=4, depth=2, pyramid=pyramid)
    initialise(encoding, seed)
    return encoding


def code(encoding: PositionEncoding, pyramid: Pyramid = LADDER) -> torch.Tensor:
    return encoding.embed(torch.zeros(1, pyramid.num_tokens, 1), encoding.prepare(pyramid.positions()))[
        0
    ].detach()


def spread(code_LC: torch.Tensor) -> float:
    """Root mean square about the mean over positions."""
    return (code_LC - code_LC.mean(0)).square().mean().sqrt().item()


# sinusoidal


@pytest.mark.parametrize("temperature", [20, 10000])
@pytest.mark.parametrize("grid", [(8, 8), (3, 7)], ids=str)
def test_sinusoidal_is_timm_s_code_half_a_cell_on(grid, temperature):
    """timm counts cells from 0, we count their centres: sin(a + b) of timm's angle a and half a cell's b."""
    ours_LC = code(
        built(f"sinusoidal(temperature={temperature}, scale=1)", Pyramid((grid,))), Pyramid((grid,))
    )
    sin_LP, cos_LP = build_sincos2d_pos_embed(list(grid), dim=64, temperature=temperature).chunk(2, dim=1)
    half_P = (0.5 * temperature ** -(torch.arange(16) / 16)).repeat(2)  # y's sixteen, then x's
    expected_LC = torch.cat(
        [
            sin_LP * half_P.cos() + cos_LP * half_P.sin(),
            cos_LP * half_P.cos() - sin_LP * half_P.sin(),
        ],
        dim=1,
    )
    torch.testing.assert_close(ours_LC, expected_LC, atol=2e-6, rtol=0)


def test_coarse_cells_count_in_cells_of_the_finest_level():
    """A coarse token's code is the one of the point where its centre lies, so that coarse and fine agree."""
    pyramid = Pyramid(((1, 1), (1, 2), (2, 3), (3, 9), (6, 9)))
    code_LC, here = code(built("sinusoidal(scale=1)", pyramid), pyramid), pyramid.positions()
    band_F = 10000.0 ** -(torch.arange(16) / 16)
    for (row, column), level, token_C in zip(
        here.cell_L2.tolist(), here.level_L.tolist(), code_LC, strict=True
    ):
        h, w = pyramid.grids[level]
        y, x = (row + 0.5) * 6 / h, (column + 0.5) * 9 / w
        angle = torch.cat([y * band_F, x * band_F])
        torch.testing.assert_close(token_C, torch.cat([angle.sin(), angle.cos()]), atol=2e-6, rtol=0)
    torch.testing.assert_close(code_LC[0], code_LC[pyramid.spans[3]][13])  # 1x1 and the middle of 3x9


@pytest.mark.parametrize("side", [8, 16])
def test_neighbours_can_be_told_apart(side):
    """On [-1, 1] at temperature 10000 neighbours have a cosine of 0.9998 at width 256: no position at all."""
    pyramid = Pyramid.square(1, 2, side)
    code_LC = code(built("sinusoidal", pyramid, dim=256), pyramid)[pyramid.spans[-1]]
    map_hwC = code_LC.view(side, side, -1)
    along_x = torch.cosine_similarity(map_hwC[:, 1:], map_hwC[:, :-1], dim=-1)
    along_y = torch.cosine_similarity(map_hwC[1:], map_hwC[:-1], dim=-1)
    assert max(along_x.max(), along_y.max()) < 0.99  # half of the channels are the other axis's
    centred_LC = code_LC - code_LC.mean(0)
    similar_LL = torch.cosine_similarity(centred_LC[:, None], centred_LC, dim=-1) - 2 * torch.eye(side**2)
    assert similar_LL.max() < 0.96


def test_inner_products_depend_on_the_displacement_only():
    """The reason to take sines: attention can learn "two to the left" once for all positions."""
    map_hwC = code(built("sinusoidal", Pyramid.square(6)), Pyramid.square(6)).view(6, 6, -1)
    for dy, dx in [(0, 1), (2, 0), (1, 3), (0, 0)]:
        product_hw = (map_hwC[dy:, dx:] * map_hwC[: 6 - dy, : 6 - dx]).sum(-1)
        torch.testing.assert_close(product_hw, product_hw[0, 0].expand_as(product_hw))


def test_temperature_sets_the_slowest_wave():
    """At 10000 the slowest channels hardly move over the picture; at 20 all of them do."""
    slowest = [
        code(built(f"sinusoidal(temperature={temperature}, scale=1)"))[LADDER.spans[-1]][:, 15].std().item()
        for temperature in (20, 10000)
    ]
    assert slowest[0] > 0.1 > 0.01 > slowest[1]


def test_sinusoidal_has_nothing_to_learn_or_to_store():
    encoding = built("sinusoidal")
    assert not list(encoding.parameters())
    assert not encoding.state_dict()


@pytest.mark.parametrize("grid", [(16, 16), (4, 12)], ids=str)
def test_sinusoidal_follows_the_size(grid):
    """Other grids are other positions: the same object answers as one that was built for them."""
    other = LADDER.for_size(*grid)
    torch.testing.assert_close(code(built("sinusoidal"), other), code(built("sinusoidal", other), other))


# learned


@pytest.mark.parametrize(
    ("init", "deviation"),
    [("trunc_normal", (1 / (3 * 512)) ** 0.5), ("xavier", (2 / (512 + LADDER.num_tokens)) ** 0.5)],
)
def test_a_table_starts_with_one_deviation_for_all_levels(init, deviation):
    """Fans of each level's own table would make 1x1 eleven times as loud as 16x16."""
    table_LC = code(built(f"learned(init={init})", dim=512))
    for span in LADDER.spans:
        torch.testing.assert_close(table_LC[span].std().item(), deviation, rtol=0.1, atol=0)
    torch.testing.assert_close(table_LC.std().item(), deviation, rtol=0.02, atol=0)
    assert abs(table_LC.mean().item()) < 4 * deviation / table_LC.numel() ** 0.5


def test_a_table_can_start_as_the_sinusoid():
    """The control for mixtures: the sinusoid's shape, the table's size, free to move."""
    table_LC, fixed_LC = code(built("learned(init=sinusoidal)")), code(built("sinusoidal"))
    ratio = table_LC.norm() / fixed_LC.norm()
    torch.testing.assert_close(table_LC, ratio * fixed_LC)
    assert spread(table_LC) == pytest.approx(standard_deviation(64), rel=1e-4)


def test_a_table_can_be_left_as_it_starts():
    """What a random start is worth without learning; nothing of it may reach an optimizer."""
    kept, trained = built("learned(trainable=false)"), built("learned")
    assert not any(parameter.requires_grad for parameter in kept.parameters())
    assert torch.equal(code(kept), code(trained))


def test_a_table_keeps_its_grids():
    """2x8 and 4x4 have as many tokens: a table of the one, read as the other, is scrambled without a word."""
    table = built("learned", Pyramid(((2, 8),)))
    assert table.state_dict()["grids_K2"].tolist() == [[2, 8]]
    for strict in (True, False):
        with pytest.raises(RuntimeError, match="stored for the grids 2x8, this model's are 4"):
            built("learned", Pyramid(((4, 4),))).load_state_dict(table.state_dict(), strict=strict)
    same = built("learned", Pyramid(((2, 8),)), seed=1)
    same.load_state_dict(table.state_dict())
    assert torch.equal(same.table_LC, table.table_LC)


def test_a_saved_table_is_not_read_as_another_grid(make_generator, tmp_path):
    """diffusers' loader copies tensors past every load hook."""
    make_generator("learned", ((4, 4),)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="made for the grids 4; moving it to 2x8 needs the name of a resamp"):
        VARTransformer.from_pretrained(tmp_path, levels=((2, 8),))
    moved = VARTransformer.from_pretrained(tmp_path, levels=((2, 8),), resample="timm")
    kept = VARTransformer.from_pretrained(tmp_path)
    expected = resample_table(kept.position_encoding.table_LC, (4, 4), (2, 8), "timm")
    assert torch.equal(moved.position_encoding.table_LC, expected)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"levels": [[2, 8]]}))
    with pytest.raises(ValueError, match="stored for the grids 4, this model's are 2x8"):
        VARTransformer.from_pretrained(tmp_path)


@pytest.mark.parametrize("line", ["learned", "mixed(learned=0.7, sinusoidal=0.3)", "sinusoidal + learned"])
def test_a_table_refuses_other_grids(line):
    encoding = built(line, Pyramid(((1, 1), (4, 4))))
    for grids in [((1, 1), (2, 8)), ((4, 4),), ((1, 1), (4, 4), (4, 4))]:
        with pytest.raises(ValueError, match="learned table was made for the grids 1-4, asked for"):
            encoding.prepare(Pyramid(grids).positions())


def test_only_the_rows_at_hand_are_read():
    """A cached level gets its own rows of the table, not the first ones."""
    table = built("learned")
    row_L = torch.arange(LADDER.num_tokens)[:, None].expand(-1, 64)
    with torch.no_grad():
        table.table_LC.copy_(row_L)
    for first, stop in [(0, 1), (2, 3), (1, 4), (5, 6)]:
        span = slice(LADDER.spans[first].start, LADDER.spans[stop - 1].stop)
        assert torch.equal(table.prepare(LADDER.positions().only(first, stop)), row_L[span].float())


# mixed


def parts_of(line: str, **given) -> list[torch.Tensor]:
    """The terms of a mixture as they are added: weight * factor * part."""
    mixture, positions = built(line, **given), LADDER.positions()
    share_P = mixture.weight_P * mixture.factor_P
    return [
        (share * part.prepare(positions)).detach() for share, part in zip(share_P, mixture.parts, strict=True)
    ]


@pytest.mark.parametrize("dim", [64, 512])
def test_a_mixture_s_parts_have_the_shares_that_the_weights_say(dim):
    """Added as they are, "70 % learned, 30 % fixed" is a sinusoid with some noise on it."""
    target = standard_deviation(dim)
    learned, fixed = parts_of("mixed(learned=0.7, sinusoidal=0.3)", dim=dim)
    assert spread(learned) == pytest.approx(0.7 * target, rel=1e-4)
    assert spread(fixed) == pytest.approx(0.3 * target, rel=1e-4)
    torch.testing.assert_close(learned + fixed, code(built("mixed(learned=0.7, sinusoidal=0.3)", dim=dim)))


def test_the_literal_sum_is_there_when_asked_for():
    mixture = built("mixed(learned=0.7, sinusoidal=0.3, match_rms=false)")
    expected = 0.7 * code(mixture.parts[0]) + 0.3 * code(built("sinusoidal(scale=1)"))
    torch.testing.assert_close(code(mixture), expected)
    learned, fixed = parts_of("mixed(learned=0.7, sinusoidal=0.3, match_rms=false)")
    assert fixed.norm() > 4 * learned.norm()  # the trap that match_rms exists for


def test_match_rms_measures_once_and_then_lets_the_table_grow():
    """A factor measured again in every step would undo what the table learns about its own size."""
    mixture = built("mixed(learned=0.5, sinusoidal=0.5)")
    before = code(mixture)
    with torch.no_grad():
        mixture.parts[0].table_LC.mul_(3)
    doubled = code(mixture) - before
    torch.testing.assert_close(spread(doubled), 2 * 0.5 * standard_deviation(64), rtol=1e-3, atol=0)


def test_weights_are_parameters_only_when_asked():
    fixed = built("mixed(learned=0.7, sinusoidal=0.3)")
    free = built("mixed(learned=0.7, sinusoidal=0.3, trainable=true)")
    assert {name for name, _ in fixed.named_parameters()} == {"parts.0.table_LC"}
    assert {name for name, _ in free.named_parameters()} == {"parts.0.table_LC", "weight_P"}
    torch.testing.assert_close(free.weight_P.detach(), torch.tensor([0.7, 0.3]))
    assert torch.equal(code(fixed), code(free))
    free.prepare(LADDER.positions()).square().sum().backward()
    assert free.weight_P.grad.all()


def test_a_mixture_is_a_table_that_starts_elsewhere():
    """At fixed grids a * T + b * S can be written as one table; a comparison has to know that."""
    mixture, table = built("mixed(learned=0.7, sinusoidal=0.3)"), built("learned")
    with torch.no_grad():
        table.table_LC.copy_(code(mixture))
    assert torch.equal(code(table), code(mixture))
    started, fixed = parts_of("mixed(learned(init=sinusoidal), sinusoidal, weights=(1, 1))")
    torch.testing.assert_close(started, fixed)  # the control starts as the fixed part itself


def test_parts_with_options_and_mixtures_of_mixtures():
    """Inner parts are measured before what is made of them, else the outer shares are wrong."""
    inner = "mixed(learned(init=xavier), sinusoidal(temperature=100), weights=(3, 1))"
    outer, own = parts_of(f"mixed({inner}, sinusoidal, weights=(0.25, 0.75))")
    assert spread(outer) == pytest.approx(0.25 * standard_deviation(64), rel=1e-4)
    assert spread(own) == pytest.approx(0.75 * standard_deviation(64), rel=1e-4)


@pytest.mark.parametrize("levels", [(1,), (1, 1), (1, 1, 1), (3,)], ids=str)
def test_a_mixture_is_finite_where_places_do_not_differ(levels):
    """A fixed code that is the same everywhere has no amplitude to divide by."""
    pyramid = Pyramid.square(*levels)
    mixed_LC = code(built("mixed(learned=0.7, sinusoidal=0.3)", pyramid), pyramid)
    assert mixed_LC.abs().max() < 10 * standard_deviation(64)


# all that add a code


def with_scale(line: str, scale: float) -> str:
    return f"{line[:-1]}, scale={scale})" if line.endswith(")") else f"{line}(scale={scale})"


@pytest.mark.parametrize("line", TOKEN_LINES)
def test_scale_multiplies_the_code(line):
    """Amplitude can be set apart from kind."""
    once, thrice = (with_scale(line, scale) for scale in (1, 3))
    torch.testing.assert_close(code(built(thrice)), 3 * code(built(once)))


@pytest.mark.parametrize("line", TOKEN_LINES)
def test_codes_stay_float32_under_autocast(line):
    """In bf16 the angles of neighbours coincide, and small steps of a table are lost."""
    encoding = built(line)
    positions = LADDER.positions()
    with torch.autocast("cpu", torch.bfloat16):
        inside = encoding.prepare(positions)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, encoding.prepare(positions))


def test_plus_adds_codes_and_none_adds_nothing():
    both = built("learned + none + sinusoidal(scale=0.5)")
    torch.testing.assert_close(code(both), code(both.parts[0]) + 0.5 * code(built("sinusoidal(scale=1)")))
    assert not code(built("none")).any()
    assert not any(built("none").uses(hook) for hook in ("embed", "rotate", "bias", "refine"))
    assert both.uses("embed")
    assert not both.uses("rotate")


# levels


def levels_of(kind: str, pyramid: Pyramid, trained: Pyramid = LADDER, dim: int = 64) -> torch.Tensor | None:
    embedding = LevelEmbedding(kind, dim=dim, pyramid=trained)
    initialise(embedding, 0)
    code_LC = embedding(pyramid.positions())
    return None if code_LC is None else code_LC.detach()


@pytest.mark.parametrize("kind", ["learned", "sinusoidal"])
def test_a_level_embedding_tells_levels_and_not_places(kind):
    code_LC = levels_of(kind, LADDER)
    rows = [code_LC[span] for span in LADDER.spans]
    assert all((row == row[0]).all() for row in rows)
    kinds_KC = torch.stack([row[0] for row in rows])
    similar_KK = torch.cosine_similarity(kinds_KC[:, None], kinds_KC, dim=-1) - 2 * torch.eye(6)
    assert similar_KK.max() < 0.9  # neighbouring rungs too
    assert code_LC.square().mean().sqrt().item() == pytest.approx(standard_deviation(64), rel=0.2)


def test_no_level_embedding_is_nothing():
    assert levels_of("none", LADDER) is None
    assert not list(LevelEmbedding("none", dim=64, pyramid=LADDER).parameters())
    assert not list(LevelEmbedding("sinusoidal", dim=64, pyramid=LADDER).parameters())


def test_levels_that_were_not_trained():
    """The sinusoidal code goes by the grid's size and knows any; a learned one has no row for them."""
    longer = Pyramid.square(1, 2, 3, 4, 6, 8, 12)
    with pytest.raises(ValueError, match=r"learned has 6 levels, asked for 7; .* sinusoidal also serves"):
        levels_of("learned", longer)
    known, unseen = levels_of("sinusoidal", LADDER), levels_of("sinusoidal", longer)
    assert torch.equal(unseen[: LADDER.num_tokens], known)
    skipping = levels_of("sinusoidal", Pyramid.square(1, 4, 8))
    assert torch.equal(skipping[1], known[LADDER.spans[3]][0])  # 4x4 is 4x4 wherever it comes in the ladder


def test_a_level_embedding_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="level_embedding is one of learned, sinusoidal, none, got 'fixed'"):
        LevelEmbedding("fixed", dim=64, pyramid=LADDER)
    with pytest.raises(ValueError, match="multiple of 4, got 6"):
        LevelEmbedding("sinusoidal", dim=6, pyramid=LADDER)
