"""Tables of position codes in another size: each library's own numbers, and nothing stale or guessed."""

import copy
import math
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import zoom
from timm.layers import resample_abs_pos_embed
from torchvision.models.vision_transformer import interpolate_embeddings

from var_pe.encodings import build_encoding
from var_pe.encodings.cache import Remembered
from var_pe.encodings.resample import CONVENTIONS, Convention, resample_table, source_levels
from var_pe.models.generator import VARTransformer
from var_pe.models.initialisation import initialise
from var_pe.models.vit import ViTClassifier
from var_pe.pyramid import Pyramid

MOVES = [((14, 14), (24, 24)), ((14, 14), (7, 28)), ((6, 10), (9, 4)), ((5, 9), (9, 5)), ((7, 3), (7, 4))]


def noise(rows: int, width: int = 16, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0)).to(dtype)


def smooth(side: int, width: int = 64) -> torch.Tensor:
    """A table as training makes them: neighbours alike (waves of at least one and a half pictures)."""
    line = build_encoding("sinusoidal", dim=width, num_heads=4, depth=1, pyramid=Pyramid.square(14))
    centres_L2 = Pyramid.square(side).positions()
    return (
        line.code_LC(centres_L2) if side == 14 else resample_table(smooth(14, width), (14, 14), (side, side))
    )


# the libraries' own numbers


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize(("old", "new"), MOVES, ids=str)
def test_timm_is_timm(old, new, prefix, dtype):
    table_LC = noise(prefix + math.prod(old), dtype=dtype)
    theirs = resample_abs_pos_embed(table_LC[None], list(new), list(old), num_prefix_tokens=prefix)[0]
    ours = resample_table(table_LC, old, new, "timm", prefix)
    assert ours.dtype == dtype
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("side", [7, 24])
def test_torchvision_is_torchvision(side, mode):
    """Squares and one class token are all it takes."""
    table_LC, key = noise(1 + 14 * 14), "encoder.pos_embedding"
    theirs = interpolate_embeddings(side * 16, 16, {key: table_LC[None]}, mode)[key][0]
    convention = "torchvision" if mode == "bicubic" else Convention("bilinear", align_corners=True)
    assert torch.equal(resample_table(table_LC, (14, 14), (side, side), convention, prefix=1), theirs)


@pytest.mark.parametrize(("old", "new"), MOVES, ids=str)
def test_big_vision_is_scipy_s_zoom_of_order_one(old, new):
    table_LC = noise(math.prod(old))
    factors = (new[0] / old[0], new[1] / old[1], 1)
    theirs = torch.from_numpy(zoom(table_LC.unflatten(0, old).numpy(), factors, order=1)).flatten(0, 1)
    torch.testing.assert_close(resample_table(table_LC, old, new, "big_vision"), theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("new", [(n, n) for n in (16, 39, 43, 64, 78, 86, 115, 123)] + [(16, 60)], ids=str)
def test_dinov2_gives_the_scale_a_little_too_large(new):
    """Its formula: at these sides n / 37 alone floors to n - 1, hence the 0.1, which moves every sample."""
    table_LC = noise(1 + 37 * 37, width=4)
    map_1Chw = table_LC[1:].reshape(1, 37, 37, 4).permute(0, 3, 1, 2)
    factors = ((new[0] + 0.1) / 37, (new[1] + 0.1) / 37)
    theirs = F.interpolate(map_1Chw, scale_factor=factors, mode="bicubic").permute(0, 2, 3, 1).reshape(-1, 4)
    ours = resample_table(table_LC, (37, 37), new, "dinov2", prefix=1)
    assert torch.equal(ours, torch.cat([table_LC[:1], theirs]))
    by_size = resample_table(table_LC, (37, 37), new, "swin", prefix=1)
    assert (ours - by_size).norm() > 0.01 * by_size.norm()


@pytest.mark.parametrize("n", [39, 43, 78, 86, 115, 123])
def test_without_the_offset_the_scale_floors_to_one_cell_less(n):
    """Why the convention exists (dino issue 8): the sides above are the ones that would go wrong."""
    table_1Chw = noise(37 * 37, width=1).T.reshape(1, 1, 37, 37)
    assert F.interpolate(table_1Chw, scale_factor=(n / 37, n / 37), mode="bicubic").shape[-1] == n - 1


@pytest.mark.parametrize(
    ("convention", "options"),
    [
        ("flexivit", dict(mode="bilinear", antialias=True)),
        ("dinov2_reg", dict(mode="bicubic", antialias=True)),
        ("swin", dict(mode="bicubic")),
        ("area", dict(mode="area")),
    ],
)
@pytest.mark.parametrize(("old", "new"), MOVES, ids=str)
def test_the_other_conventions_are_what_their_code_asks_torch_for(convention, options, old, new):
    table_LC = noise(math.prod(old))
    theirs = F.interpolate(table_LC.T.reshape(1, -1, *old), size=new, **options)[0].flatten(1).T
    torch.testing.assert_close(resample_table(table_LC, old, new, convention), theirs)


def test_no_two_conventions_agree():
    """Taking one for another costs as much as a percent of accuracy and raises no error."""
    table_LC = noise(14 * 14)
    same = [{"timm", "dinov2_reg"}]  # one formula, two names
    for a in CONVENTIONS:
        for b in CONVENTIONS:
            ours, theirs = (resample_table(table_LC, (14, 14), (7, 20), name) for name in (a, b))
            alike = (ours - theirs).norm() < 1e-3 * ours.norm()
            assert alike == (a == b or {a, b} in same), (a, b)


# what no library does


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_as_many_tokens_in_another_grid_are_resampled(convention):
    for old, new in [((2, 8), (4, 4)), ((14, 14), (7, 28)), ((4, 4), (16, 1))]:
        table_LC = noise(math.prod(old))
        moved_LC = resample_table(table_LC, old, new, convention)
        assert moved_LC.shape == table_LC.shape
        assert not torch.allclose(moved_LC, table_LC)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_an_equal_grid_gives_back_the_table_itself(convention):
    table_LC = noise(5 + 2 * 8)
    assert resample_table(table_LC, (2, 8), (2, 8), convention, prefix=5) is table_LC


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_prefix_rows_and_dtype_are_kept(convention, dtype):
    table_LC = noise(3 + 4 * 6, dtype=dtype)
    moved_LC = resample_table(table_LC, (4, 6), (7, 5), convention, prefix=3)
    assert moved_LC.dtype == dtype
    assert moved_LC.shape == (3 + 35, 16)
    assert torch.equal(moved_LC[:3], table_LC[:3])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(resample_table(table_LC, (4, 6), (7, 5), convention, prefix=3), moved_LC)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_rows_are_rows(convention):
    """A table that knows only its row still does, in every rectangle: no axis is taken for the other."""
    row_L1 = torch.arange(4.0).repeat_interleave(6)[:, None]
    moved_hw = resample_table(row_L1, (4, 6), (8, 3), convention).view(8, 3)
    torch.testing.assert_close(moved_hw, moved_hw[:, :1].expand(8, 3))
    assert (moved_hw[1:] > moved_hw[:-1] - 1e-5).all()
    assert moved_hw[-1, 0] > moved_hw[0, 0] + 2


@pytest.mark.parametrize(("there", "bound"), [(28, 0.02), (7, 0.12)])
def test_a_smooth_table_survives_a_round_trip(there, bound):
    """1.2 % and 9.3 % were measured on such tables; white noise loses 40 to 90 % and proves nothing."""
    table_LC = smooth(14)
    moved_LC = resample_table(table_LC, (14, 14), (there, there))
    back_LC = resample_table(moved_LC, (there, there), (14, 14))
    assert (back_LC - table_LC).norm() < bound * table_LC.norm()


def test_gradients_reach_every_row():
    for convention in CONVENTIONS:
        table_LC = noise(2 + 4 * 6).requires_grad_()
        resample_table(table_LC, (4, 6), (7, 13), convention, prefix=2).square().sum().backward()
        assert table_LC.grad.abs().sum(1).all(), convention


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda t: resample_table(t, (3, 6), (4, 4)), "table has 16 rows, 0 prefix .* grid of 3x6 need 18"),
        (lambda t: resample_table(t, (4, 4), (2, 2), prefix=1), "1 prefix tokens and a grid of 4x4 need 17"),
        (lambda t: resample_table(t / 0, (4, 4), (2, 2), name="pos_embed"), "pos_embed holds NaN or inf"),
        (
            lambda t: resample_table(t[None], (4, 4), (2, 2)),
            r"rows of floating-point codes, got \(1, 16, 16\)",
        ),
        (lambda t: resample_table(t.long(), (4, 4), (2, 2)), "floating-point codes, got .* torch.int64"),
        (lambda t: resample_table(t, (4, 4), (2, 2), "timn"), "convention is one of timm, .* got 'timn'"),
        (lambda t: Convention("nearest"), "mode is one of bilinear, bicubic, area, got 'nearest'"),
        (lambda t: Convention("area", antialias=True), "area takes no align_corners, antialias or offset"),
        (lambda t: Convention("bicubic", offset=1.0), r"offset lies in \[0, 1\), got 1.0"),
        (lambda t: Convention("bicubic", True, offset=0.1), "align_corners goes by the size"),
    ],
)
def test_what_cannot_be_resampled_is_named(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(noise(16))


# pyramids


def table_of(line: str, pyramid: Pyramid, **options):
    encoding = build_encoding(line, dim=16, num_heads=4, depth=1, pyramid=pyramid)
    initialise(encoding, 0)
    return encoding


def test_a_pyramid_moves_level_by_level():
    old, new = Pyramid(((1, 1), (2, 3), (4, 6))), Pyramid(((1, 1), (3, 2), (6, 4)))
    encoding = table_of("learned", old)
    before_LC = encoding.table_LC.detach().clone()
    encoding.set_pyramid(new, "timm")
    for level, (source, target) in enumerate(zip(old.spans, new.spans, strict=True)):
        expected = resample_table(before_LC[source], old.grids[level], new.grids[level], "timm")
        assert torch.equal(encoding.table_LC[target], expected)
    assert encoding.grids_K2.tolist() == [[1, 1], [3, 2], [6, 4]]
    assert encoding.table_LC.requires_grad
    assert encoding.prepare(new.positions()).shape == (31, 16)


def test_other_level_counts_take_the_nearest_level():
    old = Pyramid.square(1, 2, 3, 4)
    assert source_levels(old, Pyramid.square(1, 2, 5, 6)) == (0, 1, 2, 3)  # as many: level by level
    assert source_levels(old, Pyramid.square(1, 3, 4, 6, 8)) == (0, 2, 3, 3, 3)
    assert source_levels(old, Pyramid.square(2, 4)) == (1, 3)
    assert source_levels(Pyramid.square(2, 4, 8), Pyramid(((3, 5), (4, 6)))) == (1, 1)
    assert source_levels(Pyramid.square(2, 8, 8), Pyramid.square(4)) == (2,)  # as near: the finer one


@pytest.mark.parametrize(
    "line", ["learned", "mixed(learned=0.7, sinusoidal=0.3)", "sinusoidal + learned(init=xavier)"]
)
def test_every_table_in_a_line_moves(line):
    old, new = Pyramid(((1, 1), (4, 4))), Pyramid(((1, 1), (2, 8)))
    encoding = table_of(line, old)
    with pytest.raises(
        ValueError, match="made for the grids 1-4; moving it to 1-2x8 needs the name of a resam"
    ):
        encoding.set_pyramid(new)
    encoding.set_pyramid(new, "area")
    encoding.embed(torch.zeros(1, 17, 16), encoding.prepare(new.positions()))
    with pytest.raises(ValueError, match="made for the grids 1-2x8, asked for 1-4"):
        encoding.prepare(old.positions())


def test_a_broken_table_does_not_move():
    encoding = table_of("learned", Pyramid.square(4))
    with torch.no_grad():
        encoding.table_LC[3, 2] = torch.nan
    with pytest.raises(ValueError, match="the learned table holds NaN or infinite values"):
        encoding.set_pyramid(Pyramid.square(5), "timm")
    assert encoding.grids_K2.tolist() == [[4, 4]]


def test_a_frozen_table_stays_frozen():
    encoding = table_of("learned", Pyramid.square(4)).requires_grad_(False)
    encoding.set_pyramid(Pyramid.square(5), "timm")
    assert not encoding.table_LC.requires_grad


def test_moving_is_what_following_does():
    """One convention, two ways: for good, or in each forward pass with the stored table as it was."""
    pyramid, other = Pyramid.square(1, 2, 4), Pyramid(((1, 1), (2, 3), (3, 7)))
    for convention in CONVENTIONS:
        following = table_of(f"learned(resample={convention}, scale=2)", pyramid)
        moved = table_of("learned(scale=2)", pyramid)
        moved.set_pyramid(other, convention)
        expected = moved.prepare(other.positions())
        assert torch.equal(following.prepare(other.positions()), expected)
        part = other.positions().only(1, 2)
        assert torch.equal(following.prepare(part), expected[other.spans[1]])
        assert following.grids_K2.tolist() == [[1, 1], [2, 2], [4, 4]]


# models


def test_a_generator_follows_and_moves(make_generator, make_loud, tmp_path):
    """At 6 x 3 as a saved and loaded copy, moved at loading or before, and in one pass of a small one."""
    ladder = Pyramid(((1, 1), (3, 2), (4, 3), (6, 3)))
    labels_B, inputs_BLZ = torch.tensor([0, 2]), noise(2 * (ladder.num_tokens - 1), 4).view(2, -1, 4)
    model = make_loud(make_generator("learned(resample=timm)"))
    model.save_pretrained(tmp_path / "small")
    with torch.no_grad():
        expected = model(labels_B, inputs_BLZ, pyramid=ladder)
        model.set_pyramid(ladder)
        torch.testing.assert_close(model(labels_B, inputs_BLZ), expected)
        model.save_pretrained(tmp_path / "large")
        for loaded in (
            VARTransformer.from_pretrained(tmp_path / "large"),
            VARTransformer.from_pretrained(tmp_path / "small", levels=ladder.grids),
        ):
            assert loaded.pyramid == ladder
            torch.testing.assert_close(loaded(labels_B, inputs_BLZ), expected)


def test_levels_that_are_not_embedded_are_refused_before_anything_moves(make_generator):
    model = make_generator("learned")
    with pytest.raises(ValueError, match="learned has 4 levels, cannot be moved to the 5 of 1-2-3-4-6"):
        model.set_pyramid(Pyramid.square(1, 2, 3, 4, 6), "timm")
    assert model.position_encoding.grids_K2.tolist() == [[1, 1], [2, 2], [3, 3], [4, 4]]
    more = make_generator("learned", level_embedding="sinusoidal")
    more.set_pyramid(Pyramid.square(1, 2, 3, 4, 6), "timm")
    assert more(torch.tensor([0]), torch.zeros(1, 65, 4)).shape == (1, 66, 16)


def test_a_vit_s_new_size_is_saved(make_vit, make_loud, tmp_path):
    vit, pictures = make_loud(make_vit("learned")), noise(2 * 3 * 12, 6).view(2, 3, 12, 6)
    vit.save_pretrained(tmp_path / "small")
    vit.set_input_size((12, 6), resample="torchvision")
    vit.save_pretrained(tmp_path / "moved")
    with torch.no_grad():
        for loaded in (
            ViTClassifier.from_pretrained(tmp_path / "moved"),
            ViTClassifier.from_pretrained(tmp_path / "small", image_size=(12, 6), resample="torchvision"),
        ):
            assert tuple(loaded.config.image_size) == (12, 6)
            assert torch.equal(loaded(pictures), vit(pictures))


@torch.no_grad()
def test_a_dynamic_vit_takes_every_image_s_own_size(make_vit, make_loud):
    """Each batch as if the model had been moved to it; the stored table stays."""
    vit = make_loud(make_vit("learned(resample=timm)", dynamic=True, pool="class_token", registers=1))
    stored_LC = vit.position_encoding.table_LC.clone()
    for size in [(8, 12), (12, 8), (2, 2), (10, 6), (8, 12)]:
        fixed = make_loud(make_vit("learned", pool="class_token", registers=1))
        fixed.set_input_size(size, "timm")
        pictures = noise(3 * size[0], size[1]).view(1, 3, *size)
        torch.testing.assert_close(vit(pictures), fixed(pictures))
    assert torch.equal(vit.position_encoding.table_LC, stored_LC)
    with pytest.raises(ValueError, match="multiples of patch_size 2, got 9x8"):
        vit(torch.zeros(1, 3, 9, 8))
    with pytest.raises(
        ValueError, match=r"asked for 1; .* set_input_size .* learned\(resample=timm\) lets it"
    ):
        make_vit("learned", dynamic=True)(torch.zeros(1, 3, 2, 2))


@torch.no_grad()
def test_an_extreme_aspect_ratio_works(make_vit, make_loud):
    """1024 x 128 pixels, from a table trained on a square."""
    vit = make_loud(make_vit("learned", image_size=(128, 128), patch_size=16))
    vit.set_input_size((1024, 128), resample="timm")
    assert vit.pyramid.finest == (64, 8)
    dynamic = make_loud(
        make_vit("learned(resample=timm)", image_size=(128, 128), patch_size=16, dynamic=True)
    )
    pictures = noise(3 * 1024, 128).view(1, 3, 1024, 128)
    torch.testing.assert_close(vit(pictures), dynamic(pictures))


def check_compiled(model: torch.nn.Module, table_LC: torch.Tensor, inputs: list) -> None:
    """One graph a size gives what the model gives, and the stored table the same gradient."""
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for given in inputs:
        grads = []
        for run in (model, compiled):
            table_LC.grad = None
            run(given).square().sum().backward()
            grads.append(table_LC.grad)
        torch.testing.assert_close(*grads)
        assert grads[0].any()


@pytest.mark.parametrize("convention", ["timm", "torchvision", "dinov2", "area"])  # a kernel each
def test_following_compiles_as_one_graph(convention):
    encoding = table_of(f"learned(resample={convention})", Pyramid.square(1, 3))

    class Alone(torch.nn.Module):
        def forward(self, x_BLC: torch.Tensor) -> torch.Tensor:
            pyramid = Pyramid(((1, 1), (x_BLC.shape[1] - 1, 1)))
            return encoding.embed(x_BLC, encoding.prepare(pyramid.positions()))

    check_compiled(Alone(), encoding.table_LC, [torch.zeros(1, 1 + n, 16) for n in (4, 7)])


def test_a_dynamic_vit_compiles_as_one_graph(make_vit, make_loud):
    vit = make_loud(make_vit("learned(resample=timm)", dynamic=True, depth=1))
    pictures = [noise(3 * h, w).view(1, 3, h, w) for h, w in [(8, 12), (12, 6)]]
    check_compiled(vit, vit.position_encoding.table_LC, pictures)


# the cache


class Counted:
    def __init__(self, weight: torch.Tensor) -> None:
        self.weight, self.remembered, self.made = weight, Remembered(), 0

    def __call__(self, key: int = 0) -> torch.Tensor:
        def make() -> torch.Tensor:
            self.made += 1
            return self.weight * (key + 1)

        return self.remembered(self.weight, key, make)


def frozen(*shape: int) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.ones(*shape), requires_grad=False)


def test_a_result_is_made_once_and_few_are_kept():
    counted = Counted(frozen(3))
    for key in [0, 1, 0, 1, 0]:
        assert torch.equal(counted(key), torch.full((3,), key + 1.0))
    assert counted.made == 2
    for key in range(20):
        counted(key)
    assert len(counted.remembered) == 8
    made = counted.made
    counted(12)
    assert counted.made == made  # the last eight are there
    counted(11)
    assert counted.made == made + 1


def write_in_place(counted: Counted) -> None:
    counted.weight.mul_(3)


def replace_it(counted: Counted) -> None:
    counted.weight = torch.nn.Parameter(torch.full((3,), 3.0), requires_grad=False)


def swap_its_data(counted: Counted) -> None:
    counted.weight.data = torch.full((3,), 3.0)


def change_its_type(counted: Counted) -> None:
    counted.weight.data = torch.full((3,), 3.0, dtype=torch.float64)


def step_an_optimizer(counted: Counted) -> None:
    counted.weight.requires_grad_()
    counted.weight.grad = torch.full((3,), -2.0)
    torch.optim.SGD([counted.weight], lr=1.0).step()


CHANGES: list[Callable[[Counted], None]] = [
    write_in_place,
    replace_it,
    swap_its_data,
    change_its_type,
    step_an_optimizer,
]


@torch.no_grad()
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_weight_has_no_old_results(change):
    counted = Counted(frozen(3))
    counted(0), counted(1)
    change(counted)
    result = counted(0)
    assert result.dtype == counted.weight.dtype
    assert torch.equal(result, torch.full_like(result, 3.0))
    assert len(counted.remembered) == 1


@torch.no_grad()
def test_a_weight_on_another_device_has_no_results_of_the_old_one():
    counted = Counted(frozen(3))
    counted(0)
    counted.weight = counted.weight.to("meta")  # the other device that every machine has
    assert counted(0).device.type == "meta"
    assert len(counted.remembered) == 1


def test_a_freed_weight_s_memory_is_not_taken_for_it():
    """A new weight that lies where the old one lay is another weight."""
    counted = Counted(frozen(64))
    for number in range(50):
        counted.weight = torch.nn.Parameter(torch.full((64,), float(number)), requires_grad=False)
        assert counted()[0] == number


def test_nothing_is_kept_while_the_weight_is_trained():
    counted = Counted(torch.nn.Parameter(torch.ones(3)))
    with torch.no_grad():
        counted()
        counted()
    assert (counted.made, len(counted.remembered)) == (1, 1)
    counted().sum().backward()
    assert counted.weight.grad.any()
    assert (counted.made, len(counted.remembered)) == (2, 0)


def test_results_of_inference_mode_serve_training():
    """What is kept must not be an inference tensor, which autograd refuses."""
    counted, tail = Counted(frozen(3)), torch.ones(3, requires_grad=True)
    with torch.inference_mode():
        counted()
    (counted() * tail).sum().backward()
    assert counted.made == 1
    with torch.inference_mode():
        built_inside = Counted(frozen(3))
        built_inside()
        built_inside.weight.mul_(3)
        assert torch.equal(built_inside(), torch.full((3,), 3.0))


@torch.no_grad()
def test_a_model_s_tables_are_remembered_and_never_stale():
    """Through every way a model's weights change: load, dtype, copy, move, an optimizer's step."""
    pyramid, other = Pyramid.square(1, 4), Pyramid.square(1, 5).positions()
    encoding = table_of("learned(resample=timm)", pyramid)
    assert encoding.prepare(other).data_ptr() != encoding.prepare(Pyramid.square(1, 6).positions()).data_ptr()
    assert encoding.code_LC(other).data_ptr() == encoding.code_LC(other).data_ptr()

    def expected() -> torch.Tensor:
        fresh = table_of("learned", pyramid).to(encoding.table_LC.dtype)
        fresh.load_state_dict(encoding.state_dict())
        fresh.set_pyramid(Pyramid.square(1, 5), "timm")
        return fresh.code_LC(other)

    weights = {name: 2 * value for name, value in encoding.state_dict().items()}
    encoding.load_state_dict(weights | {"grids_K2": encoding.grids_K2})
    assert torch.equal(encoding.code_LC(other), expected())
    encoding.to(torch.bfloat16)
    assert len(encoding.resampled) == 0
    assert torch.equal(encoding.code_LC(other), expected())
    encoding.float().table_LC.add_(1)
    assert torch.equal(encoding.code_LC(other), expected())
    encoding.set_pyramid(Pyramid.square(1, 3), "timm")
    encoding.set_pyramid(pyramid, "timm")
    assert torch.equal(encoding.code_LC(other), expected())


@torch.no_grad()
def test_grids_of_as_many_tokens_are_remembered_apart():
    """4x4, 2x8 and 1x16: a memory by number of tokens would hand out another picture's positions."""
    encoding = table_of("learned(resample=timm)", Pyramid.square(5))
    for grid in ((4, 4), (2, 8), (1, 16), (4, 4)):
        fresh = table_of("learned(resample=timm)", Pyramid.square(5))
        here = Pyramid((grid,)).positions()
        assert torch.equal(encoding.code_LC(here), fresh.code_LC(here))


def test_copies_and_files_know_nothing_of_the_cache(make_vit, tmp_path):
    vit = make_vit("learned(resample=timm)", dynamic=True)
    with torch.no_grad():
        vit(torch.zeros(1, 3, 4, 4))
    assert len(vit.position_encoding.resampled) == 1
    assert len(copy.deepcopy(vit).position_encoding.resampled) == 0
    assert len(pickle.loads(pickle.dumps(vit.position_encoding)).resampled) == 0
    assert set(vit.position_encoding.state_dict()) == {"table_LC", "grids_K2"}
