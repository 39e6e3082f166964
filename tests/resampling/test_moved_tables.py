"""Encodings and models whose tables move to other grids or follow them, and remember no stale result."""

import copy
import pickle

import pytest
import torch

from var_pe.encodings import build_encoding
from var_pe.models.generator import VARTransformer
from var_pe.models.initialisation import initialise
from var_pe.models.vit import ViTClassifier
from var_pe.pyramid import Pyramid
from var_pe.resampling.conventions import CONVENTIONS, resample_table


def noise(rows: int, width: int) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0))


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


@pytest.mark.parametrize("line", ["alibi", "fire", "local", "lookhere", "learned + relative_bias"])
def test_what_comes_with_new_levels_has_the_model_s_device_and_type(line, make_generator):
    """A term for pairs of levels, which a model of one level lacks, would else be float32 on a processor."""
    model = make_generator(line, levels=(4,), level_embedding="sinusoidal")
    model.to(torch.bfloat16).to("meta").set_pyramid(Pyramid.square(1, 2, 4), "timm")
    state = model.state_dict()
    assert any(name.endswith("term_NHKK") for name in state)
    assert all(value.is_meta for value in state.values())
    assert {value.dtype for value in state.values()} == {torch.bfloat16, torch.int64}


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
    with pytest.raises(ValueError, match="patch_size must divide the sides of the images, got 2 for 9x8"):
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


# A kernel each; a table that a picture's size moves in a ViT, below, is timm's
@pytest.mark.slow
@pytest.mark.parametrize("convention", ["timm", "torchvision", "dinov2", "area"])
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


# what is remembered


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


def test_copies_and_files_know_nothing_of_the_cache(make_vit, tmp_path):
    vit = make_vit("learned(resample=timm)", dynamic=True)
    with torch.no_grad():
        vit(torch.zeros(1, 3, 4, 4))
    assert len(vit.position_encoding.resampled) == 1
    assert len(copy.deepcopy(vit).position_encoding.resampled) == 0
    assert len(pickle.loads(pickle.dumps(vit.position_encoding)).resampled) == 0
    assert set(vit.position_encoding.state_dict()) == {"table_LC", "grids_K2"}
